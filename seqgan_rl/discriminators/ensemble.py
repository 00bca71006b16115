"""Several discriminators as one (Lakshminarayanan et al. 2017): the logit is the mean of the members' logits.

Letters: B sequences, T tokens each, K members, F features of all.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import accepted
from seqgan_rl.discriminators.base import Discriminator, discriminators


@discriminators.register("ensemble")
class EnsembleDiscriminator(Discriminator):
    """K networks of one kind that differ in their initial weights and dropout.

    Each is trained by its own cross-entropy on the same minibatches, so that none leans on the others.

    Args:
        num_actions, sequence_length: the task, see :class:`Discriminator`.
        member: the registered name of the members.
        size: K.
        **options: of the members; those that their kind does not take are left out.
    """

    def __init__(
        self, num_actions: int, sequence_length: int, *, member: str = "small_cnn", size: int = 3, **options: Any
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 member, got {size}")
        if member == "ensemble":
            raise InputError("member must name a single discriminator, got 'ensemble'")
        factory = discriminators[member]
        options = accepted(factory, options)
        super().__init__(num_actions, sequence_length, member=member, size=size, **options)
        self.members = nn.ModuleList([factory(num_actions, sequence_length, **options) for _ in range(size)])

    def member_logits(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.member_logits`."""
        return torch.stack([member(tokens_BT) for member in self.members])

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.forward`."""
        return self.member_logits(tokens_BT).mean(dim=0)

    @torch.no_grad()
    def score(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.score`; each member by its own fastest way."""
        return torch.stack([member.score(tokens_BT) for member in self._networks()]).mean(dim=0)

    def features(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.features`: the members' side by side."""
        return torch.cat([member.features(tokens_BT) for member in self._networks()], dim=1)

    def squared_gradient(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.squared_gradient`: the mean over the members."""
        return torch.stack([member.squared_gradient(tokens_BT) for member in self._networks()]).mean()

    def penalty(self) -> Tensor | float:
        """See :meth:`Discriminator.penalty`: the mean over the members, as their cross-entropies are averaged."""
        return sum((member.penalty() for member in self._networks()), start=0.0) / len(self.members)

    def _networks(self) -> list[Discriminator]:
        return [member for member in self.members if isinstance(member, Discriminator)]
