"""Scores of melodies: sequences of piano keys, as in the music task of Yu et al. (arXiv:1609.05473), Section 5.

A pitch is an integer in [0, 88): piano keys from A0, which is MIDI note 21 (``pitch + 21``). Ids from ``num_pitches``
up (rests, EOS, PAD) sound no pitch and are left out; an interval is between a pitch and the very next position.

The paper reports BLEU and "the mean squared error (MSE) (Manaris et al. 2007)" between generated and real melodies and
gives no formula; the published program has no music task. Two readings, both in semitones squared, at equal positions t
at which both sound:
    pitch_mse          mean over all pairs (generated x, real y) of (x_t - y_t)²; by position it is
                       (mean x - mean y)² + var x + var y, which is least for who always plays the mean: it rewards a
                       collapse and says little
    nearest_pitch_mse  mean over generated x of min over real y of mean_t (x_t - y_t)²: as small as 0 for copies
Numbers of the paper's table are comparable with neither. Read them beside what real melodies get, and beside
statistics that a collapse does not improve: Jensen-Shannon of pitches, pitch classes and intervals.
Letters: N melodies, M references, T positions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation.intervals import Floats, ratio, standard_error

NUM_PITCHES = 88
"""Keys of a piano, from A0 (MIDI note 21) to C8 (MIDI note 108)."""

LOWEST_MIDI_NOTE = 21
CHUNK = 256
"""Melodies whose distances to all references are held at a time."""


@dataclass(frozen=True, kw_only=True)
class MusicScores:
    """What :func:`music_scores` found."""

    values: dict[str, float]
    """mean_pitch, pitch_deviation, pitch_range, mean_interval (semitones); repeated_note_share, pitches_used;
    pitch_js, pitch_class_js, interval_js (nats); pitch_mse, nearest_pitch_mse (semitones squared)."""
    standard_errors: dict[str, float]
    """Over melodies with the references as given; of the means and of nearest_pitch_mse."""
    signature: dict[str, int]
    """Numbers of melodies, references, positions and pitches."""


def music_scores(melodies: ArrayLike, references: ArrayLike, num_pitches: int = NUM_PITCHES) -> MusicScores:
    """All scores of melodies, integers (N, T), against real ones (M, T); InputError for other shapes or types."""
    x_NT, y_MT = (
        _checked(given, num_pitches, name) for given, name in ((melodies, "melodies"), (references, "references"))
    )
    found = {name: statistic(x_NT) for name, statistic in STATISTICS.items()}
    nearest_N = nearest_distance(x_NT, y_MT)
    found["nearest_pitch_mse"] = ratio(np.nan_to_num(nearest_N), ~np.isnan(nearest_N))
    values = {name: value for name, (value, _) in found.items()}
    sounding = x_NT[~np.isnan(x_NT)]
    values |= {
        "pitches_used": float(len(np.unique(sounding))),
        "pitch_mse": pitch_mse(x_NT, y_MT),
        "pitch_js": histogram_js(sounding, y_MT[~np.isnan(y_MT)]),
        "pitch_class_js": histogram_js(sounding % 12, y_MT[~np.isnan(y_MT)] % 12),
        "interval_js": histogram_js(_intervals(x_NT), _intervals(y_MT)),
    }
    return MusicScores(
        values=values,
        standard_errors={name: standard_error(influence_N) for name, (_, influence_N) in found.items()},
        signature={"melodies": len(x_NT), "references": len(y_MT), "positions": x_NT.shape[1], "pitches": num_pitches},
    )


def pitch_mse(x_NT: Floats, y_MT: Floats) -> float:
    """Mean of (x_t - y_t)² over all pairs and positions at which both sound; NaN is silence."""
    n_T, m_T = (~np.isnan(x_NT)).sum(axis=0), (~np.isnan(y_MT)).sum(axis=0)
    sums = [(np.nansum(part, axis=0), np.nansum(part**2, axis=0)) for part in (x_NT, y_MT)]
    (x_T, xx_T), (y_T, yy_T) = sums
    pairs = float((n_T * m_T).sum())
    return float((m_T * xx_T - 2 * x_T * y_T + n_T * yy_T).sum()) / pairs if pairs else math.nan


def nearest_distance(x_NT: Floats, y_MT: Floats) -> Floats:
    """Least over the references of the mean of (x_t - y_t)² over positions at which both sound, (N,); NaN where no
    reference sounds with it."""
    y, y_sounds = np.nan_to_num(y_MT), (~np.isnan(y_MT)).astype(np.float64)
    parts = []
    for start in range(0, len(x_NT), CHUNK):
        part_NT = x_NT[start : start + CHUNK]
        x, x_sounds = np.nan_to_num(part_NT), (~np.isnan(part_NT)).astype(np.float64)
        squared_NM = x**2 @ y_sounds.T - 2 * x @ y.T + x_sounds @ (y**2).T  # whole numbers: exact
        both_NM = x_sounds @ y_sounds.T
        least_N = np.where(both_NM > 0, squared_NM / np.maximum(both_NM, 1), np.inf).min(axis=1)
        parts.append(np.where(np.isinf(least_N), np.nan, least_N))
    return np.concatenate(parts)


def histogram_js(one: Floats, other: Floats) -> float:
    """Jensen-Shannon divergence between the frequencies of two sets of whole numbers, nats; NaN if one is empty."""
    if 0 in (len(one), len(other)):
        return math.nan
    kinds, inverse = np.unique(np.concatenate([one, other]), return_inverse=True)
    p = np.bincount(inverse[: len(one)], minlength=len(kinds)) / len(one)
    q = np.bincount(inverse[len(one) :], minlength=len(kinds)) / len(other)
    m = (p + q) / 2
    return float((p * np.log(np.where(p > 0, p, m) / m) + q * np.log(np.where(q > 0, q, m) / m)).sum() / 2)


def _checked(given: ArrayLike, num_pitches: int, name: str) -> Floats:
    """Pitches as floats, NaN where none sounds, (N, T)."""
    pitches = np.asarray(given)
    if pitches.ndim != 2 or not np.issubdtype(pitches.dtype, np.integer) or len(pitches) < 2 or (pitches < 0).any():
        raise InputError(
            f"{name} must be at least 2 sequences of pitches, integers of at least 0 and shape (N, T), got "
            f"{pitches.dtype} of shape {pitches.shape}; pitches are piano keys, MIDI note - {LOWEST_MIDI_NOTE}"
        )
    if not (pitches < num_pitches).any():
        raise InputError(f"{name} hold no pitch below num_pitches={num_pitches}; are these pitches at all?")
    return np.where(pitches < num_pitches, pitches, np.nan)


def _intervals(x_NT: Floats) -> Floats:
    """Steps from a pitch to the next position's, semitones, all melodies in one row."""
    steps = np.diff(x_NT, axis=1)
    return np.asarray(steps[~np.isnan(steps)])


def _mean_over_melodies(values_N: Floats) -> tuple[float, Floats]:
    """Mean of those that are not NaN."""
    return ratio(np.nan_to_num(values_N), ~np.isnan(values_N))


def _per_melody(function: Callable[[Floats], float], x_NT: NDArray[np.float64]) -> Floats:
    """A number of the sounding pitches of each melody; NaN for silence."""
    sounding = (row[~np.isnan(row)] for row in x_NT)
    return np.array([function(row) if len(row) else math.nan for row in sounding])


def _mean_pitch(x_NT: Floats) -> tuple[float, Floats]:
    return ratio(np.nansum(x_NT, axis=1), (~np.isnan(x_NT)).sum(axis=1))


def _pitch_deviation(x_NT: Floats) -> tuple[float, Floats]:
    return _mean_over_melodies(_per_melody(lambda row: float(row.std()), x_NT))


def _pitch_range(x_NT: Floats) -> tuple[float, Floats]:
    return _mean_over_melodies(_per_melody(lambda row: float(np.ptp(row)), x_NT))


def _mean_interval(x_NT: Floats) -> tuple[float, Floats]:
    steps = np.abs(np.diff(x_NT, axis=1))
    return ratio(np.nansum(steps, axis=1), (~np.isnan(steps)).sum(axis=1))


def _repeated_note_share(x_NT: Floats) -> tuple[float, Floats]:
    steps = np.diff(x_NT, axis=1)
    return ratio((steps == 0).sum(axis=1), (~np.isnan(steps)).sum(axis=1))


STATISTICS: dict[str, Callable[[Floats], tuple[float, Floats]]] = {
    "mean_pitch": _mean_pitch,
    "pitch_deviation": _pitch_deviation,
    "pitch_range": _pitch_range,
    "mean_interval": _mean_interval,
    "repeated_note_share": _repeated_note_share,
}
"""Means over melodies: pitch of all sounding positions; standard deviation and range (largest less smallest) within a
melody; size of the step to the next position; share of such steps that are 0."""
