"""RLOO: REINFORCE on whole sequences with a leave-one-out baseline.

Ahmadian, Cremer, Gallé, Fadaee, Kreutzer, Pietquin, Üstün, Hooker: "Back to Basics: Revisiting REINFORCE Style
Optimization for Learning from Human Feedback in LLMs" (ACL 2024, arXiv:2402.14740).
Letters: B sequences, T tokens each.
"""

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from seqgan_rl.agents.policy import GeneratorPolicy
from seqgan_rl.agents.policy_gradient import leave_one_out, prompt_groups
from seqgan_rl.agents.seqgan import SeqGAN, SequenceBatch, record_spread


class RLOO(SeqGAN):
    """A sequence is one action: ∇J ≈ 1/B Σ_b (R_b - mean of the other R of its prompt) ∇ log π(Y_b).

    R_b = R(Y_b) - β log(π(Y_b) / π_ref(Y_b)): the KL penalty is part of the reward, as in the paper, and so the
    objective is E[R(Y)] - β KL(π || π_ref) in nats per sequence. No rollouts are needed: make the environment with
    ``shaping="none"``.

    Args:
        beta: β; 0 leaves the penalty out. π_ref is the generator at the first update (``reference``; after ``load``: as
            it was loaded, unless it is set again).
        batch_size: sequences per update; without prompts all of them are one group.
        policy, env, learning_rate, max_grad_norm, policy_kwargs, stats_window_size, tensorboard_log, verbose, seed,
            device: see :class:`SeqGAN`.
    """

    def __init__(
        self,
        policy: str | type[GeneratorPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        *,
        batch_size: int | None = None,
        beta: float = 0.05,
        max_grad_norm: float = 5.0,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, got {beta}")
        self.beta = beta
        super().__init__(
            policy,
            env,
            learning_rate,
            batch_size=batch_size,
            baseline="leave_one_out",
            normalize=False,
            max_grad_norm=max_grad_norm,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _loss(self, batch: SequenceBatch) -> Tensor:
        """The loss of one batch; its gradient is minus the estimate above."""
        reward_B = batch.return_B
        if self.beta:
            log_ratio_B = self._log_ratio(batch).sum(dim=1)
            self.logger.record("agent/kl_to_start", float(log_ratio_B.sum() / batch.is_action_BT.sum()))
            reward_B = reward_B - self.beta * log_ratio_B
        advantage_B = leave_one_out(
            reward_B, prompt_groups(batch.tokens_BT, batch.is_action_BT, self.policy.num_actions)
        )
        record_spread(self.logger, advantage_B)
        weight_BT = advantage_B[:, None] * batch.is_action_BT / len(advantage_B)
        loss, logp_BT = self.policy.weighted_nll(batch.tokens_BT, weight_BT)
        self.logger.record("agent/entropy_sampled", -float(logp_BT[batch.is_action_BT].mean()))
        return loss

    @torch.no_grad()
    def _log_ratio(self, batch: SequenceBatch) -> Tensor:
        """log π - log π_ref of the actions, (B, T), 0 elsewhere."""
        forbidden = self.policy.sampling_options.forbidden
        reference_logp_BT = self._start().log_prob(batch.tokens_BT, forbidden=forbidden)
        log_ratio_BT = self.policy.sequence_log_prob(batch.tokens_BT) - reference_logp_BT
        return torch.where(batch.is_action_BT, log_ratio_BT, 0.0)
