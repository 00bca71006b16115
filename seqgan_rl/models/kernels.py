"""Dense products: the linear-softmax layer in row blocks, never holding rows x V logits, and large layers by the
fastest route of this machine.

Letters: R rows, H hidden units, V classes; K inputs and M outputs of a large layer.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_ELEMENTS = 1_280_000
"""Logits held at a time: 5 MB of float32, 256 rows at V=5000. Fewer cost more calls, more leave the cache."""


def rows_per_block(num_classes: int) -> int:
    """How many rows of ``num_classes`` logits make one block."""
    return max(16, BLOCK_ELEMENTS // num_classes)


def linear(x_RK: Tensor, weight_MK: Tensor, bias_M: Tensor | None, *, bfloat16: bool = False) -> Tensor:
    """``x @ weight.T + bias``, (R, M), differentiable, in the type of ``x``.

    Args:
        x_RK, weight_MK, bias_M: float32.
        bfloat16: multiply in 16 bits and add in 32, where that is wanted; about 3 significant digits.
    """
    if bfloat16:
        half_bias_M = None if bias_M is None else bias_M.bfloat16()
        return functional.linear(x_RK.bfloat16(), weight_MK.bfloat16(), half_bias_M).to(x_RK.dtype)
    if _convolution_is_faster(x_RK):
        image_1KR1 = x_RK.T[None, :, :, None]  # channels last, so nothing is copied
        return functional.conv2d(image_1KR1, weight_MK[:, :, None, None], bias_M)[0, :, :, 0].T
    return functional.linear(x_RK, weight_MK, bias_M)


def _convolution_is_faster(x_RK: Tensor) -> bool:
    """Whether a 1x1 convolution (oneDNN) multiplies faster than MKL, which takes its AVX2 path on AMD's processors:
    measured, 2 times on Zen 5. With one thread torch does not send it to oneDNN."""
    is_float_on_cpu = x_RK.device.type == "cpu" and x_RK.dtype == torch.float32
    return (
        is_float_on_cpu and torch.get_num_threads() > 1 and _has_amd_processor() and bool(torch.backends.mkldnn.enabled)
    )


@functools.cache
def _has_amd_processor() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


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


def linear_weighted_nll(
    hidden_RH: Tensor, weight_HV: Tensor, bias_V: Tensor, targets_R: Tensor, weights_R: Tensor
) -> tuple[Tensor, Tensor]:
    """``-(weights * log_softmax(hidden @ weight + bias)[r, targets[r]]).sum()``, nats, a differentiable scalar, and
    the log-probabilities themselves, (R,), not differentiable.

    With the weights known, the gradients are formed block by block in the forward pass, where the softmax is at hand:
    half the work of :func:`linear_log_prob` and its backward. No gradient reaches the weights. A row of weight 0 counts
    for nothing, even where its target is impossible (bias -inf).
    """
    result: tuple[Tensor, Tensor] = _LinearWeightedNLL.apply(hidden_RH, weight_HV, bias_V, targets_R, weights_R)
    return result


class _LinearWeightedNLL(torch.autograd.Function):
    """The bias is one more row of the weight, beside a hidden unit that is always 1."""

    @staticmethod
    def forward(
        ctx: Any, hidden_RH: Tensor, weight_HV: Tensor, bias_V: Tensor, targets_R: Tensor, weights_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        R, V = len(hidden_RH), len(bias_V)
        inputs_RI = torch.cat([hidden_RH, hidden_RH.new_ones(R, 1)], dim=1)  # I = H + 1
        weight_IV = torch.cat([weight_HV, bias_V[None]])
        needs_gradient, size = any(ctx.needs_input_grad), rows_per_block(V)
        d_hidden_RH, d_weight_IV = torch.empty_like(hidden_RH), torch.zeros_like(weight_IV)
        logp_R, buffer_RV = hidden_RH.new_empty(R), hidden_RH.new_empty(min(size, R), V)
        for start in range(0, R, size):
            rows = slice(start, start + size)
            logits_RV = torch.mm(inputs_RI[rows], weight_IV, out=buffer_RV[: len(inputs_RI[rows])])
            logits_RV.sub_(logits_RV.amax(dim=1, keepdim=True))
            target_R1, weight_R = targets_R[rows, None], weights_R[rows]
            chosen_R = logits_RV.gather(1, target_R1).squeeze(1)
            sum_R = logits_RV.exp_().sum(dim=1)
            torch.sub(chosen_R, sum_R.log(), out=logp_R[rows])
            if needs_gradient:  # d NLL / d logits = weight * (softmax - onehot(target))
                logits_RV.mul_((weight_R / sum_R)[:, None]).scatter_add_(1, target_R1, -weight_R[:, None])
                torch.mm(logits_RV, weight_HV.T, out=d_hidden_RH[rows])
                d_weight_IV.addmm_(inputs_RI[rows].T, logits_RV)
        ctx.save_for_backward(d_hidden_RH, d_weight_IV)
        ctx.mark_non_differentiable(logp_R)
        return -torch.where(weights_R == 0, 0.0, logp_R * weights_R).sum(), logp_R

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        d_hidden_RH, d_weight_IV = ctx.saved_tensors
        return grad * d_hidden_RH, grad * d_weight_IV[:-1], grad * d_weight_IV[-1], None, None
