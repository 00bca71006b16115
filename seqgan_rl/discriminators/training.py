"""Training a discriminator: cross-entropy of real against generated sequences, Eq. (5), and its diagnostics.

Work is counted in minibatches; a minibatch is ``batch_size`` real and as many generated sequences. Where a run has
several processes (`core.distributed`), each reads its share of them, and the gradients are added up.
Letters: B sequences, T tokens each, N real ones, K members of an ensemble.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seqgan_rl.core import distributed
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import adam, gradients_allowed
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators.base import Discriminator
from seqgan_rl.discriminators.diagnostics import auc as auc
from seqgan_rl.discriminators.diagnostics import calibration_error
from seqgan_rl.discriminators.replay import Reservoir


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """How a discriminator is trained."""

    learning_rate: float = 1e-3
    """Adam's step size (AdamW where weight_decay > 0)."""
    decay_to: float = 1.0
    """The step size falls in a straight line over the first pretrain_minibatches to this share of it, and stays there;
    1 leaves it as it is."""
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
    label_smoothing: float = 0.0
    """D is taught 1 less this on real sequences, and 0 on generated ones (one-sided, Salimans et al. 2016)."""
    gradient_penalty: float = 0.0
    """γ of R1 (Mescheder et al. 2018): the loss grows by γ/2 times the mean squared norm of the logit's gradient at the
    embedded real sequences."""
    replay_share: float = 0.0
    """Share of the generated sequences of each minibatch that come from earlier draws."""
    replay_size: int = 10_000
    """Earlier generated sequences kept, a uniform sample of all; used where replay_share is above 0."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 < self.decay_to <= 1:
            raise ValueError(f"decay_to must lie in (0, 1], got {self.decay_to}")
        for name in ("batch_size", "check_every", "epochs_per_draw", "replay_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("weight_decay", "pretrain_minibatches", "pretrain_patience", "minibatches_per_round", "draw_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.gradient_penalty < math.inf:
            raise ValueError(f"gradient_penalty must be a finite number of at least 0, got {self.gradient_penalty}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}")
        if not 0 <= self.replay_share <= 1:
            raise ValueError(f"replay_share must lie in [0, 1], got {self.replay_share}")


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
        models_sequences = type(discriminator).generative_loss is not Discriminator.generative_loss
        for name in ("label_smoothing", "gradient_penalty"):
            if models_sequences and getattr(config, name):
                raise InputError(
                    f"{name} is of training by cross-entropy, and {type(discriminator).__name__} is trained by the "
                    "likelihood of its sequences; set it to 0"
                )
        self.optimizer = adam(
            discriminator.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            spared=discriminator.undecayed(),
        )
        self.minibatches = 0
        self.replay = Reservoir(config.replay_size)
        """Generated sequences of earlier calls of :meth:`train`; empty where ``replay_share`` is 0."""

    def train(self, fake_BT: Tensor, epochs: int = 1) -> dict[str, float]:
        """Go through the generated sequences ``epochs`` times, each minibatch beside fresh draws of real ones. With
        ``replay_share`` some of them are left out of each minibatch for sequences of earlier calls.

        Returns:
            Means over all minibatches: loss (the cross-entropy, also where something else is minimised; nats), accuracy
            on real and on generated sequences, gradient norm; with a gradient penalty also the mean squared norm that
            it acts on.
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
                        records.append(self._update(self.real_BT[real_rows], self._with_older(fake_BT[rows])))
                if self.config.replay_share > 0:
                    self.replay.offer(fake_BT, self.rng)
        finally:
            self.discriminator.eval()
        return {name: float(np.mean([record[name] for record in records])) for name in records[0]} if records else {}

    def _with_older(self, fake_BT: Tensor) -> Tensor:
        """The minibatch with its share of older sequences in the first places."""
        num_older = round(self.config.replay_share * len(fake_BT)) if len(self.replay) else 0
        if num_older == 0:
            return fake_BT
        return torch.cat([self.replay.draw(num_older, self.rng).to(fake_BT.device), fake_BT[num_older:]])

    def _update(self, real_BT: Tensor, fake_BT: Tensor) -> dict[str, float]:
        config, ranks = self.config, distributed.ranks(len(real_BT))
        mine = slice(None) if ranks is None else ranks.share
        own_real_BT, own_fake_BT = real_BT[mine], fake_BT[mine]
        R, B = len(own_real_BT), len(own_real_BT) + len(own_fake_BT)
        # what this rank has of the whole minibatch: 1, where there is one process
        of_real, of_fake, of_all = R / len(real_BT), (B - R) / len(fake_BT), B / (len(real_BT) + len(fake_BT))
        generative = self.discriminator.generative_loss(own_real_BT, own_fake_BT)
        if generative is not None:
            logits_KB = generative[2][None]
        else:
            with distributed.drawn_whole(ranks, len(real_BT), len(fake_BT)):
                logits_KB = self.discriminator.member_logits(torch.cat([own_real_BT, own_fake_BT]))
        wanted_B = torch.cat([torch.full((R,), 1 - config.label_smoothing), torch.zeros(B - R)])
        wanted_KB = wanted_B.to(logits_KB.device).expand_as(logits_KB)
        cross_entropy = (
            functional.binary_cross_entropy_with_logits(logits_KB, wanted_KB) * of_all
        )  # Eq. (5), a sequence
        if generative is None:
            loss = cross_entropy + of_all * self.discriminator.penalty()
        else:
            loss = of_real * generative[0] + of_fake * generative[1]
        squared_norm = torch.zeros_like(cross_entropy)
        if config.gradient_penalty > 0:
            with distributed.drawn_whole(ranks, len(real_BT)):
                squared_norm = of_real * self.discriminator.squared_gradient(own_real_BT)
            loss = loss + config.gradient_penalty / 2 * squared_norm  # Mescheder et al. 2018, Eq. (9)
        if config.decay_to < 1:
            share_done = min(1.0, self.minibatches / max(1, config.pretrain_minibatches))
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 - (1 - config.decay_to) * share_done)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in self.discriminator.parameters() if p.grad is not None]
        says_real_B = logits_KB.detach().mean(dim=0) > 0
        accuracy_real, accuracy_fake = says_real_B[:R].float().mean(), (~says_real_B[R:]).float().mean()
        means = torch.stack([cross_entropy, squared_norm, of_real * accuracy_real, of_fake * accuracy_fake]).detach()
        if ranks is not None:
            ranks.add_up([*gradients, means])
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise FloatingPointError("the discriminator's gradient is not finite; lower its learning rate")
        self.optimizer.step()
        self.minibatches += 1
        loss_value, squared_gradient, accuracy_real, accuracy_fake = means.tolist()
        return {
            "loss": loss_value,
            "accuracy_real": accuracy_real,
            "accuracy_fake": accuracy_fake,
            "gradient_norm": float(norm),
            **({"squared_gradient": squared_gradient} if config.gradient_penalty > 0 else {}),
        }

    def held_out(self, real_BT: Tensor, fake_BT: Tensor) -> dict[str, float]:
        """Loss (nats), AUC, accuracy and calibration error on real sequences that D never trained on and fresh
        generated ones; both kinds weigh the same, however many there are of each."""
        real_B, fake_B = self.discriminator.score(real_BT).double(), self.discriminator.score(fake_BT).double()
        is_real_B = torch.cat([torch.ones_like(real_B), torch.zeros_like(fake_B)]).bool()
        return {
            "held_out_loss": float(0.5 * (functional.softplus(-real_B).mean() + functional.softplus(fake_B).mean())),
            "held_out_auc": auc(real_B, fake_B),
            "held_out_accuracy": float(0.5 * ((real_B > 0).double().mean() + (fake_B <= 0).double().mean())),
            "held_out_calibration": calibration_error(
                torch.cat([real_B, fake_B]).sigmoid(), is_real_B, is_balanced=True
            ),
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, counter, random state and the older negatives."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "minibatches": self.minibatches,
            "rng": self.rng.bit_generator.state,
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.minibatches = state["minibatches"]
        self.rng.bit_generator.state = state["rng"]
        if "replay" in state:  # not in states from before there was one
            self.replay.load_state_dict(state["replay"])


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
