"""The policy gradient of SeqGAN, Eqs. (6)-(8), the baselines that may be subtracted from its action values, and the
terms of RLOO (Ahmadian et al. 2024) and GRPO (Shao et al. 2024).

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


def prompt_groups(tokens_BT: Tensor, is_action_BT: Tensor, pad_id: int) -> Tensor:
    """Sequences of one prompt have one number, int64, (B,); without prompts all are one group."""
    prompts_BT = tokens_BT.masked_fill(is_action_BT, pad_id)
    groups_B: Tensor = torch.unique(prompts_BT, dim=0, return_inverse=True)[1]
    return groups_B


def leave_one_out(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """R(Y) less the mean R of the other sequences of its group, (B,): RLOO's advantage, unbiased.

    Raises:
        ValueError: a group of one, which has no others.
    """
    count_B, mean_B, _ = _group_moments(reward_B, group_B)
    if (count_B < 2).any():
        raise ValueError("leave-one-out needs at least 2 sequences of every prompt; raise batch_size or num_envs")
    return ((reward_B - mean_B) * count_B / (count_B - 1)).to(reward_B.dtype)


def group_relative(reward_B: Tensor, group_B: Tensor, *, scale_by_std: bool, epsilon: float = 1e-4) -> Tensor:
    """R(Y) less the mean R of its group, itself included, (B,): GRPO's advantage, divided by the group's standard
    deviation (that of a population) plus epsilon where ``scale_by_std``."""
    _, mean_B, std_B = _group_moments(reward_B, group_B)
    return ((reward_B - mean_B) / (std_B + epsilon if scale_by_std else 1)).to(reward_B.dtype)


def _group_moments(reward_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Size, mean and standard deviation of the group of each sequence, float64, (B,)."""
    reward_B, num_groups = reward_B.double(), int(group_B.max()) + 1
    count_G = reward_B.new_zeros(num_groups).index_add(0, group_B, torch.ones_like(reward_B))
    mean_B = (reward_B.new_zeros(num_groups).index_add(0, group_B, reward_B) / count_G)[group_B]
    variance_G = reward_B.new_zeros(num_groups).index_add(0, group_B, (reward_B - mean_B).square()) / count_G
    return count_G[group_B], mean_B, variance_G.sqrt()[group_B]


def clipped_surrogate(logp_BT: Tensor, old_logp_BT: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = π / π_old, (B, T): PPO's surrogate (Schulman et al. 2017)."""
    ratio_BT = (logp_BT - old_logp_BT).exp()
    return torch.minimum(ratio_BT * advantage, ratio_BT.clamp(1 - clip_range, 1 + clip_range) * advantage)


def k3(logp_BT: Tensor, reference_logp_BT: Tensor) -> Tensor:
    """π_ref/π - log(π_ref/π) - 1 >= 0, (B, T): Schulman's unbiased estimate of KL(π || π_ref) for tokens drawn from π.

    As a loss its expected gradient is that of the other divergence, KL(π_ref || π), as long as π drew the tokens.
    """
    log_ratio_BT = reference_logp_BT - logp_BT
    return log_ratio_BT.exp() - log_ratio_BT - 1
