"""A transformer encoder (Vaswani et al. 2017, pre-norm) that reads a whole sequence in both directions.

Letters: B sequences, T tokens each, D width.
"""

import math

import torch
from torch import Tensor, nn

from seqgan_rl.discriminators.base import EncodingDiscriminator, discriminators
from seqgan_rl.discriminators.spectral import SpectralLinear
from seqgan_rl.models.transformer import Block, check_width


@discriminators.register("transformer")
class TransformerDiscriminator(EncodingDiscriminator):
    """Learned positions, pre-norm layers in which no token sees PAD, and mean and maximum over the tokens, 2D features.

    Args:
        num_actions, sequence_length: the task, see :class:`~seqgan_rl.discriminators.Discriminator`.
        embedding_dim: D.
        num_layers: how many layers.
        num_heads: attention heads; divides D.
        dropout: of the features and of what each sublayer adds.
        token_dropout: see :class:`~seqgan_rl.discriminators.base.EncodingDiscriminator`.
        spectral_norm: divide the weights of all linear layers by their spectral norms. (Attention is still not
            Lipschitz.)
    """

    def __init__(
        self,
        num_actions: int,
        sequence_length: int,
        *,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.25,
        token_dropout: float = 0.0,
        spectral_norm: bool = False,
    ) -> None:
        check_width(embedding_dim, num_heads, num_layers)
        super().__init__(
            num_actions,
            sequence_length,
            embedding_dim=embedding_dim,
            num_features=2 * embedding_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
            token_dropout=token_dropout,
            spectral_norm=spectral_norm,
        )
        make_linear = SpectralLinear if spectral_norm else nn.Linear
        self.positions = nn.Parameter(torch.empty(sequence_length, embedding_dim).normal_(std=0.1))
        self.blocks = nn.ModuleList(
            [Block(embedding_dim, num_heads, make_linear=make_linear, dropout=dropout) for _ in range(num_layers)]
        )
        self.norm = nn.LayerNorm(embedding_dim)

    def encode(self, embedded_BTE: Tensor, is_token_BT: Tensor) -> Tensor:
        """See :meth:`EncodingDiscriminator.encode`."""
        x_BTD = embedded_BTE + self.positions[: embedded_BTE.shape[1]]
        is_read_BT = is_token_BT | ~is_token_BT.any(dim=1, keepdim=True)  # of no tokens all, so that nothing is NaN
        for block in self.blocks:
            x_BTD = block(x_BTD, is_read_BT[:, None, None, :])
        x_BTD, is_read_BT1 = self.norm(x_BTD), is_read_BT[:, :, None]
        mean_BD = torch.where(is_read_BT1, x_BTD, 0.0).sum(dim=1) / is_read_BT1.sum(dim=1)
        return torch.cat([mean_BD, x_BTD.masked_fill(~is_read_BT1, -math.inf).amax(dim=1)], dim=1)
