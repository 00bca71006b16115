"""A task: what is fixed about token-by-token generation, shared by all environments of a process that play it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from seqgan_rl.models.decoding import RolloutPolicy
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.models.sampling import SamplingOptions
from seqgan_rl.rewards.base import Reward
from seqgan_rl.sequences import Corpus, Vocabulary


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
    name: str = field(default="")

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
        return self.make_reward()

    @cached_property
    def rollout_policy(self) -> RolloutPolicy:
        """The rollout policy that environments of this task start with."""
        return self.make_rollout_policy()

    @cached_property
    def rollout_options(self) -> SamplingOptions:
        """How rollouts sample: at temperature 1, without forbidden tokens."""
        return SamplingOptions(forbidden=self.forbidden)
