"""The exact track: agents on tasks small enough to enumerate, where their scores are known instead of estimated.

Every agent of a seed starts from the same policy π_ref, a generator fitted by maximum likelihood as in any other run.
What it is at every evaluation follows from the tables of `seqgan_rl.envs.exact`, without sampling.
Letters: B sub-environments, T tokens in the longest sequence, N rollouts.
"""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from tqdm.auto import tqdm

from seqgan_rl.adversarial.agent import check_finite, global_streams, learn, seeded_agent
from seqgan_rl.adversarial.algorithms import AgentParts
from seqgan_rl.adversarial.config import AgentConfig, GeneratorConfig, RunConfig
from seqgan_rl.adversarial.player import Player
from seqgan_rl.adversarial.rounds import Stopwatch
from seqgan_rl.adversarial.run_folder import AgentWriter, MetricsLog, RunFolder
from seqgan_rl.agents.policy import GeneratorActorCritic
from seqgan_rl.agents.warm_start import generator_kwargs
from seqgan_rl.core.config import as_dict, read_yaml
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_text
from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.core.streams import stream, torch_seeded
from seqgan_rl.envs.exact import ExactTask, SequenceTree, TableReward
from seqgan_rl.envs.options import ExactOptions
from seqgan_rl.envs.sb3 import make_sb3_env
from seqgan_rl.models.generator import Generator, LSTMGenerator, generators
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer
from seqgan_rl.rewards import ConstantReward, RandomReward, Reward, ShuffledReward, rewards

START = "mle"
"""The name of the start alone."""
NEED_REAL_DATA = ("mle_continued", "scheduled_sampling", "vae", "pg_bleu")
"""Agents that there are not here."""
REAL_SEQUENCES, VALID_SEQUENCES = 1024, 256
"""What the start is fitted to, and stopped early on."""
EPOCHS = 20
"""Passes over them at the most."""
SAMPLES = 16
"""Sequences shown of each agent."""
MAX_ENVS = 65_536


@dataclass(frozen=True, kw_only=True)
class ExactJob:
    """One agent on one exact task with one seed: everything that decides its numbers."""

    name: str = "seqgan"
    """The agent's, in the rows and of its random streams; "mle" is the start alone, which does not play."""
    task_name: Literal["table", "grammar", "oracle"] = "table"
    """See :class:`~seqgan_rl.envs.options.ExactOptions`, as for the next three."""
    vocab_size: int = 6
    sequence_length: int = 5
    variable_length: bool = False
    task_seed: int = 0
    """Of the reward, and of the data that the start is fitted to: seeds of the run share both."""
    beta: float = 0.05
    """β of the regularised regret, in units of the reward per nat."""
    seed: int = 0
    """Of the run."""
    tokens: int = 20_000
    """Generated tokens at the end, at least."""
    evaluations: int = 0
    """Sequences scored by the reward at the end, at least: the run goes on until both are reached."""
    points: int = 40
    """The policy is evaluated at the start, and whenever another of so many parts of either budget is used up."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """Its reward "constant", "random" or "shuffled" (of whatever) is that control; any other is the task's own."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    threads: int = 1
    """Threads of the arithmetic; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        if not (self.name and self.name.isprintable()):
            raise InputError(f"name must be a printable text, got {self.name!r:.60}")
        for name, least in (("tokens", 1), ("evaluations", 0), ("points", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.beta < math.inf:
            raise InputError(f"beta must be a finite number above 0, got {self.beta}")
        if not 0 <= self.task_seed < 2**32:
            raise InputError(f"task_seed must lie in [0, 2^32), got {self.task_seed}")
        try:
            _ = self.environment, SequenceTree(self.vocab_size, self.sequence_length, self.variable_length)
        except ValueError as error:
            raise InputError(str(error)) from None
        _ = self.run_config
        self._check_agent()

    def _check_agent(self) -> None:
        agent = self.agent
        if self.name in NEED_REAL_DATA or "bleu" in rewards.names_in(agent.reward) or agent.mle_coef:
            raise InputError(
                f"{self.name} needs real data (reward {agent.reward!r}, mle_coef {agent.mle_coef:g}), which exact "
                "tasks do not have; compare it on the others"
            )
        if agent.score_differences:
            raise InputError(f"{self.name}: score_differences scores prefixes, which an exact task's reward does not")
        if agent.batch_size > MAX_ENVS:
            raise InputError(f"{self.name}: agent.batch_size must be at most {MAX_ENVS:,}, got {agent.batch_size}")

    @property
    def environment(self) -> ExactOptions:
        """The task."""
        return ExactOptions(
            task_name=self.task_name,
            vocab_size=self.vocab_size,
            sequence_length=self.sequence_length,
            variable_length=self.variable_length,
            seed=self.task_seed,
        )

    @property
    def run_config(self) -> RunConfig:
        """What a run of the other tracks would be given."""
        own = {name: getattr(self, name) for name in ("seed", "tokens", "agent", "generator", "threads")}
        return RunConfig(scored=self.evaluations, **own)

    @property
    def control(self) -> str:
        """The control that pays the agent; empty where the task does."""
        name = self.agent.reward.partition("(")[0].strip()
        return name if name in ("constant", "random", "shuffled") else ""


class ExactScorer:
    """What is true of a policy on a task: regret, KL from π_ref, entropy.

    Args:
        task: the enumerated task.
        reference: π_ref.
        beta: β of the regularised regret, above 0.
    """

    def __init__(self, task: ExactTask, reference: Generator, beta: float) -> None:
        self.task, self.beta = task, beta
        self.reference = self._log_probs(reference)
        self.action_values = task.evaluate(self.reference).q
        """Q of π_ref, a (V^t, A) table per depth."""
        self.regularised_value = task.regularised_optimum(self.reference, beta)[0]
        """The largest E[R] - β KL(π‖π_ref) that a policy can have."""

    def scores(self, policy: Generator) -> dict[str, float]:
        """``eval/reward`` E[R], ``eval/regret``, ``eval/regularised_regret`` = β KL(π‖π*), ``eval/kl`` and
        ``eval/exact_entropy``, nats per sequence."""
        found = self.task.evaluate(self._log_probs(policy), self.reference)
        assert found.kl is not None
        value, kl = float(found.value), float(found.kl)
        return {
            "eval/reward": value,
            "eval/regret": float(found.regret),
            "eval/regularised_regret": self.regularised_value - (value - self.beta * kl),
            "eval/kl": kl,
            "eval/exact_entropy": float(found.entropy),
        }

    @torch.no_grad()
    def _log_probs(self, policy: Generator) -> list[Tensor]:
        with evaluation_mode(policy):
            return self.task.policy_log_probs(policy)

    def samples(self, policy: Generator, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """``n`` sequences of a policy, as ``{"words": [...], "values": [...]}`` with Q of π_ref for each token."""
        tokens_BT = policy.sample(n, rng=rng).cpu()
        tree, lengths_B = self.task.tree, (tokens_BT != self.task.tree.pad_id).sum(dim=1)
        q_BT = tree.q_of_sequences(self.action_values, tokens_BT, lengths_B)
        return [
            {
                "words": ["<eos>" if token == tree.eos_id else str(token) for token in row[:length]],
                "values": values[:length],
            }
            for row, values, length in zip(tokens_BT.tolist(), q_BT.tolist(), lengths_B.tolist(), strict=True)
        ]


def run_exact(job: ExactJob, folder: str | Path, progress: bool = False) -> None:
    """Run a job and leave its results in a folder.

    ``config.json`` (the job), ``metrics.jsonl`` and ``tensorboard/`` (a row a round as the algorithm records it, and
    one for every evaluation), ``samples.json``, and last ``results.json``. A job that was killed begins anew; of a
    finished one nothing is done. The same job leaves the same bytes but for wall times.

    Args:
        job: the settings.
        folder: is made where it does not exist; other files in it are left alone.
        progress: show a bar.

    Raises:
        InputError: settings that the algorithm or network does not take, or a folder that another run has.
        FloatingPointError: the policy or its update is not finite.
    """
    run = RunFolder(folder)
    if _is_finished(run, job):
        return
    if job.threads:
        torch.set_num_threads(job.threads)
    start = start_policy(job)
    scorer = ExactScorer(job.environment.exact_task(), start, job.beta)
    agent = None if job.name == START else _agent(job, scorer.task, start)
    try:
        make_folder(run.path)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    with run.locked():
        write_text(run / "config.json", _json(as_dict(job)))
        log = MetricsLog(run)
        try:
            if agent is None:
                policy, rounds, scores = start, 0, scorer.scores(start)
                log.write(job.name, "round", 0, {"tokens": 0, "evaluations": 0, "time/training": 0.0, **scores})
            else:
                policy, rounds, scores = _play(job, agent, scorer, log, progress)
        finally:
            log.close()
        samples = scorer.samples(policy, SAMPLES, stream(job.seed, "samples"))
        write_text(run / "samples.json", _json(samples))
        results = {
            "agent": job.name,
            "rounds": rounds,
            "optimal_value": scorer.task.optimal_value,
            "regularised_optimal_value": scorer.regularised_value,
            "scores": scores,
        }
        write_text(run / "results.json", _json(results))


def start_policy(job: ExactJob) -> Generator:
    """π_ref: the job's generator fitted by maximum likelihood, with early stopping, to draws of a small random LSTM."""
    size = job.vocab_size + job.variable_length, job.sequence_length, job.variable_length
    with torch_seeded(stream(job.task_seed, "data source")):
        source = LSTMGenerator(*size, embedding_dim=8, hidden_dim=8, init_std=1.0)  # some 0.8 of the largest entropy
    real_BT = source.sample(REAL_SEQUENCES + VALID_SEQUENCES, rng=stream(job.task_seed, "data"))
    with _building(), torch_seeded(stream(job.seed, "generator init")):
        generator: Generator = generators[job.generator.name](*size, **job.generator.options)
    trainer = LikelihoodTrainer(
        generator,
        real_BT[:REAL_SEQUENCES],
        real_BT[REAL_SEQUENCES:],
        LikelihoodConfig(max_epochs=EPOCHS, patience=1, decays=1),
        stream(job.seed, "mle order"),
    )
    for _ in trainer.epochs():
        pass
    return generator.requires_grad_(False)


def _agent(job: ExactJob, task: ExactTask, start: Generator) -> BaseAlgorithm:
    """The algorithm at the start's weights, in the environment."""
    config, T = job.agent, job.sequence_length
    reward, options = _reward(job, task), job.environment

    def make_env(shaping: str) -> VecEnv:
        env = make_sb3_env(
            options.env_id,
            num_envs=config.batch_size,
            monitor=False,
            shaping=shaping,
            num_rollouts=config.num_rollouts,
            reward=reward,
            rollout_policy=start,
            **{name: getattr(options, name) for name in ("task_name", "vocab_size", "sequence_length", "seed")},
            variable_length=options.variable_length,
        )
        env.seed(int(stream(job.seed, f"{job.name} env").integers(2**31)))
        return env

    def no_data() -> Tensor:
        raise InputError(f"{job.name} asks for real sequences, which exact tasks do not have")

    parts = AgentParts(
        config=config,
        generator=start,
        generator_kwargs=generator_kwargs(start),
        forbidden=(),
        real=no_data,
        make_env=make_env,
        rounds=-(-max(job.tokens // T, job.evaluations) // config.batch_size),
        device=torch.device("cpu"),
    )
    with _building():
        if config.rollouts:  # a round's random numbers; taken from the system only when they are written
            np.empty((config.batch_size, T, config.num_rollouts, T), dtype=np.float32)
        return seeded_agent(parts, job.seed, job.name)


def _reward(job: ExactJob, task: ExactTask) -> Reward:
    """What pays the agent."""
    own, rng = TableReward(task.tree, task.reward_N), stream(job.seed, f"{job.name} reward")
    if job.control == "constant":
        return ConstantReward()
    if job.control == "random":
        return RandomReward(rng)
    return ShuffledReward(own, rng) if job.control == "shuffled" else own


def _play(
    job: ExactJob, agent: BaseAlgorithm, scorer: ExactScorer, log: MetricsLog, progress: bool
) -> tuple[Generator, int, dict[str, float]]:
    """Play and train until the budget is used: the policy at the end, rounds done, its scores."""
    agent.set_logger(Logger(None, [AgentWriter(log, job.name)]))
    with (
        tqdm(total=job.points, desc=f"{job.name:<22}", unit="point", disable=not progress) as bar,
        global_streams(stream(job.seed, f"{job.name} algorithm")),
    ):
        loop = _Rounds(job, scorer, log, bar)
        learn(agent, job.run_config, [loop])
    assert loop.is_over
    assert agent.env is not None
    agent.env.close()
    return loop.generator, loop.round, loop.scores


class _Rounds(BaseCallback):
    """At the start of every round: write what the last one recorded, let the rollout policy follow, evaluate where one
    is due, and stop when the budget is used."""

    def __init__(self, job: ExactJob, scorer: ExactScorer, log: MetricsLog, bar: "tqdm[Any]") -> None:
        super().__init__()
        self.job, self.scorer, self.log, self.bar = job, scorer, log, bar
        self.round = 0
        """Rounds done, each with its update."""
        self.scores: dict[str, float] = {}
        """Of the last evaluation."""
        self.watch = Stopwatch()
        self.is_over = False
        self._has_collected = False
        self._reached: tuple[int, ...] = ()
        """How many of the points lie behind, of tokens and of evaluations."""
        self._copies: list[tuple[Generator, float]] = []
        """Copies of the agent's generator, and the share by which each moves towards it after an update."""

    def _init_callback(self) -> None:
        config, own = self.job.agent, getattr(self.model.policy, "generator", None)
        self.own_generator: Generator | None = own
        self.average = rollout_policy = own
        if own is not None and config.averaging:
            self.average = self._copy(own, 1 - config.averaging)
        if own is not None and config.rollout_update_rate < 1:
            rollout_policy = self._copy(own, config.rollout_update_rate)
        if rollout_policy is not None:
            self.training_env.env_method("set_rollout_policy", rollout_policy)

    def _copy(self, generator: Generator, rate: float) -> Generator:
        self._copies.append((copy.deepcopy(generator), rate))
        return self._copies[-1][0]

    @property
    def generator(self) -> Generator:
        """What is evaluated: see :attr:`seqgan_rl.adversarial.rounds.Rounds.generator`."""
        return Player(self.model) if self.average is None else self.average

    def _on_rollout_start(self) -> None:
        if isinstance(self.model.policy, GeneratorActorCritic):
            self.model.policy.forget()
        if self._has_collected:
            self._end_round()
        points = self.job.points
        budgets = (self._tokens, self.job.tokens), (self._evaluations, self.job.evaluations)
        reached = tuple(min(points, points * used // budget) for used, budget in budgets if budget)
        self.is_over = min(reached) == points
        if reached != self._reached:
            self._reached = reached
            self._evaluate()
            self.bar.update(min(reached) - self.bar.n)

    def _on_rollout_end(self) -> None:
        self._has_collected = True

    def _on_step(self) -> bool:
        return not self.is_over

    @torch.no_grad()
    def _end_round(self) -> None:
        """The update is done: count, check, write, follow."""
        self.round += 1
        check_finite(self.model)
        self.logger.record("tokens", self._tokens)
        self.logger.record("evaluations", self._evaluations)
        self.logger.dump(self.round)
        for copied, rate in self._copies:
            assert self.own_generator is not None
            for mean, last in zip(copied.parameters(), self.own_generator.parameters(), strict=True):
                mean.lerp_(last, rate)

    def _evaluate(self) -> None:
        """One row of the log."""
        self.watch.stop()
        self.scores = self.scorer.scores(self.generator)
        used = {"tokens": self._tokens, "evaluations": self._evaluations, "time/training": self.watch.seconds}
        self.log.write(self.job.name, "round", self.round, {**used, **self.scores})
        self.watch.start()

    @property
    def _tokens(self) -> int:
        return self.model.num_timesteps

    @property
    def _evaluations(self) -> int:
        """Sequences scored: finished ones, and N completions of every prefix that was valued."""
        return int(self.training_env.get_attr("num_scored", indices=0)[0])


def _is_finished(run: RunFolder, job: ExactJob) -> bool:
    """Whether the folder holds the finished run of this job. InputError where it holds that of another."""
    if not (run / "config.json").exists():
        return False
    if read_yaml(run / "config.json") != json.loads(_json(as_dict(job))):
        raise InputError(f"folder {run.path} holds a run with other settings; choose another folder, or remove it")
    return (run / "results.json").is_file()


@contextmanager
def _building() -> Iterator[None]:
    """InputError where a part cannot be made from its settings."""
    try:
        yield
    except InputError:
        raise
    except (MemoryError, TypeError, ValueError, RuntimeError, AssertionError) as error:  # SB3 asserts its arguments
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"a part of the run cannot be built: {reason or type(error).__name__}") from error


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"
