"""n-grams of integer sequences as dense ids: exact (no hashing, so no collisions), and counted with whole arrays.

An n-gram is the pair (its first n-1 words, its last word), and each of the two has a small id: the pair fits one int64,
and the rank of that number among the distinct ones is the id of the n-gram.
Letters: N sequences, T tokens each, V vocabulary size, K n-grams a sequence, G distinct n-grams of one order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqgan_rl.core.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNKNOWN = -1
"""The id of what is no n-gram (it holds EOS or PAD) or stands in none of the indexed sequences."""


def check_words(tokens: ArrayLike, vocab_size: int, name: str = "tokens_NT") -> Ints:
    """The sequences as int64 (N, T), every id from V up replaced by V. InputError unless words come first.

    Args:
        tokens: ids, (N, T). Words are 0..V-1; EOS and PAD, which are no words, are ids from V up, after the words.
        vocab_size: V.
        name: what the message calls ``tokens``.
    """
    tokens_NT = np.asarray(tokens)
    if tokens_NT.ndim != 2 or not np.issubdtype(tokens_NT.dtype, np.integer) or 0 in tokens_NT.shape:
        raise InputError(
            f"{name} must be integers of shape (N, T), at least one, got {tokens_NT.dtype} of shape {tokens_NT.shape}; "
            "turn text into ids with `Corpus` or `Vocabulary.encode` first"
        )
    if vocab_size < 1:
        raise InputError(f"vocab_size must be at least 1, got {vocab_size}")
    if (tokens_NT < 0).any():
        n, t = (int(i) for i in np.argwhere(tokens_NT < 0)[0])
        raise InputError(f"{name} must hold ids of at least 0, got {tokens_NT[n, t]} at sequence {n}, position {t}")
    words_NT = np.minimum(tokens_NT.astype(np.int64), vocab_size)
    resumes_NT = (words_NT[:, :-1] == vocab_size) & (words_NT[:, 1:] < vocab_size)
    if resumes_NT.any():
        n, t = (int(i) for i in np.argwhere(resumes_NT)[0])
        raise InputError(
            f"{name} must have words, ids below vocab_size={vocab_size}, before EOS and PAD; got {tokens_NT[n, t]} "
            f"before the word {tokens_NT[n, t + 1]} at sequence {n}, position {t}; give the right vocab_size"
        )
    return words_NT


def word_counts(words_NT: Ints, vocab_size: int) -> Ints:
    """Words in each sequence, (N,)."""
    return np.asarray((words_NT < vocab_size).sum(axis=1), dtype=np.int64)


class NgramIndex:
    """The distinct n-grams of some sequences, of every order from 1 to ``max_order``, numbered from 0.

    Args:
        words_NT: checked by :func:`check_words`.
        vocab_size: V.
        max_order: the longest n.
    """

    def __init__(self, words_NT: Ints, vocab_size: int, max_order: int) -> None:
        self.vocab_size, self.max_order = vocab_size, max_order
        self._keys: list[Ints] = []  # by order: the sorted numbers of its n-grams
        self.own_ids: list[Ints] = []
        """Ids of the indexed sequences' own n-grams, by order, (N, T - n + 1)."""
        for order in range(1, max_order + 1):
            pairs_NK = self._pairs(words_NT, order, self.own_ids)
            is_ngram_NK = pairs_NK != UNKNOWN
            keys_G, ids = np.unique(pairs_NK[is_ngram_NK], return_inverse=True)
            ids_NK = np.full_like(pairs_NK, UNKNOWN)
            ids_NK[is_ngram_NK] = ids
            self._keys.append(keys_G)
            self.own_ids.append(ids_NK)

    def size(self, order: int) -> int:
        """G: distinct n-grams of this order."""
        return len(self._keys[order - 1])

    def ids(self, words_NT: Ints) -> list[Ints]:
        """Ids of the n-grams of other sequences, by order, (N, T - n + 1); UNKNOWN where they are not indexed."""
        found: list[Ints] = []
        for order, keys_G in enumerate(self._keys, start=1):
            pairs_NK = self._pairs(words_NT, order, found)
            if len(keys_G) == 0:
                found.append(np.full_like(pairs_NK, UNKNOWN))
                continue
            ids_NK = np.minimum(np.searchsorted(keys_G, pairs_NK), len(keys_G) - 1)
            found.append(np.where(keys_G[ids_NK] == pairs_NK, ids_NK, UNKNOWN))
        return found

    def _pairs(self, words_NT: Ints, order: int, shorter: list[Ints]) -> Ints:
        """(n-1)-gram times V plus last word; UNKNOWN where either is not known."""
        last_NK, V = words_NT[:, order - 1 :], self.vocab_size
        if order == 1:
            return np.where(last_NK < V, last_NK, UNKNOWN)
        assert self.size(order - 1) < 2**62 // V, "n-grams x vocabulary exceeds int64"
        first_NK = shorter[-1][:, : last_NK.shape[1]]
        return np.where((first_NK != UNKNOWN) & (last_NK < V), first_NK * V + last_NK, UNKNOWN)


@dataclass(frozen=True)
class RowCounts:
    """How often each sequence holds each of its n-grams: P pairs (row, id), sorted by row, then id."""

    rows_P: Ints
    ids_P: Ints
    counts_P: Ints


def row_counts(ids_NK: Ints, num_ids: int) -> RowCounts:
    """Count n-grams by sequence; UNKNOWN ones are left out."""
    rows, columns = (ids_NK != UNKNOWN).nonzero()
    codes_P, counts_P = np.unique(rows * max(num_ids, 1) + ids_NK[rows, columns], return_counts=True)
    rows_P, ids_P = np.divmod(codes_P, max(num_ids, 1))
    return RowCounts(rows_P, ids_P, counts_P)


def total_counts(ids_NK: Ints, num_ids: int) -> Ints:
    """How often each n-gram stands in all the sequences together, (G,)."""
    return np.bincount(ids_NK[ids_NK != UNKNOWN], minlength=num_ids)
