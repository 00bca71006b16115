"""Weighted sums of rewards."""

from typing import Any

import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.discriminators.base import Discriminator
from seqgan_rl.rewards.base import Reward, row_by_row


class MixtureReward(Reward):
    """R(Y) = Σ_i w_i R_i(Y).

    Args:
        terms: pairs of weight and reward, at least one. InputError for a reward that acts on whole batches, and for a
            weight that is not finite.
    """

    def __init__(self, terms: list[tuple[float, Reward]]) -> None:
        if not terms:
            raise ValueError("a mixture needs at least one reward, got none")
        self.weights = [float(weight) for weight, _ in terms]
        for weight in self.weights:
            if not abs(weight) <= torch.finfo(torch.float32).max:
                raise InputError(f"the weights of a mixture of rewards must be finite numbers, got {weight}")
        self.rewards = [row_by_row(reward, "a mixture") for _, reward in terms]

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        return self._sum([reward.score(tokens_BT, lengths_B) for reward in self.rewards])

    def score_prefixes(self, tokens_BT: Tensor, pad_id: int) -> Tensor:
        """See :meth:`Reward.score_prefixes`."""
        return self._sum([reward.score_prefixes(tokens_BT, pad_id) for reward in self.rewards])

    def _sum(self, scores: list[Tensor]) -> Tensor:
        total = torch.zeros_like(scores[0])
        for weight, score in zip(self.weights, scores, strict=True):
            total += weight * score
        return total

    @property
    def components(self) -> tuple[Reward, ...]:
        """The rewards summed."""
        return tuple(self.rewards)

    @property
    def reads_sequences(self) -> bool:  # type: ignore[override]
        """Whether any of them does."""
        return any(reward.reads_sequences for reward in self.rewards)

    @property
    def discriminator(self) -> Discriminator | None:
        """The one that they share; setting it sets it in every part that has one."""
        return next((reward.discriminator for reward in self.rewards if reward.discriminator is not None), None)

    @discriminator.setter
    def discriminator(self, discriminator: Discriminator | None) -> None:
        for reward in self.rewards:
            if reward.discriminator is not None:
                reward.discriminator = discriminator

    def state_dict(self) -> dict[str, Any]:
        """Those of the parts."""
        return {"parts": [reward.state_dict() for reward in self.rewards]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        for reward, part in zip(self.rewards, state["parts"], strict=True):
            reward.load_state_dict(part)
