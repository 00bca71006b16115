"""Maximum-likelihood training of a generator, with early stopping on held-out data.

Letters: B sequences, T tokens each. Every figure is in nats per token: Σ nats / Σ tokens, PAD never scored.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import adam, evaluation_mode
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.models.generator import Generator


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    """How a generator is fitted to real sequences by maximum likelihood."""

    learning_rate: float = 0.01
    """Adam's step size."""
    batch_size: int = 64
    """Sequences in a minibatch."""
    max_epochs: int = 60
    """Passes over the training split at the most."""
    patience: int = 3
    """Epochs without a better validation NLL before the learning rate is cut (then, after the last cut, the stop).
    0 trains for max_epochs and keeps the last weights, as the paper does."""
    decays: int = 2
    """How many times the learning rate is divided by 5 when patience runs out."""
    clip_norm: float = 5.0
    """Global gradient norm limit."""
    shuffle: bool = True
    """New order each epoch; the authors' program never shuffles."""
    weight_decay: float = 0.0
    """AdamW's, on all weights but biases (Loshchilov and Hutter 2019): each step takes learning_rate * weight_decay of
    them away. With little data for the vocabulary it is worth more than anything that comes after."""
    frequency_bias: bool = False
    """Start with the output bias at the log of the training tokens' frequencies (each counted half a time more), so
    that the weights need not learn them and their decay does not take them away."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("batch_size", "max_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("patience", "decays"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.weight_decay != 0 and not 0 < self.weight_decay * self.learning_rate < 1:
            raise ValueError(f"weight_decay must be from 0 to below 1 / learning_rate, got {self.weight_decay}")


@torch.no_grad()
def sequence_nll(generator: Generator, tokens_BT: Tensor, **options: Any) -> Tensor:
    """Negative log-likelihood of each sequence, nats (summed over its tokens), float64, (B,); bounded memory."""
    with evaluation_mode(generator):
        return torch.cat([-generator.log_prob(part, **options).double().sum(dim=1) for part in tokens_BT.split(1024)])


def nll_per_token(generator: Generator, tokens_BT: Tensor, **options: Any) -> float:
    """Σ nats / Σ tokens over all sequences. EOS counts as a token, PAD does not."""
    nll_B = sequence_nll(generator, tokens_BT, **options)
    return float(nll_B.sum()) / int((tokens_BT != generator.pad_id).sum())


def likelihood_loss(generator: Generator, tokens_BT: Tensor) -> Tensor:
    """Mean negative log-likelihood per token of a minibatch, nats; differentiable scalar."""
    is_token_BT = tokens_BT != generator.pad_id
    return generator.weighted_nll(tokens_BT, is_token_BT / is_token_BT.sum())[0]


def output_bias(generator: Generator, setting: str = "frequency_bias") -> Tensor:
    """What ``frequency_bias`` sets, (A,). InputError, which names the setting, for a generator that has none."""
    bias_A, A = getattr(generator, "output_bias", None), generator.num_actions
    if not isinstance(bias_A, Tensor) or bias_A.shape != (A,):
        raise InputError(
            f"{setting} needs a generator with an output_bias of shape ({A},), which "
            f"{type(generator).__name__} has not; set it to false"
        )
    return bias_A


@torch.no_grad()
def set_frequency_bias(generator: Generator, tokens_BT: Tensor) -> None:
    """Put the output bias at the log frequencies of the tokens, each counted half a time more (PAD never).

    Raises InputError for a generator without an ``output_bias`` of shape (A,).
    """
    count_A = torch.bincount(tokens_BT[tokens_BT != generator.pad_id], minlength=generator.num_actions) + 0.5
    output_bias(generator).copy_(count_A.log() - count_A.log().mean())


class LikelihoodTrainer:
    """Fits a generator epoch by epoch; can be saved and continued between any two epochs.

    Other objectives than the likelihood are subclasses that override :meth:`loss` and :meth:`figures`.

    Args:
        generator: trained in place.
        train_BT, valid_BT: token ids, int64, (N, T), PAD-padded. Validation selects the weights that are kept.
        config: see :class:`LikelihoodConfig`.
        rng: order of the minibatches.
    """

    def __init__(
        self,
        generator: Generator,
        train_BT: Tensor,
        valid_BT: Tensor,
        config: LikelihoodConfig,
        rng: np.random.Generator,
    ) -> None:
        if len(train_BT) == 0 or len(valid_BT) == 0:
            raise ValueError(f"training and validation need sequences, got {len(train_BT)} and {len(valid_BT)}")
        self.generator, self.config, self.rng = generator, config, rng
        self.train_BT, self.valid_BT = train_BT, valid_BT
        if config.frequency_bias:
            set_frequency_bias(generator, train_BT)
        self.optimizer = adam(
            generator.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            spared=[weight for weight in generator.parameters() if weight.dim() <= 1],
        )
        self.epoch, self.done = 0, False
        self.minibatches = 0
        """Updates so far: what schedules go by."""
        # a trained generator that gets no better keeps the weights it came with
        self.best_nll = nll_per_token(generator, valid_BT) if config.patience else float("inf")
        self._waited, self._decays_left = 0, config.decays
        self._best_weights = copy.deepcopy(generator.state_dict())

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train until stopped; after each epoch yield its figures. At the end the kept weights are in the generator."""
        while not self.done:
            yield self.run_epoch()
        self.generator.load_state_dict(self._best_weights)

    def run_epoch(self) -> dict[str, float]:
        """One pass over the data. Returns mean training loss and validation NLL, nats per token."""
        config, n = self.config, len(self.train_BT)
        order = torch.from_numpy(self.rng.permutation(n) if config.shuffle else np.arange(n))
        nats, tokens = 0.0, 0
        self.generator.train()
        with torch_seeded(self.rng):
            for rows in order.split(config.batch_size):
                tokens_BT = self.train_BT[rows]
                count = int((tokens_BT != self.generator.pad_id).sum())
                nats += self.update(tokens_BT) * count
                tokens += count
                self.minibatches += 1
        self.generator.eval()
        self.epoch += 1
        valid_nll = nll_per_token(self.generator, self.valid_BT)
        self._keep_or_stop(valid_nll)
        return {
            "epoch": self.epoch,
            "train_nll": nats / tokens,
            "valid_nll": valid_nll,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self.figures(),
        }

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """What is minimised, nats per token, a differentiable scalar; here :func:`likelihood_loss`."""
        return likelihood_loss(self.generator, tokens_BT)

    def figures(self) -> dict[str, float]:
        """More figures of the epoch just done."""
        return {}

    def update(self, tokens_BT: Tensor) -> float:
        """One optimiser step; returns the loss before it, nats per token."""
        loss = self.loss(tokens_BT)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.config.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError("the likelihood's gradient is not finite; lower the learning rate")
        self.optimizer.step()
        return float(loss.detach())

    def _keep_or_stop(self, valid_nll: float) -> None:
        config = self.config
        if config.patience == 0 or valid_nll < self.best_nll:
            self.best_nll, self._waited = valid_nll, 0
            self._best_weights = copy.deepcopy(self.generator.state_dict())
        else:
            self._waited += 1
        if self._waited > 0 and self._waited >= config.patience > 0:
            if self._decays_left == 0:
                self.done = True
            else:  # continue from the best weights with a smaller step
                self._decays_left -= 1
                self._waited = 0
                self.generator.load_state_dict(self._best_weights)
                for group in self.optimizer.param_groups:
                    group["lr"] /= 5
        self.done = self.done or self.epoch >= config.max_epochs

    def state_dict(self) -> dict[str, Any]:
        """Everything but the data: weights, optimiser, best weights, counters, random state."""
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self._best_weights,
            "rng": self.rng.bit_generator.state,
            "counters": [self.epoch, self.done, self.best_nll, self._waited, self._decays_left],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._best_weights = state["best_weights"]
        self.rng.bit_generator.state = state["rng"]
        self.epoch, self.done, self.best_nll, self._waited, self._decays_left = state["counters"]
        self.minibatches = self.epoch * -(-len(self.train_BT) // self.config.batch_size)
