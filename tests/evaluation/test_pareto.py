"""Domination is called where it is so, and by chance no more often than the level allows."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation import Scores, pareto_test

MakeScores = Callable[..., Scores]


def test_worse_in_both_is_dominated(make_scores: MakeScores) -> None:
    """Errors are .01 each, so that differences are known to .02: a and c trade one for the other, b loses to a, and d
    is worse than c in one score only by what noise can do."""
    models = {
        "a": make_scores(3.0, 2.5),
        "b": make_scores(3.2, 2.7),
        "c": make_scores(2.5, 2.9),
        "d": make_scores(2.9, 2.91),
    }
    test = pareto_test(models)
    assert test.dominated == {"b": ("a",)}
    assert test.front == ("a", "c", "d")
    assert test.sentence() == (
        "Dominated in both nll_oracle and nll_test at the 95% level, Holm-corrected over pairs: b (by a)."
    )
    pair = next(p for p in test.pairs if (p.one, p.other) == ("a", "b"))
    assert pair.differences == pytest.approx((-0.2, -0.2))
    assert pair.intervals[0] == pytest.approx((-0.2 - 1.96 * 0.02, -0.2 + 1.96 * 0.02), abs=1e-4)
    assert pareto_test({"a": models["a"], "c": models["c"]}).sentence().endswith("pairs: no model.")


def test_more_bleu_and_less_self_bleu_are_better(make_scores: MakeScores) -> None:
    models = {
        "better": make_scores(None, 2.5, samples={"bleu_4": 0.9, "self_bleu_4": 0.5}),
        "sharper": make_scores(None, 2.5, samples={"bleu_4": 0.95, "self_bleu_4": 0.8}),
        "worse": make_scores(None, 2.5, samples={"bleu_4": 0.7, "self_bleu_4": 0.6}),
    }
    test = pareto_test(models, quality="bleu_4", coverage="self_bleu_4")
    assert test.dominated == {"worse": ("better",)}
    assert test.pairs[1].differences == pytest.approx((-0.2, -0.1))


def test_p_value_is_the_larger_one_corrected(make_scores: MakeScores) -> None:
    """z is 10 in one score and 2.3 in the other: p = .021, times 3 pairs .064."""
    models = {"a": make_scores(3.0, 2.5), "b": make_scores(3.2, 2.546), "c": make_scores(3.0, 2.5)}
    test = pareto_test(models)
    assert test.pairs[0].p_value == pytest.approx(2 * stats.norm.sf(2.3) * 3, rel=1e-6)
    assert test.dominated == {}
    assert pareto_test(models, level=0.9).dominated == {"b": ("a", "c")}
    assert pareto_test({name: models[name] for name in "ab"}).dominated == {"b": ("a",)}


def test_runs_add_their_own_noise(make_scores: MakeScores) -> None:
    """Differences .1, .2, .3 between runs of one seed, no error of sequences: t = .2 / (.1 / √3) with 2 degrees."""
    one = [make_scores(3.0 + x, 2.5 + x, error=0.0) for x in (0.1, 0.2, 0.3)]
    other = [make_scores(3.0, 2.5, error=0.0)] * 3
    pair = pareto_test({"one": one, "other": other}).pairs[0]
    t, _ = stats.ttest_1samp([0.1, 0.2, 0.3], 0)
    assert pair.p_value == pytest.approx(2 * stats.t(2).sf(t), rel=1e-6)
    assert pair.dominated is None
    steady = [make_scores(3.2 + x, 2.7 + x, error=0.0) for x in (0.0, 0.001, 0.002)]
    assert pareto_test({"one": steady, "other": other}).dominated == {"one": ("other",)}


def test_paired_sequences_make_small_differences_visible(make_scores: MakeScores) -> None:
    """The two share their noise, but for a thousandth: unpaired the difference of .02 would drown in it."""
    noise = np.random.default_rng(0).normal(size=(2, 100))
    own = {name: 0.001 * part for name, part in zip(("nll_oracle", "nll_test"), noise, strict=True)}
    shared = {"nll_oracle": noise[1], "nll_test": noise[0]}
    one = make_scores(3.02, 2.52, error=0.1, influence={name: shared[name] + own[name] for name in own})
    assert pareto_test({"one": one, "other": make_scores(3.0, 2.5, error=0.1, influence=shared)}).dominated
    assert not pareto_test({"one": make_scores(3.02, 2.52, error=0.1), "other": make_scores(3.0, 2.5)}).dominated


def test_false_alarms_stay_below_the_level(make_scores: MakeScores) -> None:
    """Five equal models, 300 times: some pair is called in far less than 5 % (both scores must stand, and Holm)."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(300):
        values = rng.normal(scale=0.01, size=(5, 2))
        models = {
            str(i): make_scores(3 + x, 2 + y, influence=_independent(i)) for i, (x, y) in enumerate(values.tolist())
        }
        alarms += bool(pareto_test(models).dominated)
    assert alarms <= 6


def _independent(i: int) -> dict[str, np.ndarray]:
    """Influence of standard error .01, without correlation between models."""
    basis = np.zeros(12)
    basis[[2 * i, 2 * i + 1]] = 1, -1
    scaled = 0.01 * basis / (basis.std(ddof=1) / math.sqrt(12))
    return {"nll_oracle": scaled, "nll_test": scaled}


def test_no_finite_score_is_no_verdict(make_scores: MakeScores) -> None:
    models = {"a": make_scores(3.0, 2.5), "top-k": make_scores(3.5, math.inf), "b": make_scores(3.2, 2.7)}
    test = pareto_test(models)
    assert math.isnan(test.pairs[0].p_value)
    assert test.dominated == {"b": ("a",)}


def test_refusals(make_scores: MakeScores) -> None:
    with pytest.raises(InputError, match=r"same number of runs, at least 1, got \{'a': 1, 'b': 2\}"):
        pareto_test({"a": make_scores(3, 2), "b": [make_scores(3, 2)] * 2})
    with pytest.raises(InputError, match=r"different signatures cannot be compared \(seed: 0 != 1\)"):
        pareto_test({"a": make_scores(3, 2), "b": make_scores(3, 2, seed=1)})
    with pytest.raises(InputError, match="level must lie in"):
        pareto_test({"a": make_scores(3, 2)}, level=95)
