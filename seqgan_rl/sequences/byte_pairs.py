"""Byte-pair pieces: text of any script as ids, without UNK and without loss.

Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units" (ACL 2016, arXiv:1508.07909),
over the bytes of UTF-8 as in GPT-2 (Radford et al. 2019). The first 256 pieces are the bytes; each merge joins two
pieces to a longer one. Merges never reach across the borders between runs of letters, digits, other signs and white
space; a word takes the one space before it along.

A piece is written in GPT-2's printable form, one character a byte: "Ġthe" is a space and "the". Learning merges and
encoding need the library `tokenizers` (extra ``text``); decoding and loading need nothing, and no file runs code.
"""

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences.extras import needed

Merge = tuple[str, str]

DEFAULT_SIZE = 5_000
"""Pieces unless another number is asked for: V of the paper's synthetic task."""

MAX_MERGES = 1_000_000
"""More than this is no vocabulary: a guard against damaged files."""

MAX_LINES = 200_000
"""Merges are learned from at most so many lines, evenly spaced: more change little and take long."""

_CHUNK = re.compile(r" +(?= [^ ]| *$)| ?[^ ]+", re.DOTALL)
"""Pieces never reach across these: a word with the space before it, or the spaces before that."""

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHER = sorted(set(range(256)) - set(_PRINTABLE))

CHARACTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHER)}
"""Printable form of each byte: Latin-1 where that is a visible character, else the next one from U+0100 on."""

BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def pieces(merges: Sequence[Merge]) -> tuple[str, ...]:
    """All pieces in the order of their ids: the 256 bytes by printable form, then what each merge makes that is new.

    InputError for a merge of pieces that are not there yet, or of other characters.
    """
    if len(merges) > MAX_MERGES:
        raise InputError(f"vocabulary: at most {MAX_MERGES:,} merges are possible, got {len(merges):,}")
    known = dict.fromkeys(sorted(BYTE_OF_CHARACTER))
    for i, (left, right) in enumerate(merges):
        if left not in known or right not in known:
            unknown = left if left not in known else right
            raise InputError(f"vocabulary: merge {i} joins {unknown[:80]!r}, which no merge before it has made")
        known.setdefault(left + right)
    return tuple(known)


def learn_merges(lines: Sequence[str], size: int, min_count: int = 2) -> tuple[Merge, ...]:
    """Merges learned from lines, the most frequent pair first and ties by id: the same ones every time.

    Args:
        lines: the training lines only; of more than 200,000 as many, evenly spaced.
        size: at most so many pieces, the 256 bytes counted; at least 257.
        min_count: pairs seen less often are not merged.
    """
    if size < 257:
        raise InputError(
            f"max_vocab must be at least 257 at level 'bpe', got {size}; 256 pieces are the bytes, "
            f"and {DEFAULT_SIZE:,} is the default"
        )
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, min_frequency=min_count, initial_alphabet=sorted(BYTE_OF_CHARACTER), show_progress=False
    )
    step = len(lines) / min(len(lines), MAX_LINES) if lines else 1
    tokenizer.train_from_iterator((lines[int(i * step)] for i in range(min(len(lines), MAX_LINES))), trainer)
    return tuple((left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"])


def make_tokenizer(words: Sequence[str], merges: Sequence[Merge]) -> Any:
    """The library's tokenizer of these pieces, which :func:`encode_lines` takes."""
    library = _library()
    model = library.models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges))
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def encode_lines(tokenizer: Any, lines: Iterable[str]) -> "Iterator[array[int]]":
    """Ids of each line, each distinct word encoded once. InputError for half a character, which no text file holds."""
    known: dict[str, array[int]] = {}
    for line in lines:
        ids = array("i")
        for chunk in _CHUNK.findall(line):
            found = known.get(chunk)
            if found is None:
                _check_whole(chunk)
                found = known[chunk] = array("i", tokenizer.encode(chunk, add_special_tokens=False).ids)
            ids += found
        yield ids


def decode_pieces(found: Iterable[str]) -> str:
    """Text of pieces; bytes that are no UTF-8, as a generator may string together, become U+FFFD."""
    return bytes(BYTE_OF_CHARACTER[character] for character in "".join(found)).decode("utf-8", errors="replace")


def _check_whole(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"text: expected whole characters, got half of one ({text[error.start]!r}) at position {error.start}"
        ) from None


def _library() -> Any:
    return needed("tokenizers", "text", "level 'bpe'")
