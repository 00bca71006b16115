"""The linear-softmax layer in row blocks: log-probabilities of V classes without ever holding rows x V logits.

Letters: R rows, H hidden units, V classes.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1_280_000
"""Logits held at a time (1.3 MB of float32: stays in a core's cache); 64 rows at V=5000."""


def rows_per_block(num_classes: int) -> int:
    """How many rows of ``num_classes`` logits make one block."""
    return max(16, BLOCK_ELEMENTS // num_classes)


def linear_log_prob(hidden_RH: Tensor, weight_HV: Tensor, bias_V: Tensor, targets_R: Tensor) -> Tensor:
    """``log_softmax(hidden @ weight + bias)[r, targets[r]]``, nats, float32, (R,), differentiable and block by block.

    A class whose bias is -inf is impossible: its log-probability is -inf and no gradient reaches it.
    """
    result: Tensor = _LinearLogProb.apply(hidden_RH, weight_HV, bias_V, targets_R)
    return result


class _LinearLogProb(torch.autograd.Function):
    """Forward keeps one number a row (the log-sum-exp); backward forms the softmax of each block anew."""

    @staticmethod
    def forward(ctx: Any, hidden_RH: Tensor, weight_HV: Tensor, bias_V: Tensor, targets_R: Tensor) -> Tensor:
        logp_R, lse_R = torch.empty(2, len(hidden_RH), dtype=hidden_RH.dtype, device=hidden_RH.device)
        size = rows_per_block(weight_HV.shape[1])
        for start in range(0, len(hidden_RH), size):
            rows = slice(start, start + size)
            logits_RV = torch.addmm(bias_V, hidden_RH[rows], weight_HV)
            torch.logsumexp(logits_RV, dim=1, out=lse_R[rows])
            torch.sub(logits_RV.gather(1, targets_R[rows, None]).squeeze(1), lse_R[rows], out=logp_R[rows])
        ctx.save_for_backward(hidden_RH, weight_HV, bias_V, targets_R, lse_R)
        return logp_R

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_R: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden_RH, weight_HV, bias_V, targets_R, lse_R = ctx.saved_tensors
        d_hidden_RH = torch.empty_like(hidden_RH)
        d_weight_HV, d_bias_V = torch.zeros_like(weight_HV), torch.zeros_like(bias_V)
        size = rows_per_block(weight_HV.shape[1])
        for start in range(0, len(hidden_RH), size):
            rows = slice(start, start + size)
            # d log p_target / d logits = onehot(target) - softmax(logits)
            d_logits_RV = torch.addmm(bias_V, hidden_RH[rows], weight_HV).sub_(lse_R[rows, None]).exp_()
            d_logits_RV.mul_(-grad_R[rows, None])
            d_logits_RV.scatter_add_(1, targets_R[rows, None], grad_R[rows, None])
            torch.mm(d_logits_RV, weight_HV.T, out=d_hidden_RH[rows])
            d_weight_HV.addmm_(hidden_RH[rows].T, d_logits_RV)
            d_bias_V.add_(d_logits_RV.sum(dim=0))
        return d_hidden_RH, d_weight_HV, d_bias_V, None
