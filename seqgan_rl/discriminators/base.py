"""What a discriminator is: a network from whole sequences to the logit of "real".

Letters: B sequences, T tokens each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.core.registry import Registry

ROWS_AT_ONCE = 2048
"""Sequences scored together."""


class Discriminator(nn.Module, ABC):
    """Maps whole sequences to logits; high means real. D(Y) of the paper is their sigmoid.

    Subclasses take ``(num_actions, sequence_length, **options)``; PAD is the id ``num_actions``.
    """

    def __init__(self, num_actions: int, sequence_length: int, **options: Any) -> None:
        super().__init__()
        self.num_actions, self.sequence_length = num_actions, sequence_length
        self.config: dict[str, Any] = {"num_actions": num_actions, "sequence_length": sequence_length, **options}
        """Constructor arguments, JSON-able."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits, real is high, float32, (B,), from token ids int64 (B, T). Dropout follows ``self.training``."""

    @torch.no_grad()
    def score(self, tokens_BT: Tensor) -> Tensor:
        """Logits in evaluation mode (dropout off) and without gradients, (B,), whatever mode the module is in."""
        if len(tokens_BT) == 0:
            return torch.empty(0, device=self.device)
        with evaluation_mode(self):
            return torch.cat([self(part) for part in tokens_BT.split(ROWS_AT_ONCE)])

    def penalty(self) -> Tensor | float:
        """What is added to the cross-entropy of each minibatch (the paper's L2 term on the output layer)."""
        return 0.0


discriminators: Registry[Callable[..., Discriminator]] = Registry("discriminator")
"""Discriminators by name: ``factory(num_actions, sequence_length, **options)``."""
