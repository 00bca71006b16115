"""The discriminator as reward: D(Y) as in the paper, and the other functions of its logit that GANs have used.

Letters: B sequences, T tokens each, l the logit, so that D = sigmoid(l).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from seqgan_rl.core.errors import InputError
from seqgan_rl.discriminators.base import Discriminator
from seqgan_rl.rewards.base import Reward, RewardParts
from seqgan_rl.rewards.names import rewards

LOGIT_CLIP = 10.0
"""The logit is clipped to this on both sides, so that one confident mistake cannot outweigh a batch."""


def _clipped(logits_B: Tensor) -> Tensor:
    return logits_B.clamp(-LOGIT_CLIP, LOGIT_CLIP)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "probability": torch.sigmoid,
    "logit": _clipped,
    "log_d": lambda logits_B: functional.logsigmoid(_clipped(logits_B)),
    "neg_log_one_minus_d": lambda logits_B: functional.softplus(_clipped(logits_B)),  # -log(1 - D) = log(1 + e^l)
    "odds": lambda logits_B: _clipped(logits_B).exp(),  # D / (1 - D) = e^l
}


class DiscriminatorReward(Reward):
    """A function of D(Y) = sigmoid(l), Yu et al. Eq. (2). Holds the discriminator by reference: when it is retrained,
    the reward changes with it.

    Args:
        discriminator: D.
        form: "probability": D, the paper's; "logit": l = log D/(1-D), the log-ratio of real to generated where D is
            optimal; "log_d": log D (Goodfellow et al. 2014, the non-saturating loss); "neg_log_one_minus_d":
            -log(1-D) (their minimax loss; Ho and Ermon 2016); "odds": D/(1-D). All but the first are of the logit
            clipped to +-10.
    """

    discriminator: Discriminator

    def __init__(self, discriminator: Discriminator, form: str = "probability") -> None:
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")
        self.discriminator, self.form = discriminator, form

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        return FORMS[self.form](self.discriminator.score(tokens_BT))

    def score_prefixes(self, tokens_BT: Tensor, pad_id: int) -> Tensor:
        """See :meth:`Reward.score_prefixes`."""
        return FORMS[self.form](self.discriminator.score_prefixes(tokens_BT))


class MaliGANReward(DiscriminatorReward):
    """D/(1-D), divided by its mean over the batch: B times the weights r_D(x_i) / Σ_j r_D(x_j) of Che et al. 2017.

    With an optimal D this is the importance weight p_data/p_G, normalised by the batch. Action values (B, T) are
    divided by the mean of their position. Their baseline b is subtracted by the agent (`weights="advantage"`), or not.
    """

    depends_on_batch = needs_whole_batch = True

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__(discriminator, "odds")

    def arrange(self, values: Tensor) -> Tensor:
        """Mean 1 over the rows, at each position; 0, where nothing was scored, stays 0. InputError for a single row."""
        if len(values) == 1:
            raise InputError("reward 'maligan' divides by the mean over a batch; score more than 1 sequence at once")
        count = (values > 0).sum(dim=0).clamp_min(1)
        mean = values.double().sum(dim=0) / count
        return torch.where(values > 0, values / mean, 0.0).float()


def discriminator_of(parts: RewardParts) -> Discriminator:
    """The discriminator of a task; InputError where it has none."""
    if parts.discriminator is None:
        raise InputError("this reward needs a discriminator, and the task has none; name one or choose another reward")
    return parts.discriminator


@rewards.register("discriminator")
def probability(parts: RewardParts) -> Reward:
    """D(Y), the paper's reward."""
    return DiscriminatorReward(discriminator_of(parts))


@rewards.register("logit")
def logit(parts: RewardParts) -> Reward:
    """log D(Y)/(1-D(Y)), clipped to +-10."""
    return DiscriminatorReward(discriminator_of(parts), "logit")


@rewards.register("log_d")
def log_d(parts: RewardParts) -> Reward:
    """log D(Y)."""
    return DiscriminatorReward(discriminator_of(parts), "log_d")


@rewards.register("neg_log_one_minus_d")
def neg_log_one_minus_d(parts: RewardParts) -> Reward:
    """-log(1 - D(Y))."""
    return DiscriminatorReward(discriminator_of(parts), "neg_log_one_minus_d")


@rewards.register("maligan")
def maligan(parts: RewardParts) -> Reward:
    """D(Y)/(1-D(Y)) over its mean in the batch."""
    return MaliGANReward(discriminator_of(parts))
