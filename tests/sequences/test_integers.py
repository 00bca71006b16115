"""Files of integers, as the published program writes them: ids come back, and a bad line is named by its number."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences import Corpus

Write = Callable[..., Path]
ALL: dict[str, Any] = {"valid_fraction": 0, "test_fraction": 0}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "real_data.txt") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_file


@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=2), seed=st.integers(0, 2))
def test_ids_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], seed: int) -> None:
    path = tmp_path_factory.mktemp("ids") / "ids.txt"
    path.write_text("\n".join(" ".join(map(str, row)) for row in rows))
    corpus = Corpus.from_integers(path, vocab_size=10, **ALL, seed=seed)
    assert corpus.vocabulary.words == tuple("0123456789")
    found = [[i for i in tokens if i < 10] for tokens in corpus.train.tokens_NT.tolist()]
    assert found == rows
    assert corpus.vocabulary.has_eos is (min(map(len, rows)) < corpus.sequence_length)


def test_the_published_form_is_that_of_arrays(write: Write) -> None:
    """20 ids of V=5000 with a space at the end of each line, as the published program writes them."""
    ids_NT = np.random.default_rng(0).integers(0, 5000, (50, 20))
    ids_NT[0, 0] = 4999
    path = write("".join(" ".join(map(str, row)) + " \n" for row in ids_NT.tolist()))
    corpus = Corpus.from_integers(path, **ALL)
    assert corpus.content_hash == Corpus.from_arrays(ids_NT, vocab_size=5000).content_hash
    assert corpus.name == "real_data"


def test_the_vocabulary_size_is_that_of_all_files_or_as_given(write: Write) -> None:
    train, valid, test = write("0 1\n1 2\n"), write("2 1\n0 1\n", "v.txt"), write("1 5\n007 1\n", "t.txt")
    corpus = Corpus.from_integers(train, valid=valid, test=test)
    assert corpus.vocabulary.vocab_size == 8
    assert [split.tokens_NT.tolist() for split in corpus.splits.values()] == [
        [[0, 1], [1, 2]],
        [[2, 1]],
        [[1, 5], [7, 1]],
    ]
    assert corpus.report == ("1 line dropped from v.txt that also stands in train",)
    assert Corpus.from_integers(train, vocab_size=100, **ALL).vocabulary.vocab_size == 100
    assert Corpus.from_integers(write("0 0\n"), **ALL).vocabulary.vocab_size == 2


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("1 2\n3 -4\n", {}, r"real_data.txt': line 2: expected ids .integers of at least 0.*got '-4'"),
        ("1 2\n\n3 x\n", {}, r"line 3: .*got 'x'"),
        ("1 2.0\n", {}, r"line 1: .*got '2.0'"),
        ("1 ²\n", {}, r"line 1: .*got '²'"),
        ("1 ٣\n", {}, r"line 1: .*got '٣'"),
        ("1 " + "9" * 5000, {}, "line 1: .*got '9{40}'"),
        ("1 2\n1 1000000\n", {}, "line 2: expected ids below vocab_size=1000000, got 1000000; give vocab_size"),
        ("1 2\n5 1\n", {"vocab_size": 5}, "line 2: expected ids below vocab_size=5, got 5; give a larger one"),
        ("1 2\n", {"vocab_size": 1}, r"vocab_size must lie in \[2, 10,000,000\], got 1"),
        ("1 2\n", {"level": "word"}, "level: integers are the ids themselves"),
        ("1 2\n", {"max_vocab": 5}, "max_vocab: integers.*use vocab_size"),
        ("1 2 3\n", {"sequence_length": 2}, r"integer file .*: line 1 has 3 units"),
        ("", {}, "integer file .*empty file"),
    ],
)
def test_bad_files_and_options_are_refused_in_one_line(
    write: Write, text: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Corpus.from_integers(write(text), **ALL, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_option_that_does_not_exist_is_a_type_error(write: Write) -> None:
    with pytest.raises(TypeError, match=r"unexpected option 'sede' \(did you mean 'seed'"):
        Corpus.from_integers(write("1 2\n"), sede=1)
