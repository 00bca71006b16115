"""Errors and intervals: ratios by the delta method, Student's t, Holm's correction.

Letters: B sequences.
"""

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ratio(sums_B: NDArray[Any], counts_B: NDArray[Any]) -> tuple[float, Floats]:
    """Σ sums / Σ counts, and each sequence's influence on it: delta method of a ratio, mean 0, (B,)."""
    value = float(sums_B.sum() / counts_B.sum()) if counts_B.sum() else math.nan
    if not math.isfinite(value):
        return value, np.full(len(sums_B), math.nan)
    return value, (sums_B - value * counts_B) / counts_B.mean()


def standard_error(influence_B: NDArray[Any]) -> float:
    """Standard error of the estimate whose influence values these are; NaN if there is none."""
    return float(influence_B.std(ddof=1) / math.sqrt(len(influence_B)))


def two_sided_p(statistic: float, degrees: float = math.inf) -> float:
    """P(|t| > |statistic|) for Student's t with so many degrees of freedom; the normal distribution for infinity.

    With t = √ν tan θ the density is proportional to cos^(ν-1) θ, which Gauss-Legendre nodes integrate.

    >>> round(two_sided_p(12.706, 1), 4), round(two_sided_p(1.959964), 4)
    (0.05, 0.05)
    """
    if degrees <= 0:
        raise ValueError(f"degrees must be above 0, got {degrees}")
    if math.isnan(statistic):
        return math.nan
    if degrees > 1e4:
        return math.erfc(abs(statistic) / math.sqrt(2))
    theta = math.atan(abs(statistic) / math.sqrt(degrees))
    nodes, weights = _gauss_legendre()
    half = (math.pi / 2 - theta) / 2
    tail = half * float(weights @ np.cos(theta + half * (nodes + 1)) ** (degrees - 1))
    log_constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2
    return min(1.0, 2 * tail * math.exp(log_constant))


@functools.cache
def _gauss_legendre() -> tuple[Floats, Floats]:
    """Nodes in (-1, 1) and weights; enough of them for cos^(10,000)."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


def half_width(standard_error: float, level: float = 0.95, degrees: float = math.inf) -> float:
    """Half the width of the interval around an estimate: the t (or normal) quantile times its standard error."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}; 0.95 is usual")
    if degrees > 1e4:
        return NormalDist().inv_cdf((1 + level) / 2) * standard_error
    low, high = 0.0, math.pi / 2  # bisection on the angle, where the quantile is bounded
    for _ in range(60):
        middle = (low + high) / 2
        is_below = two_sided_p(math.sqrt(degrees) * math.tan(middle), degrees) > 1 - level
        low, high = (middle, high) if is_below else (low, middle)
    return math.sqrt(degrees) * math.tan(low) * standard_error


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm, Scand. J. Stat. 1979), in the order given. A NaN stays one, and is no
    test.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, running = [math.nan] * len(p_values), 0.0
    tests = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, i) in enumerate(tests):
        running = max(running, min(1.0, p * (len(tests) - rank)))
        adjusted[i] = running
    return adjusted
