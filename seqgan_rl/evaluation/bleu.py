"""BLEU, Self-BLEU and backward BLEU of integer sequences: sentence BLEU as nltk computes it, with whole arrays.

Sentence BLEU (Papineni et al., ACL 2002) of a hypothesis h against references R, with uniform weights:
    BLEU-n(h) = BP(h) · exp(1/n · Σ_{k<=n} log p_k(h))
    p_k = Σ_g min(count_h(g), max_{r in R} count_r(g)) / max(1, number of k-grams of h)          over k-grams g of h
    BP  = 1 if |h| > |r*|, 0 if |h| = 0, else exp(1 - |r*| / |h|);  r* has the length closest to |h|, of two the shorter
A hypothesis that shares no word with R has BLEU 0. Smoothing decides p_k = 0, see :data:`Smoothing`.
A score of a set is the mean over its sentences: BLEU of samples against held-out data (Yu et al., arXiv:1609.05473),
Self-BLEU of each sample against all others (Zhu et al., "Texygen", arXiv:1802.01886), backward BLEU of held-out data
against samples (Shi et al., arXiv:1804.11258). EOS and PAD are no words: no n-gram holds them, no length counts them.
Letters: H hypotheses, R references, T tokens each, V vocabulary size, N orders.
"""

import sys
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation.ngrams import Floats, Ints, NgramIndex, RowCounts, check_words, row_counts, word_counts

Smoothing = Literal["method1", "none"]
"""What stands for p_k = 0. "method1": 0.1 / (number of k-grams), as nltk's ``SmoothingFunction().method1`` and the
field's tables. "none": the least float, as nltk does without a smoothing function; such a BLEU is 0 to all purposes."""

EPSILON = 0.1
"""The count that "method1" gives to k-grams of which none matched."""

MAX_ORDER = 5
CHUNK = 4096
"""Hypotheses scored at a time: memory does not grow with their number."""


class BleuReferences:
    """References, counted once for any number of hypotheses.

    Memory grows with the tokens of the references, not with hypotheses times references.

    Args:
        references: token ids, integers, (R, T), R >= 1; ids from ``vocab_size`` up are EOS and PAD.
        vocab_size: V.
        max_order: the longest n-gram.
    """

    def __init__(self, references: ArrayLike, vocab_size: int, max_order: int = MAX_ORDER) -> None:
        if max_order < 1:
            raise InputError(f"max_order must be at least 1, got {max_order}")
        self.vocab_size, self.max_order = vocab_size, max_order
        self._words_RT = check_words(references, vocab_size, "references")
        self._index = NgramIndex(self._words_RT, vocab_size, max_order)
        self._lengths_R = word_counts(self._words_RT, vocab_size)
        self._largest = [
            _three_largest(ids_RK, self._index.size(order)) for order, ids_RK in enumerate(self._index.own_ids, start=1)
        ]

    def sentence_bleu(
        self, hypotheses: ArrayLike, smoothing: Smoothing = "method1", support_RN: Floats | None = None
    ) -> Floats:
        """BLEU-1 .. BLEU-N of each hypothesis against all references, in [0, 1], (H, N).

        Args:
            hypotheses: token ids, integers, (H, any T), as the references.
            smoothing: see :data:`Smoothing`.
            support_RN: where given, the sum over the hypotheses of what their BLEU would lose without each reference is
                added to it, float64, (R, N): the jackknife's part of the references in the error. Lengths apart, which
                one reference of many hardly decides.
        """
        _check_smoothing(smoothing)
        words_HT = check_words(hypotheses, self.vocab_size, "hypotheses")
        return np.concatenate([
            self._bleu(part_HT, self._index.ids(part_HT), None, smoothing, support_RN) for part_HT in _chunks(words_HT)
        ])  # fmt: skip

    def leave_one_out(self, smoothing: Smoothing = "method1", support_RN: Floats | None = None) -> Floats:
        """BLEU-1 .. BLEU-N of each reference against all *other* references, (R, N); needs two of them. ``support_RN``
        as for :meth:`sentence_bleu`."""
        _check_smoothing(smoothing)
        R = len(self._words_RT)
        if R < 2:
            raise InputError(f"Self-BLEU needs at least 2 sequences, got {R}")
        parts = []
        for start in range(0, R, CHUNK):
            rows = slice(start, start + CHUNK)
            ids = [ids_RK[rows] for ids_RK in self._index.own_ids]
            parts.append(self._bleu(self._words_RT[rows], ids, start, smoothing, support_RN))
        return np.concatenate(parts)

    def _bleu(
        self,
        words_HT: Ints,
        ids: list[Ints],
        first_owner: int | None,
        smoothing: Smoothing,
        support_RN: Floats | None,
    ) -> Floats:
        """With ``first_owner``, hypothesis h is reference ``first_owner + h``, which does not count."""
        H, lengths_H = len(words_HT), word_counts(words_HT, self.vocab_size)
        matches_HN, totals_HN = np.empty((2, H, self.max_order))
        lost = []
        for k, ids_HK in enumerate(ids):
            counts = row_counts(ids_HK, self._index.size(k + 1))
            most_P, holder_P, next_P = self._allowed(k, counts, first_owner)
            clipped_P = np.minimum(counts.counts_P, most_P)
            matches_HN[:, k] = np.bincount(counts.rows_P, weights=clipped_P, minlength=H)
            totals_HN[:, k] = np.maximum(1, lengths_H - k)
            if support_RN is not None:
                lost_P = clipped_P - np.minimum(counts.counts_P, next_P)
                lost.append((counts.rows_P[lost_P > 0], holder_P[lost_P > 0], lost_P[lost_P > 0]))
        closest_H = closest_length(lengths_H, self._lengths_R, is_one_of_them=first_owner is not None)
        bleu_HN = _combine(matches_HN, totals_HN, lengths_H, closest_H, smoothing)
        if support_RN is not None:
            rows_U, holders_U, lost_UN = self._by_pair(lost)
            fewer_UN = matches_HN[rows_U] - lost_UN
            without_UN = _combine(fewer_UN, totals_HN[rows_U], lengths_H[rows_U], closest_H[rows_U], smoothing)
            for k, drop_U in enumerate((bleu_HN[rows_U] - without_UN).T):
                support_RN[:, k] += np.bincount(holders_U, weights=drop_U, minlength=len(support_RN))
        return bleu_HN

    def _allowed(self, k: int, counts: RowCounts, first_owner: int | None) -> tuple[Ints, Ints, Ints]:
        """Of each n-gram of each hypothesis: the largest count in one reference, that reference, and the largest count
        without it; each (P,)."""
        counts_3P, holders_3P = (part_3G[:, counts.ids_P] for part_3G in self._largest[k])
        if first_owner is None:
            return counts_3P[0], holders_3P[0], counts_3P[1]
        is_first_P, is_second_P = holders_3P[:2] == counts.rows_P + first_owner
        return (
            np.where(is_first_P, counts_3P[1], counts_3P[0]),
            np.where(is_first_P, holders_3P[1], holders_3P[0]),
            np.where(is_first_P | is_second_P, counts_3P[2], counts_3P[1]),
        )

    def _by_pair(self, lost: list[tuple[Ints, Ints, Ints]]) -> tuple[Ints, Ints, Floats]:
        """Matches that a hypothesis would lose without a reference, by order (hypotheses, references, matches), as the
        U pairs of the two that there are: hypotheses (U,), references (U,), matches (U, N)."""
        R = len(self._words_RT)
        codes = [rows * R + holders for rows, holders, _ in lost]
        codes_U, inverse = np.unique(np.concatenate(codes), return_inverse=True)
        lost_UN, start = np.zeros((len(codes_U), self.max_order)), 0
        for k, (_, _, matches) in enumerate(lost):
            of_order = inverse[start : start + len(matches)]
            lost_UN[:, k] = np.bincount(of_order, weights=matches, minlength=len(codes_U))
            start += len(matches)
        rows_U, holders_U = np.divmod(codes_U, R)
        return rows_U, holders_U, lost_UN


def bleu(hypotheses: ArrayLike, references: ArrayLike, vocab_size: int, *, smoothing: Smoothing = "method1") -> Floats:
    """Mean BLEU-1 .. BLEU-5 of samples against references, (5,); ``smoothing=`` as in :data:`Smoothing`.

    >>> bleu([[0, 1, 2, 3, 4]], [[0, 1, 2, 3, 4], [7, 7, 7, 7, 7]], vocab_size=8).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    return np.asarray(BleuReferences(references, vocab_size).sentence_bleu(hypotheses, smoothing).mean(axis=0))


def self_bleu(samples: ArrayLike, vocab_size: int, *, smoothing: Smoothing = "method1") -> Floats:
    """Mean BLEU-1 .. BLEU-5 of each sample against all other samples, (5,). High is little diversity."""
    return np.asarray(BleuReferences(samples, vocab_size).leave_one_out(smoothing).mean(axis=0))


def backward_bleu(
    samples: ArrayLike, references: ArrayLike, vocab_size: int, *, smoothing: Smoothing = "method1"
) -> Floats:
    """Mean BLEU-1 .. BLEU-5 of held-out sequences against the samples, (5,): coverage."""
    return bleu(references, samples, vocab_size, smoothing=smoothing)


def closest_length(lengths_H: Ints, lengths_R: Ints, *, is_one_of_them: bool = False) -> Ints:
    """The length in ``lengths_R`` closest to each in ``lengths_H``, of two the smaller, (H,).

    With ``is_one_of_them`` each hypothesis is itself a reference, which is left out once.
    """
    distinct, counts = np.unique(lengths_R, return_counts=True)
    wanted, inverse = np.unique(lengths_H, return_inverse=True)
    distance = np.abs(distinct[None, :] - wanted[:, None]).astype(np.float64)
    if is_one_of_them:
        distance[(distinct[None, :] == wanted[:, None]) & (counts[None, :] == 1)] = np.inf
    return np.asarray(distinct[distance.argmin(axis=1)][inverse])  # argmin takes the first, the smaller, of two


def _three_largest(ids_RK: Ints, num_ids: int) -> tuple[Ints, Ints]:
    """The three largest counts of each n-gram in one row, and their rows, each (3, G); 0 in row -1 where there are
    fewer."""
    counts = row_counts(ids_RK, num_ids)
    rows_P, ids_P, counts_P = counts.rows_P, counts.ids_P, counts.counts_P
    counts_3G, rows_3G = np.zeros((3, num_ids), dtype=np.int64), np.full((3, num_ids), -1)
    for most_G, holder_G in zip(counts_3G, rows_3G, strict=True):
        np.maximum.at(most_G, ids_P, counts_P)
        is_most_P = counts_P == most_G[ids_P]
        holder_G[ids_P[is_most_P]] = rows_P[is_most_P]  # of several rows, one
        is_other_P = rows_P != holder_G[ids_P]
        rows_P, ids_P, counts_P = rows_P[is_other_P], ids_P[is_other_P], counts_P[is_other_P]
    return counts_3G, rows_3G


def _combine(matches_HN: Floats, totals_HN: Floats, lengths_H: Ints, closest_H: Ints, smoothing: Smoothing) -> Floats:
    """BLEU-1 .. BLEU-N from clipped matches, numbers of n-grams and lengths, (H, N)."""
    smoothed_HN = EPSILON / totals_HN if smoothing == "method1" else np.full_like(totals_HN, sys.float_info.min)
    precision_HN = np.where(matches_HN == 0, smoothed_HN, matches_HN / totals_HN)
    orders_N = np.arange(1, precision_HN.shape[1] + 1)
    mean_log_HN = np.log(precision_HN).cumsum(axis=1) / orders_N
    penalty_H = np.exp(np.minimum(0.0, 1 - closest_H / np.maximum(lengths_H, 1)))
    bleu_HN = penalty_H[:, None] * np.exp(mean_log_HN)
    return np.where(matches_HN[:, :1] == 0, 0.0, bleu_HN)


def _chunks(words_HT: Ints) -> list[Ints]:
    return [words_HT[start : start + CHUNK] for start in range(0, len(words_HT), CHUNK)]


def _check_smoothing(smoothing: str) -> None:
    if smoothing not in get_args(Smoothing):
        raise InputError(f"smoothing must be one of {', '.join(get_args(Smoothing))}, got {smoothing!r}")
