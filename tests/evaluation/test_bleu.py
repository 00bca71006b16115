"""BLEU and Self-BLEU equal nltk's and sacrebleu's sentence BLEU, and what is known without a program."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # type: ignore[import-untyped]
from numpy.typing import NDArray

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation import BleuReferences, backward_bleu, bleu, self_bleu
from seqgan_rl.evaluation.bleu import CHUNK, Smoothing, closest_length

Ints = NDArray[np.int64]
V = 4
WEIGHTS = [(1 / n,) * n for n in range(1, 6)]
NLTK = {"method1": SmoothingFunction().method1, "none": None}


def padded(sequences: list[list[int]], length: int = 9) -> Ints:
    """EOS is V and PAD is V + 1."""
    tokens_NT = np.full((len(sequences), length), V + 1)
    for row, words in zip(tokens_NT, sequences, strict=True):
        row[: len(words)] = words
        if len(words) < length:
            row[len(words)] = V
    return tokens_NT


def nltk_bleu(references: list[list[int]], hypothesis: list[int], smoothing: str) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk's own remark on BLEU without smoothing
        found = sentence_bleu(references, hypothesis, weights=WEIGHTS, smoothing_function=NLTK[smoothing])
    return [float(value) for value in found]


few_sequences = st.lists(st.lists(st.integers(0, V - 1), max_size=9), min_size=2, max_size=8)
smoothings = st.sampled_from(["method1", "none"])


@given(hypotheses=few_sequences, references=few_sequences, smoothing=smoothings)
def test_sentence_bleu_equals_nltk(
    hypotheses: list[list[int]], references: list[list[int]], smoothing: Smoothing
) -> None:
    """To 1e-12, empty sequences, ties of length and words that repeat among them."""
    ours = BleuReferences(padded(references), V).sentence_bleu(padded(hypotheses), smoothing)
    theirs = [nltk_bleu(references, hypothesis, smoothing) for hypothesis in hypotheses]
    assert ours == pytest.approx(np.array(theirs), abs=1e-12)


@given(samples=few_sequences, smoothing=smoothings)
def test_leave_one_out_equals_nltk(samples: list[list[int]], smoothing: Smoothing) -> None:
    ours = BleuReferences(padded(samples), V).leave_one_out(smoothing)
    theirs = [
        nltk_bleu(samples[:i] + samples[i + 1 :], samples[i], smoothing) for i in range(len(samples))
    ]  # every sample against all others
    assert ours == pytest.approx(np.array(theirs), abs=1e-12)


def test_mean_scores_equal_nltk_on_zipf_text() -> None:
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 201)
    samples, references = (rng.choice(200, (n, 12), p=weights / weights.sum()) for n in (15, 60))
    for ours, against, scored in (
        (bleu(samples, references, 200), references, samples),
        (backward_bleu(samples, references, 200), samples, references),
    ):
        theirs = [nltk_bleu(against.tolist(), one, "method1") for one in scored.tolist()]
        assert ours == pytest.approx(np.mean(theirs, axis=0), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_sentence_bleu_equals_sacrebleu(seed: int) -> None:
    """sacrebleu's "floor" smoothing of 0.1 is nltk's method1; it has no BLEU-n of fewer than n words."""
    rng = np.random.default_rng(seed)
    hypotheses, references = ([rng.integers(0, V, rng.integers(4, 10)).tolist() for _ in range(n)] for n in (20, 7))
    theirs = [
        sacrebleu.sentence_bleu(
            " ".join(map(str, hypothesis)),
            [" ".join(map(str, reference)) for reference in references],
            smooth_method="floor",
            smooth_value=0.1,
            tokenize="none",
            use_effective_order=False,
        ).score
        for hypothesis in hypotheses
    ]
    ours = BleuReferences(padded(references), V).sentence_bleu(padded(hypotheses))[:, 3]
    assert 100 * ours == pytest.approx(np.array(theirs), abs=1e-9)


def test_bleu_by_hand() -> None:
    """Hypothesis 0 0 0 1 against 0 0 2 and 1 3 3 3 3: two of the three 0s and the 1 count (3/4), and one of the two
    bigrams 00 (1/3); lengths 3 and 5 are as close to 4, and the shorter costs nothing."""
    references = padded([[0, 0, 2], [1, 3, 3, 3, 3]])
    ours = BleuReferences(references, V, max_order=2).sentence_bleu(padded([[0, 0, 0, 1]]))
    assert ours[0] == pytest.approx([3 / 4, math.sqrt(3 / 4 * 1 / 3)], abs=1e-12)
    short = BleuReferences(references[1:], V, max_order=1).sentence_bleu(padded([[3, 3]]))
    assert short[0, 0] == pytest.approx(math.exp(1 - 5 / 2), abs=1e-12)  # brevity


def test_a_set_against_itself_is_one_and_equal_samples_have_self_bleu_one() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (30, 9))
    assert bleu(tokens, tokens, V) == pytest.approx(np.ones(5), abs=1e-12)
    assert self_bleu(np.repeat(tokens[:1], 12, axis=0), V) == pytest.approx(np.ones(5), abs=1e-12)
    assert self_bleu(np.concatenate([tokens, tokens]), V) == pytest.approx(np.ones(5), abs=1e-12)  # each has a copy


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_order_and_padding_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = [rng.integers(0, V, rng.integers(0, 10)).tolist() for _ in range(12)]
    samples, references = padded(lists[:6]), padded(lists[6:])
    expected = BleuReferences(references, V).sentence_bleu(samples)
    order = rng.permutation(6)
    moved = BleuReferences(references[rng.permutation(6)], V).sentence_bleu(samples[order])
    assert moved == pytest.approx(expected[order], abs=1e-12)
    assert self_bleu(samples[order], V) == pytest.approx(self_bleu(samples, V), abs=1e-12)
    wider = BleuReferences(padded(lists[6:], 14), V).sentence_bleu(padded(lists[:6], 11))
    assert wider == pytest.approx(expected, abs=1e-12)


def test_chunks_change_nothing() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 30, (CHUNK + 100, 5))
    whole = BleuReferences(tokens, 30)
    last = whole.leave_one_out()[-50:]
    theirs = [nltk_bleu(np.delete(tokens, i, axis=0).tolist(), tokens[i].tolist(), "method1") for i in (-1, -50)]
    assert last[[-1, -50]] == pytest.approx(np.array(theirs), abs=1e-12)
    assert whole.sentence_bleu(tokens) == pytest.approx(np.ones((len(tokens), 5)), abs=1e-12)


def test_closest_length_leaves_the_hypothesis_out_once() -> None:
    lengths = np.array([2, 5, 5, 8])
    assert closest_length(lengths, lengths).tolist() == [2, 5, 5, 8]
    assert closest_length(lengths, lengths, is_one_of_them=True).tolist() == [5, 5, 5, 5]
    assert closest_length(np.array([0, 3, 4, 6, 9]), lengths).tolist() == [2, 2, 5, 5, 8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bleu([[0, 1]], np.empty((0, 2), dtype=int), 2), r"references must be integers of shape \(N, T\)"),
        (lambda: bleu([[0.0, 1.0]], [[0, 1]], 2), "hypotheses must be integers"),
        (lambda: bleu([[0, -1]], [[0, 1]], 2), "at least 0, got -1 at sequence 0, position 1"),
        (lambda: bleu([[0, 2, 1]], [[0, 1, 1]], 2), "got 2 before the word 1 at sequence 0, position 1"),
        (lambda: self_bleu([[0, 1]], 2), "at least 2 sequences, got 1"),
        (lambda: bleu([[0, 1]], [[0, 1]], 2, smoothing="method7"), "smoothing must be one of method1, none"),  # type: ignore[arg-type]
        (lambda: bleu([[0, 1]], [[0, 1]], 0), "vocab_size must be at least 1"),
        (lambda: BleuReferences([[0, 1]], 2, max_order=0), "max_order must be at least 1"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
