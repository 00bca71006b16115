"""The vocabulary: which units there are, and how text becomes ids and ids become text.

A unit is a word, a character or a byte-pair piece, as ``level`` says. Word ids are 0..V-1; UNK, where present, is the
last word and is scored like any other. With variable length EOS is V. PAD is the id after the last action: V or V+1.
"""

import hashlib
import json
import re
import reprlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Literal, get_args

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences.byte_pairs import (
    DEFAULT_SIZE,
    Merge,
    decode_pieces,
    encode_lines,
    learn_merges,
    make_tokenizer,
    pieces,
)

Level = Literal["word", "char", "bpe"]

_SIGN = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}"  # a flag, which is two letters
    "|.(?:[\u0300-\u036f\u20d0-\u20ff\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"  # marks, skins, tags
    "|\u200d[\u2190-\u2bff\U0001f000-\U0001faff])*",  # and what a joiner adds
    re.DOTALL,
)
"""What is seen as one sign: a character with the marks on it, or an emoji of several characters."""

UNK = "<unk>"
"""The word that stands for every unit outside the vocabulary."""

MAX_VOCAB_SIZE = 10_000_000
"""More distinct units than this is never text: a guard against damaged files."""

SEPARATOR: dict[Level, str] = {"word": " ", "char": "", "bpe": ""}
"""What stands between two units in decoded text."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The units of a corpus in the order of their ids, and the rule that cuts text into units.

    >>> vocabulary = Vocabulary.build([["a", "dog", "."], ["a", "cat", "."]], has_eos=True)
    >>> vocabulary.words, vocabulary.vocab_size, vocabulary.eos_id, vocabulary.pad_id
    (('.', 'a', 'cat', 'dog'), 4, 4, 5)
    >>> vocabulary.encode("a dog.")
    [1, 3, 0]
    >>> vocabulary.decode([1, 3, 0, 4, 5])
    'a dog .'
    """

    words: tuple[str, ...]
    """Unit of each id; ids are 0..V-1."""
    level: Level = "word"
    """What a unit is: "word", "char" or "bpe" (byte-pair pieces)."""
    has_eos: bool = False
    """Whether sequences end by an EOS action, as those of variable length do."""
    lowercase: bool = False
    """Whether text is lower-cased before it is cut."""
    split_punctuation: bool = True
    """At word level: whether punctuation and symbols at the edges of a word become units of their own."""
    merges: tuple[Merge, ...] = ()
    """At level "bpe": the merges in their order, which make the words."""

    def __post_init__(self) -> None:
        check_level(self.level)
        if len(self.words) > MAX_VOCAB_SIZE:
            raise InputError(f"vocabulary: at most {MAX_VOCAB_SIZE:,} words are possible, got {len(self.words):,}")
        if len(self.words) - self.has_unk < 2:
            raise InputError(
                f"vocabulary: at least 2 words besides {UNK} are needed, got {list(self.words)}; "
                "use more varied text, or a lower --min-count or a higher --max-vocab"
            )
        if len(self._ids) < len(self.words):
            repeated = Counter(self.words).most_common(1)[0][0]
            raise InputError(f"vocabulary: words must be distinct, got {reprlib.repr(repeated)} more than once")
        if self.level == "bpe":
            self._check_pieces()
            return
        if self.merges:
            raise InputError(f"vocabulary: merges belong to level 'bpe', got {len(self.merges)} at {self.level!r}")
        for word in self.words:
            if not (word == UNK or (len(word) == 1 if self.level == "char" else word.split() == [word])):
                raise InputError(f"vocabulary: {reprlib.repr(word)} is not one unit at level {self.level!r}")
            if any("\ud800" <= character <= "\udfff" for character in word):
                raise InputError(f"vocabulary: {reprlib.repr(word)} holds half of a character and cannot be written")
        if UNK in self._ids and not self.has_unk:
            raise InputError(f"vocabulary: {UNK} must be the last word, got it at id {self._ids[UNK]}")

    def _check_pieces(self) -> None:
        """At level "bpe" the merges say it all; UNK would be one of them only in a damaged file."""
        if self.words != pieces(self.merges) or UNK in self._ids:
            raise InputError(
                f"vocabulary: at level 'bpe' the words must be the 256 bytes and then what the merges make, without "
                f"{UNK}; got {len(self.words):,} words and {len(self.merges):,} merges that do not fit"
            )

    @classmethod
    def build(
        cls,
        lines_of_units: Iterable[Iterable[str]],
        *,
        level: Level = "word",
        min_count: int = 1,
        max_vocab: int | None = None,
        has_eos: bool = False,
        unk: bool = False,
        lowercase: bool = False,
        split_punctuation: bool = True,
    ) -> "Vocabulary":
        """Collect the units of the training lines, by falling count and then by string.

        Args:
            lines_of_units: the training lines only, each cut by `split_units`.
            min_count: units seen less often are cut.
            max_vocab: at most so many words, UNK counted; the most frequent stay.
            unk: whether UNK is needed in any case (held-out text has unknown units). It is also added where a
                training unit was cut, or where the text itself holds "<unk>".
        """
        check_cut(min_count, max_vocab)
        counts = Counter(chain.from_iterable(lines_of_units))
        unk = counts.pop(UNK, 0) > 0 or unk
        frequent = [word for word in counts if counts[word] >= min_count]
        frequent.sort(key=lambda word: (-counts[word], word))
        size = len(counts) + 1 if max_vocab is None else max_vocab
        unk = unk or len(frequent) < len(counts) or len(frequent) > size
        words = (*frequent[: size - 1], UNK) if unk else tuple(frequent)
        return cls(words=words, level=level, has_eos=has_eos, lowercase=lowercase, split_punctuation=split_punctuation)

    @classmethod
    def learn_pieces(
        cls,
        lines: Sequence[str],
        *,
        max_vocab: int | None = None,
        min_count: int = 1,
        has_eos: bool = False,
        lowercase: bool = False,
    ) -> "Vocabulary":
        """Byte-pair pieces learned from the training lines; needs the extra ``text``. There is never an UNK.

        Args:
            lines: the training lines only, as they are: white space counts.
            max_vocab: at most so many pieces, the 256 bytes counted; 5,000 by default.
            min_count: pairs seen less often are not merged; 2 at least, since a pair seen once teaches nothing.
        """
        check_cut(min_count, max_vocab)
        size = DEFAULT_SIZE if max_vocab is None else max_vocab
        merges = learn_merges(
            [line.lower() for line in lines] if lowercase else lines, size=size, min_count=max(2, min_count)
        )
        return cls(words=pieces(merges), level="bpe", has_eos=has_eos, lowercase=lowercase, merges=merges)

    @property
    def vocab_size(self) -> int:
        """V: the words, UNK counted, EOS and PAD not."""
        return len(self.words)

    @property
    def num_actions(self) -> int:
        """What a generator can emit: V, and EOS where there is one."""
        return self.vocab_size + self.has_eos

    @property
    def eos_id(self) -> int | None:
        """V where sequences end by EOS, else None."""
        return self.vocab_size if self.has_eos else None

    @property
    def pad_id(self) -> int:
        """The id after the last action."""
        return self.num_actions

    @property
    def has_unk(self) -> bool:
        """Whether unknown units can be encoded."""
        return self.words[-1:] == (UNK,)

    @property
    def unk_id(self) -> int | None:
        """The last word id where UNK is present, else None."""
        return self.vocab_size - 1 if self.has_unk else None

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all that decides ids: words in their order, level, EOS and the rule of cutting."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode("ascii")).hexdigest()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _tokenizer(self) -> Any:
        return make_tokenizer(self.words, self.merges)

    def split(self, text: str) -> list[str]:
        """Cut one line into units, as the corpus was cut; at level "bpe" this needs the extra ``text``."""
        if self.level == "bpe":
            return [self.words[i] for i in self.encode(text)]
        return split_units(text, level=self.level, lowercase=self.lowercase, split_punctuation=self.split_punctuation)

    def encode(self, text: str) -> list[int]:
        """Ids of one line's units, without EOS; InputError for an unknown unit where there is no UNK."""
        if self.level == "bpe":
            return next(self.encode_lines([text])).tolist()
        return self.encode_units(self.split(text))

    def encode_lines(self, lines: Iterable[str]) -> "Iterator[array[int]]":
        """Ids of many lines, each as `encode`; at level "bpe" much faster than one by one."""
        if self.level == "bpe":
            return encode_lines(self._tokenizer, (line.lower() for line in lines) if self.lowercase else lines)
        return (array("i", self.encode(line)) for line in lines)

    def encode_units(self, units: Iterable[str]) -> list[int]:
        """Ids of units that are cut already; as `encode`."""
        ids, unk_id = self._ids, self.unk_id
        if unk_id is not None:
            return [ids.get(unit, unk_id) for unit in units]
        try:
            return [ids[unit] for unit in units]
        except KeyError as error:
            unit = error.args[0]
        raise InputError(
            f"text: {unit!r} is not among the {self.vocab_size:,} units of the vocabulary, which has no {UNK}; "
            f"use known units (such as {', '.join(map(repr, self.words[:3]))})"
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids up to the first EOS or PAD; words are joined by spaces, characters and pieces by nothing.

        Pieces whose bytes are no UTF-8 give U+FFFD.
        """
        units = []
        for i in map(int, ids):
            if i in (self.eos_id, self.pad_id):
                break
            if not 0 <= i < self.vocab_size:
                raise ValueError(
                    f"token ids must lie in [0, {self.num_actions}), or be PAD={self.pad_id}, got {i}; "
                    "was this sequence made with another vocabulary?"
                )
            units.append(self.words[i])
        return decode_pieces(units) if self.level == "bpe" else SEPARATOR[self.level].join(units)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values, which `from_json` reads back."""
        merges = {"merges": [list(merge) for merge in self.merges]} if self.level == "bpe" else {}
        return {
            "words": list(self.words),
            "level": self.level,
            "has_eos": self.has_eos,
            "lowercase": self.lowercase,
            "split_punctuation": self.split_punctuation,
            **merges,  # not elsewhere: vocabularies of words and characters keep their hashes
        }

    @classmethod
    def from_json(cls, value: object) -> "Vocabulary":
        """The vocabulary of a `to_json` dict; InputError for anything else."""
        types = {"words": list, "level": str, "has_eos": bool, "lowercase": bool, "split_punctuation": bool}
        if isinstance(value, Mapping) and value.get("level") == "bpe":
            types["merges"] = list
        if not isinstance(value, Mapping) or set(value) != set(types):
            came = reprlib.repr(sorted(map(str, value))) if isinstance(value, Mapping) else type(value).__name__
            raise InputError(f"vocabulary: expected an object with the keys {sorted(types)}, got {came}")
        for key, kind in types.items():
            if type(value[key]) is not kind:
                raise InputError(f"vocabulary: {key} must be a {kind.__name__}, got {type(value[key]).__name__}")
        for i, word in enumerate(value["words"]):
            if type(word) is not str:
                raise InputError(f"vocabulary: words must be strings, got {type(word).__name__} at id {i}")
        merges = value.get("merges", [])
        for i, merge in enumerate(merges):
            if type(merge) is not list or [type(part) for part in merge] != [str, str]:
                raise InputError(f"vocabulary: merges must be pairs of strings, got {reprlib.repr(merge)} at {i}")
        return cls(**{**value, "words": tuple(value["words"]), "merges": tuple(map(tuple, merges))})


def split_units(
    text: str, *, level: Level = "word", lowercase: bool = False, split_punctuation: bool = True
) -> list[str]:
    """Cut one line into units.

    At word level units stand between white space; ``split_punctuation`` peels punctuation and symbols (Unicode
    categories P and S) off both edges of a word, each a unit of its own with the marks on it (an emoji of several
    characters is one), and leaves those inside a word. At character level every character of the stripped line is a
    unit, inner spaces too.

    >>> split_units('"Old-fashioned," said the dog\\'s owner...')
    ['"', 'Old-fashioned', ',', '"', 'said', 'the', "dog's", 'owner', '.', '.', '.']
    >>> split_units(" a b ", level="char")
    ['a', ' ', 'b']
    """
    if lowercase:
        text = text.lower()
    if level == "bpe":
        raise InputError("level 'bpe' cuts by merges that a vocabulary has learned; use `Vocabulary.split`")
    if level == "char":
        return list(text.strip())
    chunks = text.split()
    return list(chain.from_iterable(map(_peel_punctuation, chunks))) if split_punctuation else chunks


@lru_cache(maxsize=2**16)
def _peel_punctuation(chunk: str) -> tuple[str, ...]:
    """``skiing.`` -> ``skiing``, ``.``; punctuation inside a word stays, and so does UNK."""
    if chunk == UNK:
        return (chunk,)
    signs: str | list[str] = chunk if chunk.isascii() else _SIGN.findall(chunk)
    start, end = 0, len(signs)
    while start < end and _is_punctuation(signs[start][0]):
        start += 1
    while start < end and _is_punctuation(signs[end - 1][0]):
        end -= 1
    middle = ("".join(signs[start:end]),) if start < end else ()
    return (*signs[:start], *middle, *signs[end:])


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def check_level(level: str) -> None:
    """InputError unless ``level`` is one of `Level`."""
    if level not in get_args(Level):
        raise InputError(f"level must be one of {', '.join(get_args(Level))}, got {level!r}")


def check_cut(min_count: int, max_vocab: int | None) -> None:
    """InputError unless the two options that cut a vocabulary make sense."""
    if min_count < 1:
        raise InputError(f"min_count must be at least 1, got {min_count}; 1 keeps every word")
    if max_vocab is not None and max_vocab < 2:
        raise InputError(f"max_vocab must be at least 2, got {max_vocab}; leave it out to keep every word")
