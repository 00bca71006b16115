"""What figures of a comparison show: scores along a run, mean and band over seeds, and paths through two scores.

Letters: R runs (one per seed), K places along an axis.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seqgan_rl.comparison.records import Axis, Floats, Job
from seqgan_rl.comparison.tables import LEVEL
from seqgan_rl.evaluation.intervals import half_width, standard_error

GRID = 40
"""Places at which curves over seconds and reward evaluations are drawn."""
BANDS = {
    "t": f"Bands: pointwise {LEVEL:.0%} t-intervals of the mean.",
    "range": "Bands: from the worst to the best seed.",
    "none": "One seed has no band.",
}
"""What a caption says of each kind of band."""


class Band(NamedTuple):
    """A score over an axis: mean over seeds, and the band around it, (K,) each."""

    x_K: Floats
    mean_K: Floats
    low_K: Floats
    high_K: Floats
    is_flat: bool
    """One point of an agent that does not move along this axis."""


def band_kind(jobs: Mapping[str, Sequence[Job]]) -> str:
    """One kind of band in a figure; t-intervals of two seeds would fill it."""
    seeds = [len(found) for found in jobs.values()]
    if max(seeds) == 1:
        return "none"
    return "t" if min(seeds) >= 3 else "range"


def along(jobs: Sequence[Job], axis: Axis, metric: str, band: str, most: float = math.inf) -> Band | None:
    """A metric over an axis, up to ``most`` of it; None where no seed has a finite one."""
    with_it = [job for job in jobs if any(math.isfinite(point.scores.get(metric, math.nan)) for point in job.points)]
    used = [[float(getattr(point, axis)) for point in job.points if metric in point.scores] for job in with_it]
    places = sorted({min(place, most) for of_job in used for place in of_job})
    if not places:
        return None
    if all(len(set(of_job)) == 1 for of_job in used):
        last_R1 = np.array([[job.score_at(axis, math.inf, metric)] for job in with_it])
        if not np.isfinite(last_R1).any():  # lost along the way, as the gap is in a collapse
            return None
        return _banded(np.array(places[-1:]), last_R1, band, is_flat=True)
    if axis == "evaluations":
        x_K = np.geomspace(next(place for place in places if place > 0), places[-1], GRID)
    else:
        x_K = np.array(places) if len(places) <= GRID else np.linspace(places[0], places[-1], GRID)
    return _banded(x_K, np.array([[job.score_at(axis, x, metric) for x in x_K] for job in with_it]), band)


def recorded(jobs: Sequence[Job], key: str, band: str, most: float = math.inf) -> Band | None:
    """A diagnostic over tokens, up to ``most`` of them; None where no seed has one."""
    rows = [[(row["tokens"], row[key]) for row in job.diagnostics if "tokens" in row and key in row] for job in jobs]
    rows = [[(x, y) for x, y in part if math.isfinite(y)] for part in rows]
    series = [np.array(part, dtype=float).T for part in rows if part]
    if not series:
        return None
    x_K = np.unique(np.minimum(np.concatenate([x for x, _ in series]), most))
    if len(x_K) > GRID:
        x_K = np.linspace(x_K[0], x_K[-1], GRID)
    return _banded(x_K, np.array([np.interp(x_K, x, y) for x, y in series]), band, is_flat=len(x_K) == 1)


def _banded(x_K: Floats, scores_RK: Floats, band: str, *, is_flat: bool = False) -> Band:
    scores_RK = np.where(np.isfinite(scores_RK), scores_RK, np.nan)
    mean_K = scores_RK.mean(axis=0)
    low_K, high_K = scores_RK.min(axis=0), scores_RK.max(axis=0)
    if band == "t":
        error_K = np.array([standard_error(scores_R) for scores_R in scores_RK.T])
        half_K = half_width(1.0, LEVEL, len(scores_RK) - 1) * error_K if len(scores_RK) > 1 else 0 * mean_K
        low_K, high_K = mean_K - half_K, mean_K + half_K
    if is_flat:
        x_K, mean_K, low_K, high_K = (np.resize(part, 2) for part in (x_K, mean_K, low_K, high_K))
    return Band(x_K, mean_K, low_K, high_K, is_flat)


def mean_path(jobs: Sequence[Job], across: str, up: str) -> list[tuple[float, float]]:
    """Two scores along training, mean over the seeds that have both; empty where they do not move."""
    pairs = [[_pair(point.scores, across, up) for point in job.points] for job in jobs]
    used = [[point.tokens for point in job.points] for job in jobs]
    known = [
        (np.array([t for t, p in zip(tokens, part, strict=True) if p]), np.array([p for p in part if p]))
        for tokens, part in zip(used, pairs, strict=True)
        if any(part)
    ]
    if not known:
        return []
    x_K = np.unique(np.concatenate([tokens for tokens, _ in known]))
    paths = [[np.interp(x_K, tokens, values[:, i]) for i in range(2)] for tokens, values in known]
    mean_2K = np.mean(paths, axis=0)
    return [(float(x), float(y)) for x, y in mean_2K.T] if len(x_K) > 1 else []


def last_pairs(jobs: Sequence[Job], across: str, up: str) -> list[tuple[float, float]]:
    """The last pair of each seed."""
    found = [[pair for point in job.points if (pair := _pair(point.scores, across, up))] for job in jobs]
    return [pairs[-1] for pairs in found if pairs]


def mean_sweep(jobs: Sequence[Job], across: str, up: str) -> list[tuple[float, float]]:
    """Pairs at the temperatures at which every swept seed has one, mean over seeds."""
    swept = [{row["temperature"]: pair for row in job.sweep if (pair := _pair(row, across, up))} for job in jobs]
    swept = [by_temperature for by_temperature in swept if by_temperature]
    shared = sorted(set.intersection(*map(set, swept))) if swept else []
    means = [np.mean([by_temperature[t] for by_temperature in swept], axis=0) for t in shared]
    return [(float(x), float(y)) for x, y in means]


def _pair(scores: Mapping[str, float], across: str, up: str) -> tuple[float, float] | None:
    x, y = scores.get(across, math.nan), scores.get(up, math.nan)
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def has_score(jobs: Mapping[str, Sequence[Job]], metric: str) -> bool:
    """Whether any job has a finite one."""
    return any(
        math.isfinite(point.scores.get(metric, math.nan))
        for found in jobs.values()
        for job in found
        for point in job.points
    )
