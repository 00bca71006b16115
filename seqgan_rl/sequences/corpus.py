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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_bytes, write_text
from seqgan_rl.core.reading import check_file, one_line, read_file
from seqgan_rl.sequences.encoding import encode_sources
from seqgan_rl.sequences.integers import canonical_lines, integer_vocabulary
from seqgan_rl.sequences.lines import (
    SPLITS,
    EndOfSequence,
    Source,
    TextOptions,
    check_sequence_length,
    overlap_text,
    read_source,
)
from seqgan_rl.sequences.padding import check_tokens, lengths_from_tokens, pad_sequences
from seqgan_rl.sequences.vocabulary import MAX_VOCAB_SIZE, Level, Vocabulary

Part = TypeVar("Part")
AnyPath = str | os.PathLike[str]

BUILTIN = ("proverbs",)
"""Corpora that ship with the package; see data/README.md."""

FORMAT_VERSION = 1

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
            array = np.asarray(getattr(self, name), dtype=np.int64)
            if array.flags.writeable or array.base is not None:  # somebody could still change it
                array = array.copy()
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
        check_sequence_length(self.sequence_length)
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
        path: AnyPath,
        *,
        level: Level = TextOptions.level,
        valid: AnyPath | None = None,
        test: AnyPath | None = None,
        valid_fraction: float = TextOptions.valid_fraction,
        test_fraction: float = TextOptions.test_fraction,
        min_count: int = TextOptions.min_count,
        max_vocab: int | None = TextOptions.max_vocab,
        sequence_length: int | None = TextOptions.sequence_length,
        drop_longer: bool = TextOptions.drop_longer,
        eos: EndOfSequence = TextOptions.eos,
        lowercase: bool = TextOptions.lowercase,
        split_punctuation: bool = TextOptions.split_punctuation,
        seed: int = TextOptions.seed,
        name: str | None = None,
    ) -> "Corpus":
        """Read a UTF-8 text file, one sequence a line.

        Args:
            path: the text; empty lines are skipped.
            level: whether a unit is a word, a character or a byte-pair piece ("bpe", extra ``text``).
            valid: a file whose lines are the validation split, in place of ``valid_fraction``.
            test: a file whose lines are the test split, in place of ``test_fraction``.
            valid_fraction: share of the distinct lines that are held out for validation; 0 for none.
            test_fraction: share of the distinct lines that are held out for testing; 0 for none.
            min_count: training units seen less often become UNK; at level "bpe", pairs seen less often stay apart.
            max_vocab: at most so many words, UNK counted; at level "bpe" 5,000 pieces unless given.
            sequence_length: T; by default the longest line, up to 64 units.
            drop_longer: drop lines of more than T units instead of refusing them.
            eos: "auto" ends sequences by EOS unless every line fills T.
            lowercase: lower-case the text.
            split_punctuation: at word level, make punctuation at the edges of a word units of its own.
            seed: which lines are held out. Copies of a line always fall in one split.
            name: what to call the corpus; by default the file's stem.
        """
        options = TextOptions(
            level=level,
            valid_fraction=valid_fraction if valid is None else 0.0,
            test_fraction=test_fraction if test is None else 0.0,
            min_count=min_count,
            max_vocab=max_vocab,
            sequence_length=sequence_length,
            drop_longer=drop_longer,
            eos=eos,
            lowercase=lowercase,
            split_punctuation=split_punctuation,
            seed=seed,
        )
        paths: dict[str, AnyPath] = _given(train=path, valid=valid, test=test)
        name = Path(path).stem if name is None else name
        return cls.from_sources({split: read_source(file) for split, file in paths.items()}, options, name)

    @classmethod
    def from_lines(
        cls,
        train: Iterable[str],
        valid: Iterable[str] | None = None,
        test: Iterable[str] | None = None,
        *,
        name: str = "lines",
        **options: Any,
    ) -> "Corpus":
        """Lines in memory; a split that is not given is held out from train. Options as those of `from_text`."""
        given = _given(train=train, valid=valid, test=test)
        sources = {split: Source(f"{name} ({split})", f"{name} ({split})", list(part)) for split, part in given.items()}
        for source in sources.values():
            if not any(map(str.strip, source.lines)):
                raise InputError(f"{source.label}: expected at least one line with text in it, got none")
        return cls.from_sources(sources, TextOptions.of(options), name)

    @classmethod
    def from_split_files(
        cls, files: Mapping[str, tuple[AnyPath, str]], *, name: str | None = None, **options: Any
    ) -> "Corpus":
        """Published split files, each with the SHA-256 that its content must have.

        Args:
            files: path and SHA-256 (hexadecimal) of "train", and of "valid" and "test" where there are such files; a
                split without one is held out from train.
            name: what to call the corpus; by default the training file's stem.
            options: as those of `from_text`.

        Lines that also stand in an earlier split are dropped from the later one and reported.
        """
        if "train" not in files or not set(files) <= set(SPLITS):
            raise InputError(f"files must name train, and may name valid and test; got {', '.join(map(repr, files))}")
        sources = {
            split: read_source(files[split][0], f"{split} file", sha256=files[split][1])
            for split in SPLITS
            if split in files
        }
        return cls.from_sources(
            sources, TextOptions.of(options), Path(files["train"][0]).stem if name is None else name
        )

    @classmethod
    def from_integers(
        cls,
        path: AnyPath,
        *,
        valid: AnyPath | None = None,
        test: AnyPath | None = None,
        vocab_size: int | None = None,
        name: str | None = None,
        **options: Any,
    ) -> "Corpus":
        """Read a file of ids between spaces, one sequence a line, as the published program's ``save/real_data.txt``.

        Args:
            path: the file; empty lines are skipped.
            valid: likewise, the validation split; else a share of train's lines is held out.
            test: likewise, the test split.
            vocab_size: V; by default one more than the largest id of all these files.
            name: what to call the corpus; by default the file's stem.
            options: valid_fraction, test_fraction, sequence_length, drop_longer, eos and seed of `from_text`.
        """
        for option in ("level", "min_count", "max_vocab", "lowercase", "split_punctuation"):
            if option in options:
                raise InputError(f"{option}: integers are the ids themselves; use vocab_size for V, leave {option} out")
        if vocab_size is not None and not 2 <= vocab_size <= MAX_VOCAB_SIZE:
            raise InputError(f"vocab_size must lie in [2, {MAX_VOCAB_SIZE:,}], got {vocab_size}")
        checked = TextOptions.of({**options, "split_punctuation": False})
        paths: dict[str, AnyPath] = _given(train=path, valid=valid, test=test)
        sources = {
            split: canonical_lines(read_source(file, "integer file"), vocab_size) for split, file in paths.items()
        }
        name = Path(path).stem if name is None else name
        return cls.from_sources(sources, checked, name, integer_vocabulary(sources, vocab_size))

    @classmethod
    def from_sources(
        cls, sources: dict[str, Source], options: TextOptions, name: str, vocabulary: Vocabulary | None = None
    ) -> "Corpus":
        """Lines of train, and of valid and test where they have a source of their own, over one vocabulary.

        Args:
            sources: lines by split; emptied.
            options: how they become ids.
            name: what to call the corpus.
            vocabulary: learned from the training lines unless given.
        """
        report: list[str] = []
        encoded = encode_sources(sources, options, report, vocabulary)
        vocabulary, T = encoded.vocabulary, encoded.sequence_length
        sources.clear()  # a million lines take as much memory as their ids
        splits = {}
        for split in SPLITS:
            ids = encoded.ids_of.pop(split)
            padded = pad_sequences(ids, T, vocabulary.pad_id, vocabulary.eos_id)
            for array in padded:
                array.setflags(write=False)  # so that no copy is made
            splits[split] = Split(*padded)
        return cls(**splits, vocabulary=vocabulary, sequence_length=T, name=name, report=tuple(report))

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
                    report.append(overlap_text(split_name, int((~keep_N).sum()), "sequence", list(seen)))
                tokens_NT = tokens_NT[keep_N]
            seen[split_name] = rows
            splits[split_name] = Split(tokens_NT, lengths_from_tokens(tokens_NT, vocabulary.pad_id))
        T = splits["train"].tokens_NT.shape[1]
        return cls(**splits, vocabulary=vocabulary, sequence_length=T, name=name, report=tuple(report))

    def to_files(self, folder: AnyPath) -> None:
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
    def from_files(cls, folder: AnyPath) -> "Corpus":
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


def _given(**parts: Part | None) -> dict[str, Part]:
    return {split: part for split, part in parts.items() if part is not None}


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
