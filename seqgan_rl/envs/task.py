"""A task: what is fixed about token-by-token generation, shared by all environments of a process that play it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import gradients_allowed
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import Adversary, DiscriminatorConfig, DiscriminatorTrainer
from seqgan_rl.models.decoding import RolloutPolicy
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.models.sampling import SamplingOptions
from seqgan_rl.rewards.base import Reward
from seqgan_rl.sequences import Corpus, Vocabulary

REAL_SEQUENCES = 9_984
"""Draws of an oracle that stand for the real data, as in the authors' program."""


@dataclass(frozen=True, kw_only=True)
class OnlineOptions:
    """How an environment retrains its own discriminator (``adversary="online"``)."""

    every: int
    """Finished sequences between two retrainings."""
    minibatches: int
    """Minibatches of a retraining."""


def train_sequences(corpus: Corpus) -> Tensor:
    """The training split, int64 (N, T)."""
    return torch.tensor(corpus.train.tokens_NT)


def drawn_sequences(oracle: Oracle, seed: int) -> Tensor:
    """Draws of an oracle that stand for real sequences, int64 (N, T)."""
    return oracle.sample(REAL_SEQUENCES, stream(seed, "real"))


@dataclass(kw_only=True)
class SequenceTask:
    """Words, horizon and end rule of a task, with the reward and rollout policy that it starts with.

    The two factories are called when the reward or the policy is first needed, since either may have to be fitted.
    """

    vocab_size: int
    """V: words are 0..V-1."""
    sequence_length: int
    """T: a sequence ends here at the latest."""
    has_eos: bool
    """Whether the action V ends a sequence."""
    make_reward: Callable[[], Reward]
    make_rollout_policy: Callable[[], RolloutPolicy]
    forbidden: tuple[int, ...] = ()
    """Actions that the mask rules out (UNK) and rollouts never take."""
    vocabulary: Vocabulary | None = None
    oracle: Oracle | None = None
    corpus: Corpus | None = None
    online: OnlineOptions | None = None
    """Where environments of this task retrain the discriminator themselves."""
    name: str = field(default="")
    holders: WeakSet[Any] = field(default_factory=WeakSet, repr=False)
    """Environments that play it and are not closed."""
    _draws: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a task is not played by the environments that play this one."""
        return {**self.__dict__, "holders": WeakSet()}

    @property
    def num_actions(self) -> int:
        """V, or V + 1 with EOS."""
        return self.vocab_size + self.has_eos

    @property
    def pad_id(self) -> int:
        """One past the last action."""
        return self.num_actions

    @property
    def eos_id(self) -> int | None:
        """V where sequences may end early."""
        return self.vocab_size if self.has_eos else None

    @cached_property
    def reward(self) -> Reward:
        """The reward that environments of this task start with."""
        with gradients_allowed():
            return self.make_reward()

    @cached_property
    def rollout_policy(self) -> RolloutPolicy:
        """The rollout policy that environments of this task start with."""
        with gradients_allowed():
            return self.make_rollout_policy()

    @cached_property
    def adversary(self) -> Adversary | None:
        """What retrains the discriminator of this task, from the sequences finished in all its environments; None
        where the task is frozen. InputError where the reward has no discriminator or there is no real data."""
        if self.online is None:
            return None
        discriminator = self.reward.discriminator
        if discriminator is None:
            raise InputError(
                'adversary="online" retrains the discriminator that pays, but this reward has none; '
                'use reward="discriminator" or "logit", or adversary="frozen"'
            )
        config = DiscriminatorConfig(minibatches_per_round=self.online.minibatches)
        with gradients_allowed():
            real_BT = self.real_sequences(0)
        trainer = DiscriminatorTrainer(discriminator, real_BT, config, stream(0, "discriminator"))
        return Adversary(trainer, every=self.online.every, rng=stream(0, "adversary"))

    def real_sequences(self, seed: int) -> Tensor:
        """Real training sequences, int64 (N, T): the corpus's, or draws of the oracle from this seed. InputError if
        there is neither."""
        if self.corpus is not None:
            return train_sequences(self.corpus)
        if self.oracle is None:
            raise InputError(
                "the environment has neither a corpus nor an oracle to take real sequences from; "
                "use SeqGAN/Oracle-v0 or SeqGAN/Corpus-v0, or give them to AdversarialCallback as `real`"
            )
        if seed not in self._draws:
            self._draws[seed] = drawn_sequences(self.oracle, seed)
        return self._draws[seed]

    @cached_property
    def rollout_options(self) -> SamplingOptions:
        """How rollouts sample: at temperature 1, without forbidden tokens."""
        return SamplingOptions(forbidden=self.forbidden)
