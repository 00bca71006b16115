"""Training a discriminator: cross-entropy of real against generated sequences, Eq. (5), and its diagnostics.

Work is counted in minibatches; a minibatch is ``batch_size`` real and as many generated sequences.
Letters: B sequences, T tokens each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seqgan_rl.core.modules import adam, gradients_allowed
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators.base import Discriminator


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """How a discriminator is trained."""

    learning_rate: float = 1e-3
    """Adam's step size (AdamW where weight_decay > 0)."""
    weight_decay: float = 0.1
    """AdamW's decoupled weight decay."""
    batch_size: int = 64
    """Real sequences in a minibatch, and as many generated ones."""
    pretrain_minibatches: int = 2000
    """Minibatches before the adversarial phase, at the most."""
    pretrain_patience: int = 0
    """Checks of the held-out loss without improvement before pretraining stops and the best weights are restored;
    0 runs all minibatches."""
    check_every: int = 200
    """Minibatches between two checks of the held-out loss in pretraining."""
    minibatches_per_round: int = 10
    """Minibatches after each generator update."""
    epochs_per_draw: int = 1
    """How many times each drawn set of generated sequences is used (the authors: 3)."""
    draw_size: int = 0
    """Generated sequences drawn at a time; 0 draws as many as are needed (the authors: 9,984)."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("batch_size", "check_every", "epochs_per_draw"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("weight_decay", "pretrain_minibatches", "pretrain_patience", "minibatches_per_round", "draw_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


class DiscriminatorTrainer:
    """Owns the optimiser and the order of the real data; the caller brings the generated sequences.

    Args:
        discriminator: trained in place; left in evaluation mode.
        real_BT: real training sequences, int64, (N, T).
        config: see :class:`DiscriminatorConfig`.
        rng: minibatch order and dropout.
    """

    def __init__(
        self, discriminator: Discriminator, real_BT: Tensor, config: DiscriminatorConfig, rng: np.random.Generator
    ) -> None:
        if len(real_BT) == 0:
            raise ValueError("the discriminator needs real sequences, got none")
        self.discriminator, self.real_BT = discriminator.eval(), real_BT.to(discriminator.device)
        self.config, self.rng = config, rng
        self.optimizer = adam(discriminator.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.minibatches = 0

    def train(self, fake_BT: Tensor, epochs: int = 1) -> dict[str, float]:
        """Go through the generated sequences ``epochs`` times, each minibatch beside fresh draws of real ones.

        Returns:
            Means over all minibatches: loss (nats), accuracy on real and on generated sequences, gradient norm.
        """
        if len(fake_BT) == 0:
            return {}
        size, records = self.config.batch_size, []
        self.discriminator.train()
        try:
            with torch_seeded(self.rng), gradients_allowed():
                for _ in range(epochs):
                    order = torch.from_numpy(self.rng.permutation(len(fake_BT)))
                    for rows in order.split(size):
                        real_rows = torch.from_numpy(self.rng.integers(len(self.real_BT), size=len(rows)))
                        records.append(self._update(self.real_BT[real_rows], fake_BT[rows]))
        finally:
            self.discriminator.eval()
        return {name: float(np.mean([record[name] for record in records])) for name in records[0]} if records else {}

    def _update(self, real_BT: Tensor, fake_BT: Tensor) -> dict[str, float]:
        logits_B = self.discriminator(torch.cat([real_BT, fake_BT]))
        is_real_B = torch.cat([torch.ones(len(real_BT)), torch.zeros(len(fake_BT))]).to(logits_B.device)
        cross_entropy = functional.binary_cross_entropy_with_logits(logits_B, is_real_B)  # Eq. (5), per sequence
        loss = cross_entropy + self.discriminator.penalty()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.discriminator.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise FloatingPointError("the discriminator's gradient is not finite; lower its learning rate")
        self.optimizer.step()
        self.minibatches += 1
        says_real_B = logits_B.detach() > 0
        return {
            "loss": float(cross_entropy.detach()),
            "accuracy_real": float(says_real_B[: len(real_BT)].float().mean()),
            "accuracy_fake": float((~says_real_B[len(real_BT) :]).float().mean()),
            "gradient_norm": float(norm),
        }

    def held_out(self, real_BT: Tensor, fake_BT: Tensor) -> dict[str, float]:
        """Loss (nats), AUC and accuracy on real sequences that D never trained on and fresh generated ones."""
        real_B, fake_B = self.discriminator.score(real_BT).double(), self.discriminator.score(fake_BT).double()
        return {
            "held_out_loss": float(0.5 * (functional.softplus(-real_B).mean() + functional.softplus(fake_B).mean())),
            "held_out_auc": auc(real_B, fake_B),
            "held_out_accuracy": float(0.5 * ((real_B > 0).double().mean() + (fake_B <= 0).double().mean())),
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, counter and random state."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "minibatches": self.minibatches,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.minibatches = state["minibatches"]
        self.rng.bit_generator.state = state["rng"]


def train_discriminator(
    trainer: DiscriminatorTrainer, fake: Callable[[int], Tensor], minibatches: int
) -> dict[str, float]:
    """So many minibatches against ``fake(n)``, drawn ``draw_size`` at a time and used ``epochs_per_draw`` times.

    The number of minibatches is exact. Returns the means over all of them.
    """
    config, total, left = trainer.config, dict[str, float](), minibatches
    while left > 0:
        draw = config.draw_size or max(1, left // config.epochs_per_draw) * config.batch_size
        per_epoch = -(-draw // config.batch_size)
        if left < per_epoch * config.epochs_per_draw:  # a smaller last draw
            per_epoch = max(1, left // config.epochs_per_draw)
            draw = per_epoch * config.batch_size
        epochs = min(config.epochs_per_draw, left // per_epoch)
        for name, mean in trainer.train(fake(draw), epochs).items():
            total[name] = total.get(name, 0.0) + mean * per_epoch * epochs
        left -= per_epoch * epochs
    return {name: value / minibatches for name, value in total.items()}


def auc(real_B: Tensor, fake_B: Tensor) -> float:
    """Probability that a real sequence scores above a generated one, ties counted half (Mann-Whitney).

    >>> auc(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]))
    0.875
    """
    if len(real_B) == 0 or len(fake_B) == 0:
        return float("nan")
    sorted_B = fake_B.sort().values.contiguous()
    below_B = torch.searchsorted(sorted_B, real_B.contiguous(), right=False)
    up_to_B = torch.searchsorted(sorted_B, real_B.contiguous(), right=True)
    return float((below_B + up_to_B).double().mean() / (2 * len(fake_B)))
