"""What a discriminator is: a network from whole sequences to the logit of "real".

Letters: B sequences, T tokens each, A actions, E embedding, F features, K members of an ensemble.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.core.registry import Registry
from seqgan_rl.discriminators.spectral import SpectralLinear
from seqgan_rl.models.generator import Generator

ROWS_AT_ONCE = 1024
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
            return torch.cat([self(part) for part in self.in_parts(tokens_BT)])

    def score_prefixes(self, tokens_BT: Tensor) -> Tensor:
        """Logits of all prefixes Y_{1:t} as if they were whole, float32, (B, T), in evaluation mode and without
        gradients; after the end that of the whole sequence stands on."""
        return self.score(all_prefixes(tokens_BT, self.num_actions)).view(tokens_BT.shape)

    def in_parts(self, tokens_BT: Tensor) -> tuple[Tensor, ...]:
        """The rows, at most :data:`ROWS_AT_ONCE` together."""
        return tokens_BT.split(ROWS_AT_ONCE)

    def features(self, tokens_BT: Tensor) -> Tensor:
        """What the logit is computed from, (B, F), before dropout; a reward may compare it (RankGAN)."""
        raise NotImplementedError(f"{type(self).__name__} has no features(); use a built-in discriminator")

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Embedded tokens, (B, T, E)."""
        raise NotImplementedError(f"{type(self).__name__} has no embed(), which a gradient penalty needs")

    def read(self, embedded_BTE: Tensor, tokens_BT: Tensor) -> Tensor:
        """Logits (B,) from embedded tokens, differentiable twice: ``read(embed(tokens), tokens)`` is :meth:`forward`.
        The tokens say where PAD is."""
        raise NotImplementedError(f"{type(self).__name__} has no read(), which a gradient penalty needs")

    def member_logits(self, tokens_BT: Tensor) -> Tensor:
        """Logits of each network that is trained on its own, (K, B): one, unless this is an ensemble."""
        logits_B: Tensor = self(tokens_BT)
        return logits_B[None]

    def squared_gradient(self, tokens_BT: Tensor) -> Tensor:
        """Mean over sequences of the squared norm of d logit / d embedded tokens, a differentiable scalar."""
        embedded_BTE = self.embed(tokens_BT)
        logits_B = self.read(embedded_BTE, tokens_BT)
        (gradient_BTE,) = torch.autograd.grad(logits_B.sum(), embedded_BTE, create_graph=True)
        return gradient_BTE.square().sum(dim=(1, 2)).mean()

    def generative_loss(self, real_BT: Tensor, generated_BT: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """What a network that models sequences is trained by in place of Eq. (5): a mean over the real sequences and
        one over the generated ones, nats, differentiable scalars; and the logits of all of them, real ones first,
        without gradients, (2B,). None, the default: Eq. (5)."""
        return None

    def follow(self, generator: Generator) -> None:
        """Told the generator whose sequences it is to judge, as it is now, before it is trained against them; where
        the agent has none, it is not. Nothing, unless a network makes use of it."""

    def undecayed(self) -> list[nn.Parameter]:
        """Weights that weight decay spares; none by default."""
        return []

    def penalty(self) -> Tensor | float:
        """What is added to the cross-entropy of each minibatch (the paper's L2 term on the output layer)."""
        return 0.0


class EncodingDiscriminator(Discriminator):
    """Embedding, an encoder that never reads PAD, dropout, logit. Subclasses implement :meth:`encode`.

    Args:
        num_actions, sequence_length: the task, see :class:`Discriminator`.
        embedding_dim: E.
        num_features: F, what :meth:`encode` gives.
        dropout: probability of dropping a feature before the output.
        token_dropout: probability of reading a zero vector in place of an embedded token, in training.
        spectral_norm: whether weights are divided by their spectral norms.
        **options: further constructor arguments of the subclass.
    """

    def __init__(
        self,
        num_actions: int,
        sequence_length: int,
        *,
        embedding_dim: int,
        num_features: int,
        dropout: float,
        token_dropout: float,
        spectral_norm: bool,
        **options: Any,
    ) -> None:
        super().__init__(
            num_actions,
            sequence_length,
            embedding_dim=embedding_dim,
            dropout=dropout,
            token_dropout=token_dropout,
            spectral_norm=spectral_norm,
            **options,
        )
        check_probabilities(dropout=dropout, token_dropout=token_dropout)
        self.token_dropout = token_dropout
        self.embedding = nn.Parameter(torch.empty(num_actions, embedding_dim).uniform_(-1, 1))
        self.dropout = nn.Dropout(dropout)
        self.output = (SpectralLinear if spectral_norm else nn.Linear)(num_features, 1)

    @abstractmethod
    def encode(self, embedded_BTE: Tensor, is_token_BT: Tensor) -> Tensor:
        """Features (B, F) from embedded tokens; positions that are no token must not be read."""

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.embed`; zero at PAD."""
        is_read_BT = tokens_BT != self.num_actions
        rows_BT = tokens_BT.masked_fill(~is_read_BT, 0)
        if self.training and self.token_dropout > 0:
            is_read_BT = is_read_BT & (torch.rand(tokens_BT.shape, device=tokens_BT.device) >= self.token_dropout)
        return functional.embedding(rows_BT, self.embedding) * is_read_BT[:, :, None]

    def read(self, embedded_BTE: Tensor, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.read`."""
        features_BF = self.encode(embedded_BTE, tokens_BT != self.num_actions)
        logits_B1: Tensor = self.output(self.dropout(features_BF))
        return logits_B1.squeeze(1)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.forward`."""
        return self.read(self.embed(tokens_BT), tokens_BT)

    def features(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.features`."""
        return self.encode(self.embed(tokens_BT), tokens_BT != self.num_actions)


def all_prefixes(tokens_BT: Tensor, pad_id: int) -> Tensor:
    """Y_{1:t} for every t, int64, (B T, T): prefix t of sequence b in row b T + t - 1, PAD behind it.

    >>> all_prefixes(torch.tensor([[5, 6]]), 9).tolist()
    [[5, 9], [5, 6]]
    """
    position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    return torch.where(position_T <= position_T[:, None], tokens_BT[:, None], pad_id).flatten(0, 1)


def check_probabilities(**values: float) -> None:
    """ValueError unless all of these lie in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")


discriminators: Registry[Callable[..., Discriminator]] = Registry("discriminator")
"""Discriminators by name: ``factory(num_actions, sequence_length, **options)``."""
