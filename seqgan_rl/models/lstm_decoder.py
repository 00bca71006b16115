"""The paper's LSTM as a sampler: embedding @ input weights as a table, the softmax fused with the draw.

Letters: R rows in flight, A actions, H hidden units, G = 4H gates, I = H + 1, V: A padded to whole CDF blocks.
"""

import copy
import math
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn import functional

from seqgan_rl.models.decoding import Decoder, State
from seqgan_rl.models.sampling import SamplingOptions, ids_on, padded_size, require_distributions
from seqgan_rl.models.softmax_sampler import SoftmaxSampler

if TYPE_CHECKING:
    from seqgan_rl.models.generator import LSTMGenerator


def lstm_state(gates_BG: Tensor, cell_BH: Tensor) -> State:
    """New (hidden, cell) from the four gate pre-activations: input, forget, output, candidate."""
    H = cell_BH.shape[1]
    input_BH, forget_BH, output_BH = gates_BG[:, : 3 * H].sigmoid().chunk(3, dim=1)
    cell_BH = forget_BH * cell_BH + input_BH * gates_BG[:, 3 * H :].tanh()
    return output_BH * cell_BH.tanh(), cell_BH


def runs_static(device: torch.device) -> bool:
    """Whether decoders on this device are static: a GPU should never be waited for."""
    return device.type == "cuda"


class LSTMDecoder(Decoder):
    """Draws from an :class:`LSTMGenerator` as it is now, at a temperature and without the forbidden tokens."""

    policy: "LSTMGenerator"

    def __init__(self, generator: "LSTMGenerator", options: SamplingOptions) -> None:
        super().__init__(generator, options)
        self.is_static = runs_static(generator.device)
        with torch.no_grad():
            A, padded = generator.num_actions, padded_size(generator.num_actions)
            table_AG = torch.addmm(generator.gate_bias, generator.embedding, generator.input_weight)
            if generator.start_token is not None:
                table_AG = torch.cat([table_AG, table_AG[generator.start_token, None]])
            weight_HA = generator.output_weight / options.temperature
            bias_A = generator.output_bias / options.temperature
            subtract_max = True
            if not self.is_static:
                # exp(logit) cannot overflow below this bound, since |hidden| <= 1; else subtract the maximum first
                bound = float((weight_HA.abs().sum(dim=0) + bias_A.abs()).max())
                subtract_max = not bound < 60.0  # also for NaN
            if options.forbidden:
                bias_A = bias_A.index_fill(0, ids_on(options.forbidden, bias_A.device), -math.inf)
            weight_IV = torch.cat(
                [
                    functional.pad(weight_HA, (0, padded - A)),
                    functional.pad(bias_A, (0, padded - A), value=-math.inf)[None],
                ]
            )
            self._take((table_AG, generator.recurrent_weight.detach().clone(), weight_IV), subtract_max)

    def _take(self, tensors: tuple[Tensor, ...], subtract_max: bool) -> None:
        self.tensors = tensors
        self._table_AG, self._recurrent_HG, weight_IV = tensors
        self._sampler = SoftmaxSampler(weight_IV, subtract_max=subtract_max)
        self.is_valid = torch.ones((), dtype=torch.bool, device=weight_IV.device) if self.is_static else None

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        """See :meth:`Decoder.with_tensors`."""
        twin = copy.copy(self)
        twin._take(tensors, self._sampler.subtract_max)
        return twin

    def absorb(self, tokens_R: Tensor, state: State) -> State:
        """See :meth:`Decoder.absorb`."""
        gates_RG = torch.addmm(self._table_AG[tokens_R], state[0], self._recurrent_HG)
        return lstm_state(gates_RG, state[1])

    def next(self, tokens_R: Tensor, state: State, uniforms: Tensor) -> tuple[Tensor, State]:
        """See :meth:`Decoder.next`."""
        state = self.absorb(tokens_R, state)
        picks_RN, is_valid = self._sampler.draw(state[0], uniforms.view(len(tokens_R), -1))
        if self.is_valid is None:
            require_distributions(is_valid)
        else:
            self.is_valid = self.is_valid & is_valid
            picks_RN = picks_RN.clamp_max(self.num_actions - 1)  # what is no distribution may give any index
        return picks_RN.view(uniforms.shape), state
