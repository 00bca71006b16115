"""Control rewards: what an algorithm does when the reward says nothing. A claim must beat all three."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.rewards.base import Reward, RewardParts, rewards
from seqgan_rl.rewards.discriminator import probability


class ConstantReward(Reward):
    """R(Y) = value."""

    reads_sequences = False

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        return torch.full((len(tokens_BT),), self.value, device=tokens_BT.device)


class RandomReward(Reward):
    """R(Y) ~ U[0, 1), drawn anew at every scoring, and for every action value on its own: a mean over N completions
    would shrink the noise by sqrt(N) and so weaken the control."""

    reads_sequences = False

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        return self.arrange(lengths_B)

    def arrange(self, values: Tensor) -> Tensor:
        """Noise of the same shape."""
        return torch.from_numpy(self.rng.random(tuple(values.shape), dtype=np.float32)).to(values.device)

    def state_dict(self) -> dict[str, Any]:
        """Random state."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.rng.bit_generator.state = state["rng"]


class ShuffledReward(Reward):
    """Another reward handed to the wrong sequences: values of a batch are permuted, each sequence's profile whole.

    The only reward in which row b does not depend on row b alone.
    """

    def __init__(self, inner: Reward, rng: np.random.Generator) -> None:
        self.inner, self.rng = inner, rng
        self.discriminator = inner.discriminator

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The inner reward, not yet permuted: completions must be averaged within their own sequence first."""
        return self.inner.score(tokens_BT, lengths_B)

    def arrange(self, values: Tensor) -> Tensor:
        """Rows in random order."""
        return values[torch.from_numpy(self.rng.permutation(len(values))).to(values.device)]

    def state_dict(self) -> dict[str, Any]:
        """Random state, and that of the inner reward."""
        return {"rng": self.rng.bit_generator.state, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.rng.bit_generator.state = state["rng"]
        self.inner.load_state_dict(state["inner"])


@rewards.register("constant")
def constant(parts: RewardParts) -> Reward:
    """R(Y) = 1."""
    return ConstantReward()


@rewards.register("random")
def random(parts: RewardParts) -> Reward:
    """R(Y) ~ U[0, 1)."""
    return RandomReward(parts.rng)


@rewards.register("shuffled")
def shuffled(parts: RewardParts) -> Reward:
    """D(Y) of another sequence of the batch."""
    return ShuffledReward(probability(parts), parts.rng)
