"""Student's t against scipy, Holm by hand, coverage of the intervals by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from seqgan_rl.evaluation.intervals import half_width, holm, ratio, standard_error, two_sided_p


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 5000, math.inf])
def test_student_t_equals_scipy(degrees: float) -> None:
    t = stats.t(degrees) if math.isfinite(degrees) else stats.norm
    for statistic in (0.0, 0.3, -1.96, 4.0, 12.7):
        assert two_sided_p(statistic, degrees) == pytest.approx(2 * t.sf(abs(statistic)), rel=1e-6, abs=1e-14)
    for level in (0.5, 0.95, 0.999):
        assert half_width(2.0, level, degrees) == pytest.approx(2 * t.ppf((1 + level) / 2), rel=1e-6)


def test_holm_by_hand() -> None:
    """.01 x 4, .02 x 3, .03 x 2 = .06 (as the one before), .5; a NaN is no test."""
    assert holm([0.02, 0.5, 0.01, math.nan, 0.03]) == pytest.approx([0.06, 0.5, 0.04, math.nan, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_ratio_interval_covers() -> None:
    """2,000 sets of 60 sequences of unequal length: a 95 % interval holds the truth in 94 to 96.5 % (binomial error
    .5 %; the delta method is a little short at 60)."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        lengths = rng.integers(1, 10, 60)
        sums = lengths * 2 + rng.normal(size=60) * np.sqrt(lengths)
        value, influence = ratio(sums, lengths)
        assert abs(influence.mean()) < 1e-9
        hits += abs(value - 2) < half_width(standard_error(influence))
    assert 0.935 < hits / 2000 < 0.965


def test_nothing_to_divide_by_is_nan() -> None:
    value, influence = ratio(np.zeros(3), np.zeros(3))
    assert math.isnan(value)
    assert np.isnan(influence).all()
    assert math.isnan(two_sided_p(math.nan, 3))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="level must lie in"):
        half_width(1.0, 95)
    with pytest.raises(ValueError, match="degrees must be above 0"):
        two_sided_p(1.0, 0)
