"""A corpus: sequences of token ids in train, valid and test splits that never share a line.

A line that stands in two splits is dropped from the later one, in the order train, valid, test, and reported. The
vocabulary comes from train only. Nothing here changes after it is made, and ``content_hash`` names what it is.
Letters: N sequences, T tokens each, V vocabulary size.
"""

import hashlib
import io
import json
import os
import reprlib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.resources import as_file, files
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_bytes, write_text
from seqgan_rl.core.reading import check_file, one_line, read_file
from seqgan_rl.sequences.padding import check_tokens, lengths_from_tokens, pad_sequences
from seqgan_rl.sequences.vocabulary import SEPARATOR, UNK, Level, Vocabulary, check_cut, check_level, split_units

EndOfSequence = Literal["auto", "always", "never"]

LONGEST_DEFAULT = 64
"""T is the longest line up to this; longer sequences must be asked for."""

BUILTIN = ("proverbs",)
"""Corpora that ship with the package; see data/README.md."""

FORMAT_VERSION = 1

MAX_TEXT_BYTES = 2**30
"""A larger text is none that could be held here as sequences."""

_MAX_JSON_BYTES = 2**28

WRITTEN_BY = "give a folder that `Corpus.to_files` wrote"


@dataclass(frozen=True, eq=False)
class Split:
    """Sequences as ids, in read-only arrays; ``torch.tensor(split.tokens_NT)`` makes a copy to compute with."""

    tokens_NT: NDArray[np.int64]
    """Word ids, then EOS where the vocabulary has it and the line is shorter than T, then PAD; shape (N, T)."""
    lengths_N: NDArray[np.int64]
    """Tokens before the first PAD, EOS counted; shape (N,)."""

    def __post_init__(self) -> None:
        for name in ("tokens_NT", "lengths_N"):
            array = np.array(getattr(self, name), dtype=np.int64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.tokens_NT)


@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus:
    """Three splits of sequences over one vocabulary.

    >>> corpus = Corpus.builtin(sequence_length=12, drop_longer=True)
    >>> corpus.vocabulary.decode(corpus.train.tokens_NT[0])
    'My son , if sinners entice thee , consent thou not .'
    """

    train: Split
    valid: Split
    test: Split
    vocabulary: Vocabulary
    sequence_length: int
    """T: no sequence has more tokens."""
    name: str
    report: tuple[str, ...] = ()
    """What was skipped, dropped or cut while the corpus was made; lines for people."""

    def __post_init__(self) -> None:
        _check_sequence_length(self.sequence_length)
        if len(self.train) == 0:
            raise InputError(f"corpus {self.name!r}: train must hold at least one sequence, got none")
        for split_name, split in self.splits.items():
            if split.tokens_NT.shape != (len(split.lengths_N), self.sequence_length):
                raise InputError(
                    f"corpus {self.name!r}: {split_name} must have shape (N, {self.sequence_length}) and N lengths, "
                    f"got {split.tokens_NT.shape} and {len(split.lengths_N)}"
                )
            try:
                check_tokens(split.tokens_NT, self.vocabulary.num_actions, eos_id=self.vocabulary.eos_id)
            except ValueError as error:
                raise InputError(f"corpus {self.name!r}, split {split_name}: {error}") from error
            lengths_N = lengths_from_tokens(split.tokens_NT, self.vocabulary.pad_id)
            if not np.array_equal(lengths_N, split.lengths_N):
                raise InputError(f"corpus {self.name!r}, split {split_name}: lengths_N do not fit tokens_NT")
            if not self.vocabulary.has_eos and (lengths_N < self.sequence_length).any():
                raise InputError(
                    f"corpus {self.name!r}: without EOS every sequence must fill T={self.sequence_length}, got one of "
                    f"{lengths_N.min()} in {split_name}; use has_eos=True"
                )

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in their order of precedence."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of ids, lengths and vocabulary; name and report do not count."""
        digest = hashlib.sha256(self.vocabulary.content_hash.encode("ascii"))
        for split in self.splits.values():
            digest.update(repr(split.tokens_NT.shape).encode("ascii"))
            digest.update(split.tokens_NT.astype("<i8").tobytes())
            digest.update(split.lengths_N.astype("<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def unk_rate(self) -> dict[str, float]:
        """Share of word tokens that are UNK, in [0, 1], by split; EOS and PAD do not count."""
        rates = {}
        for name, split in self.splits.items():
            num_words = (split.tokens_NT < self.vocabulary.vocab_size).sum()
            num_unk = 0 if self.vocabulary.unk_id is None else (split.tokens_NT == self.vocabulary.unk_id).sum()
            rates[name] = float(num_unk / max(num_words, 1))
        return rates

    @classmethod
    def from_text(
        cls,
        path: str | os.PathLike[str],
        *,
        level: Level = "word",
        test: str | os.PathLike[str] | None = None,
        valid_fraction: float = 0.05,
        test_fraction: float = 0.05,
        min_count: int = 1,
        max_vocab: int | None = None,
        sequence_length: int | None = None,
        drop_longer: bool = False,
        eos: EndOfSequence = "auto",
        lowercase: bool = False,
        split_punctuation: bool = True,
        seed: int = 0,
        name: str | None = None,
    ) -> "Corpus":
        """Read a UTF-8 text file, one sequence a line.

        Args:
            path: the text; empty lines are skipped.
            level: whether a unit is a word or a character.
            test: a file whose lines are the test split, in place of ``test_fraction``.
            valid_fraction: share of the distinct lines that are held out for validation; 0 for none.
            test_fraction: share of the distinct lines that are held out for testing; 0 for none.
            min_count: training units seen less often become UNK.
            max_vocab: at most so many words, UNK counted.
            sequence_length: T; by default the longest line, up to 64 units.
            drop_longer: drop lines of more than T units instead of refusing them.
            eos: "auto" ends sequences by EOS unless every line fills T.
            lowercase: lower-case the text.
            split_punctuation: at word level, make punctuation at the edges of a word units of its own.
            seed: which lines are held out. Copies of a line always fall in one split.
            name: what to call the corpus; by default the file's stem.
        """
        check_level(level)
        check_cut(min_count, max_vocab)
        if test is not None:
            test_fraction = 0.0
        _check_options(valid_fraction, test_fraction, sequence_length, eos, seed)

        def read(file: str | os.PathLike[str]) -> list[str]:
            cut = partial(split_units, level=level, lowercase=lowercase, split_punctuation=split_punctuation)
            return [SEPARATOR[level].join(cut(line)) for line in _read_lines(file)]

        report: list[str] = []
        sources = {os.fspath(file): read(file) for file in (path, test) if file is not None}
        T = _fit_sequence_length(sources, level, sequence_length, drop_longer)
        for source, lines in sources.items():
            sources[source] = _keep_usable(source, lines, level, T, report)

        lines_of = _split_lines(os.fspath(path), sources[os.fspath(path)], valid_fraction, test_fraction, seed)
        if test is not None:
            lines_of["test"] = _drop_overlap(os.fspath(test), sources[os.fspath(test)], lines_of, report)

        def units(*names: str) -> Iterable[list[str]]:
            return (_units(line, level) for name in names for line in lines_of[name])

        train_units = set(chain.from_iterable(units("train")))
        try:
            vocabulary = Vocabulary.build(
                units("train"),
                level=level,
                min_count=min_count,
                max_vocab=max_vocab,
                has_eos=_needs_eos(eos, chain.from_iterable(lines_of.values()), level, T),
                unk=not train_units.issuperset(chain.from_iterable(units("valid", "test"))),
                lowercase=lowercase,
                split_punctuation=split_punctuation,
            )
        except InputError as error:
            raise InputError(f"text file {os.fspath(path)!r}: {one_line(error)}") from None
        num_cut = len(train_units - set(vocabulary.words))
        if num_cut:
            report.append(f"{num_cut:,} of {len(train_units):,} training units cut from the vocabulary, now {UNK}")

        def encode(split_name: str) -> Split:
            ids = [vocabulary.encode_units(line_units) for line_units in units(split_name)]
            return Split(*pad_sequences(ids, T, vocabulary.pad_id, vocabulary.eos_id))

        return cls(
            train=encode("train"),
            valid=encode("valid"),
            test=encode("test"),
            vocabulary=vocabulary,
            sequence_length=T,
            name=Path(path).stem if name is None else name,
            report=tuple(report),
        )

    @classmethod
    def builtin(cls, name: str = "proverbs", **options: Any) -> "Corpus":
        """A corpus that ships with the package, read by `from_text` with its options."""
        if name not in BUILTIN:
            raise InputError(f"corpus: the built-in corpora are {', '.join(BUILTIN)}, got {name!r}")
        with as_file(files("seqgan_rl.sequences") / "data" / f"{name}.txt") as path:
            return cls.from_text(path, **{"name": name, **options})

    @classmethod
    def from_arrays(
        cls,
        train_NT: ArrayLike,
        valid_NT: ArrayLike | None = None,
        test_NT: ArrayLike | None = None,
        *,
        vocab_size: int,
        has_eos: bool = False,
        drop_overlap: bool = True,
        name: str = "arrays",
    ) -> "Corpus":
        """A corpus of integer sequences whose words are the decimal strings "0".."V-1", without UNK.

        Args:
            train_NT: padded ids, shape (N, T), T the same for all splits; with EOS = V and PAD = V + has_eos.
            valid_NT: likewise; none by default.
            test_NT: likewise; none by default.
            vocab_size: V >= 2.
            has_eos: whether sequences shorter than T end by EOS.
            drop_overlap: whether to drop sequences that also stand in an earlier split. False keeps splits that were
                drawn independently from one known distribution: there, dropping would bias NLL_test.
        """
        if vocab_size < 2:
            raise InputError(f"vocab_size must be at least 2, got {vocab_size}")
        vocabulary = Vocabulary(words=tuple(map(str, range(vocab_size))), has_eos=has_eos, split_punctuation=False)
        empty_NT = np.empty((0, *np.shape(train_NT)[1:]), dtype=np.int64)
        report: list[str] = []
        seen: dict[str, list[bytes]] = {}
        splits = {}
        for split_name, array in (("train", train_NT), ("valid", valid_NT), ("test", test_NT)):
            tokens_NT = np.asarray(empty_NT if array is None else array)
            check_tokens(tokens_NT, vocabulary.num_actions, eos_id=vocabulary.eos_id)
            tokens_NT = tokens_NT.astype(np.int64)
            rows = [row.tobytes() for row in tokens_NT]
            if drop_overlap:
                earlier = set(chain.from_iterable(seen.values()))
                keep_N = np.array([row not in earlier for row in rows], dtype=bool)
                if not keep_N.all():
                    report.append(_overlap_text(split_name, int((~keep_N).sum()), "sequence", list(seen)))
                tokens_NT = tokens_NT[keep_N]
            seen[split_name] = rows
            splits[split_name] = Split(tokens_NT, lengths_from_tokens(tokens_NT, vocabulary.pad_id))
        T = splits["train"].tokens_NT.shape[1]
        return cls(**splits, vocabulary=vocabulary, sequence_length=T, name=name, report=tuple(report))

    def to_files(self, folder: str | os.PathLike[str]) -> None:
        """Write ``corpus.npz`` (ids and lengths) and ``corpus.json`` (all else) into a folder, made if absent."""
        folder = Path(folder)
        make_folder(folder)
        arrays = {}
        for split_name, split in self.splits.items():
            arrays[f"{split_name}_tokens"] = split.tokens_NT.astype("<i4")
            arrays[f"{split_name}_lengths"] = split.lengths_N.astype("<i4")
        facts = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "sequence_length": self.sequence_length,
            "content_hash": self.content_hash,
            "report": list(self.report),
            "vocabulary": self.vocabulary.to_json(),
        }
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]  # mypy takes ** for savez's own allow_pickle
        write_bytes(folder / "corpus.npz", packed.getvalue())
        write_text(folder / "corpus.json", json.dumps(facts))

    @classmethod
    def from_files(cls, folder: str | os.PathLike[str]) -> "Corpus":
        """Read what `to_files` wrote; InputError for anything else, and for content that does not fit its hash."""
        folder = Path(folder)
        facts = _read_facts(folder / "corpus.json")
        arrays = _read_arrays(folder / "corpus.npz")
        splits = {
            name: Split(arrays[f"{name}_tokens"], arrays[f"{name}_lengths"]) for name in ("train", "valid", "test")
        }
        try:
            corpus = cls(
                **splits,
                vocabulary=Vocabulary.from_json(facts["vocabulary"]),
                sequence_length=facts["sequence_length"],
                name=facts["name"],
                report=tuple(map(str, facts["report"])),
            )
        except InputError as error:
            raise InputError(f"corpus folder {str(folder)!r}: {one_line(error)}; {WRITTEN_BY}") from None
        if corpus.content_hash != facts["content_hash"]:
            raise InputError(
                f"corpus folder {str(folder)!r}: expected content with the hash {facts['content_hash'][:64]!r}, got "
                f"{corpus.content_hash!r}; the files were changed or do not belong together, make them again"
            )
        return corpus


def _check_options(
    valid_fraction: float, test_fraction: float, sequence_length: int | None, eos: str, seed: int
) -> None:
    for option, fraction in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise InputError(f"{option} must lie in [0, 1), got {fraction}; 0.05 holds out one line in twenty")
    if valid_fraction + test_fraction >= 1:
        raise InputError(
            f"valid_fraction + test_fraction must be less than 1, got {valid_fraction} + {test_fraction}; "
            "the rest is for training"
        )
    if sequence_length is not None:
        _check_sequence_length(sequence_length)
    if eos not in get_args(EndOfSequence):
        raise InputError(f"eos must be one of {', '.join(get_args(EndOfSequence))}, got {eos!r}")
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")


def _check_sequence_length(sequence_length: int) -> None:
    if sequence_length < 2:
        raise InputError(f"sequence_length must be at least 2, got {sequence_length}")


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Lines of a UTF-8 text file without their ends; InputError where it is not one."""
    shown = repr(os.fspath(path))
    try:
        data = read_file(path, MAX_TEXT_BYTES)
    except FileNotFoundError:
        raise InputError(f"text file {shown}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"text file {shown}: expected a file, got a directory; name one of its files") from None
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a pipe, too large, a zero byte in the path
        raise InputError(f"text file {shown}: cannot be read ({one_line(error)})") from None
    if b"\0" in data:
        raise InputError(
            f"text file {shown}: expected UTF-8 text, got a binary file (a zero byte at byte offset "
            f"{data.index(bytes(1))}); save it as UTF-8 text, one sequence a line"
        )
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"text file {shown}: expected UTF-8 text, got the byte 0x{data[error.start]:02x} at byte offset "
            f"{error.start}; convert it, for instance with `iconv -t utf-8`"
        ) from None
    if not text.strip():
        raise InputError(f"text file {shown}: expected one sequence a line, got an empty file")
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _units(line: str, level: Level) -> list[str]:
    """The units of a line that was cut and joined again: empty text has none."""
    return list(line) if level == "char" else line.split(" ")


def _num_units(line: str, level: Level) -> int:
    return len(line) if level == "char" else line.count(" ") + 1


def _fit_sequence_length(
    sources: dict[str, list[str]], level: Level, sequence_length: int | None, drop_longer: bool
) -> int:
    """T: as asked, or the longest line up to `LONGEST_DEFAULT`; InputError for a longer line unless it is dropped."""
    longest = max(_num_units(line, level) for lines in sources.values() for line in lines)
    T = sequence_length or max(2, min(longest, LONGEST_DEFAULT))
    if longest > T and not drop_longer:
        source, number, length = next(
            (source, number, _num_units(line, level))
            for source, lines in sources.items()
            for number, line in enumerate(lines, start=1)
            if _num_units(line, level) > T
        )
        raise InputError(
            f"text file {source!r}: line {number} has {length} units (level {level}), more than sequence_length={T}; "
            f"allow longer lines with --sequence-length (the longest has {longest}) or drop them with --drop-longer"
        )
    return T


def _keep_usable(source: str, lines: list[str], level: Level, T: int, report: list[str]) -> list[str]:
    """The lines of 1 to T units; what goes is reported."""
    filled = [line for line in lines if line]
    kept = [line for line in filled if _num_units(line, level) <= T]
    shown = Path(source).name
    if len(filled) < len(lines):
        report.append(f"{_count(len(lines) - len(filled), 'empty line')} skipped in {shown}")
    if len(kept) < len(filled):
        report.append(f"{_count(len(filled) - len(kept), 'line')} of more than {T} units dropped from {shown}")
    if not kept:
        raise InputError(
            f"text file {source!r}: no line has at most {T} units; raise --sequence-length or choose another --level"
        )
    return kept


def _split_lines(
    source: str, lines: list[str], valid_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[str]]:
    """Hold out a seeded share of the distinct lines; copies follow their line, and order stays that of the file."""
    distinct = list(dict.fromkeys(lines))
    num_valid, num_test = (
        max(1, round(fraction * len(distinct))) if fraction else 0 for fraction in (valid_fraction, test_fraction)
    )
    needed = num_valid + num_test + 1
    if len(distinct) < needed:
        raise InputError(
            f"text file {source!r}: at least {needed} distinct lines are needed to split "
            f"(valid {num_valid}, test {num_test}, train 1), got {len(distinct)}; "
            "give more text, or (from Python) valid_fraction=0 and test_fraction=0"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    held_out = {distinct[i]: "valid" if k < num_valid else "test" for k, i in enumerate(order[: needed - 1])}
    lines_of: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for line in lines:
        lines_of[held_out.get(line, "train")].append(line)
    return lines_of


def _drop_overlap(source: str, lines: list[str], lines_of: dict[str, list[str]], report: list[str]) -> list[str]:
    """The lines of a test file that stand in no other split."""
    earlier = {*lines_of["train"], *lines_of["valid"]}
    kept = [line for line in lines if line not in earlier]
    if not kept:
        raise InputError(
            f"test file {source!r}: every line also stands in train or valid, so nothing is left to test on; "
            "give other text"
        )
    if len(kept) < len(lines):
        report.append(_overlap_text(Path(source).name, len(lines) - len(kept), "line", ["train", "valid"]))
    return kept


def _overlap_text(dropped_from: str, number: int, unit: str, earlier: Sequence[str]) -> str:
    verb = "stands" if number == 1 else "stand"
    return f"{_count(number, unit)} dropped from {dropped_from} that also {verb} in {' or '.join(earlier)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _needs_eos(eos: EndOfSequence, lines: Iterable[str], level: Level, T: int) -> bool:
    """Whether sequences end by EOS; InputError where they would have to and must not."""
    if eos == "always":
        return True
    shortest = min(_num_units(line, level) for line in lines)
    if eos == "never" and shortest < T:
        raise InputError(
            f"eos='never' needs every line to have exactly sequence_length={T} units, got one of {shortest}; "
            "use --eos auto"
        )
    return shortest < T


def _read_facts(path: Path) -> dict[str, Any]:
    """``corpus.json`` with its types checked."""
    types = {
        "format_version": int,
        "name": str,
        "sequence_length": int,
        "content_hash": str,
        "report": list,
        "vocabulary": dict,
    }
    try:
        facts = json.loads(read_file(path, _MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"corpus file {str(path)!r}: cannot be read ({one_line(error)}); {WRITTEN_BY}") from None
    if not isinstance(facts, dict) or any(type(facts.get(key)) is not kind for key, kind in types.items()):
        raise InputError(f"corpus file {str(path)!r}: expected an object with {', '.join(types)}; {WRITTEN_BY}")
    if facts["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"corpus file {str(path)!r}: expected format_version {FORMAT_VERSION}, "
            f"got {reprlib.repr(facts['format_version'])}; it was written by another version of seqgan_rl"
        )
    return facts


def _read_arrays(path: Path) -> dict[str, NDArray[np.int64]]:
    """The arrays of ``corpus.npz``; never unpickles, never inflates."""
    names = [f"{split}_{kind}" for split in ("train", "valid", "test") for kind in ("tokens", "lengths")]
    try:
        check_file(path)
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its arrays are compressed")  # ours never are; a small file must not fill the memory
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in names}
    except Exception as error:  # damage shows in many ways: in the archive, in an array's header, in its numbers
        raise InputError(f"corpus file {str(path)!r}: cannot be read ({one_line(error)}); {WRITTEN_BY}") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy hands out members without its header as bytes
            raise InputError(f"corpus file {str(path)!r}: {name} is not an array; {WRITTEN_BY}")
        if array.dtype != np.int32 or array.ndim != 1 + name.endswith("tokens"):
            raise InputError(
                f"corpus file {str(path)!r}: {name} must be int32 with {1 + name.endswith('tokens')} dimension(s), "
                f"got {array.dtype} of shape {array.shape}"
            )
    return {name: array.astype(np.int64) for name, array in arrays.items()}
