"""The temperature curve of a model, and the gap of another model to it: the headline score.

A sharper softmax buys NLL_oracle with NLL_test, so a lower NLL_oracle proves nothing by itself (Caccia et al.,
"Language GANs Falling Short", arXiv:1811.02549). The gap asks for more than temperature gives: NLL_oracle minus that of
the early-stopped MLE at the temperature where its NLL_test is the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from seqgan_rl.evaluation.intervals import half_width
from seqgan_rl.evaluation.scores import Evaluator, Scores, combined_error
from seqgan_rl.models.generator import Generator

DEFAULT_TEMPERATURES: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(8, 31))
"""0.4 to 1.5; temperatures divide the logits."""

PIECES = 64
"""Straight pieces that the curve is drawn with between two measured temperatures."""

Kind = Literal["nll_oracle at equal nll_test", "nll_test at equal nll_oracle", "bleu at equal self_bleu"]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far a model is from a temperature curve: in nats per token, where below 0 is better than temperature, or in
    BLEU, where above 0 is."""

    value: float | None = None
    """None where the curve has no such point: nothing is extrapolated."""
    standard_error: float | None = None
    """Over sequences, by the delta method: errors of model and curve in the score that is compared, and slope times
    those in the score that is held equal, all paired by sequence where the two models were scored together."""
    kind: Kind | None = None
    """Which score is compared, and which is held equal."""
    temperature: float | None = None
    """Where the curve holds that score: evaluate the MLE at this temperature to check the gap."""
    reason: str = ""
    """Why there is no value."""

    def __post_init__(self) -> None:
        whole = {part is None for part in (self.value, self.standard_error, self.kind, self.temperature)}
        if len(whole) > 1 or (self.value is None) != bool(self.reason):
            raise ValueError(f"a gap has a value with error, kind and temperature, or else a reason, got {self}")

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Confidence interval over sequences (normal); None where there is no value. See also :func:`gap_over_runs`."""
        if self.value is None or self.standard_error is None:
            return None
        half = half_width(self.standard_error, level)
        return self.value - half, self.value + half


@dataclass(frozen=True)
class TemperatureCurve:
    """Scores of one model at several temperatures, drawn as a curve NLL_oracle against NLL_test.

    Between the measured temperatures NLL_oracle is linear in the temperature. NLL_test, which is measured without
    sampling noise (same held-out sequences) and is convex in 1/temperature, is a cubic Hermite curve: a straight line
    would cut the corner at its least, where NLL_oracle falls steeply, and flatter the model that is compared.
    """

    temperatures: tuple[float, ...]
    """Rising."""
    points: tuple[Scores, ...]
    """Scores at these temperatures."""

    def __post_init__(self) -> None:
        if len(self.temperatures) != len(self.points):
            raise ValueError(f"one temperature a point, got {len(self.temperatures)} and {len(self.points)}")
        if len(self.temperatures) < 3 or not (np.diff(self.temperatures) > 0).all():
            raise ValueError(f"temperatures must be at least 3, rising, got {self.temperatures}")
        for point in self.points:
            check_comparable(self.points[0], point)

    @classmethod
    def measure(
        cls, generator: Generator, evaluator: Evaluator, temperatures: Sequence[float] = DEFAULT_TEMPERATURES
    ) -> "TemperatureCurve":
        """Score the generator at each temperature, always with the evaluator's seed, so that neighbours are paired."""
        rising = tuple(sorted(set(temperatures)))
        return cls(rising, tuple(evaluator.scores(generator, temperature=temperature) for temperature in rising))

    @property
    def sharp(self) -> tuple[Scores, ...]:
        """The sharp branch: points at or below the temperature with the least NLL_test."""
        return self.points[: int(np.argmin([point.nll_test for point in self.points])) + 1]

    def gap(self, scores: Scores) -> Gap:
        """Compare a model with the curve.

        NLL_oracle at equal NLL_test, on the sharp branch. A model with less NLL_test than the curve's least is compared
        in NLL_test at equal NLL_oracle, on the whole curve (NLL_oracle rises with the temperature all along it). Where
        noise lets the curve meet the line more than once, the meeting that favours the curve counts.
        """
        check_comparable(self.points[0], scores)
        if scores.nll_oracle is None:
            return Gap(reason="there is no oracle")
        temperatures, nll_test, nll_oracle = self.drawn
        if not np.isfinite([scores.nll_test, scores.nll_oracle, *nll_test, *nll_oracle]).all():
            return Gap(reason="a score is not a finite number")
        least = int(nll_test.argmin())
        if scores.nll_test >= nll_test[least]:
            meeting = _read_off(nll_test[: least + 1], nll_oracle[: least + 1], scores.nll_test)
            if meeting is None:
                return Gap(
                    reason=f"its nll_test {scores.nll_test:.3f} is above {nll_test[0]:.3f}, the largest of the curve's "
                    f"sharp branch, at temperature {temperatures[0]:g}"
                )
            return self._gap(scores, "nll_oracle", "nll_test", *meeting)
        meeting = _read_off(nll_oracle, nll_test, scores.nll_oracle)
        if meeting is None:
            return Gap(
                reason=f"its nll_test is below the curve's least and its nll_oracle {scores.nll_oracle:.3f} outside "
                f"the curve's {nll_oracle.min():.3f} to {nll_oracle.max():.3f}"
            )
        return self._gap(scores, "nll_test", "nll_oracle", *meeting)

    def distance(self, nll_oracle: float, nll_test: float) -> float:
        """NLL_oracle minus the curve's at equal NLL_test, of a model of which no more is known than these numbers.

        One kind of number for all models, so that it can be averaged over runs: below the curve's least NLL_test its
        point there is taken, which favours the curve; NaN above the largest of its sharp branch.
        """
        _, curve_test, curve_oracle = self.drawn
        least = int(curve_test.argmin())
        at = max(nll_test, float(curve_test[least]))
        meeting = _read_off(curve_test[: least + 1], curve_oracle[: least + 1], at)
        return math.nan if meeting is None else nll_oracle - meeting[1]

    def bleu_distance(self, bleu: float, self_bleu: float, order: int = 4) -> float:
        """The same in BLEU at equal Self-BLEU; above 0 is better than temperature. NaN outside the curve."""
        curve_bleu, curve_self = (self.drawn_metric(f"{name}_{order}") for name in ("bleu", "self_bleu"))
        meeting = _read_off(curve_self, -curve_bleu, self_bleu)
        return math.nan if meeting is None else bleu + meeting[1]

    def bleu_gap(self, scores: Scores, order: int = 4) -> Gap:
        """BLEU minus that of the curve at equal Self-BLEU; above 0 is better than temperature.

        Both are linear in the temperature between the measured ones. Where noise lets the curve meet the line more than
        once, the meeting that favours the curve, with the most BLEU, counts; nothing is extrapolated.
        """
        check_comparable(self.points[0], scores)
        quality, diversity = f"bleu_{order}", f"self_bleu_{order}"
        curve = {name: self.drawn_metric(name) for name in (quality, diversity)}
        if not np.isfinite([scores.value(quality), scores.value(diversity), *curve[quality], *curve[diversity]]).all():
            return Gap(reason=f"there is no {quality} or {diversity}; score with a smoothing")
        meeting = _read_off(curve[diversity], -curve[quality], scores.value(diversity))
        if meeting is None:
            return Gap(
                reason=f"its {diversity} {scores.value(diversity):.3f} is outside the curve's "
                f"{curve[diversity].min():.3f} to {curve[diversity].max():.3f}"
            )
        position, value, slope = meeting
        return self._gap(scores, quality, diversity, position, -value, -slope)

    def drawn_metric(self, metric: str) -> Array:
        """Any score along the drawn curve, linear in the temperature between the measured ones."""
        return np.interp(self.drawn[0], self.temperatures, [point.value(metric) for point in self.points])

    def _gap(self, scores: Scores, compared: str, equal: str, position: float, value: float, slope: float) -> Gap:
        """The gap at a place on the drawn curve, where it has ``value`` in the compared score."""
        temperatures = self.drawn[0]
        temperature = float(np.interp(position, np.arange(len(temperatures)), temperatures))
        i = min(int(np.searchsorted(self.temperatures, temperature, side="right")), len(self.points) - 1) - 1
        sharper, flatter = self.points[i], self.points[i + 1]
        w = (temperature - self.temperatures[i]) / (self.temperatures[i + 1] - self.temperatures[i])
        terms = [
            (sign * weight, point, metric)
            for sign, metric in ((1.0, compared), (-slope, equal))
            for weight, point in ((1.0, scores), (w - 1.0, sharper), (-w, flatter))
        ]
        kinds: dict[str, Kind] = {
            "nll_oracle": "nll_oracle at equal nll_test",
            "nll_test": "nll_test at equal nll_oracle",
        }
        return Gap(
            value=scores.value(compared) - value,
            standard_error=combined_error(terms),
            kind=kinds.get(compared, "bleu at equal self_bleu"),
            temperature=temperature,
        )

    @cached_property
    def drawn(self) -> tuple[Array, Array, Array]:
        """Temperatures, NLL_test and NLL_oracle along the drawn curve; the measured points are among them."""
        knots = np.array(self.temperatures)
        pieces = [np.linspace(a, b, PIECES, endpoint=False) for a, b in pairwise(knots)]
        temperatures = np.concatenate([*pieces, knots[-1:]])
        nll_oracle = [math.nan if point.nll_oracle is None else point.nll_oracle for point in self.points]
        return (
            temperatures,
            _hermite(temperatures, knots, np.array([point.nll_test for point in self.points])),
            np.interp(temperatures, knots, nll_oracle),
        )


def temperature_curve(
    generator: Generator, temperatures: Sequence[float], test_BT: Tensor, **options: Any
) -> TemperatureCurve:
    """The curve of one generator; ``options`` as for :class:`~seqgan_rl.evaluation.scores.Evaluator`."""
    return TemperatureCurve.measure(generator, Evaluator(test_BT, **options), temperatures)


@dataclass(frozen=True, kw_only=True)
class RunsGap:
    """The mean gap of several training runs of one algorithm."""

    value: float
    standard_error: float
    """√(variance between runs / runs + (mean standard error over sequences)²): the runs share held-out data and the
    seed of their samples, so that sequence noise is taken as common to all. What of it is not common is counted twice,
    which errs on the safe side."""
    interval: tuple[float, float]
    """With Student's t of runs - 1 degrees of freedom; of one run the normal one, over sequences alone."""
    level: float
    kind: Kind
    runs: int


def gap_over_runs(gaps: Sequence[Gap], level: float = 0.95) -> RunsGap:
    """Mean of the gaps of runs that differ in their seed, with an interval over runs and sequences.

    ValueError if one has no value, or they are of different kinds: report such runs one by one.
    """
    absent = [gap.reason for gap in gaps if gap.value is None]
    kinds = {gap.kind for gap in gaps}
    if not gaps or absent or len(kinds) > 1:
        found = "; ".join(absent) or ", ".join(sorted(map(str, kinds))) or "no gap at all"
        raise ValueError(f"gaps must all have a value of one kind, got {found}; report the runs one by one")
    values, runs = np.array([gap.value for gap in gaps], dtype=float), len(gaps)
    sequences = float(np.mean([gap.standard_error for gap in gaps]))
    between = float(values.var(ddof=1)) / runs if runs > 1 else 0.0
    error = math.hypot(math.sqrt(between), sequences)
    half = half_width(error, level, runs - 1 if runs > 1 else math.inf)
    mean, kind = float(values.mean()), gaps[0].kind
    assert kind is not None
    return RunsGap(
        value=mean, standard_error=error, interval=(mean - half, mean + half), level=level, kind=kind, runs=runs
    )


def check_comparable(one: Scores, other: Scores) -> None:
    """Raise ValueError if the two were measured with different things."""
    differences = one.differences(other)
    if differences:
        raise ValueError(f"scores of different signatures cannot be compared ({'; '.join(differences)})")


def _hermite(x: Array, knots: Array, values: Array) -> Array:
    """Cubic Hermite interpolation with second-order slopes; exact for parabolas."""
    slopes = np.gradient(values, knots, edge_order=2)
    i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    step = knots[i + 1] - knots[i]
    s = (x - knots[i]) / step
    left = (1 + 2 * s) * values[i] + s * step * slopes[i]
    right = (3 - 2 * s) * values[i + 1] - (1 - s) * step * slopes[i + 1]
    result: Array = (1 - s) ** 2 * left + s**2 * right
    return result


def _read_off(x: Array, y: Array, target: float) -> tuple[float, float, float] | None:
    """Where a polyline has x = target, at the least y if there are several: (position in pieces, y, slope dy/dx)."""
    meets = ((x[:-1] - target) * (x[1:] - target) <= 0) & (x[:-1] != x[1:])
    i = meets.nonzero()[0]
    if len(i) == 0:
        return None
    slope = (y[i + 1] - y[i]) / (x[i + 1] - x[i])
    at = y[i] + slope * (target - x[i])
    best = int(at.argmin())
    along = (target - x[i[best]]) / (x[i[best] + 1] - x[i[best]])
    return float(i[best] + along), float(at[best]), float(slope[best])
