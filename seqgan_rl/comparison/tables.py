"""The numbers that every output of a comparison shares: a row an agent, paired tests, verdicts, aggregates over tasks.

:func:`summarise` computes them once; :mod:`seqgan_rl.comparison.table_text` and the HTML report only write them. Scores
keep the sign and the unit of their metric, except in paired tests and aggregates, where more is better.
Letters: R runs (one per seed), M tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from seqgan_rl.comparison.records import METRICS, UNITS, Axis, Comparison, Floats, Job, Task, shared_seeds
from seqgan_rl.comparison.statistics import (
    Estimate,
    PairedComparison,
    Profile,
    Verdict,
    compare_with,
    differences_text,
    improves,
    iqm,
    not_better,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from seqgan_rl.core.streams import stream
from seqgan_rl.evaluation.intervals import half_width, standard_error

START = "mle"
"""The agent that all others start from."""
CONTROLS = ("mle_continued", "constant", "random", "shuffled")
"""What training does without a reward's judgement; who is better than MLE must beat those that are present."""
SAY_NOTHING = ("constant", "random", "shuffled")
"""Rewards of controls, whatever these are called."""
OPPONENTS = (START, "seqgan")
"""Agents against which the probability of improvement is computed."""
LEVEL = 0.95
RESAMPLES = 2000
PROFILE_RANGE = (-2.0, 2.0)
"""Normalised scores that profiles are drawn over at most."""
MARK = "better than MLE"
COVERAGE = (
    "that interval is too narrow for few seeds: on normal scores of one task it held the true value in 50% of cases "
    "for 2 seeds, 75% for 3, 90% for 5 and 94% for 10"
)
"""Measured for this statistic: 1,000 resamples, 4,000 repetitions, R runs of one task."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds and its t-interval at `LEVEL`; NaN where there is none, infinite if a score is."""

    value: float
    interval: tuple[float, float]
    runs: int
    """Seeds that have the score."""


@dataclass(frozen=True, kw_only=True)
class AgentRow:
    """An agent on a task, when so much has been used."""

    agent: str
    role: Literal["start", "control", "agent"]
    done: tuple[int, ...]
    """Seeds, rising, as in the next three."""
    failed: tuple[int, ...]
    missing: tuple[int, ...]
    """Waiting, running, or never asked for though another agent of the task has that seed."""
    unscored: tuple[int, ...]
    """Finished, but without a finite primary score."""
    iqm: Estimate | None
    """Of the primary score, in its unit; None if no seed has it."""
    means: Mapping[str, Mean]
    """By metric; of every metric of the task that a seed has."""
    tokens: float
    """Generated until then, mean over finished seeds; NaN without one, as in the next two."""
    evaluations: float
    seconds: float
    comparisons: tuple[PairedComparison, ...]
    """Against the start and every control that has a score; a difference above 0 is better whatever the metric."""
    verdict: Verdict | None
    """None for the start and the controls."""


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """All agents of a task, when each has used so many tokens or reward evaluations; the best comes first."""

    task: Task
    axis: Axis
    amount: int
    rows: tuple[AgentRow, ...]
    notes: tuple[str, ...]
    """What the numbers are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AggregateRow:
    """An agent over all tasks of a kind, on normalised scores."""

    agent: str
    seeds: tuple[int, ...]
    scores_RM: Floats
    """Normalised, more is better; R seeds that have a score on all M tasks."""
    iqm: Estimate
    profile: Profile
    over: Mapping[str, Estimate]
    """Probability of improvement over other agents, those of `OPPONENTS` that are there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Aggregate:
    """All agents over the tasks of a kind; the best comes first."""

    kind: Literal["exact", "frozen", "adversarial"]
    axis: Axis
    tasks: tuple[str, ...]
    rows: tuple[AggregateRow, ...]
    notes: tuple[str, ...]
    """How scores are normalised, and which agents are left out and why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """Everything that is said about a comparison in numbers."""

    name: str
    tables: tuple[TaskTable, ...]
    """By task: at the budget of tokens, then at equal reward evaluations."""
    aggregates: tuple[Aggregate, ...]
    unfinished: tuple[Job, ...]
    """Failed jobs, then those running and waiting."""
    stopped: tuple[Job, ...]
    """Jobs that a guard stopped before their end; they count with their last scores."""


@dataclass
class _Normalised:
    """Scores of a task by agent and seed, more is better: 0 is the start, 1 the best mean."""

    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    rule: str = ""


def summarise(comparison: Comparison) -> Summary:
    """Every table of a comparison, finished or not; the same numbers each time."""
    axes: list[Axis] = ["tokens", "evaluations"]
    kinds = dict.fromkeys(task.kind for task in comparison.tasks)
    order = {"failed": 0, "running": 1, "waiting": 2}
    unfinished = [job for job in comparison.jobs if job.state != "done"]
    return Summary(
        name=comparison.name,
        tables=tuple(task_table(comparison, task, axis) for task in comparison.tasks for axis in axes),
        aggregates=tuple(aggregate(comparison, kind, axis) for kind in kinds for axis in axes),
        unfinished=tuple(sorted(unfinished, key=lambda job: order[job.state])),
        stopped=tuple(job for job in comparison.jobs if job.stopped),
    )


def task_table(comparison: Comparison, task: Task, axis: Axis) -> TaskTable:
    """Agents of a task at the comparison's budget of tokens, or at its number of reward evaluations."""
    amount = int(comparison.amount(task, axis))
    primary = {name: comparison.scores(task.name, name, task.primary, axis) for name in comparison.agents(task.name)}
    controls = _controls(comparison, task)
    rows = [_agent_row(comparison, task, axis, amount, agent, primary, controls) for agent in primary]
    sign = _sign(task.primary)
    rows.sort(key=lambda row: math.inf if row.iqm is None else -sign * row.iqm.value)
    return TaskTable(task=task, axis=axis, amount=amount, rows=tuple(rows), notes=_notes(task, axis, amount, rows))


def aggregate(comparison: Comparison, kind: Literal["exact", "frozen", "adversarial"], axis: Axis) -> Aggregate:
    """Agents over all tasks of a kind. On each task 0 is the start's mean score and 1 the best agent's."""
    tasks = [task for task in comparison.tasks if task.kind == kind]
    normalised = [_normalised(comparison, task, axis) for task in tasks]
    agents = dict.fromkeys(agent for task in tasks for agent in comparison.agents(task.name))
    scores, seeds, notes = dict[str, Floats](), dict[str, tuple[int, ...]](), [found.rule for found in normalised]
    for agent in agents:
        seeds[agent] = shared_seeds([found.scores.get(agent, {}) for found in normalised])
        if seeds[agent]:
            scores[agent] = np.array([[found.scores[agent][seed] for found in normalised] for seed in seeds[agent]])
        else:
            notes.append(f"{agent} is left out: it has no seed with a score on every task of this kind")
    seen = np.concatenate([part.ravel() for part in scores.values()]) if scores else np.zeros(1)
    low, high = np.clip([seen.min(), seen.max()], *PROFILE_RANGE)
    thresholds = np.linspace(low - 0.05, high + 0.05, 101)
    rows = []
    for agent, scores_RM in scores.items():
        rng = stream(0, f"aggregate {kind} {axis} {agent}")
        rows.append(
            AggregateRow(
                agent=agent,
                seeds=seeds[agent],
                scores_RM=scores_RM,
                iqm=stratified_bootstrap(scores_RM, iqm, resamples=RESAMPLES, level=LEVEL, rng=rng),
                profile=performance_profile(scores_RM, thresholds, resamples=RESAMPLES, level=LEVEL, rng=rng),
                over={
                    other: probability_of_improvement(
                        scores_RM, scores[other], resamples=RESAMPLES, level=LEVEL, rng=rng
                    )
                    for other in OPPONENTS
                    if other in scores and other != agent
                },
            )
        )
    rows.sort(key=lambda row: -row.iqm.value)
    names = tuple(task.name for task in tasks)
    return Aggregate(kind=kind, axis=axis, tasks=names, rows=tuple(rows), notes=tuple(notes))


def _agent_row(
    comparison: Comparison,
    task: Task,
    axis: Axis,
    amount: int,
    agent: str,
    by_agent: Mapping[str, Mapping[int, float]],
    controls: Sequence[str],
) -> AgentRow:
    """A row; ``by_agent`` are all agents' primary scores by seed."""
    finite = {seed: score for seed, score in by_agent[agent].items() if math.isfinite(score)}
    states = {job.seed: job.state for job in comparison.jobs if (job.task, job.agent) == (task.name, agent)}
    asked = {job.seed for job in comparison.jobs if job.task == task.name}
    failed = tuple(sorted(seed for seed, state in states.items() if state == "failed"))
    unscored = tuple(sorted(set(by_agent[agent]) - set(finite)))
    role: Literal["start", "control", "agent"] = "control" if agent in controls else "agent"
    role = "start" if agent == START else role
    seeds, comparisons = _comparisons(task, by_agent, agent, controls)
    verdict = None
    if role == "agent":
        gap_R = [finite[seed] for seed in seeds]
        present = [name for name in controls if name in by_agent]
        verdict = _verdict(task, gap_R, comparisons, tuple(sorted(failed + unscored)), START in by_agent, present)
    jobs = comparison.of(task.name, agent)
    means = {metric: _over_seeds(comparison.scores(task.name, agent, metric, axis)) for metric in task.metrics}
    rng = stream(0, f"row {task.name} {axis} {agent}")
    scores_R1 = np.array(list(finite.values()))[:, None]
    return AgentRow(
        agent=agent,
        role=role,
        done=tuple(sorted(by_agent[agent])),
        failed=failed,
        missing=tuple(sorted(asked - set(by_agent[agent]) - set(failed))),
        unscored=unscored,
        iqm=stratified_bootstrap(scores_R1, iqm, resamples=RESAMPLES, level=LEVEL, rng=rng) if finite else None,
        means={metric: mean for metric, mean in means.items() if mean is not None},
        tokens=_used(jobs, axis, amount, "tokens"),
        evaluations=_used(jobs, axis, amount, "evaluations"),
        seconds=_used(jobs, axis, amount, "seconds"),
        comparisons=comparisons,
        verdict=verdict,
    )


def _controls(comparison: Comparison, task: Task) -> tuple[str, ...]:
    """Names of controls: ours, and agents of one's own on this task that are paid by a reward that says nothing."""
    found = list(CONTROLS)
    for job in comparison.jobs:
        settings = job.settings.get("agent")
        if job.task == task.name and isinstance(settings, Mapping):
            reward = str(settings.get("reward", "")).partition("(")[0].strip()
            found += [job.agent] if reward in SAY_NOTHING else []
    return tuple(dict.fromkeys(found))


def _comparisons(
    task: Task, by_agent: Mapping[str, Mapping[int, float]], agent: str, controls: Sequence[str]
) -> tuple[tuple[int, ...], tuple[PairedComparison, ...]]:
    """Seeds that the agent shares with the start and every control that has a score, and the tests over them."""
    scored = [name for name in (START, *controls) if name != agent and shared_seeds([by_agent.get(name, {})])]
    seeds = shared_seeds([by_agent[name] for name in (agent, *scored)])
    if agent == START or not seeds:
        return seeds, ()
    sign = _sign(task.primary)
    scores = {name: [sign * by_agent[name][seed] for seed in seeds] for name in (agent, *scored)}
    x_R = scores.pop(agent)
    return seeds, compare_with(x_R, scores, level=LEVEL)


def _verdict(
    task: Task,
    gap_R: Sequence[float],
    comparisons: Sequence[PairedComparison],
    lost: Sequence[int],
    has_start: bool,
    controls: Sequence[str],
) -> Verdict:
    """The mark of a row; on tasks without a gap, paired tests against the start stand in its place.

    Args:
        gap_R: primary scores of the seeds that the comparisons are over.
        lost: seeds that failed or have no score. A mark over the others would be one of survivors, and is withheld.
        has_start: whether the start is on the task.
        controls: those on the task.
    """
    has_gap = task.primary == "gap"
    needed = [*([START] if has_start and not has_gap else []), *controls]
    tested = {found.other: found for found in comparisons}
    silent = [name for name in needed if name not in tested]
    if not gap_R:
        return not_better(f"no finished seed has a {task.primary} that the start and the controls have too")
    if lost:
        seeds = f"seed{'s' * (len(lost) > 1)} {', '.join(map(str, lost))}"
        return not_better(
            f"{seeds} failed or got no {task.primary}, and the others alone would be a choice of survivors"
        )
    if silent:
        return not_better(f"{', '.join(silent)} has no {task.primary} yet to be compared with")
    if has_gap:
        return improves(gap_R, [tested[name] for name in needed], level=LEVEL)
    if START not in tested:
        return not_better(f"it was not compared with {START}")
    if len(tested) < 2:
        return not_better("it was compared with no control")
    without = f"there is no gap on this task; in paired tests over {len(gap_R)} seeds"
    behind = [found for found in comparisons if not found.is_better]
    if behind:
        return not_better(f"{without} it is not shown to beat {differences_text(behind)}")
    reason = f"Better than MLE: {without} it beats the start and every control: {differences_text(comparisons)}."
    return Verdict(is_improvement=True, reason=reason)


def _over_seeds(scores: Mapping[int, float]) -> Mean | None:
    """None if no seed has the score; an infinite one counts, so that it shows."""
    known_R = np.array([score for score in scores.values() if not math.isnan(score)])
    if not known_R.size:
        return None
    value, half = float(known_R.mean()), math.nan
    if known_R.size > 1 and np.isfinite(known_R).all():
        half = half_width(standard_error(known_R), LEVEL, known_R.size - 1)
    return Mean(value=value, interval=(value - half, value + half), runs=known_R.size)


def _used(jobs: Sequence[Job], axis: Axis, amount: float, what: Axis) -> float:
    """What jobs had used of one thing when so much of another was used, mean over jobs."""
    used = []
    for job in jobs:
        if job.points:
            of_job = [(getattr(point, axis), getattr(point, what)) for point in job.points]
            used.append(np.interp(amount, *np.array(of_job, dtype=float).T))
    return float(np.mean(used)) if used else math.nan


def _normalised(comparison: Comparison, task: Task, axis: Axis) -> _Normalised:
    """Scores as a share of the way from the start to the best mean, and that rule in words."""
    sign, found = _sign(task.primary), dict[str, dict[int, float]]()
    for agent in comparison.agents(task.name):
        scores = comparison.scores(task.name, agent, task.primary, axis)
        finite = {seed: sign * score for seed, score in scores.items() if math.isfinite(score)}
        if finite:
            found[agent] = finite
    if not found:
        return _Normalised(rule=f"{task.name}: no agent has a {task.primary} yet")
    means = {agent: float(np.mean(list(scores.values()))) for agent, scores in found.items()}
    worst, best = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    zero = START if START in means else worst
    rounding = 1e-12 * max(map(abs, means.values()))
    shown = {agent: f"{sign * mean + 0.0:.4g}" for agent, mean in means.items()}  # + 0.0: not "-0"
    rule = f"{task.name}: 0 is the mean {task.primary} of {zero} ({shown[zero]})"
    if means[best] - means[zero] > rounding:
        scale, rule = means[best] - means[zero], f"{rule} and 1 that of {best} ({shown[best]}), the best"
    elif means[zero] - means[worst] > rounding:
        scale, rule = means[zero] - means[worst], f"{rule}, which none exceeds, and -1 that of {worst}, the worst"
    else:
        scale, rule = 1.0, f"{rule}, which all others equal; differences are in its own unit"
    normalised = {
        agent: {seed: (score - means[zero]) / scale for seed, score in scores.items()}
        for agent, scores in found.items()
    }
    return _Normalised(normalised, rule)


def _notes(task: Task, axis: Axis, amount: int, rows: Sequence[AgentRow]) -> tuple[str, ...]:
    seeds = {row.iqm.runs for row in rows if row.iqm is not None}
    number = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else "".join(map(str, seeds)) or "no"
    direction = "more" if METRICS[task.primary].higher_is_better else "less"
    notes = [
        f"{task.label}; {number} seed{'s' * (number != '1')}; best first by {task.primary}: "
        f"{METRICS[task.primary].label}, {direction} is better",
        f"scores after {amount:,} {UNITS[axis]}, linear between evaluations; a job that used less keeps its last; "
        "tokens, reward evaluations and seconds are what had been used then",
        f"IQM: interquartile mean over seeds with its {LEVEL:.0%} stratified bootstrap interval ({RESAMPLES:,} "
        f"resamples); {COVERAGE}. Means ± half their {LEVEL:.0%} t-interval",
        f"{MARK!r}: "
        + (
            f"the {LEVEL:.0%} interval of the gap lies below 0"
            if task.primary == "gap"
            else f"there is no gap on this task, so {task.primary} is better than the start's in a paired test"
        )
        + ", every control is beaten in paired tests (Holm-corrected), and no seed has failed",
    ]
    others = [metric for metric in task.metrics if metric != task.primary]
    if others:
        notes.append("; ".join(f"{metric}: {METRICS[metric].label}" for metric in others))
    return tuple(notes)


def _sign(metric: str) -> float:
    """What turns a score into one of which more is better."""
    return 1.0 if METRICS[metric].higher_is_better else -1.0
