"""A GRU that reads in one direction and judges every prefix; the sequence's logit is the mean of theirs.

Letters: B sequences, T tokens each, E embedding, H hidden units.
"""

from typing import ClassVar

import torch
from torch import Tensor

from seqgan_rl.discriminators.base import discriminators
from seqgan_rl.discriminators.gru import GRUDiscriminator, gru_states


@discriminators.register("causal_gru")
class CausalGRUDiscriminator(GRUDiscriminator):
    """One linear head on the state after every token; the logit is the mean over the tokens, EOS too and PAD not.

    So the error of a sequence reaches every position at first hand, and no position can settle the logit alone. A
    mean of one head over positions is that head on the mean state: the features, H. What a prefix is given is its
    share in the logit, not log-odds of its own, since only the mean is trained by Eq. (5).

    Args:
        num_actions, sequence_length, embedding_dim, hidden_dim, token_dropout, spectral_norm: see
            :class:`~seqgan_rl.discriminators.GRUDiscriminator`.
        dropout: of the units, the same ones at all positions.
    """

    num_directions: ClassVar[int] = 1
    features_per_unit: ClassVar[int] = 1

    def encode(self, embedded_BTE: Tensor, is_token_BT: Tensor) -> Tensor:
        """See :meth:`EncodingDiscriminator.encode`."""
        states_BTH = torch.where(is_token_BT[:, :, None], self._states(embedded_BTE, is_token_BT), 0.0)
        return states_BTH.sum(dim=1) / is_token_BT.sum(dim=1, keepdim=True).clamp_min(1)

    def position_logits(self, tokens_BT: Tensor) -> Tensor:
        """Logits of all prefixes Y_{1:t}, real is high, float32, (B, T), 0 at PAD. Dropout of words alone."""
        is_token_BT = tokens_BT != self.num_actions
        logits_BT: Tensor = self.output(self._states(self.embed(tokens_BT), is_token_BT)).squeeze(2)
        return torch.where(is_token_BT, logits_BT, 0.0)

    def _states(self, embedded_BTE: Tensor, is_token_BT: Tensor) -> Tensor:
        """The state after every position, (B, T, H)."""
        weights, biases = self.weights_in_use(), self.biases
        states_BTH, _ = zip(*gru_states(embedded_BTE, is_token_BT, weights, biases), strict=True)
        return torch.stack(states_BTH, dim=1)
