"""Draw tokens from logits by a two-level inverse CDF, and the filters (temperature, top-k, top-p) that reshape them.

One uniform number per row, where ``torch.multinomial`` draws one per row and vocabulary entry
(``benchmarks/rollout.py`` has both). Letters: R rows, N draws a row, V entries, padded to K blocks of C entries.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CDF_BLOCK = 64
"""Entries summed together at the first level of the inverse CDF."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next-token distribution is reshaped before sampling; the same options reshape ``log_prob``.

    Order: forbidden tokens get -inf, logits are divided by the temperature, then top-k, then top-p (nucleus).
    """

    temperature: float = 1.0
    """Divides the logits. Below 1 sharpens, above 1 flattens."""
    top_k: int | None = None
    """Keep the k likeliest tokens (ties at the k-th are all kept)."""
    top_p: float | None = None
    """Keep the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020)."""
    forbidden: tuple[int, ...] = ()
    """Tokens that are never sampled, such as UNK."""

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be a finite number above 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")

    @property
    def filters(self) -> bool:
        """Whether more than a linear change of the logits is asked for (top-k or top-p)."""
        return self.top_k is not None or self.top_p is not None

    def apply(self, logits_RV: Tensor) -> Tensor:
        """Reshaped logits, same shape; a token that cannot be drawn has -inf."""
        logits_RV = logits_RV / self.temperature
        if self.forbidden:
            logits_RV = logits_RV.index_fill(-1, ids_on(self.forbidden, logits_RV.device), -math.inf)
        if self.top_k is not None and self.top_k < logits_RV.shape[-1]:
            kth = logits_RV.topk(self.top_k, dim=-1).values[..., -1:]
            logits_RV = logits_RV.masked_fill(logits_RV < kth, -math.inf)
        if self.top_p is not None and self.top_p < 1:
            sorted_RV, order_RV = logits_RV.sort(dim=-1, descending=True, stable=True)
            probs_RV = sorted_RV.softmax(dim=-1)
            outside_RV = probs_RV.cumsum(dim=-1) - probs_RV >= self.top_p  # mass before the token already reaches p
            logits_RV = logits_RV.masked_fill(torch.zeros_like(outside_RV).scatter(-1, order_RV, outside_RV), -math.inf)
        return logits_RV


PLAIN = SamplingOptions()


@functools.lru_cache(maxsize=32)
def ids_on(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Token ids as an index, int64. Kept, so that a GPU is not waited for at every step for the same few numbers."""
    with torch.inference_mode(False):
        return torch.tensor(ids, dtype=torch.int64, device=device)


def check_forbidden(forbidden: Sequence[int], num_actions: int) -> None:
    """Raise ValueError unless every forbidden id is an action and at least one action is left."""
    bad = [token for token in forbidden if not 0 <= token < num_actions]
    if bad:
        raise ValueError(f"forbidden tokens must lie in [0, {num_actions}), got {bad[0]}")
    if len(set(forbidden)) >= num_actions:
        raise ValueError(f"all {num_actions} tokens are forbidden; leave at least one")


def padded_size(num_actions: int) -> int:
    """``num_actions`` rounded up to whole CDF blocks, so that picking needs no copy."""
    return -(-num_actions // CDF_BLOCK) * CDF_BLOCK


def pick_from_weights(weights_RV: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF draw from unnormalised weights: the first index at which the running sum exceeds u times the total.

    Args:
        weights_RV: weights >= 0, float, (R, V); V should be a multiple of ``CDF_BLOCK`` (else it is copied once).
        uniforms: numbers in [0, 1): one a row, (R,), or N draws from each row, (R, N).

    Returns:
        Drawn indices, int64, shaped as the uniforms. An index of weight 0 is never drawn.
    """
    found = pick_block(weights_RV, uniforms.view(len(weights_RV), -1))
    require_distributions(found.is_valid)
    return pick_inside(found).view(uniforms.shape)


class Found(NamedTuple):
    """What the first level of the inverse CDF leaves to the second."""

    block_RN: Tensor
    """The block that holds the drawn entry, int64."""
    inner_RNC: Tensor
    """Its weights."""
    rest_RN: Tensor
    """The running sum to be exceeded within it."""
    is_valid: Tensor
    """Whether every row of weights can be drawn from, bool, ()."""


def pick_block(weights_RV: Tensor, uniforms_RN: Tensor) -> Found:
    """First level: the block of each draw. Nothing is read back to the host; weights that are no distribution give
    some block and ``is_valid`` False."""
    R, V = weights_RV.shape
    if V % CDF_BLOCK:
        weights_RV = torch.nn.functional.pad(weights_RV, (0, padded_size(V) - V))
    blocks_RKC = weights_RV.view(R, -1, CDF_BLOCK)
    sums_RK = blocks_RKC.sum(dim=-1)
    cdf_RK, total_R1 = _running_sum(sums_RK)
    is_valid = ((cdf_RK[:, -1] > 0) & (cdf_RK[:, -1] < math.inf)).all()
    target_RN = _below(uniforms_RN * total_R1, total_R1)
    block_RN = _first_above(target_RN, cdf_RK, sums_RK)
    before_RN = torch.where(block_RN > 0, cdf_RK.gather(1, (block_RN - 1).clamp_min(0)), 0.0)
    inner_RNC = blocks_RKC[torch.arange(R, device=weights_RV.device)[:, None], block_RN]
    return Found(block_RN, inner_RNC, target_RN - before_RN, is_valid)


def pick_inside(found: Found) -> Tensor:
    """Second level: the entry within the block; indices into the whole row, int64, (R, N)."""
    cdf_RNC, total_RN1 = _running_sum(found.inner_RNC)
    rest_RN1 = _below(found.rest_RN.unsqueeze(2), total_RN1)
    return found.block_RN * CDF_BLOCK + _first_above(rest_RN1, cdf_RNC, found.inner_RNC).squeeze(2)


def require_distributions(is_valid: Tensor) -> None:
    """FloatingPointError where weights that were drawn from are no distribution. Waits for a GPU."""
    if not bool(is_valid):
        raise FloatingPointError(
            "a next-token distribution is not a distribution (NaN, infinite or nothing allowed); the generator has "
            "diverged, or every token is forbidden"
        )


def sums_rise(device: torch.device) -> bool:
    """Whether running sums of weights >= 0 never fall on this device. A CPU adds one by one; the parallel scan of a GPU
    adds each prefix in an order of its own, and rounding can make a longer one smaller, or make one that only a zero
    was added to larger."""
    return device.type == "cpu"


def _running_sum(x_LK: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums along the last dimension, and the largest that a positive entry reaches, (..., 1)."""
    cdf_LK = x_LK.cumsum(dim=-1)
    if sums_rise(x_LK.device):
        return cdf_LK, cdf_LK[..., -1:]
    return cdf_LK, torch.where(x_LK > 0, cdf_LK, 0.0).amax(dim=-1, keepdim=True)


def _first_above(target_LN: Tensor, cdf_LK: Tensor, x_LK: Tensor) -> Tensor:
    """The first positive entry whose running sum exceeds the target, int64, (..., N)."""
    if sums_rise(x_LK.device):  # then it is the first entry at all; NaN would lie past the last
        return torch.searchsorted(cdf_LK, target_LN, right=True).clamp_max(x_LK.shape[-1] - 1)
    is_above_LNK = (cdf_LK.unsqueeze(-2) > target_LN.unsqueeze(-1)) & (x_LK.unsqueeze(-2) > 0)
    return is_above_LNK.to(torch.uint8).argmax(dim=-1)


def _below(x: Tensor, limit: Tensor) -> Tensor:
    """``x``, but strictly below ``limit``: rounding must not push a draw past the last positive weight."""
    return torch.minimum(x, torch.nextafter(limit, torch.zeros_like(limit)))


def pick_from_logits(logits_RV: Tensor, uniforms: Tensor, *, options: SamplingOptions = PLAIN) -> Tensor:
    """Inverse-CDF draw from logits (R, V); uniforms and result as of :func:`pick_from_weights`. Reference for the fused
    decoder."""
    logits_RV = options.apply(logits_RV)
    return pick_from_weights((logits_RV - logits_RV.amax(dim=-1, keepdim=True)).exp_(), uniforms)
