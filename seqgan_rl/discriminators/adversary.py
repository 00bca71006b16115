"""The adversary of an agent: a discriminator retrained on the agent's finished sequences, every so many of them.

Whoever plays with the agent owns one: the callback of a Stable-Baselines3 algorithm, or an environment made with
``adversary="online"``. Letters: N sequences, T tokens each.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqgan_rl.discriminators.training import DiscriminatorTrainer, train_discriminator


class Adversary:
    """Gathers an agent's sequences and trains the discriminator on them.

    Args:
        trainer: of the discriminator that pays the agent.
        every: finished sequences between two retrainings.
        gathered: how many of the agent's last sequences are kept to be drawn from; None: what one retraining draws.
        rng: draws from the sequences kept.
    """

    def __init__(
        self, trainer: DiscriminatorTrainer, *, every: int = 1, gathered: int | None = None, rng: np.random.Generator
    ) -> None:
        self.trainer, self.every, self.rng = trainer, every, rng
        if gathered is None:
            gathered = max(1, trainer.config.minibatches_per_round) * trainer.config.batch_size
        self.sequences: deque[NDArray[np.int64]] = deque(maxlen=gathered)
        self.unseen = 0
        """Sequences finished since the last retraining."""
        self.retrainings = 0
        self.record: dict[str, float] = {}
        """What the last retraining reported."""

    def observe(self, tokens_NT: Iterable[NDArray[np.int64]], *, keep: bool = True) -> None:
        """Count sequences that the agent has finished, and keep them to be drawn from."""
        rows = list(tokens_NT)
        self.unseen += len(rows)
        if keep:
            self.sequences.extend(rows)

    @property
    def is_due(self) -> bool:
        """Whether enough sequences were finished since the last retraining."""
        return self.unseen >= self.every

    def retrain(self, fake: Callable[[int], Tensor] | None = None) -> dict[str, float]:
        """``minibatches_per_round`` minibatches against ``fake(n)``, by default draws from the sequences kept."""
        trainer = self.trainer
        self.record = train_discriminator(trainer, fake or self.draw, trainer.config.minibatches_per_round)
        self.record["minibatches"] = trainer.minibatches
        self.unseen = 0
        self.retrainings += 1
        return self.record

    def draw(self, n: int) -> Tensor:
        """``n`` of the sequences kept, with replacement, int64 (n, T)."""
        rows = self.rng.integers(len(self.sequences), size=n)
        return torch.from_numpy(np.stack([self.sequences[row] for row in rows]))

    def state_dict(self) -> dict[str, Any]:
        """Discriminator, its optimiser, counters, random state and the sequences kept."""
        return {
            "trainer": self.trainer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "unseen": self.unseen,
            "retrainings": self.retrainings,
            "sequences": np.array(self.sequences, dtype=np.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.trainer.load_state_dict(state["trainer"])
        self.rng.bit_generator.state = state["rng"]
        self.unseen, self.retrainings = state["unseen"], state["retrainings"]
        self.sequences.clear()
        self.sequences.extend(state["sequences"])
