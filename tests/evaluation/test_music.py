"""Melody scores against plain loops and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation import music_scores

REST = 88
melodies = st.lists(st.lists(st.integers(50, 60) | st.just(REST), min_size=5, max_size=5), min_size=2, max_size=6)


def sounding(x: list[int], y: list[int]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in zip(x, y, strict=True) if REST not in (a, b)]


@given(one=melodies, other=melodies)
def test_squared_errors_equal_plain_loops(one: list[list[int]], other: list[list[int]]) -> None:
    one, other = [*one, [50] * 5], [*other, [55] * 5]  # at least one that sounds
    found = music_scores(np.array(one), np.array(other)).values
    pairs = [pair for x in one for y in other for pair in sounding(x, y)]
    assert found["pitch_mse"] == pytest.approx(np.mean([(a - b) ** 2 for a, b in pairs]), abs=1e-9)
    nearest = []
    for x in one:
        distances = [np.mean([(a - b) ** 2 for a, b in sounding(x, y)]) for y in other if sounding(x, y)]
        nearest += [min(distances)] if distances else []
    assert found["nearest_pitch_mse"] == pytest.approx(np.mean(nearest), abs=1e-9)


def test_statistics_by_hand() -> None:
    """Pitches 40 44 44 and 40 52, a rest between; steps +4, 0; then none that both sound."""
    tokens = np.array([[40, 44, 44, REST + 1], [40, REST, 52, REST + 1]])
    found = music_scores(tokens, tokens)
    assert found.values == pytest.approx(
        {
            "mean_pitch": 44,
            "pitch_deviation": (math.sqrt(32 / 9) + 6) / 2,
            "pitch_range": 8,
            "mean_interval": 2,
            "repeated_note_share": 0.5,
            "nearest_pitch_mse": 0,
            "pitches_used": 3,
            "pitch_mse": 128 / 8,  # first column (0) 4 pairs; 44 with itself; third (0, 64, 64, 0): 9 pairs less one
            "pitch_js": 0,
            "pitch_class_js": 0,
            "interval_js": 0,
        }
        | {"pitch_mse": 128 / 9}
    )
    assert found.signature == {"melodies": 2, "references": 2, "positions": 4, "pitches": 88}


def test_transposing_by_an_octave_changes_pitches_and_not_classes_or_intervals() -> None:
    tokens = np.random.default_rng(0).integers(40, 50, (30, 8))
    found = music_scores(tokens + 12, tokens).values
    assert (found["pitch_class_js"], found["interval_js"]) == pytest.approx((0, 0))
    assert found["pitch_js"] == pytest.approx(math.log(2))
    assert found["pitch_mse"] == pytest.approx(((tokens[:, None] + 12 - tokens[None]) ** 2).mean())


def test_histograms_equal_scipy() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 30, (20, 6)), rng.integers(5, 40, (25, 6))
    p, q = (np.bincount(x.ravel(), minlength=40) / x.size for x in (one, other))
    assert music_scores(one, other).values["pitch_js"] == pytest.approx(jensenshannon(p, q) ** 2)


def test_error_of_the_mean_pitch_agrees_with_resampling() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(30, 60, (200, 1)) + rng.integers(0, 5, (200, 6))
    tokens[rng.random(tokens.shape) < 0.3] = REST
    few = tokens[:2]  # references do not matter here
    means = [music_scores(tokens[rng.integers(200, size=200)], few).values["mean_pitch"] for _ in range(200)]
    assert music_scores(tokens, few).standard_errors["mean_pitch"] == pytest.approx(np.std(means), rel=0.2)


@pytest.mark.parametrize("bad", [[[40, 41]], [[40.0], [41.0]], [40, 41], [[40, -1], [40, 41]]])
def test_refusals(bad: object) -> None:
    with pytest.raises(InputError, match="melodies must be at least 2 sequences of pitches"):
        music_scores(np.array(bad), np.array([[40, 41], [40, 41]]))
    with pytest.raises(InputError, match="references hold no pitch below num_pitches=88"):
        music_scores(np.array([[40, 41], [40, 41]]), np.array([[90, 91], [90, 91]]))
