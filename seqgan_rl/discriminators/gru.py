"""A bidirectional GRU (Cho et al. 2014, with the reset gate after the product as in cuDNN) over the tokens alone.

Letters: B sequences, T tokens each, E embedding, H hidden units of one direction, G = 3H gates.
"""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from seqgan_rl.discriminators.base import EncodingDiscriminator, discriminators
from seqgan_rl.discriminators.spectral import SpectralNorm


@discriminators.register("gru")
class GRUDiscriminator(EncodingDiscriminator):
    """Both directions of a GRU; features are the last states and the maxima over positions, 4H in all.

    A direction stands still at PAD, so a row's logit does not depend on how far it is padded. Written as a loop over
    positions: cuDNN's GRU has no second derivative, which a gradient penalty needs.

    Args:
        num_actions, sequence_length: the task, see :class:`~seqgan_rl.discriminators.Discriminator`.
        embedding_dim: E.
        hidden_dim: H.
        dropout, token_dropout: see :class:`~seqgan_rl.discriminators.base.EncodingDiscriminator`.
        spectral_norm: divide the input, recurrent and output weights by their spectral norms.

    Gates are in the order reset, update, candidate; weights are uniform in +-1/sqrt(H), as in torch.
    """

    num_directions: ClassVar[int] = 2
    features_per_unit: ClassVar[int] = 4
    """How many features :meth:`encode` gives for each of the H."""

    def __init__(
        self,
        num_actions: int,
        sequence_length: int,
        *,
        embedding_dim: int = 64,
        hidden_dim: int = 64,
        dropout: float = 0.25,
        token_dropout: float = 0.0,
        spectral_norm: bool = False,
    ) -> None:
        if embedding_dim < 1 or hidden_dim < 1:
            raise ValueError(f"embedding_dim and hidden_dim must be at least 1, got {embedding_dim} and {hidden_dim}")
        E, H, bound = embedding_dim, hidden_dim, 1 / math.sqrt(hidden_dim)
        super().__init__(
            num_actions,
            sequence_length,
            embedding_dim=E,
            num_features=self.features_per_unit * H,
            hidden_dim=H,
            dropout=dropout,
            token_dropout=token_dropout,
            spectral_norm=spectral_norm,
        )
        shapes = [(E, 3 * H), (H, 3 * H)] * self.num_directions  # forward: input, recurrent; backward: input, recurrent
        self.weights = nn.ParameterList([torch.empty(shape).uniform_(-bound, bound) for shape in shapes])
        self.biases = nn.ParameterList([torch.empty(3 * H).uniform_(-bound, bound) for _ in shapes])
        self.norms = nn.ModuleList([SpectralNorm(weight) for weight in self.weights]) if spectral_norm else None

    def encode(self, embedded_BTE: Tensor, is_token_BT: Tensor) -> Tensor:
        """See :meth:`EncodingDiscriminator.encode`."""
        weights = self.weights_in_use()
        directions = [
            _last_and_largest(embedded_BTE, is_token_BT, weights[:2], self.biases[:2]),
            _last_and_largest(embedded_BTE.flip(1), is_token_BT.flip(1), weights[2:], self.biases[2:]),
        ]
        return torch.cat([part for direction in directions for part in direction], dim=1)

    def weights_in_use(self) -> list[Tensor]:
        """Input (E, 3H) and recurrent (H, 3H) weights of each direction, normalised where they are to be."""
        if self.norms is None:
            return list(self.weights)
        return [norm(weight) for norm, weight in zip(self.norms, self.weights, strict=True)]


def _last_and_largest(
    embedded_BTE: Tensor, is_token_BT: Tensor, weights: Sequence[Tensor], biases: nn.ParameterList
) -> tuple[Tensor, Tensor]:
    """State after the last token, and the maxima of the states after all tokens, each (B, H)."""
    hidden_BH = largest_BH = embedded_BTE.new_full((len(embedded_BTE), len(weights[1])), -1.0)  # states are in (-1, 1)
    for hidden_BH, is_token_B in gru_states(embedded_BTE, is_token_BT, weights, biases):
        largest_BH = torch.where(is_token_B[:, None], torch.maximum(largest_BH, hidden_BH), largest_BH)
    return hidden_BH, largest_BH


def gru_states(
    embedded_BTE: Tensor, is_token_BT: Tensor, weights: Sequence[Tensor], biases: nn.ParameterList
) -> Iterator[tuple[Tensor, Tensor]]:
    """Position by position the state (B, H) after it and whether a token stands there, (B,); PAD leaves the state as it
    is. ``weights`` and ``biases``: input and recurrent ones of one direction."""
    (input_EG, recurrent_HG), (input_bias_G, recurrent_bias_G) = weights, biases
    inputs_BTG = embedded_BTE @ input_EG + input_bias_G
    hidden_BH = embedded_BTE.new_zeros(len(embedded_BTE), len(recurrent_HG))
    for inputs_BG, is_token_B in zip(inputs_BTG.unbind(1), is_token_BT.unbind(1), strict=True):
        reset_BH, update_BH, candidate_BH = inputs_BG.chunk(3, dim=1)
        h_reset_BH, h_update_BH, h_candidate_BH = torch.addmm(recurrent_bias_G, hidden_BH, recurrent_HG).chunk(3, dim=1)
        update_BH = (update_BH + h_update_BH).sigmoid()
        candidate_BH = (candidate_BH + (reset_BH + h_reset_BH).sigmoid() * h_candidate_BH).tanh()
        moved_BH = torch.lerp(candidate_BH, hidden_BH, update_BH)
        hidden_BH = torch.where(is_token_B[:, None], moved_BH, hidden_BH)
        yield hidden_BH, is_token_B
