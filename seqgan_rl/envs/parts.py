"""From the names in an environment's arguments to a reward and a rollout policy, checked to fit the task."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import Registry, did_you_mean
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import Discriminator, discriminators
from seqgan_rl.envs.defaults import DefaultParts, on_device
from seqgan_rl.envs.exact import SequenceTree, TableReward
from seqgan_rl.envs.task import SequenceTask
from seqgan_rl.models.decoding import RolloutPolicy, UniformPolicy
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import Generator, generators
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.rewards import OracleLogLikelihood, OracleLogRatio, Reward, rewards
from seqgan_rl.rewards.base import RewardParts, as_reward


def needs_discriminator(reward: str) -> bool:
    """Whether the reward of this name or formula is built from a discriminator; "task" is not."""
    return reward != "task" and rewards.needs_discriminator(reward)


def needs_generator(reward: str) -> bool:
    """Whether the reward of this name or formula is built from the default generator."""
    return "oracle_log_ratio" in rewards.names_in(reward)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Turns the names in some options into a reward and a rollout policy; fits the default parts only when needed."""

    reward_choice: Any
    discriminator_choice: Any
    policy_choice: Any
    """The arguments ``reward``, ``discriminator`` and ``rollout_policy`` of an environment."""
    device: str
    is_online: bool
    """Whether the discriminator will be trained: a shared one is copied then."""
    num_actions: int
    sequence_length: int
    has_eos: bool
    fit: Callable[[], DefaultParts] | None = None
    """Gives the default parts; None where a task has none."""
    oracle: Oracle | None = None
    real: Callable[[], Tensor] | None = None
    """Gives real training sequences, int64 (N, T); None where a task has none."""

    def _fitted(self) -> DefaultParts:
        assert self.fit is not None, "the options refuse default parts where there are none"
        return self.fit()

    def rollout_policy(self) -> RolloutPolicy:
        """The policy that finishes prefixes; checked to fit the task."""
        chosen = self.policy_choice
        policy: RolloutPolicy
        if chosen == "default":
            policy = on_device(self._fitted().generator, self.device)
        elif chosen == "uniform":
            policy = UniformPolicy(self.num_actions, self.has_eos)
        elif isinstance(chosen, str | Path):
            policy = _saved("rollout_policy", chosen, ["default", "uniform"], generators).to(self.device)
        else:
            policy = chosen
        check_policy(policy, self.num_actions, has_eos=self.has_eos, sequence_length=self.sequence_length)
        return policy

    def discriminator(self) -> Discriminator:
        """The discriminator named or given; checked to fit the task."""
        chosen = self.discriminator_choice
        if chosen == "default" or chosen in discriminators:
            discriminator = self._fitted().discriminator("small_cnn" if chosen == "default" else chosen)
        elif isinstance(chosen, str | Path):
            discriminator = _saved("discriminator", chosen, ["default", *discriminators], discriminators)
        elif isinstance(chosen, Discriminator):
            _check_fits("discriminator", chosen, self)
            return chosen
        else:
            raise ValueError(f"discriminator must be a Discriminator, got {type(chosen).__name__}")
        _check_fits("discriminator", discriminator, self)
        if self.is_online:  # the shared one stays as it is
            return copy.deepcopy(discriminator).to(self.device)
        return on_device(discriminator, self.device)

    def reward(self) -> Reward:
        """The reward named or given, with the parts it needs."""
        chosen = self.reward_choice
        if not isinstance(chosen, str):
            reward = as_reward(chosen)
            check_reward(reward, self)
            return reward
        return rewards[chosen](
            RewardParts(
                discriminator=self.discriminator() if needs_discriminator(chosen) else None,
                oracle=None if self.oracle is None else on_device(self.oracle, self.device),
                generator=on_device(self._fitted().generator, self.device) if needs_generator(chosen) else None,
                real=self.real,
                eos_id=self.num_actions - 1 if self.has_eos else None,
                rng=stream(0, "reward"),
            )
        )


def _saved(argument: str, chosen: str | Path, known: list[str], factories: Registry[Any]) -> Any:
    """A saved model; InputError naming the argument and the names that it takes where there is no such folder."""
    if not Path(chosen).is_dir():
        raise InputError(
            f"{argument} must be one of {', '.join(known)}, a saved one's folder or an object; no folder "
            f"{str(chosen)!r}{did_you_mean(str(chosen), known)}"
        )
    return load_model(chosen, factories)


def check_policy(policy: Any, num_actions: int, *, has_eos: bool, sequence_length: int | None = None) -> None:
    """ValueError unless a rollout policy has ``step`` and the task's number of actions and end rule, and where it has
    a length of its own, the task's."""
    if not hasattr(policy, "step") or not hasattr(policy, "initial_state"):
        raise ValueError(
            f"a rollout policy needs initial_state(batch_size) and step(tokens, state), got {type(policy).__name__}"
        )
    if policy.num_actions != num_actions:
        raise ValueError(f"rollout policy has {policy.num_actions} actions, the task has {num_actions}")
    eos_id = num_actions - 1 if has_eos else None
    if policy.eos_id != eos_id:
        raise ValueError(
            f"rollout policy ends sequences by {policy.eos_id}, the task by {eos_id}; make it with has_eos={has_eos} "
            f"(of a GeneratorPolicy: policy_kwargs={{'has_eos': {has_eos}}})"
        )
    length = getattr(policy, "sequence_length", None)
    if None not in (length, sequence_length) and length != sequence_length:
        raise ValueError(
            f"rollout policy writes {length} tokens, the task has {sequence_length}; make it with "
            f"sequence_length={sequence_length}"
        )


def check_reward(reward: Reward, task: "SequenceTask | Parts") -> None:
    """ValueError where a reward's discriminator, oracle or table is of another task."""
    for part in reward.components:
        check_reward(part, task)
    if isinstance(reward, OracleLogLikelihood | OracleLogRatio):
        _check_fits("the reward's oracle is", reward.oracle.generator, task)
    elif isinstance(reward, TableReward):
        _check_fits("the reward's table is", reward.tree, task)
    elif isinstance(reward.discriminator, Discriminator):
        _check_fits("the reward's discriminator is", reward.discriminator, task)


def _check_fits(what: str, part: Discriminator | Generator | SequenceTree, task: "SequenceTask | Parts") -> None:
    A, T = task.num_actions, task.sequence_length
    if (part.num_actions, part.sequence_length) != (A, T):
        raise ValueError(
            f"{what} of another task: it reads {part.num_actions} actions and {part.sequence_length} tokens, the task "
            f"has {A} and {T}; make or train one for this vocabulary and length"
        )
    if not isinstance(part, Discriminator) and (part.eos_id is not None) != task.has_eos:
        raise ValueError(f"{what} of another task: it ends by {part.eos_id}, the task has has_eos={task.has_eos}")
