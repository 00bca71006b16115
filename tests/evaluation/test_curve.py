import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.evaluation import (
    DEFAULT_TEMPERATURES,
    Evaluator,
    Gap,
    SampleScores,
    Scores,
    TemperatureCurve,
    evaluate_generator,
    gap_over_runs,
    temperature_curve,
)
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.oracle import Oracle

MakeScores = Callable[..., Scores]


@pytest.fixture
def parabola(make_scores: MakeScores) -> TemperatureCurve:
    """NLL_test = 2 + (t - 1)^2 and NLL_oracle = 5 + t at t = 0.5, 0.6, ..., 1.5."""
    temperatures = tuple(round(0.1 * k, 1) for k in range(5, 16))
    points = tuple(make_scores(5 + t, 2 + (t - 1) ** 2, temperature=t) for t in temperatures)
    return TemperatureCurve(temperatures, points)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.from_seed(3, vocab_size=7, sequence_length=5, embedding_dim=4, hidden_dim=4)


@pytest.fixture(scope="module")
def held_out_BT(oracle: Oracle) -> Tensor:
    return oracle.sample(400, np.random.default_rng(0))


@pytest.fixture(scope="module")
def generator() -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(0)):
        return LSTMGenerator(7, 5, embedding_dim=4, hidden_dim=4, init_std=0.7)


@pytest.fixture(scope="module")
def measured(generator: LSTMGenerator, oracle: Oracle, held_out_BT: Tensor) -> TemperatureCurve:
    return temperature_curve(generator, DEFAULT_TEMPERATURES, held_out_BT, oracle=oracle, n_samples=400)


@pytest.mark.parametrize(("nll_test", "temperature"), [(2.04, 0.8), (2.0225, 0.85), (2.25, 0.5), (2.0001, 0.99)])
def test_gap_in_nll_oracle_by_hand(
    parabola: TemperatureCurve, make_scores: MakeScores, nll_test: float, temperature: float
) -> None:
    """At NLL_test 2.04 the sharp branch is at t = 0.8 with NLL_oracle 5.8; the flat one, at 1.2, does not count."""
    gap = parabola.gap(make_scores(5.5, nll_test))
    assert gap.kind == "nll_oracle at equal nll_test"
    assert gap.temperature == pytest.approx(temperature, abs=1e-3)
    assert gap.value == pytest.approx(5.5 - (5 + temperature), abs=1e-3)


def test_gap_in_nll_test_by_hand(parabola: TemperatureCurve, make_scores: MakeScores) -> None:
    """Less NLL_test than the curve ever has: compared at NLL_oracle 6.2, where t = 1.2 and NLL_test is 2.04."""
    gap = parabola.gap(make_scores(6.2, 1.9))
    assert gap.kind == "nll_test at equal nll_oracle"
    assert gap.temperature == pytest.approx(1.2)
    assert gap.value == pytest.approx(1.9 - 2.04)


def test_error_without_pairing_is_the_bound_by_hand(parabola: TemperatureCurve, make_scores: MakeScores) -> None:
    """All errors .01. Slope dNLL_oracle/dNLL_test = 1/(2(t - 1)) = -2.5 at t = 0.8, its inverse 0.4 at t = 1.2."""
    first, second = parabola.gap(make_scores(5.5, 2.04)), parabola.gap(make_scores(6.2, 1.9))
    assert first.standard_error == pytest.approx(math.hypot(0.02, 2.5 * 0.02), rel=0.02)
    assert second.standard_error == pytest.approx(math.hypot(0.02, 0.4 * 0.02), rel=0.02)


def test_paired_error_by_hand(make_scores: MakeScores) -> None:
    """Half-way between t = 0.8 and 0.9, whose errors are independent; the model has none."""
    none, one, other = np.zeros(4), np.array([1.0, -1, 0, 0]), np.array([0, 0, 1.0, -1])
    noise = {0.8: one, 0.9: other}
    points = tuple(
        make_scores(5 + t, 2 + (t - 1) ** 2, influence={"nll_oracle": noise.get(t, none), "nll_test": none})
        for t in (0.8, 0.9, 1.0)
    )
    model = make_scores(5.5, 2 + 0.15**2, influence={"nll_oracle": none, "nll_test": none})
    gap = TemperatureCurve((0.8, 0.9, 1.0), points).gap(model)
    each = math.sqrt((2 / 3) / 4)
    assert gap.standard_error == pytest.approx(math.sqrt(0.5) * each, rel=1e-3)


def test_the_flat_branch_is_no_match(parabola: TemperatureCurve, make_scores: MakeScores) -> None:
    """From t = 0.8 up, NLL_test 2.1 is reached on the flat branch alone."""
    curve = TemperatureCurve(parabola.temperatures[3:], parabola.points[3:])
    assert curve.gap(make_scores(5.5, 2.1)).value is None
    assert parabola.gap(make_scores(5.5, 2.1)).value is not None


def test_nothing_is_extrapolated(parabola: TemperatureCurve, make_scores: MakeScores) -> None:
    for scores, reason in (
        (make_scores(4.0, 2.3), "above 2.250, the largest of the curve's sharp branch, at temperature 0.5"),
        (make_scores(6.6, 1.9), "nll_oracle 6.600 outside the curve's 5.500 to 6.500"),
        (make_scores(5.4, 1.9), "outside"),
        (make_scores(math.nan, 2.1), "not a finite number"),
        (make_scores(5.0, math.inf), "not a finite number"),
    ):
        gap = parabola.gap(scores)
        assert (gap.value, gap.standard_error, gap.kind, gap.temperature) == (None,) * 4
        assert reason in gap.reason


def test_without_oracle_there_is_no_gap(make_scores: MakeScores) -> None:
    curve = TemperatureCurve((0.5, 1.0, 1.5), tuple(make_scores(None, x) for x in (2.5, 2.0, 2.2)))
    assert curve.gap(make_scores(None, 2.1)) == Gap(reason="there is no oracle")


def test_noise_is_read_in_favour_of_the_curve(make_scores: MakeScores) -> None:
    """NLL_oracle passes 6 three times, at NLL_test 2, 2 + 1/2 and beyond; the least NLL_test counts."""
    points = tuple(make_scores(y, x) for x, y in ((4.0, 5.0), (3.0, 7.0), (2.0, 6.0), (2.2, 7.5)))
    gap = TemperatureCurve((0.4, 0.6, 0.8, 1.0), points).gap(make_scores(6.0, 1.5))
    assert (gap.value, gap.temperature) == pytest.approx((-0.5, 0.8))


def test_a_point_of_the_curve_has_no_gap_and_no_error(measured: TemperatureCurve) -> None:
    for point in measured.sharp[:-1]:
        gap = measured.gap(point)
        assert (gap.value, gap.standard_error) == pytest.approx((0, 0), abs=1e-9)
        assert gap.temperature == pytest.approx(point.signature.sampling.temperature)


def test_the_temperature_of_equal_coverage_has_equal_coverage(
    measured: TemperatureCurve, generator: LSTMGenerator, oracle: Oracle, held_out_BT: Tensor, make_scores: MakeScores
) -> None:
    """Away from the measured temperatures too, and close to the least NLL_test, where a chord would be far off."""
    evaluator = Evaluator(held_out_BT, oracle=oracle, n_samples=400)
    *_, close, least = measured.sharp
    for wanted in (
        least.nll_test + 1e-3,
        0.7 * least.nll_test + 0.3 * close.nll_test,
        measured.sharp[3].nll_test + 1e-3,
    ):
        gap = measured.gap(replace(least, nll_test=wanted))
        assert gap.temperature is not None
        assert evaluator.scores(generator, temperature=gap.temperature).nll_test == pytest.approx(wanted, abs=1e-4)


def test_error_agrees_with_the_bootstrap(
    measured: TemperatureCurve, generator: LSTMGenerator, oracle: Oracle, held_out_BT: Tensor
) -> None:
    """Resample sequences, the same for the model and all points; 400 resamples tell the error to 4 %."""
    other = LSTMGenerator(7, 5, embedding_dim=4, hidden_dim=4)
    other.load_state_dict(
        {k: w + 0.1 * torch.sin(torch.arange(w.numel()).view(w.shape)) for k, w in generator.state_dict().items()}
    )
    scores = evaluate_generator(other, held_out_BT, oracle=oracle, n_samples=400, temperature=0.7)
    gap = measured.gap(scores)
    rng, values = np.random.default_rng(0), []
    for _ in range(400):
        samples, test = rng.integers(400, size=(2, 400))

        def resampled(
            one: Scores,
            rows: dict[str, np.ndarray] = {"nll_oracle": samples, "nll_test": test},  # noqa: B006
        ) -> Scores:
            means = {name: getattr(one, name) + one.influence[name][rows[name]].mean() for name in rows}
            return replace(one, **means)

        curve = TemperatureCurve(measured.temperatures, tuple(map(resampled, measured.points)))
        resampled_gap = curve.gap(resampled(scores))
        assert resampled_gap.kind == gap.kind == "nll_oracle at equal nll_test"
        values.append(resampled_gap.value or 0.0)
    assert gap.standard_error == pytest.approx(np.std(values, ddof=1), rel=0.15)


def test_curve_is_sorted_paired_and_split_at_the_least_nll_test(
    generator: LSTMGenerator, oracle: Oracle, held_out_BT: Tensor
) -> None:
    options = {"oracle": oracle, "n_samples": 100, "seed": 4}
    curve = temperature_curve(generator, [2.0, 0.5, 1.0, 0.5], held_out_BT, **options)
    assert curve.temperatures == (0.5, 1.0, 2.0)
    for temperature, point in zip(curve.temperatures, curve.points, strict=True):
        assert point == evaluate_generator(generator, held_out_BT, temperature=temperature, **options)  # type: ignore[arg-type]
    assert curve.sharp[-1].nll_test == min(point.nll_test for point in curve.points)
    assert curve.sharp == curve.points[: len(curve.sharp)]


def test_default_temperatures_cover_the_pilot() -> None:
    assert min(DEFAULT_TEMPERATURES) == 1 / 2.5
    assert max(DEFAULT_TEMPERATURES) > 1 / 0.7
    assert np.diff(DEFAULT_TEMPERATURES) == pytest.approx(0.05)
    assert 1.0 in DEFAULT_TEMPERATURES


def test_refusals(parabola: TemperatureCurve, make_scores: MakeScores) -> None:
    with pytest.raises(ValueError, match="different signatures cannot be compared \\(seed: 0 != 1\\)"):
        parabola.gap(make_scores(5.5, 2.04, seed=1))
    with pytest.raises(ValueError, match="different signatures"):
        TemperatureCurve((0.5, 1.0, 1.5), (*parabola.points[:2], make_scores(5, 2, oracle_hash="other")))
    with pytest.raises(ValueError, match="at least 3, rising"):
        TemperatureCurve((0.5, 1.0), parabola.points[:2])
    with pytest.raises(ValueError, match="at least 3, rising"):
        TemperatureCurve((1.0, 0.5, 1.5), parabola.points[:3])
    with pytest.raises(ValueError, match="one temperature a point"):
        TemperatureCurve((0.5, 1.0), parabola.points[:3])
    with pytest.raises(ValueError, match="or else a reason"):
        Gap(value=0.1)


@pytest.fixture
def text_curve(make_scores: MakeScores) -> TemperatureCurve:
    """BLEU-4 = 1 - t/2 and Self-BLEU-4 = 1 - t at t = 0.2, 0.4, 0.6: along it BLEU = (1 + Self-BLEU) / 2."""
    temperatures = (0.2, 0.4, 0.6)
    points = (make_scores(None, 2.0, samples={"bleu_4": 1 - t / 2, "self_bleu_4": 1 - t}) for t in temperatures)
    return TemperatureCurve(temperatures, tuple(points))


def test_bleu_gap_by_hand(text_curve: TemperatureCurve, make_scores: MakeScores) -> None:
    """At Self-BLEU .7, t = 0.3, the curve has BLEU .85. Unpaired, all errors .01: .02 of BLEU, and half of .02."""
    gap = text_curve.bleu_gap(make_scores(None, 2.0, samples={"bleu_4": 0.9, "self_bleu_4": 0.7}))
    assert (gap.value, gap.temperature) == pytest.approx((0.05, 0.3))
    assert gap.kind == "bleu at equal self_bleu"
    assert gap.standard_error == pytest.approx(0.02 + 0.5 * 0.02)
    assert gap.interval() == pytest.approx((0.05 - 1.96 * 0.03, 0.05 + 1.96 * 0.03), abs=1e-4)


def test_noise_along_the_curve_is_none_in_the_bleu_gap(
    text_curve: TemperatureCurve, make_sample_scores: Callable[..., SampleScores]
) -> None:
    """Sequences that move a model by 1 in Self-BLEU and .5 in BLEU move it along a curve of that slope; those that move
    it the other way add up: .5 + .5."""
    noise, none = np.array([1.0, -1, 1, -1]), np.zeros(4)
    still = {"bleu_4": none, "self_bleu_4": none}
    points = tuple(
        replace(point, samples=make_sample_scores(dict(point.samples.values), influence=still))
        for point in text_curve.points
        if point.samples is not None
    )
    curve = TemperatureCurve(text_curve.temperatures, points)
    for sign, error in ((0.5, 0.0), (-0.5, noise.std(ddof=1) / 2)):
        moving = {"bleu_4": sign * noise, "self_bleu_4": noise}
        samples = make_sample_scores({"bleu_4": 0.9, "self_bleu_4": 0.7}, influence=moving)
        gap = curve.bleu_gap(replace(points[0], samples=samples))
        assert gap.standard_error == pytest.approx(error, abs=1e-9)


def test_bleu_gap_is_not_extrapolated(text_curve: TemperatureCurve, make_scores: MakeScores) -> None:
    outside = text_curve.bleu_gap(make_scores(None, 2.0, samples={"bleu_4": 0.9, "self_bleu_4": 0.3}))
    assert (outside.value, outside.interval()) == (None, None)
    assert outside.reason == "its self_bleu_4 0.300 is outside the curve's 0.400 to 0.800"
    assert "there is no bleu_4 or self_bleu_4" in text_curve.bleu_gap(make_scores(None, 2.0)).reason


def test_bleus_of_other_smoothing_are_refused(
    text_curve: TemperatureCurve, make_sample_scores: Callable[..., SampleScores]
) -> None:
    other = make_sample_scores({"bleu_4": 0.9, "self_bleu_4": 0.7}, smoothing="none")
    with pytest.raises(ValueError, match="smoothing: method1 != none"):
        text_curve.bleu_gap(replace(text_curve.points[0], samples=other))


def test_gap_over_runs_by_hand() -> None:
    """.1, .2, .3, each known to .03: between runs .1 / √3, sequences .03; t of 2 degrees is 4.303."""
    gaps = [
        Gap(value=x, standard_error=0.03, kind="nll_oracle at equal nll_test", temperature=0.8) for x in (0.1, 0.2, 0.3)
    ]
    mean = gap_over_runs(gaps)
    error = math.hypot(0.1 / math.sqrt(3), 0.03)
    assert (mean.value, mean.standard_error, mean.runs) == pytest.approx((0.2, error, 3))
    assert mean.interval == pytest.approx((0.2 - 4.30265 * error, 0.2 + 4.30265 * error), abs=1e-4)
    assert gap_over_runs(gaps[:1]).interval == pytest.approx(gaps[0].interval())


def test_gaps_that_have_no_mean_are_refused() -> None:
    one = Gap(value=0.1, standard_error=0.03, kind="nll_oracle at equal nll_test", temperature=0.8)
    other = Gap(value=0.1, standard_error=0.03, kind="nll_test at equal nll_oracle", temperature=0.8)
    for gaps, message in (
        ([one, other], "nll_oracle at equal nll_test, nll_test at equal nll_oracle; report the runs one by one"),
        ([one, Gap(reason="too far")], "got too far"),
        ([], "no gap at all"),
    ):
        with pytest.raises(ValueError, match=message):
            gap_over_runs(gaps)
