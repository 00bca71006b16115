"""What a comparison has measured: jobs, their scores along the way, and what each score means.

A *task* is what agents are compared on (``adversarial``, ``frozen-oracle``, ``exact-table``); a *job* is one agent on
one task with one seed. Everything here is plain data, so that statistics, figures and report need nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Axis = Literal["tokens", "evaluations", "seconds"]
"""What a job has used: tokens that it generated, sequences that the reward has scored, seconds of training."""
UNITS: dict[Axis, str] = {
    "tokens": "generated tokens",
    "evaluations": "reward evaluations",
    "seconds": "seconds of training",
}
"""What an axis counts, for people."""
State = Literal["waiting", "running", "done", "failed"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a score is read."""

    label: str
    """With its unit."""
    higher_is_better: bool
    has_direction: bool = True
    """False of scores that only describe, such as the entropy."""


METRICS: dict[str, Metric] = {
    "gap": Metric(label="gap to the MLE's temperature curve, nats per token", higher_is_better=False),
    "nll_oracle": Metric(label="NLL_oracle, nats per token", higher_is_better=False),
    "nll_test": Metric(label="NLL_test, nats per token", higher_is_better=False),
    "entropy": Metric(label="entropy, nats per token", higher_is_better=True, has_direction=False),
    "distinct_tokens": Metric(label="distinct tokens", higher_is_better=True, has_direction=False),
    "kl_g_o": Metric(label="KL(G‖O), nats per token", higher_is_better=False),
    "reward": Metric(label="mean reward of whole sequences", higher_is_better=True),
    "bleu_gap": Metric(label="gap in BLEU-4 at equal Self-BLEU-4 to the MLE's curve", higher_is_better=True),
    "bleu_4": Metric(label="BLEU-4", higher_is_better=True),
    "self_bleu_4": Metric(label="Self-BLEU-4", higher_is_better=False),
    "regret": Metric(label="exact regret E[R*] - E[R]", higher_is_better=False),
    "regularised_regret": Metric(label="exact regret of E[R] - β KL(π‖π_ref)", higher_is_better=False),
    "kl": Metric(label="exact KL(π‖π_ref), nats per sequence", higher_is_better=False, has_direction=False),
    "exact_entropy": Metric(label="exact entropy, nats per sequence", higher_is_better=True, has_direction=False),
}
"""Scores by the name they have in :attr:`Point.scores`."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What agents are compared on."""

    name: str
    kind: Literal["exact", "frozen", "adversarial"]
    label: str
    """One line for people."""
    primary: str
    """The score that ranks agents, a key of :data:`METRICS`."""
    metrics: tuple[str, ...]
    """Scores that stand beside it in tables, the primary one first."""
    budget: int = 0
    """Generated tokens at which the first table compares; 0: the comparison's."""
    evaluations: int = 0
    """Reward evaluations at which the second table compares; 0: the comparison's."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation of a job."""

    tokens: int
    evaluations: int
    seconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A generated sequence, with the action value of each of its tokens under one reward that all agents share."""

    words: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One agent on one task with one seed, as far as it has got."""

    task: str
    agent: str
    seed: int
    folder: str
    """Relative to the comparison's."""
    state: State = "waiting"
    error: str = ""
    """Of a failed job: the last line that it said."""
    attempts: int = 0
    stopped: str = ""
    """Why a guard stopped the training before its end, if one did."""
    points: tuple[Point, ...] = ()
    """Evaluations in the order of their tokens; that of the start, at 0 tokens, is the first."""
    diagnostics: tuple[Mapping[str, float], ...] = ()
    """One row a round: "tokens" and whatever was recorded, such as "agent/reward" or "discriminator/auc"."""
    sweep: tuple[Mapping[str, float], ...] = ()
    """Scores of the final policy by "temperature", rising; empty where it has no temperature."""
    samples: tuple[Sample, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Every setting of the run, nested as in its ``config.json``."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Of oracle, corpus, settings and versions."""

    def score_at(self, axis: Axis, amount: float, metric: str) -> float:
        """A score when so much had been used: linear between the evaluations, the last one's afterwards; NaN if absent.

        A job that used less, since a guard stopped it or its agent does not generate (MLE), keeps its last score. Where
        an evaluation beside it has none, neither has this place: a policy that has left the MLE's curve in a collapse
        does not keep the gap that it had before.
        """
        if not self.points:
            return float("nan")
        rows = [(getattr(point, axis), point.scores.get(metric, float("nan"))) for point in self.points]
        used, scores = np.array(rows, dtype=float).T
        return float(np.interp(amount, used, scores))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All jobs of a comparison, whatever their state."""

    name: str
    tasks: tuple[Task, ...]
    jobs: tuple[Job, ...]
    budget: int
    """Generated tokens at which the first table compares."""
    evaluations: int
    """Reward evaluations at which the second table compares."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the comparison, as in its ``comparison.json``."""
    command: str = ""
    """What made it."""
    machine: str = ""

    def task(self, name: str) -> Task:
        """The task of this name."""
        return next(task for task in self.tasks if task.name == name)

    def agents(self, task: str) -> tuple[str, ...]:
        """Agents of a task, in the order in which they were asked for."""
        return tuple(dict.fromkeys(job.agent for job in self.jobs if job.task == task))

    def of(self, task: str, agent: str) -> tuple[Job, ...]:
        """An agent's finished jobs on a task, by seed."""
        found = [job for job in self.jobs if (job.task, job.agent, job.state) == (task, agent, "done")]
        return tuple(sorted(found, key=lambda job: job.seed))

    def scores(self, task: str, agent: str, metric: str, axis: Axis = "tokens") -> dict[int, float]:
        """A score by seed at the budget (or at the equal number of reward evaluations); NaN where it is not known."""
        amount = self.amount(self.task(task), axis)
        return {job.seed: job.score_at(axis, amount, metric) for job in self.of(task, agent)}

    def amount(self, task: Task, axis: Axis) -> float:
        """How much of this each job has used when the agents of a task are compared."""
        return {
            "tokens": task.budget or self.budget,
            "evaluations": task.evaluations or self.evaluations,
            "seconds": float("inf"),
        }[axis]


def shared_seeds(scores: Sequence[Mapping[int, float]]) -> tuple[int, ...]:
    """Seeds for which all of these have a finite score, rising: what paired tests go over."""
    found = [{seed for seed, score in by_seed.items() if np.isfinite(score)} for by_seed in scores]
    return tuple(sorted(set.intersection(*found))) if found else ()
