"""What a discriminator's answers and a reward's values look like: ranking, calibration, profile over positions, spread.

Letters: N sequences, T tokens each.
"""

import torch
from torch import Tensor


def auc(real_N: Tensor, fake_N: Tensor) -> float:
    """Probability that a real sequence scores above a generated one, ties counted half (Mann-Whitney).

    >>> auc(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]))
    0.875
    """
    if len(real_N) == 0 or len(fake_N) == 0:
        return float("nan")
    sorted_N = fake_N.sort().values.contiguous()
    below_N = torch.searchsorted(sorted_N, real_N.contiguous(), right=False)
    up_to_N = torch.searchsorted(sorted_N, real_N.contiguous(), right=True)
    return float((below_N + up_to_N).double().mean() / (2 * len(fake_N)))


def calibration_error(
    probability_N: Tensor, is_real_N: Tensor, num_bins: int = 10, *, is_balanced: bool = False
) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, Eq. 3), in [0, 1]: over bins of equal width,
    the mean of |share that is real - mean probability|, weighted with the sequences in the bin.

    Args:
        probability_N: D(Y), in [0, 1], (N,).
        is_real_N: bool, (N,).
        num_bins: bins [0, 1/M), ..., [(M-1)/M, 1].
        is_balanced: count real and generated sequences as if there were as many of each, as D was trained; else D = 1/2
            is miscalibrated wherever one kind is more often there.

    >>> round(calibration_error(torch.tensor([0.9, 0.9, 0.1, 0.1]), torch.tensor([True, True, False, True])), 6)
    0.25
    """
    if len(probability_N) == 0:
        return float("nan")
    probability_N, weight_N = probability_N.double(), torch.ones_like(probability_N, dtype=torch.float64)
    if is_balanced:
        weight_N = torch.where(is_real_N, 1 / is_real_N.sum().double(), 1 / (~is_real_N).sum().double())
    bin_N = (probability_N * num_bins).long().clamp(0, num_bins - 1)
    excess_M = torch.zeros(num_bins, dtype=torch.float64, device=bin_N.device)
    excess_M.index_add_(0, bin_N, (is_real_N.double() - probability_N) * weight_N)
    return float(excess_M.abs().sum() / weight_N.sum())


def mean_per_position(value_NT: Tensor, is_action_NT: Tensor) -> Tensor:
    """Mean of the values at each position over the sequences that act there, float64 (T,); NaN where none does.

    Of action values: how the expected reward moves as sequences are written. Of rewards: which steps are paid.
    """
    total_T = torch.where(is_action_NT, value_NT.double(), 0.0).sum(dim=0)
    return total_T / is_action_NT.sum(dim=0)


def spread(advantage_NT: Tensor, is_action_NT: Tensor) -> dict[str, float]:
    """How advantages differ over all actions: standard deviation, and the 5th and 95th percentiles, in reward units. A
    spread near 0 means that the reward tells the generator's sequences no more apart."""
    value_M = advantage_NT[is_action_NT].double()
    if len(value_M) == 0:
        return dict.fromkeys(("advantage_std", "advantage_p5", "advantage_p95"), float("nan"))
    low, high = value_M.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64, device=value_M.device)).tolist()
    return {"advantage_std": float(value_M.std(correction=0)), "advantage_p5": low, "advantage_p95": high}
