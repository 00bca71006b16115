"""Control rewards: what an algorithm does when the reward says nothing. A claim must beat all three."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.rewards.base import Reward, RewardParts, WrappedReward
from seqgan_rl.rewards.discriminator import probability
from seqgan_rl.rewards.names import rewards, wrappers

SMALL_GROUP = 16
"""Fewer rows than this are not shuffled among themselves alone."""
POOL_SIZE = 64
"""Values kept to be handed to small groups."""


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


class ShuffledReward(WrappedReward):
    """Another reward handed to the wrong sequences: values of a batch are permuted, each sequence's profile whole (with
    ``shaping="rollout"``, where values come step by step, every step anew).

    Sequences that end at different steps are scored in small groups, and a row alone would keep its own value: groups
    of fewer than 16 rows trade theirs with a pool of the last 64 or so.
    """

    depends_on_batch = True

    def __init__(self, inner: Reward, rng: np.random.Generator) -> None:
        super().__init__(inner)
        self.needs_whole_batch = inner.needs_whole_batch
        self.rng = rng
        self.pool: Tensor | None = None
        """Values that wait for a sequence to be handed to, shaped as the rows were."""

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The inner reward, not yet permuted: completions must be averaged within their own sequence first."""
        return self.inner.score(tokens_BT, lengths_B)

    def score_prefixes(self, tokens_BT: Tensor, pad_id: int) -> Tensor:
        """See :meth:`Reward.score_prefixes`; not yet permuted."""
        return self.inner.score_prefixes(tokens_BT, pad_id)

    def arrange(self, values: Tensor) -> Tensor:
        """Rows, as the inner reward arranges them, in random order."""
        values = self.inner.arrange(values)
        if len(values) >= SMALL_GROUP:
            return self._permuted(values)
        waiting = values[:0]
        if self.pool is not None and self.pool.shape[1:] == values.shape[1:]:
            waiting = self.pool.to(values)
        mixed = self._permuted(torch.cat([waiting, values]))
        self.pool = mixed[len(values) :] if len(waiting) >= POOL_SIZE else mixed
        return mixed[: len(values)]

    def _permuted(self, values: Tensor) -> Tensor:
        return values[torch.from_numpy(self.rng.permutation(len(values))).to(values.device)]

    def state_dict(self) -> dict[str, Any]:
        """Random state, the pool, and the state of the inner reward."""
        return {"rng": self.rng.bit_generator.state, "pool": self.pool, **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.rng.bit_generator.state = state["rng"]
        self.pool = state.get("pool")
        super().load_state_dict(state)


@rewards.register("constant", needs_discriminator=False)
def constant(parts: RewardParts) -> Reward:
    """R(Y) = 1."""
    return ConstantReward()


@rewards.register("random", needs_discriminator=False)
def random(parts: RewardParts) -> Reward:
    """R(Y) ~ U[0, 1)."""
    return RandomReward(parts.rng)


@rewards.register("shuffled")
def shuffled(parts: RewardParts) -> Reward:
    """D(Y) of another sequence of the batch."""
    return ShuffledReward(probability(parts), parts.rng)


@wrappers.register("shuffled")
def shuffle(inner: Reward, parts: RewardParts) -> Reward:
    """Another reward of another sequence of the batch."""
    return ShuffledReward(inner, parts.rng)
