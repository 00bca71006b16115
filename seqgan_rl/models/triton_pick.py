"""Draws from a linear-softmax layer in two Triton kernels: the logits never reach the memory of the GPU.

The first multiplies, exponentiates and keeps two numbers for each block of 64 classes: the largest logit and the sum of
``exp(logit - largest)``. The second picks a block from those sums by one uniform number and computes the logits of that
block again to pick within it. Same uniforms, same blocks as :mod:`seqgan_rl.models.sampling`, and like it never an
entry of weight 0: of running sums, which a parallel scan may round out of order, the first *positive* entry above the
target. Products are exact float32 ("ieee"), not TF32. Importing this needs Triton.
Letters: R rows, N draws a row, H hidden units, V classes in K blocks of C, M rows of one program.
"""

# Triton has no types, and kernels take pointers:
# mypy: disable-error-code="import-untyped,no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqgan_rl.models.sampling import CDF_BLOCK

ROWS = 64
"""M: rows that one program of the first kernel multiplies."""
BLOCKS = 16
"""Blocks of classes that one program goes through."""


@triton.jit
def _sum_blocks(
    hidden,
    weight,
    largest,
    sums,
    R,
    H,
    V,
    K,
    M: tl.constexpr,
    C: tl.constexpr,
    PADDED_H: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
):
    """Largest logit and sum of exp(logit - largest) of NUM_BLOCKS blocks of M rows; row H of the weight is the bias."""
    row_M = tl.program_id(0) * M + tl.arange(0, M)
    unit_H = tl.arange(0, PADDED_H)
    hidden_MH = tl.load(
        hidden + row_M[:, None] * H + unit_H[None, :], mask=(row_M[:, None] < R) & (unit_H[None, :] < H), other=0.0
    )
    for i in range(NUM_BLOCKS):
        k = tl.program_id(1) * NUM_BLOCKS + i
        class_C = k * C + tl.arange(0, C)
        weight_HC = tl.load(
            weight + unit_H[:, None] * V + class_C[None, :],
            mask=(unit_H[:, None] < H) & (class_C[None, :] < V),
            other=0.0,
        )
        bias_C = tl.load(weight + H * V + class_C, mask=class_C < V, other=float("-inf"))
        logits_MC = tl.dot(hidden_MH, weight_HC, input_precision="ieee") + bias_C[None, :]
        largest_M = tl.max(logits_MC, axis=1)
        shift_M = tl.where(largest_M == float("-inf"), 0.0, largest_M)
        sums_M = tl.sum(tl.exp(logits_MC - shift_M[:, None]), axis=1)
        is_inside_M = (row_M < R) & (k + 0 * row_M < K)
        tl.store(largest + row_M * K + k, largest_M, mask=is_inside_M)
        tl.store(sums + row_M * K + k, sums_M, mask=is_inside_M)


@triton.jit
def _pick(
    hidden,
    weight,
    largest,
    sums,
    uniforms,
    picks,
    is_valid,
    H,
    V,
    K,
    N,
    C: tl.constexpr,
    PADDED_H: tl.constexpr,
    PADDED_K: tl.constexpr,
):
    """One draw: the block by the running sums of all blocks, the entry by those within it."""
    d = tl.program_id(0)
    row = d // N
    u = tl.load(uniforms + d)
    block_K = tl.arange(0, PADDED_K)
    largest_K = tl.load(largest + row * K + block_K, mask=block_K < K, other=float("-inf"))
    sums_K = tl.load(sums + row * K + block_K, mask=block_K < K, other=0.0)
    shift = tl.max(largest_K, axis=0)
    shift = tl.where(shift == float("-inf"), 0.0, shift)
    sums_K = sums_K * tl.exp(largest_K - shift)
    total = tl.sum(sums_K, axis=0)
    tl.store(is_valid + d, ((total > 0) & (total < float("inf"))).to(tl.int8))
    k = _first_above(sums_K, u * total, block_K, PADDED_K)
    rest = u * total - tl.sum(tl.where(block_K < k, sums_K, 0.0), axis=0)

    unit_H, entry_C = tl.arange(0, PADDED_H), tl.arange(0, C)
    class_C = k * C + entry_C
    hidden_H = tl.load(hidden + row * H + unit_H, mask=unit_H < H, other=0.0)
    weight_HC = tl.load(
        weight + unit_H[:, None] * V + class_C[None, :], mask=(unit_H[:, None] < H) & (class_C[None, :] < V), other=0.0
    )
    bias_C = tl.load(weight + H * V + class_C, mask=class_C < V, other=float("-inf"))
    weights_C = tl.exp(tl.sum(hidden_H[:, None] * weight_HC, axis=0) + bias_C - shift)
    tl.store(picks + d, (k * C + _first_above(weights_C, rest, entry_C, C)).to(tl.int64))


@triton.jit
def _first_above(weights_L, target, index_L, LENGTH: tl.constexpr):
    """The first positive weight whose running sum exceeds the target; the last positive one where rounding leaves none,
    and 0 where none is positive."""
    is_positive_L = weights_L > 0
    is_above_L = is_positive_L & (tl.cumsum(weights_L, axis=0) > target)
    first = tl.min(tl.where(is_above_L, index_L, LENGTH), axis=0)
    last = tl.max(tl.where(is_positive_L, index_L, 0), axis=0)
    return tl.where(first < LENGTH, first, last)


def draw(hidden_RH: Tensor, weight_IV: Tensor, uniforms_RN: Tensor) -> tuple[Tensor, Tensor]:
    """N draws from ``softmax(hidden @ weight_IV[:-1] + weight_IV[-1])`` of each row.

    Args:
        hidden_RH: float32, (R, H).
        weight_IV: float32, (H + 1, V); a class whose bias is -inf is never drawn.
        uniforms_RN: numbers in [0, 1), float32, (R, N).

    Returns:
        picks, int64, (R, N), and whether every row was a distribution, bool, (). Nothing is read back to the host.
    """
    (R, H), (R2, N), (I, V) = hidden_RH.shape, uniforms_RN.shape, weight_IV.shape
    assert (R2, I) == (R, H + 1), f"shapes {hidden_RH.shape}, {weight_IV.shape}, {uniforms_RN.shape} do not fit"
    hidden_RH, weight_IV, uniforms_RN = hidden_RH.contiguous(), weight_IV.contiguous(), uniforms_RN.contiguous()
    K, padded_H = triton.cdiv(V, CDF_BLOCK), max(16, triton.next_power_of_2(H))
    largest_RK, sums_RK = torch.empty(2, R, K, device=hidden_RH.device).unbind(0)
    picks_RN = torch.empty(R, N, dtype=torch.int64, device=hidden_RH.device)
    is_valid_RN = torch.empty(R, N, dtype=torch.int8, device=hidden_RH.device)
    if R * N == 0:
        return picks_RN, is_valid_RN.bool().all()
    with torch.cuda.device_of(hidden_RH):  # Triton launches on the current device
        _sum_blocks[(triton.cdiv(R, ROWS), triton.cdiv(K, BLOCKS))](
            hidden_RH, weight_IV, largest_RK, sums_RK, R, H, V, K, ROWS, CDF_BLOCK, padded_H, BLOCKS
        )
        _pick[(R * N,)](
            hidden_RH,
            weight_IV,
            largest_RK,
            sums_RK,
            uniforms_RN,
            picks_RN,
            is_valid_RN,
            H,
            V,
            K,
            N,
            CDF_BLOCK,
            padded_H,
            triton.next_power_of_2(K),
            num_warps=1 if K <= 1024 else 4,
        )
    return picks_RN, is_valid_RN.bool().all()
