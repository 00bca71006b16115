"""The policy gradient of SeqGAN, Eqs. (6)-(8), and the baselines that may be subtracted from its action values.

Letters: B sequences, T tokens each. ``is_action_BT`` marks the tokens that the agent chose: not the prompt, not PAD.
"""

import torch
from torch import Tensor

BASELINES = ("none", "rollout", "position_mean", "leave_one_out", "learned")


def reward_to_go(reward_BT: Tensor) -> Tensor:
    """Σ_{s≥t} r_s, (B, T): the action value that plain REINFORCE uses when nothing was rolled out."""
    return reward_BT.flip(1).cumsum(dim=1).flip(1)


def advantages(q_BT: Tensor, is_action_BT: Tensor, baseline: str, value_BT: Tensor | None = None) -> Tensor:
    """Action values less a baseline that does not depend on the action, 0 where no action was taken.

    Args:
        q_BT: Q(Y_{1:t-1}, y_t).
        is_action_BT: bool.
        baseline: "none"; "rollout": Q of the step before, which estimates V of this state, and at the first action the
            mean first value of the other sequences (unbiased); "position_mean": mean over the batch at this position
            (scales the expected gradient by 1 - 1/n, n sequences at the position); "leave_one_out": the same mean
            over the other sequences (unbiased); "learned": ``value_BT``.
        value_BT: V(Y_{1:t-1}), for "learned".
    """
    dtype, q_BT = q_BT.dtype, q_BT.double()  # in float32 a constant less its mean is not 0, and Adam has no scale
    count_T = is_action_BT.sum(dim=0)
    total_T = torch.where(is_action_BT, q_BT, 0.0).sum(dim=0)
    # mean over the others at this position; for a sequence that is alone there, over all values of the others
    row_total_B1 = torch.where(is_action_BT, q_BT, 0.0).sum(dim=1, keepdim=True)
    elsewhere_B1 = is_action_BT.sum() - is_action_BT.sum(dim=1, keepdim=True)
    others_B1 = (total_T.sum() - row_total_B1) / elsewhere_B1.clamp_min(1)
    others_BT = torch.where(count_T > 1, (total_T - q_BT) / (count_T - 1).clamp_min(1), others_B1)
    match baseline:
        case "none":
            base_BT = torch.zeros_like(q_BT)
        case "rollout":
            has_previous_BT = torch.zeros_like(is_action_BT)
            has_previous_BT[:, 1:] = is_action_BT[:, 1:] & is_action_BT[:, :-1]
            base_BT = torch.where(has_previous_BT, q_BT.roll(1, dims=1), others_BT)
        case "position_mean":
            base_BT = total_T / count_T.clamp_min(1)
        case "leave_one_out":
            base_BT = others_BT
        case "learned":
            assert value_BT is not None
            base_BT = value_BT
        case _:
            raise ValueError(f"baseline must be one of {', '.join(BASELINES)}; got {baseline!r}")
    return torch.where(is_action_BT, q_BT - base_BT, 0.0).to(dtype)


def normalised(advantage_BT: Tensor, is_action_BT: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Divided by their root mean square over all actions plus epsilon, so that no variance stays no gradient."""
    rms = (advantage_BT.square().sum() / is_action_BT.sum().clamp_min(1)).sqrt()
    return advantage_BT / (rms + epsilon)
