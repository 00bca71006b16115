"""Draw tokens from logits by a two-level inverse CDF, and the filters (temperature, top-k, top-p) that reshape them.

One uniform number per row, where ``torch.multinomial`` draws one per row and vocabulary entry
(``benchmarks/rollout.py`` has both). Letters: R rows, D draws, V entries, padded to a multiple of the block length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
            logits_RV = logits_RV.index_fill(-1, torch.tensor(self.forbidden, device=logits_RV.device), -math.inf)
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


def pick_from_weights(weights_RV: Tensor, uniforms_D: Tensor, rows_D: Tensor | None = None) -> Tensor:
    """Inverse-CDF draw from unnormalised weights: the first index at which the running sum exceeds u times the total.

    Args:
        weights_RV: weights >= 0, float, (R, V); V should be a multiple of ``CDF_BLOCK`` (else it is copied once).
        uniforms_D: numbers in [0, 1), one a draw, (D,).
        rows_D: which row each draw is from, int64, (D,); None draws once from each row.

    Returns:
        Drawn indices, int64, (D,). An index of weight 0 is never drawn.
    """
    R, V = weights_RV.shape
    if V % CDF_BLOCK:
        weights_RV = torch.nn.functional.pad(weights_RV, (0, padded_size(V) - V))
    blocks_RKC = weights_RV.view(R, -1, CDF_BLOCK)  # (R, K blocks, C entries)
    cdf_RK = blocks_RKC.sum(dim=-1).cumsum(dim=-1)
    total_R = cdf_RK[:, -1]
    if not bool(((total_R > 0) & (total_R < math.inf)).all()):
        raise FloatingPointError(
            "a next-token distribution is not a distribution (NaN, infinite or nothing allowed); the generator has "
            "diverged, or every token is forbidden"
        )
    if rows_D is None:
        rows_D, cdf_DK = torch.arange(R, device=weights_RV.device), cdf_RK
    else:
        cdf_DK = cdf_RK[rows_D]
    target_D1 = _below(uniforms_D.unsqueeze(1) * cdf_DK[:, -1:], cdf_DK[:, -1:])
    block_D1 = torch.searchsorted(cdf_DK, target_D1, right=True)
    before_D1 = torch.where(block_D1 > 0, cdf_DK.gather(1, (block_D1 - 1).clamp_min(0)), 0.0)
    inner_DC = blocks_RKC[rows_D, block_D1.squeeze(1)].cumsum(dim=-1)
    rest_D1 = _below(target_D1 - before_D1, inner_DC[:, -1:])
    inside_D1 = torch.searchsorted(inner_DC, rest_D1, right=True)
    return (block_D1 * CDF_BLOCK + inside_D1).squeeze(1)


def _below(x: Tensor, limit: Tensor) -> Tensor:
    """``x``, but strictly below ``limit``: rounding must not push a draw past the last positive weight."""
    return torch.minimum(x, torch.nextafter(limit, torch.zeros_like(limit)))


def pick_from_logits(
    logits_RV: Tensor, uniforms_D: Tensor, rows_D: Tensor | None = None, *, options: SamplingOptions = PLAIN
) -> Tensor:
    """Inverse-CDF draw from logits (R, V), one uniform in [0, 1) a draw; int64 (D,); ``rows_D`` as of
    :func:`pick_from_weights`. Reference for the fused decoder."""
    logits_RV = options.apply(logits_RV)
    return pick_from_weights((logits_RV - logits_RV.amax(dim=-1, keepdim=True)).exp_(), uniforms_D, rows_D)
