"""Scheduled sampling: maximum likelihood in which the generator reads more and more of its own tokens.

S. Bengio, Vinyals, Jaitly, Shazeer: "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks" (NIPS
2015, arXiv:1506.03099). A coin of its own for every token says whether the true token is read (probability ε_i, i the
minibatch) or one drawn from the generator's distribution after what it has read so far; the loss is against the true
next token in either case.
Letters: B sequences, T tokens each, A actions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.models.generator import Generator, LSTMGenerator
from seqgan_rl.models.kernels import linear_weighted_nll
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer
from seqgan_rl.models.transformer import TransformerGenerator


@dataclass(frozen=True, kw_only=True)
class ScheduledSamplingConfig(LikelihoodConfig):
    """How a generator is fitted with scheduled sampling. The validation NLL by which weights are selected is that of
    true prefixes, as for maximum likelihood; ``patience=0`` trains through the whole schedule, as the paper does."""

    schedule: str = "inverse_sigmoid"
    """How the share of true tokens falls: "inverse_sigmoid", "linear" or "exponential"."""
    k: float | None = None
    """k of the schedule; None: 300 for inverse_sigmoid (half the tokens after k ln k = 1,711 minibatches), 1 for
    linear, 0.9995 for exponential (half after 1,386)."""
    slope: float = 2.5e-4
    """c of "linear": how much the share of true tokens falls in a minibatch."""
    floor: float = 0.0
    """ε of "linear": the least share of true tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}")
        is_possible, asked = {
            "inverse_sigmoid": (self.offset >= 1, "at least 1"),
            "linear": (0 <= self.offset <= 1, "in [0, 1]"),
            "exponential": (0 < self.offset < 1, "in (0, 1)"),
        }[self.schedule]
        if not is_possible:
            raise ValueError(f"k of the {self.schedule} schedule must be {asked}, got {self.k}")
        if not 0 <= self.slope < math.inf:
            raise ValueError(f"slope must be a finite number of at least 0, got {self.slope}")
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor must lie in [0, 1), got {self.floor}")

    @property
    def offset(self) -> float:
        """k, or its default."""
        defaults = {"inverse_sigmoid": 300.0, "linear": 1.0, "exponential": 0.9995}
        return defaults[self.schedule] if self.k is None else self.k

    def truth_rate(self, minibatch: int) -> float:
        """ε_i: the probability with which a true token is read in minibatch i = 0, 1, ..."""
        return SCHEDULES[self.schedule](minibatch, self)


def _inverse_sigmoid(i: int, config: ScheduledSamplingConfig) -> float:
    """k / (k + exp(i / k))."""
    k = config.offset
    return k / (k + math.exp(min(i / k, 700.0)))


def _linear(i: int, config: ScheduledSamplingConfig) -> float:
    """max(ε, k - c i)."""
    return max(config.floor, config.offset - config.slope * i)


def _exponential(i: int, config: ScheduledSamplingConfig) -> float:
    """k^i."""
    return config.offset**i


SCHEDULES: dict[str, Callable[[int, ScheduledSamplingConfig], float]] = {
    "inverse_sigmoid": _inverse_sigmoid,
    "linear": _linear,
    "exponential": _exponential,
}
"""ε_i by name, Section 2.4 of the paper."""


@torch.no_grad()
def mixed_prefixes(generator: Generator, tokens_BT: Tensor, truth_rate: float, rng: np.random.Generator) -> Tensor:
    """True tokens, some replaced by what the generator draws there after the (mixed) prefix that it has read.

    Args:
        generator: draws at temperature 1; dropout is off while it does.
        tokens_BT: true sequences, int64, (B, T), PAD after EOS.
        truth_rate: the probability with which a true token stays, each with a coin of its own.
        rng: the only source of randomness; two (B, T) blocks are always drawn, coins and uniforms.

    Returns:
        read_BT: int64, (B, T). PAD stays, and so does a true token in whose place EOS was drawn: nothing follows EOS.
    """
    (B, T), device = tokens_BT.shape, tokens_BT.device
    is_true_BT = torch.from_numpy(rng.random((B, T)) < truth_rate).to(device) | (tokens_BT == generator.pad_id)
    uniforms_BT = torch.from_numpy(rng.random((B, T), dtype=np.float32)).to(device)
    read_BT = tokens_BT.clone()
    if is_true_BT.all():
        return read_BT
    with evaluation_mode(generator):
        decoder = generator.decoder()
        state, last_B = decoder.initial_state(B), tokens_BT.new_full((B,), generator.pad_id)
        for t in range(T - 1):  # the last token is never read
            drawn_B, state = decoder.next(last_B, state, uniforms_BT[:, t])
            keeps_B = is_true_BT[:, t]
            if generator.eos_id is not None:
                keeps_B = keeps_B | (drawn_B == generator.eos_id)
            last_B = read_BT[:, t] = torch.where(keeps_B, tokens_BT[:, t], drawn_B)
        decoder.check()
    return read_BT


def prefix_loss(generator: Generator, read_BT: Tensor, tokens_BT: Tensor) -> Tensor:
    """Mean negative log-likelihood per token of true tokens after the prefixes that were read instead, nats; a
    differentiable scalar. With ``read_BT = tokens_BT`` it is ``likelihood_loss``."""
    is_token_BT = tokens_BT != generator.pad_id
    targets_R = tokens_BT.masked_fill(~is_token_BT, 0).flatten()
    weights_R = (is_token_BT / is_token_BT.sum()).flatten()
    if not isinstance(generator, LSTMGenerator | TransformerGenerator):
        logp_RA = generator.logits(read_BT).flatten(0, 1).log_softmax(dim=-1)
        return -(logp_RA.gather(1, targets_R[:, None]).squeeze(1) * weights_R).sum()
    hidden_RH, weights_R = generator.features(read_BT).flatten(0, 1), weights_R.to(generator.output_weight.dtype)
    return linear_weighted_nll(hidden_RH, generator.output_weight, generator.output_bias, targets_R, weights_R)[0]


class ScheduledSamplingTrainer(LikelihoodTrainer):
    """:class:`LikelihoodTrainer` that minimises :func:`prefix_loss` of :func:`mixed_prefixes`; arguments as there."""

    config: ScheduledSamplingConfig

    @property
    def truth_rate(self) -> float:
        """ε of the minibatch that comes next."""
        return self.config.truth_rate(self.minibatches)

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`LikelihoodTrainer.loss`."""
        read_BT = mixed_prefixes(self.generator, tokens_BT, self.truth_rate, self.rng)
        return prefix_loss(self.generator, read_BT, tokens_BT)

    def figures(self) -> dict[str, float]:
        """The share of true tokens."""
        return {"truth_rate": self.truth_rate}
