"""Draws from a linear-softmax layer without holding rows x V logits: GEMM, exp and inverse CDF block by block.

Letters: R rows, N draws a row, H hidden units, I = H + 1 (the bias is one more row of the weight, beside a hidden unit
that is always 1), V classes, padded to whole CDF blocks.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from seqgan_rl.models.compiled import Compiled, is_compiled
from seqgan_rl.models.kernels import rows_per_block
from seqgan_rl.models.sampling import Found, pick_block, pick_inside

logger = logging.getLogger(__name__)

CUDA_BLOCK_FACTOR = 8
"""A GPU takes this many times the rows of a CPU at once: 40 MB of weights, which its L2 cache holds."""
MAX_FUSED_UNITS = 128
"""Hidden units up to which the fused kernel's tiles fit the shared memory of a GPU."""


def weigh_and_pick_block(logits_RV: Tensor, uniforms_RN: Tensor, subtract_max: bool) -> Found:
    """exp, in place, and the first level of the inverse CDF: what the compiler gets."""
    if subtract_max:
        logits_RV.sub_(logits_RV.amax(dim=1, keepdim=True))
    return pick_block(logits_RV.exp_(), uniforms_RN)


_compiled_weigh_and_pick = Compiled(weigh_and_pick_block)


class FusedKernel:
    """The Triton kernel, where Triton is installed and can build it; one line in the log where not."""

    def __init__(self) -> None:
        self.is_usable = True
        self._draw: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __call__(self, hidden_RH: Tensor, weight_IV: Tensor, uniforms_RN: Tensor) -> tuple[Tensor, Tensor] | None:
        """As :func:`seqgan_rl.models.triton_pick.draw`; None where it cannot be used."""
        try:
            if self._draw is None:
                from seqgan_rl.models import triton_pick

                self._draw = triton_pick.draw
            return self._draw(hidden_RH, weight_IV, uniforms_RN)
        except Exception as error:  # not installed, no compiler for its launcher, a GPU that it does not know
            self.is_usable = False
            logger.warning("sampling runs without the fused Triton kernel: %s", str(error).strip().partition("\n")[0])
            return None


fused_kernel = FusedKernel()


class SoftmaxSampler:
    """Draws from ``softmax(hidden @ weight + bias)``; frozen as the weights are when it is made.

    Args:
        weight_IV: float32, (I, V), V a multiple of ``CDF_BLOCK``; a class whose bias is -inf is never drawn.
        subtract_max: whether exp could overflow without it.
    """

    def __init__(self, weight_IV: Tensor, *, subtract_max: bool) -> None:
        self.weight_IV, self.subtract_max = weight_IV, subtract_max
        is_fused = weight_IV.is_cuda and weight_IV.dtype == torch.float32 and len(weight_IV) - 1 <= MAX_FUSED_UNITS
        self._fused = fused_kernel if is_fused else None
        self._is_compiled = is_compiled() and weight_IV.device.type == "cpu"
        size = rows_per_block(weight_IV.shape[1])
        if size >= 64:  # the rows of a batch are mostly a multiple of 64
            size = round(size / 64) * 64
        self.block_size = size * CUDA_BLOCK_FACTOR if weight_IV.is_cuda else size
        self._buffers: tuple[Tensor, Tensor] | None = None

    def draw(self, hidden_RH: Tensor, uniforms_RN: Tensor) -> tuple[Tensor, Tensor]:
        """N draws from each row's distribution.

        Returns:
            picks, int64, (R, N), and whether every row was a distribution, bool, (). Nothing is read back to the host.
        """
        if self._fused is not None and self._fused.is_usable:
            drawn = self._fused(hidden_RH, self.weight_IV, uniforms_RN)
            if drawn is not None:
                return drawn
        R, size = len(hidden_RH), self.block_size
        found = []
        for start in range(0, R, size):
            rows = slice(start, min(start + size, R))
            found.append(self._find(hidden_RH[rows], uniforms_RN[rows]))
        if len(found) == 1:
            return pick_inside(found[0]), found[0].is_valid
        block_RN, inner_RNC, rest_RN = (torch.cat(parts) for parts in list(zip(*found, strict=True))[:3])
        is_valid = torch.stack([part.is_valid for part in found]).all()
        return pick_inside(Found(block_RN, inner_RNC, rest_RN, is_valid)), is_valid

    def _find(self, hidden_RH: Tensor, uniforms_RN: Tensor) -> Found:
        """The blocks of one block of rows, in one buffer for all."""
        I, V = self.weight_IV.shape
        if self._buffers is None:
            new = self.weight_IV.new_empty
            self._buffers = new(self.block_size, I).fill_(1), new(self.block_size, V)
        R = len(hidden_RH)
        inputs_RI, logits_RV = (buffer[:R] for buffer in self._buffers)
        inputs_RI[:, :-1] = hidden_RH
        torch.mm(inputs_RI, self.weight_IV, out=logits_RV)
        # the compiler sees one shape: whole blocks; less is padded with rows of zeros
        if self._is_compiled and uniforms_RN.shape[1] == 1 and self.block_size < 2 * R:
            padded_R1 = functional.pad(uniforms_RN, (0, 0, 0, self.block_size - R))
            self._buffers[1][R:] = 0
            found = _compiled_weigh_and_pick(self._buffers[1], padded_R1, self.subtract_max)
            return Found(found.block_RN[:R], found.inner_RNC[:R], found.rest_RN[:R], found.is_valid)
        return weigh_and_pick_block(logits_RV, uniforms_RN, self.subtract_max)
