"""Diversity of sequences, and how far their n-grams are from those of held-out ones. No model is asked.

    distinct-n    different n-grams / n-grams, all samples together (Li et al., NAACL 2016, arXiv:1510.03055)
    repetition-n  1 - different n-grams / n-grams within a sequence, mean over sequences ("seq-rep-n", Welleck et al.,
                  ICLR 2020, arXiv:1908.04319)
    entropy-n     -Σ_g p(g) ln p(g) of the n-grams' frequencies p, nats
    n-gram JS     ½ Σ_g p(g) ln(p/m) + ½ Σ_g q(g) ln(q/m), m = (p + q)/2, between the frequencies p in the samples and
                  q in the references (Lin, IEEE Trans. Inf. Theory 1991), nats, in [0, ln 2]
The last two are plug-in estimates and biased: by about -(G - 1)/2n for the entropy of G kinds among n n-grams, and
upwards for JS, the more the longer n (two samples of one distribution do not have 0). Compare them only at equal sizes,
and with what real sequences of that number get (``SampleScorer.real_scores``).
Letters: N sequences, T tokens each, V vocabulary size, K n-grams a sequence, G distinct n-grams of one order.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from seqgan_rl.evaluation.intervals import Floats, ratio, standard_error
from seqgan_rl.evaluation.ngrams import UNKNOWN, Ints, NgramIndex, check_words, row_counts, total_counts

MAX_ORDER = 4


def distinct_n(tokens: ArrayLike, vocab_size: int, max_order: int = MAX_ORDER) -> Floats:
    """distinct-1 .. distinct-``max_order`` of sequences (N, T), in (0, 1]; NaN where none is as long as n.

    It falls with the number of sequences: compare it at equal sizes. It is no mean and has no standard error.

    >>> distinct_n([[0, 1, 0], [0, 1, 2]], vocab_size=3, max_order=2).tolist()
    [0.5, 0.75]
    """
    index = NgramIndex(check_words(tokens, vocab_size), vocab_size, max_order)
    return np.array([distinct_share(ids_NK, index.size(n)) for n, ids_NK in enumerate(index.own_ids, start=1)])


def repetition(tokens: ArrayLike, vocab_size: int, max_order: int = MAX_ORDER) -> tuple[Floats, Floats]:
    """repetition-1 .. repetition-``max_order`` in [0, 1), and their standard errors over sequences.

    Sequences shorter than n are left out of the mean.
    """
    index = NgramIndex(check_words(tokens, vocab_size), vocab_size, max_order)
    found = [repeated_share(ids_NK, index.size(n)) for n, ids_NK in enumerate(index.own_ids, start=1)]
    return np.array([value for value, _ in found]), np.array([standard_error(influence) for _, influence in found])


def ngram_entropy(tokens: ArrayLike, vocab_size: int, max_order: int = MAX_ORDER) -> tuple[Floats, Floats]:
    """entropy-1 .. entropy-``max_order`` of the pooled n-grams, nats, and their standard errors over sequences."""
    index = NgramIndex(check_words(tokens, vocab_size), vocab_size, max_order)
    found = [pooled_entropy(ids_NK, index.size(n)) for n, ids_NK in enumerate(index.own_ids, start=1)]
    return np.array([value for value, _ in found]), np.array([standard_error(influence) for _, influence in found])


def ngram_js(
    samples: ArrayLike, references: ArrayLike, vocab_size: int, max_order: int = MAX_ORDER
) -> tuple[Floats, Floats]:
    """n-gram JS of orders 1 .. ``max_order``, nats, and standard errors over samples and references (delta method)."""
    index = NgramIndex(check_words(references, vocab_size, "references"), vocab_size, max_order)
    sample_ids = index.ids(check_words(samples, vocab_size, "samples"))
    found = [
        pooled_js(sample_ids[n - 1], index.own_ids[n - 1], is_ngram(samples, vocab_size, n), index.size(n))
        for n in range(1, max_order + 1)
    ]
    return np.array([value for value, _ in found]), np.array([error for _, error in found])


def is_ngram(tokens: ArrayLike, vocab_size: int, order: int) -> np.ndarray:
    """Where an n-gram of words begins, bool (N, K)."""
    return np.asarray(np.asarray(tokens)[:, order - 1 :] < vocab_size)


def distinct_share(ids_NK: Ints, num_ids: int) -> float:
    """distinct-n of indexed sequences."""
    total = int((ids_NK != UNKNOWN).sum())
    return num_ids / total if total else math.nan


def repeated_share(ids_NK: Ints, num_ids: int) -> tuple[float, Floats]:
    """repetition-n and the influence of each sequence, (N,)."""
    totals_N = (ids_NK != UNKNOWN).sum(axis=1)
    kinds_N = np.bincount(row_counts(ids_NK, num_ids).rows_P, minlength=len(ids_NK))
    repeated_N = 1 - kinds_N / np.maximum(totals_N, 1)
    return ratio(np.where(totals_N > 0, repeated_N, 0.0), totals_N > 0)


def pooled_entropy(ids_NK: Ints, num_ids: int) -> tuple[float, Floats]:
    """entropy-n and the influence of each sequence, (N,)."""
    counts_G = total_counts(ids_NK, num_ids)
    cost_G = -np.log(np.maximum(counts_G, 1) / max(int(counts_G.sum()), 1))
    return _mean_cost(ids_NK, ids_NK != UNKNOWN, cost_G, 0.0)


def pooled_js(sample_ids_NK: Ints, own_ids_MK: Ints, is_ngram_NK: np.ndarray, num_ids: int) -> tuple[float, float]:
    """n-gram JS and its standard error, from ids in the references' index.

    JS = Σ p · ½ ln(p/m) + Σ q · ½ ln(q/m): a mean over the n-grams of the samples and one over those of the references.
    An n-gram that no reference holds costs ½ ln 2, whichever it is.
    """
    totals = int(is_ngram_NK.sum()), int((own_ids_MK != UNKNOWN).sum())
    if 0 in totals:
        return math.nan, math.nan
    p_G, q_G = total_counts(sample_ids_NK, num_ids) / totals[0], total_counts(own_ids_MK, num_ids) / totals[1]
    m_G = (p_G + q_G) / 2  # above 0: every id stands in a reference
    sample_cost_G = np.log(np.where(p_G > 0, p_G, m_G) / m_G) / 2
    of_samples, sample_influence_N = _mean_cost(sample_ids_NK, is_ngram_NK, sample_cost_G, math.log(2) / 2)
    of_references, influence_M = _mean_cost(own_ids_MK, own_ids_MK != UNKNOWN, np.log(q_G / m_G) / 2, 0.0)
    return of_samples + of_references, math.hypot(standard_error(sample_influence_N), standard_error(influence_M))


def _mean_cost(ids_NK: Ints, is_ngram_NK: np.ndarray, cost_G: Floats, unknown_cost: float) -> tuple[float, Floats]:
    """Mean cost of the n-grams of all sequences together, and the influence of each sequence."""
    costs_NK = np.append(cost_G, unknown_cost)[ids_NK]  # UNKNOWN is the last
    return ratio(np.where(is_ngram_NK, costs_NK, 0.0).sum(axis=1), is_ngram_NK.sum(axis=1))
