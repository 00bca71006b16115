"""Diversity and n-gram divergence against plain counting, by hand, and their errors against resampling."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from seqgan_rl.evaluation import distinct_n, ngram_entropy, ngram_js, repetition
from seqgan_rl.evaluation.ngrams import UNKNOWN, NgramIndex, check_words, row_counts

V = 3
few_sequences = st.lists(st.lists(st.integers(0, V - 1), max_size=7), min_size=2, max_size=8)
Grams = list[tuple[int, ...]]


def padded(sequences: list[list[int]]) -> NDArray[np.int64]:
    tokens_NT = np.full((len(sequences), 7), V + 1)
    for row, words in zip(tokens_NT, sequences, strict=True):
        row[: len(words)] = words
    return tokens_NT


def grams(words: list[int], n: int) -> Grams:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def frequencies(sequences: list[list[int]], n: int, kinds: Grams) -> NDArray[np.float64]:
    counts = Counter(gram for words in sequences for gram in grams(words, n))
    return np.array([counts[kind] for kind in kinds]) / max(1, counts.total())


@given(one=few_sequences, other=few_sequences)
def test_all_equal_plain_counting(one: list[list[int]], other: list[list[int]]) -> None:
    """Every order; NaN where no sequence is as long. scipy knows entropy and the root of JS."""
    tokens = padded(one)
    found = [distinct_n(tokens, V), repetition(tokens, V)[0], ngram_entropy(tokens, V)[0]]
    found.append(ngram_js(tokens, padded(other), V)[0])
    for n in range(1, 5):
        pooled = [gram for words in one for gram in grams(words, n)]
        theirs = [gram for words in other for gram in grams(words, n)]
        if not pooled:
            assert all(math.isnan(values[n - 1]) for values in found)
            continue
        shares = [1 - len(set(grams(words, n))) / len(grams(words, n)) for words in one if grams(words, n)]
        kinds = sorted({*pooled, *theirs})
        p, q = frequencies(one, n, kinds), frequencies(other, n, kinds)
        js = jensenshannon(p, q) ** 2 if theirs else math.nan
        expected = [len(set(pooled)) / len(pooled), np.mean(shares), entropy(p), js]
        assert [values[n - 1] for values in found] == pytest.approx(expected, abs=1e-7, nan_ok=True)


def test_by_hand() -> None:
    """0 0 1 1 and 0 1 2 2: words 3 : 3 : 2; bigrams 00 01 11 12 22 of 6; half of the first's words repeat, a quarter of
    the second's."""
    tokens = np.array([[0, 0, 1, 1], [0, 1, 2, 2]])
    assert distinct_n(tokens, 3, 2) == pytest.approx([3 / 8, 5 / 6])
    assert repetition(tokens, 3, 2)[0] == pytest.approx([3 / 8, 0])
    assert ngram_entropy(tokens, 3, 1)[0][0] == pytest.approx(3 / 4 * math.log(8 / 3) + math.log(4) / 4)


def test_js_of_equal_sets_is_0_and_of_disjoint_ones_ln_2() -> None:
    tokens = np.random.default_rng(0).integers(0, 5, (20, 6))
    assert ngram_js(tokens, tokens[::-1], 10)[0] == pytest.approx(np.zeros(4), abs=1e-12)
    assert ngram_js(tokens, tokens + 5, 10)[0] == pytest.approx(np.full(4, math.log(2)), abs=1e-12)


def test_errors_agree_with_resampling_sequences() -> None:
    """400 resamples of both sets tell a standard error to 4 %; words depend on each other within a sequence. JS is of
    samples of one generator and of another, so that its linear part is not 0."""
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 4, (300, 1)) * (rng.random((300, 8)) < 0.6)
    references = rng.integers(0, 4, (200, 8))
    values = []
    for _ in range(400):
        own, other = samples[rng.integers(300, size=300)], references[rng.integers(200, size=200)]
        values.append([ngram_entropy(own, 4, 1)[0][0], repetition(own, 4, 1)[0][0], ngram_js(own, other, 4, 1)[0][0]])
    errors = [
        ngram_entropy(samples, 4, 1)[1][0],
        repetition(samples, 4, 1)[1][0],
        ngram_js(samples, references, 4, 1)[1][0],
    ]
    assert errors == pytest.approx(np.std(values, axis=0, ddof=1), rel=0.15)


@given(sequences=few_sequences, others=few_sequences)
def test_ids_are_exact(sequences: list[list[int]], others: list[list[int]]) -> None:
    """Two n-grams have one id exactly if they are equal, and an id exactly if they stand in an indexed sequence."""
    index = NgramIndex(check_words(padded(sequences), V), V, 4)
    found = index.ids(check_words(padded(others), V))
    for n in range(1, 5):
        known: dict[tuple[int, ...], int] = {}
        for words, ids in zip(sequences, index.own_ids[n - 1].tolist(), strict=True):
            expected = grams(words, n)
            assert all(known.setdefault(gram, i) == i for gram, i in zip(expected, ids, strict=False))
            assert set(ids[len(expected) :]) <= {UNKNOWN}
        assert sorted(known.values()) == list(range(index.size(n)))
        for words, ids in zip(others, found[n - 1].tolist(), strict=True):
            assert ids[: len(grams(words, n))] == [known.get(gram, UNKNOWN) for gram in grams(words, n)]


def test_large_ids_do_not_collide() -> None:
    """A vocabulary of 2^40: codes stay within int64, for an n-gram's first part is its rank."""
    tokens = np.array([[2**40 - 1, 2**40 - 2, 5], [2**40 - 2, 5, 7]])
    index = NgramIndex(check_words(tokens, 2**40), 2**40, 3)
    assert [index.size(n) for n in (1, 2, 3)] == [4, 3, 2]
    counts = row_counts(index.own_ids[1], 3)
    assert counts.rows_P.tolist() == [0, 0, 1, 1]
    assert counts.counts_P.tolist() == [1, 1, 1, 1]
