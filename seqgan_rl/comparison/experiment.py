"""What a comparison is made of: its settings, and the jobs that they ask for.

Every (task, agent, seed) is a job in a folder of its own. Jobs of a seed share the data and one start, which is trained
first: the MLE, the discriminator trained against it, and the MLE's temperature curve.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from seqgan_rl.adversarial.config import RunConfig, preset
from seqgan_rl.adversarial.data import RunData, prepare_data
from seqgan_rl.comparison.exact import NEED_REAL_DATA, START, ExactJob
from seqgan_rl.comparison.hyperparameters import AgentSpec, agent_spec
from seqgan_rl.comparison.records import Task
from seqgan_rl.core.config import as_dict
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.rewards import rewards

Names = Annotated[
    tuple[str, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME[,NAME...]",
        instance_from_str=lambda words: tuple(name for word in words for name in word.split(",") if name),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda names: [",".join(names)],
    ),
]
"""Names with commas or spaces between them."""

AGENTS = (
    *("mle", "mle_continued", "scheduled_sampling", "pg_bleu", "seqgan", "seqgan_advantage", "rloo", "grpo"),
    *("ppo", "a2c", "trpo", "dqn", "constant", "random", "shuffled"),
)
TRACKS = ("exact", "frozen", "adversarial")
ENVIRONMENTS = ("SeqGAN/Oracle-v0", "SeqGAN/Corpus-v0", "SeqGAN/Exact-v0")
MARKS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Shares of the budget at which policies are scored."""
MORE_EVALUATIONS = 10
"""Reward evaluations of the second table, in those of an agent without rollouts at the budget."""
MORE_EXACT_EVALUATIONS = 3
"""The same on exact tasks, where updates cost more than rewards."""


@dataclass(frozen=True, kw_only=True)
class ExactTrack:
    """Tasks of the exact track."""

    tasks: Names = ("table", "grammar")
    """Of table, grammar and oracle; see SeqGAN/Exact-v0."""
    vocab_size: int = 6
    """V; V^T may reach about 10^6."""
    sequence_length: int = 5
    """T."""
    variable_length: bool = False
    """Whether there is an EOS action (table and grammar)."""
    task_seed: int = 0
    """Of the rewards."""
    beta: float = 0.05
    """β of the regularised regret, in units of the reward per nat."""
    budget: int = 20_000
    """Generated tokens of each agent."""

    @property
    def evaluations(self) -> int:
        """Sequences scored by the reward at which the second table compares."""
        return MORE_EXACT_EVALUATIONS * -(-self.budget // max(1, self.sequence_length))


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Everything that decides the numbers of a comparison."""

    agents: Names = AGENTS
    """Agents and controls, of hyperparameters.yaml or your own file; "mle" is always there."""
    env: str = "SeqGAN/Oracle-v0"
    """SeqGAN/Oracle-v0, SeqGAN/Corpus-v0 (with corpus) or SeqGAN/Exact-v0, which is the exact track alone."""
    tracks: Names = ("adversarial",)
    """Of adversarial (in the GAN), frozen (a reward that stays as it is) and exact (enumerated tasks)."""
    seeds: int = 5
    """Runs of each agent on each task, with the seeds 0, 1, ..."""
    budget: int = 200_000
    """Tokens that each agent generates."""
    evaluations: int = 0
    """Sequences scored by the reward, completions included, at which the second table compares; agents go on until they
    have used both. 0: ten times what an agent without rollouts needs for the budget."""
    reward: str = "logit"
    """The reward of the adversarial track, for agents that have none of their own."""
    frozen_rewards: Names = ("oracle", "bleu")
    """Rewards of the frozen track: registered ones without a discriminator."""
    hyperparameters: str | None = None
    """A YAML file laid over ours: agent, environment, settings."""
    exact: ExactTrack = field(default_factory=ExactTrack)
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: preset("corrected"))
    """Data, network, MLE and discriminator, the same for all; agent, seed, rounds and controls are the comparison's."""

    def __post_init__(self) -> None:
        if self.env not in ENVIRONMENTS:
            hint = did_you_mean(self.env, list(ENVIRONMENTS))
            raise InputError(f"env must be one of {', '.join(ENVIRONMENTS)}; got {self.env!r}{hint}")
        for name, known in (("tracks", TRACKS), ("exact.tasks", ("table", "grammar", "oracle"))):
            chosen = self.tracks if name == "tracks" else self.exact.tasks
            unknown = [value for value in chosen if value not in known]
            if unknown or not chosen:
                raise InputError(f"{name} must be some of {', '.join(known)}; got {', '.join(unknown) or 'none'}")
        if self.env == "SeqGAN/Exact-v0":
            object.__setattr__(self, "tracks", ("exact",))
        for name in ("seeds", "budget"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seeds > 1000:
            raise InputError(f"seeds must be at most 1,000, for those after are of `seqgan-rl tune`; got {self.seeds}")
        if self.evaluations < 0 or self.exact.budget < 1:
            raise InputError(
                f"evaluations must be at least 0 and exact.budget 1, got {self.evaluations}, {self.exact.budget}"
            )
        if "frozen" in self.tracks and not self.frozen_rewards:
            raise InputError("frozen_rewards must name at least one for the frozen track, such as bleu; got none")
        if not self.agents:
            raise InputError("agents must name at least one, such as seqgan_advantage (mle is always there); got none")
        for reward in self.frozen_rewards:
            _ = rewards[reward]
            if rewards.needs_discriminator(reward) or not rewards.names_in(reward).isdisjoint(("random", "constant")):
                raise InputError(f"frozen_rewards must stay as they are, such as oracle or bleu; got {reward!r}")
        if not rewards.needs_discriminator(self.reward):
            raise InputError(
                f"reward must be one of a discriminator, such as logit; got {self.reward!r}, which is one for "
                "frozen_rewards"
            )
        object.__setattr__(self, "agents", tuple(dict.fromkeys((START, *self.agents))))
        if (self.env == "SeqGAN/Corpus-v0") != (self.run.data.corpus is not None) and self.env != "SeqGAN/Exact-v0":
            raise InputError(
                "env and corpus must fit: SeqGAN/Corpus-v0 takes --corpus FILE (or --corpus proverbs), "
                f"SeqGAN/Oracle-v0 none; got env {self.env} and corpus {self.run.data.corpus!r}"
            )

    @property
    def plays_sequences(self) -> bool:
        """Whether there is a track with data, and so with starts."""
        return any(track != "exact" for track in self.tracks)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One job: what ``job.json`` in its folder holds."""

    kind: Literal["start", "fitted", "agent", "exact"]
    task: str
    agent: str
    seed: int
    config: dict[str, Any]
    """Of a run, or of an exact job."""
    reward: str = ""
    """That samples are coloured by."""
    budget: int = 0
    evaluations: int = 0

    @property
    def folder(self) -> str:
        """Relative to the comparison's."""
        if self.kind == "start":
            return f"starts/seed-{self.seed}"
        return f"runs/{slug(self.task)}/{slug(self.agent)}/seed-{self.seed}"


def tasks_of(config: CompareConfig) -> tuple[Task, ...]:
    """The tasks of a comparison, in the order of its report."""
    has_oracle = config.run.data.corpus is None
    scores = ("gap", "nll_oracle", "nll_test", "entropy", "distinct_tokens", "kl_g_o")
    if not has_oracle:
        scores = ("bleu_gap", "bleu_4", "self_bleu_4", "nll_test", "entropy", "distinct_tokens")
    found = []
    for track in config.tracks:
        if track == "adversarial":
            label = f"in the GAN, reward {config.reward}"
            found.append(Task(name=track, kind="adversarial", label=label, primary=scores[0], metrics=scores))
        elif track == "frozen":
            for reward in config.frozen_rewards:
                if reward == "oracle" and not has_oracle:
                    raise InputError(
                        "frozen_rewards: a corpus has no oracle; leave it out, as in --frozen-rewards bleu"
                    )
                metrics = ("reward", "entropy", "distinct_tokens", *(n for n in scores[:3] if n != "bleu_gap"))
                label = f"the reward {reward}, which stays as it is"
                found.append(
                    Task(name=f"frozen-{reward}", kind="frozen", label=label, primary="reward", metrics=metrics)
                )
        else:
            for task in config.exact.tasks:
                own = config.exact
                label = f"SeqGAN/Exact-v0 {task}, V={own.vocab_size}, T={own.sequence_length}, β={own.beta:g}"
                metrics = ("regret", "regularised_regret", "kl", "exact_entropy")
                found.append(
                    Task(
                        name=f"exact-{task}",
                        kind="exact",
                        label=label,
                        primary="regret",
                        metrics=metrics,
                        budget=own.budget,
                        evaluations=own.evaluations,
                    )
                )
    return tuple(found)


def prepare(config: CompareConfig) -> tuple[CompareConfig, RunData | None]:
    """The settings with what was left open filled in, and the data; InputError for anything that would stop a job."""
    data = prepare_data(config.run.data) if config.plays_sequences else None
    if data is not None and not config.evaluations:
        sequences = -(-config.budget // data.corpus.sequence_length)
        config = dataclasses.replace(config, evaluations=MORE_EVALUATIONS * sequences)
    if len({slug(agent) for agent in config.agents}) < len(config.agents):
        raise InputError(f"agents must differ in letters and digits, got {', '.join(config.agents)}")
    folders = [spec.folder for spec in specs(config, data)]
    if len(set(folders)) < len(folders):
        raise InputError(
            "tracks, frozen_rewards and exact.tasks must differ in letters and digits, since folders are named after "
            f"them; got {', '.join((*config.tracks, *config.frozen_rewards, *config.exact.tasks))}"
        )
    return config, data


def specs(config: CompareConfig, data: RunData | None) -> Iterator[Spec]:
    """All jobs of a comparison; starts first."""
    if config.plays_sequences:
        for seed in range(config.seeds):
            run = _run_config(config, seed, rounds=0)
            yield Spec(kind="start", task="", agent=START, seed=seed, config=as_dict(run), reward=config.reward)
    for task in tasks_of(config):
        for seed in range(config.seeds):
            for agent in config.agents:
                spec = _exact_spec(config, task, agent, seed) if task.kind == "exact" else None
                if task.kind != "exact":
                    assert data is not None
                    spec = _run_spec(config, data, task, agent, seed)
                if spec is not None:
                    yield spec


def _run_spec(config: CompareConfig, data: RunData, task: Task, agent: str, seed: int) -> Spec | None:
    """The job of an agent on a task with data; None where it has nothing to do there."""
    reward = config.reward if task.kind == "adversarial" else task.name.removeprefix("frozen-")
    found = _agent(agent, config.env, reward, config.hyperparameters)
    own = Spec(
        kind="fitted",
        task=task.name,
        agent=agent,
        seed=seed,
        config={},
        reward=reward,
        budget=config.budget,
        evaluations=config.evaluations,
    )
    evaluation = dataclasses.replace(
        config.run.evaluation,
        every=10**9,
        samples=config.run.evaluation.final_samples,
        sample_scores=data.oracle is None,
        reward=None if task.kind == "adversarial" else reward,
        max_nll_rise=config.run.evaluation.max_nll_rise if task.kind == "adversarial" else 1e9,
    )
    if found.kind == "start":
        run = _run_config(config, seed, rounds=0, evaluation=evaluation)
        return dataclasses.replace(own, config=as_dict(run))
    if found.kind == "fitted":
        if task.kind == "frozen":
            return None
        run = _run_config(config, seed, rounds=0, controls=(agent,), evaluation=evaluation)
        return dataclasses.replace(own, config=as_dict(run))
    if task.kind == "frozen" and found.kind == "agent" and found.agent.reward != reward:
        return None  # an agent with a reward of its own, such as pg_bleu
    T, N = data.corpus.sequence_length, found.agent.num_rollouts
    marks = {*(int(config.budget * share) for share in MARKS), config.evaluations * T // (1 + N * (T - 1))}
    last = max(config.budget, config.evaluations * T)
    run = _run_config(
        config,
        seed,
        agent=found.agent,
        tokens=config.budget,
        scored=config.evaluations,
        evaluation=dataclasses.replace(evaluation, at=tuple(sorted(mark for mark in marks if 0 < mark <= last))),
    )
    return dataclasses.replace(own, kind="agent", config=as_dict(run))


def _exact_spec(config: CompareConfig, task: Task, agent: str, seed: int) -> Spec | None:
    if agent in NEED_REAL_DATA:
        return None
    own = config.exact
    # any reward without a discriminator: the task's own takes its place
    found = _agent(agent, "SeqGAN/Exact-v0", "oracle", config.hyperparameters)
    try:
        job = ExactJob(
            name=agent,
            task_name=task.name.removeprefix("exact-"),  # type: ignore[arg-type]
            vocab_size=own.vocab_size,
            sequence_length=own.sequence_length,
            variable_length=own.variable_length,
            task_seed=own.task_seed,
            beta=own.beta,
            seed=seed,
            tokens=own.budget,
            evaluations=own.evaluations,
            agent=found.agent,
            threads=1,
        )
    except InputError as error:
        raise InputError(f"exact track (settings exact.*): {error}") from None
    return Spec(kind="exact", task=task.name, agent=agent, seed=seed, config=as_dict(job))


@functools.lru_cache(maxsize=256)
def _agent(agent: str, env: str, reward: str, hyperparameters: str | None) -> AgentSpec:
    return agent_spec(agent, env, reward=reward, file=None if hyperparameters is None else Path(hyperparameters))


def _run_config(config: CompareConfig, seed: int, **changes: Any) -> RunConfig:
    """Settings of one run: the comparison's but for what each job has of its own."""
    own = {"seed": seed, "controls": (), "threads": 1, "rounds": 1, "tokens": 0, "scored": 0}
    return dataclasses.replace(config.run, **{**own, **changes})


def slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"


def missing(wanted: Sequence[Spec], folder: Path) -> list[Spec]:
    """Those that have left no record yet."""
    return [spec for spec in wanted if not (folder / spec.folder / "record.json").is_file()]
