"""The discriminator as reward: D(Y) as in the paper, and its logit."""

import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.discriminators.base import Discriminator
from seqgan_rl.rewards.base import Reward, RewardParts, rewards

FORMS = ("probability", "logit")
LOGIT_CLIP = 10.0
"""The logit is clipped to this on both sides, so that one confident mistake cannot outweigh a batch."""


class DiscriminatorReward(Reward):
    """D(Y) = sigmoid(logit), Yu et al. Eq. (2), or the logit itself = log D/(1-D), the log-ratio of real to generated
    where D is optimal, clipped to +-10.

    Holds the discriminator by reference: when it is retrained, the reward changes with it.
    """

    discriminator: Discriminator

    def __init__(self, discriminator: Discriminator, form: str = "probability") -> None:
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")
        self.discriminator, self.form = discriminator, form

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        logits_B = self.discriminator.score(tokens_BT)
        return torch.sigmoid(logits_B) if self.form == "probability" else logits_B.clamp(-LOGIT_CLIP, LOGIT_CLIP)


def _discriminator_of(parts: RewardParts) -> Discriminator:
    if parts.discriminator is None:
        raise InputError("this reward needs a discriminator, and the task has none; name one or choose another reward")
    return parts.discriminator


@rewards.register("discriminator")
def probability(parts: RewardParts) -> Reward:
    """D(Y), the paper's reward."""
    return DiscriminatorReward(_discriminator_of(parts))


@rewards.register("logit")
def logit(parts: RewardParts) -> Reward:
    """log D(Y)/(1-D(Y)), clipped to +-10."""
    return DiscriminatorReward(_discriminator_of(parts), "logit")
