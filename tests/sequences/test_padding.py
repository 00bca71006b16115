"""Padding: the rectangle says exactly what the lists said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgan_rl.sequences import check_tokens, lengths_from_tokens, pad_sequences, padding

V, T = 5, 6
word_lists = st.lists(st.lists(st.integers(0, V - 1), max_size=T), max_size=8)


def pad_slowly(sequences: list[list[int]], eos_id: int | None, pad_id: int) -> list[list[int]]:
    """The reference, in plain loops."""
    rows = []
    for sequence in sequences:
        row = list(sequence)
        if eos_id is not None and len(row) < T:
            row.append(eos_id)
        while len(row) < T:
            row.append(pad_id)
        rows.append(row)
    return rows


@given(sequences=word_lists, has_eos=st.booleans())
def test_padding_equals_the_plain_loop_and_passes_the_check(sequences: list[list[int]], has_eos: bool) -> None:
    eos_id, pad_id = (V, V + 1) if has_eos else (None, V)
    tokens_NT, lengths_N = pad_sequences(sequences, T, pad_id, eos_id)
    assert tokens_NT.dtype == lengths_N.dtype == np.int64
    assert tokens_NT.shape == (len(sequences), T)
    assert tokens_NT.tolist() == pad_slowly(sequences, eos_id, pad_id)
    assert np.array_equal(lengths_N, lengths_from_tokens(tokens_NT, pad_id))
    assert lengths_N.tolist() == [min(len(sequence) + has_eos, T) for sequence in sequences]
    check_tokens(tokens_NT, V + has_eos, eos_id=eos_id)


def test_a_line_of_exactly_T_words_has_no_eos() -> None:
    tokens_NT, lengths_N = pad_sequences([[0, 1, 2], [0, 1], []], 3, pad_id=4, eos_id=3)
    assert tokens_NT.tolist() == [[0, 1, 2], [0, 1, 3], [3, 4, 4]]
    assert lengths_N.tolist() == [3, 3, 1]


def test_too_long_a_sequence_is_named() -> None:
    with pytest.raises(ValueError, match=r"at most sequence_length=2 ids, got 3 at sequence 1"):
        pad_sequences([[0], [0, 1, 0]], 2, pad_id=2)


@pytest.mark.parametrize(
    ("tokens", "eos_id", "words"),
    [
        ([[0, 1], [0, -1]], None, r"must lie in \[0, 4\), or be PAD=4, got -1 at sequence 1, position 1.*encode"),
        ([[0, 1], [5, 4]], None, "got 5 at sequence 1, position 0"),
        ([[0, 4, 1]], None, "PAD=4 must stand only at the tail.*sequence 0, position 1"),
        ([[3, 0, 4]], 3, "only PAD=4 may follow EOS=3.*position 0"),
        ([[3, 3, 4]], 3, "only PAD=4 may follow EOS=3.*position 0"),
        ([[0, 4, 4]], 3, "shorter than T=3 must end in EOS=3.*position 1"),
        ([[4, 4, 4]], 3, "must end in EOS=3.*position 0"),
        ([[0.5, 1.0]], None, r"integers of shape \(N, T\), got float64"),
        ([0, 1], None, r"of shape \(2,\)"),
    ],
)
def test_bad_tokens_are_refused(tokens: list[object], eos_id: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_tokens(np.array(tokens), 4, eos_id=eos_id)


@given(data=st.data())
def test_check_accepts_exactly_the_padded_sequences(data: st.DataObject) -> None:
    """Any small integer rectangle: accepted if and only if padding its own words gives it back."""
    row = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))  # V=2, EOS=2, PAD=3
    words = row[: next((i for i, token in enumerate(row) if token >= 2), len(row))]
    is_padded = pad_sequences([words], len(row), pad_id=3, eos_id=2)[0][0].tolist() == row
    try:
        check_tokens(np.array([row]), 3, eos_id=2)
        accepted = True
    except ValueError:
        accepted = False
    assert accepted == is_padded


@pytest.mark.parametrize("n", [0, 5, 6, 7, 20])
def test_sequences_are_padded_alike_in_parts_and_at_once(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [[i] * (1 + i % 4) for i in range(n)]
    whole = pad_sequences(sequences, 4, pad_id=99, eos_id=98)
    monkeypatch.setattr(padding, "_BLOCK", 3)
    for one, other in zip(whole, pad_sequences(sequences, 4, pad_id=99, eos_id=98), strict=True):
        assert np.array_equal(one, other)
    assert [[i for i in row if i < 98] for row in whole[0].tolist()] == sequences
