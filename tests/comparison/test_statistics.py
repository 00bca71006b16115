"""Equal to scipy and, on the same resamples, to rliable; intervals cover; verdicts by hand.

Unless a test says otherwise it compares numbers that are equal but for rounding, and has no false alarms.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from seqgan_rl.comparison.statistics import (
    PairedComparison,
    compare_with,
    improves,
    iqm,
    mean,
    median,
    paired_test,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from seqgan_rl.evaluation.intervals import holm

Floats = NDArray[np.float64]

RESAMPLES = 400

numbers = st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 2))
scores_RM = st.tuples(st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda shape: arrays(float, shape, elements=numbers)
)
two_agents = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda RQM: st.tuples(
        arrays(float, (RQM[0], RQM[2]), elements=st.integers(-4, 4).map(float)),
        arrays(float, (RQM[1], RQM[2]), elements=st.integers(-4, 4).map(float)),
    )
)


def make_rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_scores(R: int, M: int, seed: int = 0, spread: float = 1.0) -> Floats:
    """Tasks of different difficulty; two decimals, so that agents tie now and then."""
    return (spread * make_rng(seed).normal(size=(R, M)) + np.arange(M)).round(2)


@pytest.mark.parametrize(("R", "M"), [(1, 1), (1, 3), (3, 1), (5, 3), (4, 4), (10, 7)])
def test_interquartile_mean_equals_scipy(R: int, M: int) -> None:
    scores = make_scores(R, M)
    assert float(iqm(scores)) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)
    stack = np.stack([scores, 2 * scores])
    for statistic in (iqm, mean, median):
        assert statistic(stack) == pytest.approx(np.array([float(statistic(s)) for s in stack]), abs=1e-12)


def test_aggregates_equal_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics")
    scores = make_scores(5, 3)
    assert float(iqm(scores)) == pytest.approx(metrics.aggregate_iqm(scores), abs=1e-12)
    assert float(mean(scores)) == pytest.approx(metrics.aggregate_mean(scores), abs=1e-12)
    assert float(median(scores)) == pytest.approx(metrics.aggregate_median(scores), abs=1e-12)


def feed_rliable(monkeypatch: pytest.MonkeyPatch, *shapes: tuple[int, int]) -> None:
    """Make rliable draw the resamples that we draw from make_rng(1): all of the first agent, then of the second.

    rliable draws for each resample of each agent in turn, by np.random.choice(R, (R, M), replace=True).
    """
    rng = make_rng(1)
    drawn = [rng.integers(shape[0], size=(RESAMPLES, *shape)) for shape in shapes]
    indices: Iterator[NDArray[np.int64]] = (agent[s] for s in range(RESAMPLES) for agent in drawn)

    def choice(a: int, size: tuple[int, int], replace: bool) -> NDArray[np.int64]:
        given = next(indices)
        assert (given.shape, a, replace) == (size, size[0], True)
        return given

    monkeypatch.setattr(np.random, "choice", choice)


@pytest.mark.parametrize(("R", "M"), [(5, 3), (2, 1), (10, 6)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_interval_equals_rliable_on_the_same_resamples(
    R: int, M: int, level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, metrics = pytest.importorskip("rliable.library"), pytest.importorskip("rliable.metrics")
    scores = make_scores(R, M)
    feed_rliable(monkeypatch, (R, M))
    values, intervals = library.get_interval_estimates(
        {"x": scores},
        lambda x: np.array([metrics.aggregate_iqm(x)]),
        reps=RESAMPLES,
        confidence_interval_size=level,
    )
    estimate = stratified_bootstrap(scores, iqm, resamples=RESAMPLES, level=level, rng=make_rng(1))
    assert estimate.value == pytest.approx(values["x"][0], abs=1e-12)
    assert estimate.interval == pytest.approx(tuple(intervals["x"][:, 0]), abs=1e-12)
    assert (estimate.level, estimate.runs) == (level, R)


def test_interval_equals_rliable_to_three_decimals_on_its_own_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 resamples of each program, drawn apart. With an interquartile mean known to .0024 the 2.5 % point of S
    resamples has a standard error of √(.025 x .975 / S) / (.0584 / .0024) = 6.4e-5, the difference of two 9.1e-5: 5e-4
    is 5.5 of them, and another seed fails with probability 4e-8 per end."""
    library, metrics = pytest.importorskip("rliable.library"), pytest.importorskip("rliable.metrics")
    scores = 9.0 + 0.01 * make_rng().normal(size=(8, 3))
    monkeypatch.setattr(np.random, "choice", make_rng(2).choice)
    _, intervals = library.get_interval_estimates(
        {"x": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=10_000
    )
    estimate = stratified_bootstrap(scores, iqm, resamples=10_000, rng=make_rng(1))
    assert estimate.interval == pytest.approx(tuple(intervals["x"][:, 0]), abs=5e-4)
    assert (estimate.interval[1] - estimate.interval[0]) / 3.92 < 0.0024


def test_profile_equals_rliable_on_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("rliable.library")
    scores = make_scores(5, 3)
    thresholds = np.array([*np.linspace(-2, 4, 21), scores[0, 0]])
    feed_rliable(monkeypatch, scores.shape)
    shares, bands = library.create_performance_profile({"x": scores}, thresholds, reps=RESAMPLES)
    profile = performance_profile(scores, thresholds, resamples=RESAMPLES, rng=make_rng(1))
    assert profile.share_K == pytest.approx(shares["x"], abs=1e-12)
    assert np.stack([profile.low_K, profile.high_K]) == pytest.approx(bands["x"], abs=1e-12)
    assert profile.thresholds_K == pytest.approx(thresholds)


def test_probability_of_improvement_equals_rliable_on_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    library, metrics = pytest.importorskip("rliable.library"), pytest.importorskip("rliable.metrics")
    x, y = make_scores(5, 3).round(1), make_scores(4, 3, seed=5).round(1)
    assert np.isin(x, y).any()
    feed_rliable(monkeypatch, x.shape, y.shape)
    values, intervals = library.get_interval_estimates(
        {"x": [x, y]}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=RESAMPLES
    )
    estimate = probability_of_improvement(x, y, resamples=RESAMPLES, rng=make_rng(1))
    assert estimate.value == pytest.approx(values["x"][0], abs=1e-12)
    assert estimate.interval == pytest.approx(tuple(intervals["x"][:, 0]), abs=1e-12)
    assert estimate.runs == 4


@given(agents=two_agents)
def test_probability_of_improvement_equals_mann_whitney(agents: tuple[Floats, Floats]) -> None:
    x, y = agents
    pairs = len(x) * len(y)
    by_task = [
        float(stats.mannwhitneyu(a, b, method="asymptotic").statistic) / pairs for a, b in zip(x.T, y.T, strict=True)
    ]
    estimate = probability_of_improvement(x, y, resamples=1, rng=make_rng())
    assert estimate.value == pytest.approx(np.mean(by_task), abs=1e-12)


def test_bootstrap_equals_plain_loops() -> None:
    scores, rng, drawn = make_scores(5, 3), make_rng(3), []
    for _ in range(RESAMPLES):
        indices = rng.integers(5, size=(5, 3))
        sample = [scores[indices[r, m], m] for r in range(5) for m in range(3)]
        drawn.append(sum(sorted(sample)[3:12]) / 9)
    estimate = stratified_bootstrap(scores, iqm, resamples=RESAMPLES, rng=make_rng(3))
    assert estimate.interval == pytest.approx((np.percentile(drawn, 2.5), np.percentile(drawn, 97.5)), abs=1e-12)


def test_tasks_are_strata() -> None:
    """Runs without spread give an interval without width however far the tasks lie apart."""
    scores = np.tile([0.0, 100.0], (5, 1))
    assert stratified_bootstrap(scores, mean, rng=make_rng()).interval == (50.0, 50.0)


def test_one_seed_twice_gives_the_same_numbers_another_seed_others() -> None:
    x, y = make_scores(5, 3), make_scores(5, 3, seed=1)

    def intervals(seed: int) -> list[Any]:
        profile = performance_profile(x, [0.0, 1.0], resamples=99, rng=make_rng(seed))
        return [
            stratified_bootstrap(x, iqm, resamples=99, rng=make_rng(seed)).interval,
            probability_of_improvement(x, y, resamples=99, rng=make_rng(seed)).interval,
            (profile.low_K.tolist(), profile.high_K.tolist()),
        ]

    assert intervals(0) == intervals(0)
    assert all(a != b for a, b in zip(intervals(0), intervals(1), strict=True))


def test_bootstrap_interval_covers() -> None:
    """1,000 sets of 30 runs on three tasks, exponential scores less their interquartile mean: that of all scores is
    2 ∫ -ln v dv from 1/4 to 3/4 = 1 + ln 2 / 2 - 3/2 ln(3/2) = .738376, and 0 after it is taken off. The interval holds
    it in 94 % of 20,000 sets (measured); binomial error .75 %, so that another seed fails with probability 1e-6."""
    truth, rng, hits = 1 + math.log(2) / 2 - 1.5 * math.log(1.5), make_rng(0), 0
    assert truth == pytest.approx(0.738376, abs=1e-6)
    for _ in range(1000):
        low, high = stratified_bootstrap(rng.exponential(size=(30, 3)) - truth, iqm, resamples=300, rng=rng).interval
        hits += low < 0 < high
    assert abs(hits / 1000 - 0.94) < 4.892 * 0.0075


def test_paired_interval_covers() -> None:
    """2,000 sets of 5 seeds whose agents share the seed's luck: the t-interval is exact for normal differences.
    Binomial error .49 %: another seed fails with probability 1e-6. It leaves out 0 just where the p-value is small."""
    rng, hits = make_rng(0), 0
    for _ in range(2000):
        luck = 3 * rng.normal(size=5)
        test = paired_test(0.3 + luck + rng.normal(size=5), luck + rng.normal(size=5))
        hits += test.interval[0] < 0.3 < test.interval[1]
        is_apart = not test.interval[0] < 0 < test.interval[1]
        assert is_apart == (test.p_value < 0.05)
    assert abs(hits / 2000 - 0.95) < 4.892 * math.sqrt(0.95 * 0.05 / 2000)


@pytest.mark.parametrize("runs", [2, 3, 5, 10, 30, 200])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_paired_test_equals_scipy(runs: int, level: float) -> None:
    x, y = make_rng(runs).normal(loc=[[0.4], [0.0]], size=(2, runs))
    expected = stats.ttest_rel(x, y)
    test = paired_test(x, y, level=level)
    assert test.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert test.difference == pytest.approx((x - y).mean(), abs=1e-12)
    assert test.interval == pytest.approx(tuple(expected.confidence_interval(level)), abs=1e-12, rel=1e-12)
    assert (test.runs, test.level) == (runs, level)


def test_equal_differences_claim_no_more_than_the_sign_test() -> None:
    """Rounding alone, as of x + .1 - x, is no spread."""
    x = make_rng().normal(size=6)
    assert paired_test(x, x).p_value == 1.0
    shifted = paired_test(x + 0.1, x)
    assert np.ptp(x + 0.1 - x) > 0
    assert shifted.p_value == 2**-5 == stats.binomtest(6, 6).pvalue
    assert shifted.interval == pytest.approx((0.1, 0.1))
    assert paired_test(x + 0.1 * (1 + 1e-9 * x), x).p_value < 1e-9


def test_one_seed_has_no_interval() -> None:
    test = paired_test([3.0], [1.0])
    assert (test.difference, test.runs) == (2.0, 1)
    assert math.isnan(test.p_value)
    assert all(map(math.isnan, test.interval))
    assert not compare_with([3.0], {"random": [1.0]})[0].is_better


def test_comparisons_are_holm_corrected_and_have_a_direction() -> None:
    x = make_rng().normal(size=8)
    noise = make_rng(1).normal(size=(3, 8))
    others = {"worse": x - 2 + noise[0], "better": x + 2 + noise[1], "same": x + noise[2]}
    found = compare_with(x, others, level=0.9)
    single = [paired_test(x, other, level=0.9) for other in others.values()]
    assert [c.other for c in found] == list(others)
    assert [c.p_value for c in found] == [test.p_value for test in single]
    assert [c.interval for c in found] == [test.interval for test in single]
    assert [c.p_holm for c in found] == holm([test.p_value for test in single])
    assert found[1].p_holm < 0.1
    assert [c.is_better for c in found] == [True, False, False]
    assert compare_with(x, {}) == ()


GAP = [-0.3, -0.25, -0.2, -0.28]
AGENT = [3.0, 3.1, 2.9, 3.3]


def controls(*means: float) -> tuple[PairedComparison, ...]:
    """Of an agent whose scores lie near 3, against controls near these means."""
    return compare_with(AGENT, {f"control {m}": m + np.array([0.02, 0.08, -0.09, 0.2]) for m in means})


def test_better_than_mle_needs_the_gap_and_every_control() -> None:
    """The numbers are those of scipy's ttest_1samp and ttest_rel, the smaller p doubled by Holm."""
    verdict = improves(GAP, controls(1.0, 2.0))
    assert verdict.is_improvement
    assert verdict.reason == (
        "Better than MLE: the gap is -0.258 (95% interval -0.327 to -0.188, p = 0.0013, 4 seeds) and it beats every "
        "control: control 1.0 (difference 2.02, Holm-corrected p = 1.1e-05), "
        "control 2.0 (difference 1.02, Holm-corrected p = 4.1e-05)."
    )


@pytest.mark.parametrize(
    ("gap", "against", "words"),
    [
        ([0.3, 0.25, 0.2, 0.28], (1.0,), "0.188 to 0.327, p = 0.0013, 4 seeds), which is not shown to lie below 0"),
        ([-0.3, 0.25, -0.2, 0.1], (1.0,), "4 seeds), which is not shown to lie below 0"),
        ([-0.3] * 4, (1.0,), r"(95% interval -0.3 to -0.3, p = 0.12, 4 seeds), which is not shown"),
        (GAP, (1.0, 3.03), "not shown to beat control 3.03 (difference -0.0075, Holm-corrected p = 0.8"),
        (GAP, (1.0, 5.0), "not shown to beat control 5.0 (difference -1.98, Holm-corrected p = "),
        (GAP, (), "but it was compared with no control"),
    ],
)
def test_no_verdict_on_less(gap: list[float], against: tuple[float, ...], words: str) -> None:
    verdict = improves(gap, controls(*against))
    assert not verdict.is_improvement
    assert verdict.reason.startswith("Not better than MLE: ")
    assert verdict.reason.endswith(".")
    assert words in verdict.reason


def test_one_seed_is_never_better() -> None:
    verdict = improves([-100.0], compare_with([100.0], {"random": [0.0]}))
    assert not verdict.is_improvement
    assert verdict.reason == ("Not better than MLE: one seed, of gap -100, has no interval; at least 2 are needed.")


def test_an_agent_without_effect_is_seldom_marked() -> None:
    """Its gap is noise, and it beats every control by far: 2.5 % of 1,500 verdicts are wrong (binomial error .4 %,
    another seed fails with probability 1e-6)."""
    rng = make_rng(0)
    marked = sum(improves(gap, controls(1.0)).is_improvement for gap in rng.normal(size=(1500, 4)))
    assert abs(marked / 1500 - 0.025) < 4.892 * math.sqrt(0.025 * 0.975 / 1500)


@given(scores=scores_RM, seed=st.integers(0, 99))
def test_order_of_seeds_does_not_matter(scores: Floats, seed: int) -> None:
    order = make_rng(seed).permutation(len(scores))
    mixed, other = scores[order], scores[::-1] ** 2
    for statistic in (iqm, mean, median):
        assert float(statistic(mixed)) == pytest.approx(float(statistic(scores)), abs=1e-9)
    one, two = (probability_of_improvement(s, other, resamples=1, rng=make_rng()) for s in (scores, mixed))
    assert one.value == two.value
    thresholds = [-50.0, 0.0, 0.01, 50.0]
    profiles = [performance_profile(s, thresholds, resamples=1, rng=make_rng()).share_K for s in (scores, mixed)]
    assert profiles[0].tolist() == profiles[1].tolist()
    a, b = paired_test(scores[:, 0], other[:, 0]), paired_test(mixed[:, 0], other[order, 0])
    assert a.difference == pytest.approx(b.difference, abs=1e-9)
    assert a.p_value == pytest.approx(b.p_value, abs=1e-9, nan_ok=True)


@given(agents=two_agents)
def test_probabilities_of_improvement_add_up(agents: tuple[Floats, Floats]) -> None:
    x, y = agents
    forth, back = (probability_of_improvement(*pair, resamples=9, rng=make_rng()) for pair in ((x, y), (y, x)))
    assert forth.value + back.value == pytest.approx(1, abs=1e-12)
    assert 0 <= forth.interval[0] <= forth.interval[1] <= 1
    assert probability_of_improvement(x, x, resamples=9, rng=make_rng()).value == pytest.approx(0.5, abs=1e-12)


@given(scores=scores_RM, thresholds=st.lists(numbers, min_size=1, max_size=9))
def test_profiles_fall(scores: Floats, thresholds: list[float]) -> None:
    profile = performance_profile(scores, sorted(thresholds), resamples=20, rng=make_rng())
    for values in (profile.share_K, profile.low_K, profile.high_K):
        assert np.all(np.diff(values) <= 0)
        assert np.all((values >= 0) & (values <= 1))
    below_all, above_all = performance_profile(scores, [-101, 100], resamples=1, rng=make_rng()).share_K
    assert (below_all, above_all) == (1, 0)


@given(scores=scores_RM)
def test_more_is_better_turned_round(scores: Floats) -> None:
    """The interquartile mean of the negative is the negative, as the caller's flip of the sign needs."""
    assert float(iqm(-scores)) == pytest.approx(-float(iqm(scores)), abs=1e-9)


def test_one_run_and_one_task() -> None:
    """The interval of one run has no width."""
    one_run = stratified_bootstrap([[1.0, 2.0, 4.0]], iqm, rng=make_rng())
    assert (one_run.value, *one_run.interval) == pytest.approx((7 / 3,) * 3)
    assert one_run.runs == 1
    assert probability_of_improvement([[1.0]], [[0.0]], rng=make_rng()).interval == (1.0, 1.0)
    low, high = stratified_bootstrap([[1.0], [2.0], [4.0]], iqm, rng=make_rng()).interval
    assert 1 <= low < high <= 4


def test_refusals() -> None:
    rng, scores = make_rng(), make_scores(5, 3)
    holed = scores.copy()
    holed[2, 1] = math.nan
    with pytest.raises(ValueError, match=r"scores must be finite, got nan at index \(2, 1\); repeat that run"):
        iqm(holed)
    with pytest.raises(ValueError, match=r"scores_RM must be finite, got nan at index \(2, 1\)"):
        stratified_bootstrap(holed, iqm, rng=rng)
    with pytest.raises(ValueError, match=r"y_QM must be finite, got -inf at index \(0, 0\)"):
        probability_of_improvement([[1.0]], [[-math.inf]], rng=rng)
    with pytest.raises(ValueError, match=r"thresholds_K must be finite, got nan at index \(1,\)"):
        performance_profile(scores, [0.0, math.nan], rng=rng)
    with pytest.raises(ValueError, match=r"last two axes, at least one of each, got shape \(5,\); of one task pass"):
        iqm(scores[:, 0])
    with pytest.raises(ValueError, match=r"got shape \(0, 3\)"):
        median(scores[:0])
    with pytest.raises(ValueError, match=r"scores_RM must have shape \(runs, tasks\), got \(1, 5, 3\)"):
        stratified_bootstrap(scores[None], iqm, rng=rng)
    with pytest.raises(ValueError, match=r"thresholds_K must have one axis and at least one value"):
        performance_profile(scores, [], rng=rng)
    with pytest.raises(ValueError, match="same tasks in the same order, got 3 and 2"):
        probability_of_improvement(scores, scores[:, :2], rng=rng)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        stratified_bootstrap(scores, iqm, resamples=0, rng=rng)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 95"):
        stratified_bootstrap(scores, iqm, level=95, rng=rng)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 95"):
        paired_test([1.0], [2.0], level=95)
    with pytest.raises(ValueError, match="x_R and y_R must be of the same seeds in the same order, got 2 and 1"):
        paired_test([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="x_R and 'random' must be of the same seeds in the same order, got 2 and 1"):
        compare_with([1.0, 2.0], {"random": [1.0]})
    with pytest.raises(ValueError, match="gap_R must be finite, got nan"):
        improves([math.nan], ())
    with pytest.raises(ValueError, match=r"got 4 at 0\.95 for 'control 1\.0'; call compare_with"):
        improves(GAP[:3], controls(1.0))
    with pytest.raises(ValueError, match=r"4 at 0\.9, got 4 at 0\.95"):
        improves(GAP, controls(1.0), level=0.9)
