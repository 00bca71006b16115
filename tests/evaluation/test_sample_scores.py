"""SampleScorer puts together what the single functions say, under one signature."""

import json
import math

import numpy as np
import pytest

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation import (
    SampleScorer,
    SampleScores,
    backward_bleu,
    bleu,
    distinct_n,
    music_scores,
    ngram_entropy,
    ngram_js,
    repetition,
    self_bleu,
)
from seqgan_rl.evaluation.intervals import standard_error

V, EOS, PAD = 6, 6, 7


def sequences(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tokens_NT = rng.integers(0, V, (n, 8))
    lengths = rng.integers(0, 9, n)
    tokens_NT[np.arange(8) > lengths[:, None]] = PAD
    tokens_NT[np.arange(8) == lengths[:, None]] = EOS
    return tokens_NT


def test_every_score_is_that_of_its_function() -> None:
    samples, references, train = sequences(30, 0), sequences(40, 1), sequences(50, 2)
    train[:3] = samples[:3]
    found = SampleScorer(references, V, train=train).scores(samples)
    expected: dict[str, float] = {}
    for name, values in (
        ("bleu", bleu(samples, references, V)),
        ("self_bleu", self_bleu(samples, V)),
        ("backward_bleu", backward_bleu(samples, references, V)),
    ):
        expected |= {f"{name}_{n}": values[n - 1] for n in range(2, 6)}
    for name, values in (
        ("distinct", distinct_n(samples, V)),
        ("repetition", repetition(samples, V)[0]),
        ("ngram_js", ngram_js(samples, references, V)[0]),
    ):
        expected |= {f"{name}_{n}": values[n - 1] for n in range(1, 5)}
    words = [tuple(i for i in row if i < V) for row in samples.tolist()]
    known = {tuple(i for i in row if i < V) for row in train.tolist()}
    copies = [row in known for row in words]
    expected |= {
        "word_entropy": ngram_entropy(samples, V)[0][0],
        "vocabulary_used": len({i for row in words for i in row}) / V,
        "unique_share": len(set(words)) / 30,
        "copied_share": float(np.mean(copies)),
        "mean_words": float(np.mean([len(row) for row in words])),
    }
    assert found.values == pytest.approx(expected)
    assert sum(copies) >= 3
    assert found.standard_errors["copied_share"] == pytest.approx(np.std(copies, ddof=1) / math.sqrt(30))
    assert set(found.values) - set(found.standard_errors) == {
        *(f"distinct_{n}" for n in range(1, 5)),
        "vocabulary_used",
        "unique_share",
    }


def test_error_of_bleu_is_the_jackknifes_over_samples_and_references() -> None:
    """Slow reference: every sequence left out once, all of one length so that the closest length stays."""
    rng = np.random.default_rng(0)
    samples, references = rng.integers(0, 4, (12, 6)), rng.integers(0, 4, (9, 6))
    samples[3] = samples[4]

    def jackknife(values: list[float]) -> float:
        return math.sqrt((len(values) - 1) / len(values) * np.square(np.array(values) - np.mean(values)).sum())

    def without(rows: np.ndarray) -> list[np.ndarray]:
        return [np.delete(rows, i, axis=0) for i in range(len(rows))]

    found = SampleScorer(references, V).scores(samples).standard_errors
    for n in range(2, 6):
        over_samples = jackknife([bleu(part, references, V)[n - 1] for part in without(samples)])
        over_references = jackknife([bleu(samples, part, V)[n - 1] for part in without(references)])
        assert found[f"bleu_{n}"] == pytest.approx(math.hypot(over_samples, over_references))
        over_samples = jackknife([bleu(references, part, V)[n - 1] for part in without(samples)])
        over_references = jackknife([bleu(part, samples, V)[n - 1] for part in without(references)])
        assert found[f"backward_bleu_{n}"] == pytest.approx(math.hypot(over_samples, over_references))
        assert found[f"self_bleu_{n}"] == pytest.approx(
            jackknife([self_bleu(part, V)[n - 1] for part in without(samples)])
        )


def test_intervals_of_a_difference_in_bleu_hold_what_other_test_data_would_say() -> None:
    """Two models that repeat a few sentences each: which of them the test split happens to hold decides. With the
    references as given the interval held the mean difference in 40 % of the draws. False alarm about 1e-6."""
    truth, draws = np.random.default_rng(1).integers(0, 8, (300, 5)), 60
    models = truth[:4], truth[4:8]
    found = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        scorer = SampleScorer(truth[rng.integers(0, 300, 200)], 8)
        one, other = (scorer.scores(model[rng.integers(0, 4, 60)]) for model in models)
        parts = [
            standard_error(mine["bleu_5"] - theirs["bleu_5"])
            for mine, theirs in (
                (one.influence, other.influence),
                (one.reference_influence, other.reference_influence),
            )
        ]
        found.append((one.values["bleu_5"] - other.values["bleu_5"], math.hypot(*parts)))
    value, error = np.array(found).T
    hits = int((abs(value - value.mean()) < 1.96 * error).sum())
    assert hits > 0.72 * draws


def test_signature_names_what_scores_depend_on() -> None:
    samples, references, train = sequences(30, 0), sequences(40, 1), sequences(50, 2)
    base = SampleScorer(references, V, train=train).scores(samples).signature
    others = {
        "smoothing": SampleScorer(references, V, train=train, smoothing="none").scores(samples),
        "reference_hash": SampleScorer(references[::-1], V, train=train).scores(samples),
        "reference_size": SampleScorer(references[:30], V, train=train).scores(samples),
        "reference_split": SampleScorer(references, V, train=train, split="valid").scores(samples),
        "train_hash": SampleScorer(references, V).scores(samples),
        "sample_size": SampleScorer(references, V, train=train).scores(samples[:20]),
    }
    for name, scores in others.items():
        assert any(text.startswith(f"{name}: ") for text in base.differences(scores.signature)), name
    wider = np.pad(references, ((0, 0), (0, 3)), constant_values=PAD)
    assert SampleScorer(wider, V, train=train).scores(samples).signature == base  # padding is no difference


def test_real_scores_are_those_of_training_sequences() -> None:
    references, train = sequences(40, 1), sequences(50, 2)
    scorer = SampleScorer(references, V, train=train)
    real = scorer.real_scores(30, seed=3)
    assert real == scorer.real_scores(30, seed=3) != scorer.real_scores(30, seed=4)
    assert real is not None
    assert real.values["copied_share"] == 1
    assert real.signature == scorer.scores(sequences(30, 0)).signature
    assert scorer.real_scores(51) is None
    assert SampleScorer(references, V).real_scores(10) is None


def test_scores_survive_json() -> None:
    """Also NaN, where no sample has two words."""
    samples = np.array([[0, PAD], [1, PAD]])
    found = SampleScorer(sequences(5, 0), V).scores(samples)
    assert math.isnan(found.values["distinct_2"])
    read = SampleScores.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert read.signature == found.signature
    assert read.values == pytest.approx(found.values, nan_ok=True)
    assert read.standard_errors == pytest.approx(found.standard_errors, nan_ok=True)


def test_refusals() -> None:
    with pytest.raises(InputError, match="references must be at least 2 sequences"):
        SampleScorer([[0, 1]], V)
    with pytest.raises(InputError, match="samples must be at least 2 sequences"):
        SampleScorer([[0, 1], [1, 2]], V).scores([[0, 1]])
    with pytest.raises(InputError, match="smoothing must be one of"):
        SampleScorer([[0, 1], [1, 2]], V, smoothing="method2").scores([[0, 1], [1, 1]])  # type: ignore[arg-type]


def test_music_scores_are_those_of_the_pitches() -> None:
    """Word w sounds pitch 40 + 2w, but the last word is a rest."""
    samples, references, pitches = sequences(30, 0), sequences(40, 1), np.array([40, 42, 44, 46, 48, 88])
    found = SampleScorer(references, V, pitch_of_word=pitches).scores(samples)
    silent = np.concatenate([pitches, [88, 88]])
    expected = music_scores(silent[samples], silent[references])
    assert found.values == pytest.approx({**found.values, **expected.values})
    assert found.standard_errors["mean_pitch"] == pytest.approx(expected.standard_errors["mean_pitch"])
    assert found.signature.num_pitches == 88
    without = SampleScorer(references, V).scores(samples).signature
    assert found.signature.differences(without) == ["num_pitches: 88 != None"]
    with pytest.raises(InputError, match="pitch_of_word must be integers of at least 0, one for each of the 6 words"):
        SampleScorer(references, V, pitch_of_word=[40])
