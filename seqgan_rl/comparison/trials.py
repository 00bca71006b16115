"""What a search of hyperparameters is asked for, its trials, and what it finds: plain data."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from seqgan_rl.adversarial.config import RunConfig, preset
from seqgan_rl.comparison.experiment import CompareConfig, ExactTrack
from seqgan_rl.comparison.hyperparameters import AgentSpec, Settings
from seqgan_rl.core.errors import InputError

FIRST_SEED = 1_000
"""Tuning counts its seeds from here, comparisons from 0: settings are judged on seeds that had no part in their
choice."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search an agent's hyperparameters: trials of full jobs, each proposed from those before it."""

    agent: str = "ppo"
    """An agent of the hyperparameters file."""
    env: str = "SeqGAN/Oracle-v0"
    """SeqGAN/Oracle-v0, SeqGAN/Corpus-v0 or SeqGAN/Exact-v0."""
    task: str | None = None
    """adversarial, frozen-oracle, frozen-bleu (or another reward that stays as it is), exact-table, exact-grammar or
    exact-oracle. None: adversarial, or exact-table on SeqGAN/Exact-v0."""
    reward: str = "logit"
    """The reward of the adversarial task, for agents that have none of their own."""
    trials: int = 30
    """Trials in all; the first has the settings as they are. The same command with more goes on."""
    seeds: int = 2
    """Seeds of each trial, 1000, 1001...; the score is their mean."""
    budget: int = 50_000
    """Tokens that a job generates."""
    search_seed: int = 0
    """Of the search."""
    hyperparameters: str | None = None
    """A YAML file laid over the hyperparameters of the library, from which the search starts."""
    search: str | None = None
    """A YAML file of what is searched, in place of the table in docs/tuning.md: a setting's name, then {low: 1.0e-4,
    high: 1.0e-2, log: true} (whole numbers where both ends are) or a list of choices."""
    folder: str | None = None
    """Folder of the study. None: runs/tune-AGENT-ENV-TASK. An interrupted study goes on there."""
    exact: ExactTrack = field(default_factory=ExactTrack)
    """Sizes of the exact tasks; tasks and budget are those above."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: preset("corrected"))
    """Data, network, MLE and discriminator; agent, seed, rounds and controls are the search's."""

    def __post_init__(self) -> None:
        for name in ("trials", "seeds", "budget"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.search_seed < 0:
            raise InputError(f"search_seed must be at least 0, got {self.search_seed}")
        _ = self.comparison

    @property
    def task_name(self) -> str:
        """The task, with its default filled in."""
        return self.task or ("exact-table" if self.env == "SeqGAN/Exact-v0" else "adversarial")

    @property
    def own_reward(self) -> str:
        """The reward of agents that have none of their own, on this task."""
        track, _, name = self.task_name.partition("-")
        return {"frozen": name, "exact": "oracle"}.get(track, self.reward)

    @property
    def path(self) -> Path:
        """The study's folder."""
        return Path(self.folder or f"runs/tune-{self.agent}-{self.env.rpartition('/')[2]}-{self.task_name}")

    @property
    def comparison(self) -> CompareConfig:
        """The comparison whose jobs are the trials'. Its data are others than a comparison of the same settings has:
        another draw from the oracle or split of the corpus, never a test file; other rewards of an exact task."""
        track, _, name = self.task_name.partition("-")
        data = replace(self.run.data, data_seed=self.run.data.data_seed + FIRST_SEED, test=None)
        exact = replace(self.exact, budget=self.budget, task_seed=self.exact.task_seed + FIRST_SEED)
        return CompareConfig(
            agents=(self.agent,),
            env=self.env,
            tracks=(track,),
            seeds=1,
            budget=self.budget,
            evaluations=1,  # no further than the budget
            reward=self.reward,
            frozen_rewards=(name,) if track == "frozen" else (),
            hyperparameters=self.hyperparameters,
            exact=replace(exact, tasks=(name,)) if track == "exact" else exact,
            run=replace(self.run, data=data),
        )


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One job of a trial."""

    agent: AgentSpec
    settings: Settings
    """The same by the keys of the hyperparameters file."""
    seed: int
    trial: int
    report: Callable[[int, float], None]
    """To be called with the tokens so far and the score, after each evaluation; it raises what gives the trial up."""


Objective = Callable[[Attempt], float]
"""Runs a job and returns its score. FloatingPointError: it diverged."""
State = Literal["complete", "pruned", "diverged"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial, as a file of the study keeps it."""

    number: int
    state: State
    params: dict[str, Any]
    """What was searched; nothing in trial 0, which has the settings as they are."""
    value: float | None
    """Mean score over the seeds; None unless complete."""
    reports: dict[str, float]
    """Scores along the way, by tenths of the budget (the second seed's from 10 on)."""
    seconds: float
    note: str = ""
    """Why it diverged."""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What a study has found."""

    folder: Path
    trials: tuple[Trial, ...]
    best: Trial
    settings: Settings
    """Of the best trial, by the keys of the hyperparameters file."""
    summary: str
    """A few lines for people."""
