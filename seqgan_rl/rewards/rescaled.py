"""Rewards on another scale: by running mean and deviation, and by rank in the batch.

Letters: B sequences, T tokens each.
"""

import math
from typing import Any

import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.rewards.base import Reward, RewardParts, WrappedReward, row_by_row
from seqgan_rl.rewards.discriminator import logit, probability
from seqgan_rl.rewards.names import rewards, wrappers


class NormalisedReward(WrappedReward):
    """(R - mean) / standard deviation, over everything scored before (Welford 1962; in batches Chan et al. 1979).

    The figures stand still while a batch is scored and take it in afterwards, so within a call row b is a function of
    row b alone; until two sequences were scored nothing changes. Completions are scored, and counted, like all others.
    """

    def __init__(self, inner: Reward) -> None:
        super().__init__(row_by_row(inner, "a normalised reward"))
        self.count, self.mean, self.sum_of_squares = 0, 0.0, 0.0
        """Scores seen, their mean, and the sum of their squared deviations from it."""
        self.is_frozen = False
        """Whether scores are no longer taken in."""

    @property
    def deviation(self) -> float:
        """Standard deviation of the scores seen; 1 where they do not tell: below two, or all equal but for rounding."""
        deviation = math.sqrt(self.sum_of_squares / self.count) if self.count > 1 else 0.0
        return deviation if deviation > 1e-6 * abs(self.mean) else 1.0

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        score_B = self.inner.score(tokens_BT, lengths_B)
        mean, deviation = (self.mean, self.deviation) if self.count > 1 else (0.0, 1.0)
        if not self.is_frozen:
            self._take_in(score_B.double())
        return (score_B - mean) / deviation

    def _take_in(self, score_B: Tensor) -> None:
        if len(score_B) == 0:
            return
        batch_mean, total = float(score_B.mean()), self.count + len(score_B)
        difference = batch_mean - self.mean
        self.sum_of_squares += float((score_B - batch_mean).square().sum())
        self.sum_of_squares += difference**2 * self.count * len(score_B) / total
        self.mean += difference * len(score_B) / total
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """The figures, and the state of the inner reward."""
        return {
            "count": self.count,
            "mean": self.mean,
            "sum_of_squares": self.sum_of_squares,
            "is_frozen": self.is_frozen,
            **super().state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.count, self.mean, self.sum_of_squares = state["count"], state["mean"], state["sum_of_squares"]
        self.is_frozen = state.get("is_frozen", self.is_frozen)  # not in states from before it was kept
        super().load_state_dict(state)


class RankReward(WrappedReward):
    """Bootstrapped rescaled activation of LeakGAN (Guo et al. 2018): sigmoid(δ (0.5 - rank/B)) in place of each value.

    The rank is that of the value among the batch at its position, 1 for the highest; equal values share the mean of
    their ranks. So the values of a position always have the same distribution, whatever the discriminator says.

    Args:
        inner: the reward that is ranked.
        delta: δ > 0; 16 in the released program.
    """

    depends_on_batch = needs_whole_batch = True

    def __init__(self, inner: Reward, delta: float = 16.0) -> None:
        if not 0 < delta < math.inf:
            raise ValueError(f"delta must be a finite number above 0, got {delta}")
        super().__init__(row_by_row(inner, "ranks"))
        self.delta = delta

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The inner reward, not yet ranked: completions must be averaged within their own sequence first."""
        return self.inner.score(tokens_BT, lengths_B)

    def arrange(self, values: Tensor) -> Tensor:
        """Rescaled ranks over the rows, at each position. InputError for a single row."""
        if len(values) == 1:
            raise InputError("reward 'rank' ranks the sequences of a batch; score more than 1 at once")
        rank = descending_ranks(values)
        return torch.sigmoid(self.delta * (0.5 - rank / max(1, len(values)))).float()


def descending_ranks(values: Tensor) -> Tensor:
    """Ranks over the rows at each position, 1 for the highest, ties at their mean; float64, shape as given.

    >>> descending_ranks(torch.tensor([0.2, 0.9, 0.2, 0.5])).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    if values.numel() == 0:  # where all sub-environments have just been reset, nothing is scored
        return values.double()
    value_TB = values.double().reshape(len(values), -1).T.contiguous()
    sorted_TB = value_TB.sort(dim=1).values
    below_TB = torch.searchsorted(sorted_TB, value_TB, right=False)
    up_to_TB = torch.searchsorted(sorted_TB, value_TB, right=True)
    rank_TB = len(values) - up_to_TB + (up_to_TB - below_TB + 1).double() / 2
    return rank_TB.T.reshape(values.shape)


@wrappers.register("normalised")
def normalise(inner: Reward, parts: RewardParts) -> Reward:
    """(R - running mean) / running deviation."""
    return NormalisedReward(inner)


@wrappers.register("rank")
def rank(inner: Reward, parts: RewardParts) -> Reward:
    """sigmoid(16 (0.5 - rank/B)) of another reward."""
    return RankReward(inner)


@rewards.register("normalised")
def normalised_logit(parts: RewardParts) -> Reward:
    """The logit by its running mean and deviation."""
    return NormalisedReward(logit(parts))


@rewards.register("rank")
def rank_of_probability(parts: RewardParts) -> Reward:
    """sigmoid(16 (0.5 - rank/B)) of D(Y)."""
    return RankReward(probability(parts))
