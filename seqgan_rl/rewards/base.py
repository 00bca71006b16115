"""What a reward is: R(Y) of finished sequences.

Letters: B sequences, T tokens each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.core.registry import Registry
from seqgan_rl.discriminators.base import Discriminator
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.oracle import Oracle


class Reward(ABC):
    """R(Y), scored in evaluation mode and without gradients; row b is a function of row b alone."""

    @abstractmethod
    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Rewards of finished sequences.

        Args:
            tokens_BT: token ids, int64, (B, T), PAD after EOS.
            lengths_B: tokens of each sequence, EOS counted, int64, (B,).

        Returns:
            reward_B: float32, (B,).
        """

    discriminator: Discriminator | None = None
    """The discriminator behind this reward, if there is one to be retrained."""

    reads_sequences = True
    """Whether the reward depends on the sequences at all; completions for one that does not are never made."""

    def arrange(self, values: Tensor) -> Tensor:
        """Last touch on a batch of action values, (B,) or (B, T); only the controls change anything here."""
        return values

    def __call__(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """:meth:`score`, then :meth:`arrange`."""
        return self.arrange(self.score(tokens_BT, lengths_B))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to continue (random state); discriminators are saved by their trainer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - nothing to restore is the usual case
        """Continue where :meth:`state_dict` was taken."""


@dataclass(frozen=True, kw_only=True)
class RewardParts:
    """What a named reward may be built from; a part that a task lacks is None."""

    discriminator: Discriminator | None = None
    oracle: Oracle | None = None
    generator: Generator | None = None
    """The generator at the start of the adversarial phase (frozen by whoever needs it frozen)."""
    rng: np.random.Generator


class FunctionReward(Reward):
    """A user's own function ``f(tokens_BT, lengths_B) -> reward_B`` as a reward; its answer is checked."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        B = len(tokens_BT)
        with torch.no_grad():
            answer = self.function(tokens_BT, lengths_B)
        try:
            reward_B = torch.as_tensor(answer, device=tokens_BT.device).detach().float()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"a reward must return shape ({B},), one number a row; got {answer!r:.80}") from None
        if reward_B.shape != (B,):
            raise ValueError(f"a reward must return shape ({B},), one number a row; got shape {tuple(reward_B.shape)}")
        if not reward_B.isfinite().all():
            row = int((~reward_B.isfinite()).nonzero()[0])
            raise ValueError(f"a reward must return finite numbers; got {float(reward_B[row])} in row {row}")
        return reward_B


def as_reward(reward: Reward | Callable[[Tensor, Tensor], Tensor]) -> Reward:
    """A reward as it is, or a function wrapped as one."""
    if isinstance(reward, Reward):
        return reward
    if not callable(reward):
        raise TypeError(f"a reward is a Reward or a function of (tokens_BT, lengths_B), got {type(reward).__name__}")
    return FunctionReward(reward)


rewards: Registry[Callable[[RewardParts], Reward]] = Registry("reward")
"""Rewards by name: ``factory(parts)`` with :class:`RewardParts`."""
