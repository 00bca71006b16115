"""Lines of text and the splits they fall in: reading, holding out, dropping what stands in two splits.

A line that stands in two splits is dropped from the later one, in the order train, valid, test, and reported.
"""

import hashlib
import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import one_line, read_file
from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.sequences.vocabulary import Level, check_cut, check_level

EndOfSequence = Literal["auto", "always", "never"]
SPLITS = ("train", "valid", "test")
"""In their order of precedence."""

LONGEST_DEFAULT = 64
"""T is the longest line up to this; longer sequences must be asked for."""

MAX_TEXT_BYTES = 2**30
"""A larger text is none that could be held here as sequences."""

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How lines become a corpus; what each means is said once, in `Corpus.from_text`."""

    level: Level = "word"
    valid_fraction: float = 0.05
    test_fraction: float = 0.05
    min_count: int = 1
    max_vocab: int | None = None
    sequence_length: int | None = None
    drop_longer: bool = False
    eos: EndOfSequence = "auto"
    lowercase: bool = False
    split_punctuation: bool = True
    seed: int = 0

    @classmethod
    def of(cls, options: dict[str, Any]) -> "TextOptions":
        """Options from keyword arguments; TypeError for one that does not exist."""
        known = list(cls.__dataclass_fields__)
        for name in options:
            if name not in known:
                raise TypeError(f"unexpected option {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        check_level(self.level)
        check_cut(self.min_count, self.max_vocab)
        check_fractions(self.valid_fraction, self.test_fraction)
        if self.sequence_length is not None:
            check_sequence_length(self.sequence_length)
        if self.eos not in get_args(EndOfSequence):
            raise InputError(f"eos must be one of {', '.join(get_args(EndOfSequence))}, got {self.eos!r}")
        check_seed(self.seed)


def check_fractions(valid_fraction: float, test_fraction: float) -> None:
    """InputError unless the two shares of held-out lines leave some for training."""
    for option, fraction in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise InputError(f"{option} must lie in [0, 1), got {fraction}; 0.05 holds out one line in twenty")
    if valid_fraction + test_fraction >= 1:
        raise InputError(
            f"valid_fraction + test_fraction must be less than 1, got {valid_fraction} + {test_fraction}; "
            "the rest is for training"
        )


def check_sequence_length(sequence_length: int) -> None:
    """InputError for T < 2."""
    if sequence_length < 2:
        raise InputError(f"sequence_length must be at least 2, got {sequence_length}")


def check_seed(seed: int) -> None:
    """InputError for a negative seed."""
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")


@dataclass(frozen=True)
class Source:
    """Lines from one place, without their ends."""

    label: str
    """What errors begin with: ``text file '/x/a.txt'``."""
    name: str
    """What reports call it: ``a.txt``."""
    lines: list[str]


def read_source(path: str | os.PathLike[str], kind: str = "text file", sha256: str | None = None) -> Source:
    """Lines of a UTF-8 text file; InputError where it is not one, or where its SHA-256 (hexadecimal) is another."""
    label = f"{kind} {os.fspath(path)!r}"
    try:
        data = read_file(path, MAX_TEXT_BYTES)
    except FileNotFoundError:
        raise InputError(f"{label}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{label}: expected a file, got a directory; name one of its files") from None
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a pipe, too large, a zero byte in the path
        raise InputError(f"{label}: cannot be read ({one_line(error)})") from None
    if sha256 is not None:
        _check_sha256(label, data, sha256)
    return Source(label, Path(path).name, _decode_lines(label, data))


def _check_sha256(label: str, data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected.strip().lower():
        raise InputError(
            f"{label}: expected the SHA-256 {expected[:64]!r}, got {found!r}; the file is damaged or another version, "
            "fetch the published one again"
        )


def _decode_lines(label: str, data: bytes) -> list[str]:
    if b"\0" in data:
        raise InputError(
            f"{label}: expected UTF-8 text, got a binary file (a zero byte at byte offset "
            f"{data.index(bytes(1))}); save it as UTF-8 text, one sequence a line"
        )
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{label}: expected UTF-8 text, got the byte 0x{data[error.start]:02x} at byte offset "
            f"{error.start}; convert it, for instance with `iconv -t utf-8`"
        ) from None
    if not text.strip():
        raise InputError(f"{label}: expected one sequence a line, got an empty file")
    return split_lines(text)


def split_lines(text: str) -> list[str]:
    """Lines without their ends, which are those of Unix, Windows or old Macs."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def hold_out(
    items: Iterable[Item], valid_fraction: float, test_fraction: float, seed: int, label: str, noun: str = "line"
) -> dict[Item, str]:
    """Which split each held-out item falls in: a seeded share of the distinct ones; the rest is for training."""
    distinct = list(dict.fromkeys(items))
    num_valid, num_test = (
        max(1, round(fraction * len(distinct))) if fraction else 0 for fraction in (valid_fraction, test_fraction)
    )
    needed = num_valid + num_test + 1
    if len(distinct) < needed:
        raise InputError(
            f"{label}: at least {needed} distinct {noun}s are needed to split "
            f"(valid {num_valid}, test {num_test}, train 1), got {len(distinct)}; "
            "give more text, or (from Python) valid_fraction=0 and test_fraction=0"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[i]: "valid" if k < num_valid else "test" for k, i in enumerate(order[: needed - 1])}


def split_sources(sources: dict[str, Source], options: TextOptions, report: list[str]) -> dict[str, list[str]]:
    """Lines by split, in the order of their files; copies of a line fall in one split, and none stands in two.

    Args:
        sources: those of train, and of valid and test where they have a source of their own; for the others a share
            of train's is held out.
        report: what was dropped is added.
    """
    train = sources["train"]
    fractions = [
        0.0 if split in sources else fraction
        for split, fraction in (("valid", options.valid_fraction), ("test", options.test_fraction))
    ]
    held_out = hold_out(train.lines, fractions[0], fractions[1], options.seed, train.label)
    lines_of: dict[str, list[str]] = {split: [] for split in SPLITS}
    for line in train.lines:
        lines_of[held_out.get(line, "train")].append(line)
    for i, split in enumerate(SPLITS):
        if i and split in sources:
            lines_of[split] = _drop_overlap(sources[split], {name: lines_of[name] for name in SPLITS[:i]}, report)
    return lines_of


def _drop_overlap(source: Source, earlier: dict[str, list[str]], report: list[str]) -> list[str]:
    """The lines of a source that stand in no earlier split."""
    seen = set().union(*earlier.values())
    names = [name for name, lines in earlier.items() if lines]
    kept = [line for line in source.lines if line not in seen]
    if not kept:
        raise InputError(
            f"{source.label}: every line also stands in {' or '.join(names)}, so nothing is left of it; give other text"
        )
    if len(kept) < len(source.lines):
        report.append(overlap_text(source.name, len(source.lines) - len(kept), "line", names))
    return kept


def overlap_text(dropped_from: str, number: int, unit: str, earlier: Sequence[str]) -> str:
    """What a report says of sequences that also stand in an earlier split."""
    verb = "stands" if number == 1 else "stand"
    return f"{count_text(number, unit)} dropped from {dropped_from} that also {verb} in {' or '.join(earlier)}"


def count_text(number: int, noun: str) -> str:
    """``1 line``, ``2,000 lines``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
