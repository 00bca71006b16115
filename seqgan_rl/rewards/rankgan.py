"""RankGAN's reward (Lin et al. 2017): how a sequence ranks beside real ones, judged from real references.

Letters: B sequences, T tokens each, U references, C compared ones, F features.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.discriminators.base import ROWS_AT_ONCE, Discriminator
from seqgan_rl.rewards.base import Reward, RewardParts
from seqgan_rl.rewards.discriminator import discriminator_of
from seqgan_rl.rewards.names import rewards


class RankGANReward(Reward):
    """log R(Y | U, C) with R the mean over references u of exp(γ α(Y|u)) / Σ_{s in C + {Y}} exp(γ α(s|u)), where
    α(s|u) is the cosine of the discriminator's feature vectors of s and u.

    Args:
        discriminator: gives the features; held by reference, so the reward changes as it is retrained.
        real_NT: real sequences, of which references and comparisons are drawn once (all of U + C different where
            there are enough), so that row b stays a function of row b alone.
        rng: draws them.
        num_references, num_compared: U and C.
        gamma: γ > 0, an inverse temperature.
    """

    discriminator: Discriminator

    def __init__(
        self,
        discriminator: Discriminator,
        real_NT: Tensor,
        rng: np.random.Generator,
        *,
        num_references: int = 16,
        num_compared: int = 64,
        gamma: float = 1.0,
    ) -> None:
        if num_references < 1 or num_compared < 1:
            raise ValueError(
                f"num_references and num_compared must be at least 1, got {num_references} and {num_compared}"
            )
        if not gamma > 0:
            raise ValueError(f"gamma must be above 0, got {gamma}")
        self.discriminator, self.gamma = discriminator, gamma
        wanted = num_references + num_compared
        rows = rng.choice(len(real_NT), size=wanted, replace=wanted > len(real_NT))
        drawn = real_NT[torch.from_numpy(rows).to(real_NT.device)]
        self.reference_UT, self.compared_CT = drawn.split([num_references, num_compared])

    @torch.no_grad()
    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        reference_UF, compared_CF = self._directions(self.reference_UT), self._directions(self.compared_CT)
        if len(tokens_BT) == 0:
            return tokens_BT.new_zeros(0, dtype=torch.float32)
        others_U = (self.gamma * reference_UF @ compared_CF.T).logsumexp(dim=1)
        own_BU = self.gamma * self._directions(tokens_BT) @ reference_UF.T
        log_share_BU = own_BU - torch.logaddexp(own_BU, others_U)
        return log_share_BU.logsumexp(dim=1) - float(np.log(len(reference_UF)))

    def _directions(self, tokens_BT: Tensor) -> Tensor:
        """Feature vectors of length 1, (B, F), in evaluation mode."""
        parts = tokens_BT.to(self.discriminator.device).split(ROWS_AT_ONCE)
        with evaluation_mode(self.discriminator):
            return torch.cat([functional.normalize(self.discriminator.features(part), dim=1) for part in parts])


@rewards.register("rankgan")
def rankgan(parts: RewardParts) -> Reward:
    """log of the rank among real sequences."""
    return RankGANReward(discriminator_of(parts), parts.real_sequences("rankgan"), parts.rng)
