"""Quatrains: what a verse is, with and without marks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences import quatrains
from seqgan_rl.sequences.poems import is_quatrain, verses

POEM = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
OTHER = "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
SEVEN = "故人西辞黄鹤楼，烟花三月下扬州。孤帆远影碧空尽，唯见长江天际流。"
ALL: dict[str, Any] = {"valid_fraction": 0, "test_fraction": 0}


def write(folder: Path, *lines: str) -> Path:
    (folder / "poems.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder / "poems.txt"


def decoded(corpus: Any, split: str = "train") -> list[str]:
    return [corpus.vocabulary.decode(tokens_T) for tokens_T in corpus.splits[split].tokens_NT]


han = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=5, max_size=5)


@given(
    parts=st.lists(han, min_size=4, max_size=4),
    marks=st.lists(st.sampled_from("，。！？；、,."), min_size=4, max_size=4),
)
def test_verses_stand_between_marks_and_white_space_counts_nowhere(parts: list[str], marks: list[str]) -> None:
    line = "".join(part + mark for part, mark in zip(parts, marks, strict=True))
    assert verses(line) == verses(" ".join(line)) == verses(f"\u3000{line} ") == verses("".join(parts)) == tuple(parts)
    assert is_quatrain(verses(line))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (POEM, True),
        (SEVEN, True),
        (SEVEN.replace("，", "").replace("。", ""), True),
        (POEM[:-1], True),  # the last mark is missing
        (POEM[:18], False),  # three verses
        (POEM + OTHER, False),
        (POEM.replace("床", ""), False),
        (POEM[:12] + SEVEN[:16], False),  # two of 5 and two of 7
        (POEM.replace("，", ""), False),  # two of 10
        ("静夜思：" + POEM, False),
        (POEM.replace("床", "□"), True),  # an illegible character is one
        ("", False),
    ],
)
def test_what_is_a_quatrain(line: str, expected: bool) -> None:
    assert is_quatrain(verses(line)) is expected


def test_marks_are_dropped_or_kept(tmp_path: Path) -> None:
    path = write(tmp_path, " ".join(POEM), "", OTHER)
    plain = quatrains(path, **ALL)
    assert (plain.sequence_length, plain.vocabulary.level, plain.vocabulary.has_eos) == (20, "char", False)
    assert decoded(plain) == [poem.replace("，", "").replace("。", "") for poem in (POEM, OTHER)]
    kept = quatrains(path, keep_punctuation=True, **ALL)
    assert kept.sequence_length == 24
    assert decoded(kept) == [POEM, OTHER]
    assert plain.report == kept.report == ("1 empty line skipped in poems.txt",)
    mixed = quatrains(write(tmp_path, POEM, SEVEN), **ALL)
    assert (mixed.sequence_length, mixed.vocabulary.has_eos) == (28, True)


def test_other_lines_are_refused_by_number_or_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, POEM, "床前明月光，疑是地上霜。", OTHER)
    with pytest.raises(InputError, match=r"poem file .*: line 2: expected 4 verses of 5 or 7.*got 2 of 5, 5; leave"):
        quatrains(path)
    corpus = quatrains(path, drop_others=True, **ALL)
    assert len(corpus.train) == 2
    assert corpus.report == ("1 line of other forms than quatrains dropped from poems.txt",)
    with pytest.raises(InputError, match="no line is a quatrain"):
        quatrains(write(tmp_path, "hello there"), drop_others=True)
    with pytest.raises(InputError, match="level: poems are read character by character"):
        quatrains(path, level="word")


def test_a_test_file_of_poems(tmp_path: Path) -> None:
    train = write(tmp_path, POEM, SEVEN)
    (tmp_path / "test.txt").write_text(f"{POEM}\n{OTHER}\n")
    corpus = quatrains(train, test=tmp_path / "test.txt", valid_fraction=0)
    assert corpus.report == ("1 line dropped from test.txt that also stands in train",)
    assert len(corpus.test) == 1


def test_the_quatrains_of_the_paper(benchmark_data: Callable[[str], Path]) -> None:
    path = benchmark_data("text/chinese_quatrains.txt")
    corpus = quatrains(path, **ALL)
    assert (len(corpus.train), corpus.sequence_length) == (16_394, 20)
    kept = quatrains(path, keep_punctuation=True, **ALL)
    assert (kept.sequence_length, kept.vocabulary.vocab_size) == (24, 4_771)
