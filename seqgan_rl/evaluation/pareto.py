"""Which models are dominated: worse than another in quality and in coverage, beyond what noise can do.

Every pair of models is one test. Its p-value is the larger of the two two-sided ones (an intersection-union test: both
differences must stand), and Holm's correction keeps the chance of any false verdict among all pairs below 1 - level.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation.intervals import half_width, holm, two_sided_p
from seqgan_rl.evaluation.scores import Scores, combined_error

HIGHER_IS_BETTER = ("bleu_", "backward_bleu_", "distinct_", "vocabulary_used", "unique_share")
"""How the names of the scores begin of which more is better; of all others less is."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One pair of models; differences are ``one`` minus ``other``, signed so that above 0 ``one`` is worse."""

    one: str
    other: str
    differences: tuple[float, float]
    """In quality and coverage."""
    intervals: tuple[tuple[float, float], tuple[float, float]]
    """Of the two differences, each alone (not corrected for the number of pairs)."""
    p_value: float
    """The larger of the two, corrected by Holm; NaN if a score is not finite."""
    dominated: str | None
    """The model that is worse in both; None where that is not shown."""


@dataclass(frozen=True, kw_only=True)
class ParetoTest:
    """All pairs, and what follows."""

    quality: str
    coverage: str
    level: float
    pairs: tuple[Comparison, ...]
    names: tuple[str, ...]

    @property
    def dominated(self) -> dict[str, tuple[str, ...]]:
        """Each dominated model, and the models that dominate it."""
        found: dict[str, tuple[str, ...]] = {}
        for pair in self.pairs:
            if pair.dominated is not None:
                better = pair.other if pair.dominated == pair.one else pair.one
                found[pair.dominated] = (*found.get(pair.dominated, ()), better)
        return found

    @property
    def front(self) -> tuple[str, ...]:
        """Models of which no other is shown to be better in both."""
        return tuple(name for name in self.names if name not in self.dominated)

    def sentence(self) -> str:
        """What the test says, in one sentence."""
        found = [f"{name} (by {', '.join(by)})" for name, by in self.dominated.items()]
        what = f"in both {self.quality} and {self.coverage} at the {self.level:.0%} level, Holm-corrected over pairs"
        return f"Dominated {what}: {', '.join(found) if found else 'no model'}."


def pareto_test(
    models: Mapping[str, Scores | Sequence[Scores]],
    *,
    quality: str = "nll_oracle",
    coverage: str = "nll_test",
    level: float = 0.95,
) -> ParetoTest:
    """Compare all pairs of models in two scores.

    Args:
        models: scores of each; of several training runs a sequence, as long for all and paired by its order (run k of
            each has the same seed). One run knows the noise of sequences alone; several add that between runs.
        quality, coverage: names of scores, such as "bleu_4" and "self_bleu_4".
        level: 1 minus the chance that any model is wrongly called dominated.

    Raises:
        InputError: runs of different number, or scores that cannot be compared.
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie in (0, 1), got {level}; 0.95 is usual")
    runs = {name: (given,) if isinstance(given, Scores) else tuple(given) for name, given in models.items()}
    _check(runs)
    pairs = list(combinations(runs, 2))
    found = [[_difference(runs[a], runs[b], metric) for metric in (quality, coverage)] for a, b in pairs]
    p_values = holm([max(p_values) if not any(map(math.isnan, p_values)) else math.nan for p_values in map(_ps, found)])
    compared = []
    for (a, b), both, p_value in zip(pairs, found, p_values, strict=True):
        values = (both[0][0], both[1][0])
        is_shown = p_value < 1 - level and values[0] * values[1] > 0
        first, second = ((value - half_width(e, level, df), value + half_width(e, level, df)) for value, e, df in both)
        compared.append(
            Comparison(
                one=a,
                other=b,
                differences=values,
                intervals=(first, second),
                p_value=p_value,
                dominated=(a if values[0] > 0 else b) if is_shown else None,
            )
        )
    return ParetoTest(quality=quality, coverage=coverage, level=level, pairs=tuple(compared), names=tuple(runs))


def is_higher_better(metric: str) -> bool:
    """Whether more of this score is better."""
    return metric.startswith(HIGHER_IS_BETTER)


def _check(runs: Mapping[str, tuple[Scores, ...]]) -> None:
    sizes = {name: len(scores) for name, scores in runs.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise InputError(f"every model must have the same number of runs, at least 1, got {sizes}")
    every = [scores for group in runs.values() for scores in group]
    for scores in every[1:]:
        differences = every[0].differences(scores)
        if differences:
            raise InputError(f"scores of different signatures cannot be compared ({'; '.join(differences)})")


def _difference(one: Sequence[Scores], other: Sequence[Scores], metric: str) -> tuple[float, float, float]:
    """How much worse ``one`` is, its standard error over sequences and runs, and the degrees of freedom."""
    sign, runs = (-1.0 if is_higher_better(metric) else 1.0), len(one)
    values = np.array([sign * (a.value(metric) - b.value(metric)) for a, b in zip(one, other, strict=True)])
    if not np.isfinite(values).all():
        return math.nan, math.nan, math.inf
    terms = [(weight / runs, scores, metric) for weight, group in ((1.0, one), (-1.0, other)) for scores in group]
    between = float(values.var(ddof=1)) / runs if runs > 1 else 0.0
    error = math.hypot(combined_error(terms), math.sqrt(between))
    return float(values.mean()), error, runs - 1 if runs > 1 else math.inf


def _ps(both: Sequence[tuple[float, float, float]]) -> list[float]:
    return [two_sided_p(value / error, df) if error > 0 else _exact(value, error) for value, error, df in both]


def _exact(value: float, error: float) -> float:
    """The p-value of a difference without error."""
    return math.nan if math.isnan(value) or math.isnan(error) else float(value == 0)
