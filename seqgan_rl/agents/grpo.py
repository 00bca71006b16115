"""GRPO: clipped policy gradient with advantages relative to the sequences of one prompt, and no critic.

Shao et al.: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models" (2024,
arXiv:2402.03300), Eqs. (3)-(4), with the outcome reward. Its two biases, and the options that remove them: Liu et al.,
"Understanding R1-Zero-Like Training" (2025, arXiv:2503.20783), there "Dr. GRPO".
Letters: B sequences, T tokens each.
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from seqgan_rl.agents.policy import GeneratorPolicy
from seqgan_rl.agents.policy_gradient import clipped_surrogate, group_relative, k3, prompt_groups
from seqgan_rl.agents.seqgan import SeqGAN, SequenceBatch, record_spread
from seqgan_rl.models.generator import Generator

INNER_FIGURES = tuple(
    f"agent/{name}"
    for name in ("loss", "gradient_norm", "was_clipped", "entropy_sampled", "kl_to_start", "clip_fraction")
)
"""What is recorded of each inner step, and then as a mean over them."""


class GRPO(SeqGAN):
    """Ascends 1/B Σ_b 1/|Y_b| Σ_t {min(ρ_bt A_b, clip(ρ_bt, 1 - ε, 1 + ε) A_b) - β k3_bt}, several steps a batch.

    A_b = (R_b - mean R) / std R over the sequences of one prompt (without prompts, the whole batch); ρ = π / π_old,
    where π_old played the batch; k3 estimates KL(π || π_ref) and is part of the loss. No rollouts are needed: make the
    environment with ``shaping="none"``.

    Args:
        n_epochs: gradient steps on the whole batch, all of it at a time.
        clip_range: ε.
        beta: β; 0.04 in the paper. π_ref is the generator at the first update (``reference``; after ``load``: as it was
            loaded, unless it is set again).
        scale_by_std: divide by the standard deviation, as published: prompts whose rewards differ little then weigh as
            much as others.
        scale_by_length: divide by the length of the sequence, as published: among bad sequences the long ones are then
            punished less a token. Off: by T for all.
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
        n_epochs: int = 4,
        clip_range: float = 0.2,
        beta: float = 0.04,
        scale_by_std: bool = True,
        scale_by_length: bool = True,
        max_grad_norm: float = 5.0,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if n_epochs < 1:
            raise ValueError(f"n_epochs must be at least 1, got {n_epochs}")
        if not 0 < clip_range < 1:
            raise ValueError(f"clip_range must lie in (0, 1), got {clip_range}")
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, got {beta}")
        self.n_epochs, self.clip_range, self.beta = n_epochs, clip_range, beta
        self.scale_by_std, self.scale_by_length = scale_by_std, scale_by_length
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

    def train(self) -> None:
        """``n_epochs`` gradient steps on the sequences just played."""
        assert self.batch is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        with torch.no_grad():
            old_logp_BT = self._log_prob(self.policy.generator, self.batch)
            reference_logp_BT = self._log_prob(self._start(), self.batch)
        steps = []
        for _ in range(self.n_epochs):
            self._descend(self._surrogate_loss(self.batch, old_logp_BT, reference_logp_BT))
            steps.append([self.logger.name_to_value[name] for name in INNER_FIGURES])
        for name, mean in zip(INNER_FIGURES, np.mean(steps, axis=0), strict=True):
            self.logger.record(name, float(mean))

    def _log_prob(self, generator: Generator, batch: SequenceBatch) -> Tensor:
        """Log-probabilities of the actions, (B, T); 0 elsewhere, where a prompt may hold what the agent may not say."""
        logp_BT = generator.log_prob(batch.tokens_BT, forbidden=self.policy.sampling_options.forbidden)
        return torch.where(batch.is_action_BT, logp_BT, 0.0)

    def _surrogate_loss(self, batch: SequenceBatch, old_logp_BT: Tensor, reference_logp_BT: Tensor) -> Tensor:
        """Minus the objective above."""
        is_action_BT = batch.is_action_BT
        group_B = prompt_groups(batch.tokens_BT, is_action_BT, self.policy.num_actions)
        advantage_B1 = group_relative(batch.return_B, group_B, scale_by_std=self.scale_by_std)[:, None]
        logp_BT = self._log_prob(self.policy.generator, batch)
        kl_BT = k3(logp_BT, reference_logp_BT)
        objective_BT = clipped_surrogate(logp_BT, old_logp_BT, advantage_B1, self.clip_range) - self.beta * kl_BT
        length_B = is_action_BT.sum(dim=1) if self.scale_by_length else is_action_BT.shape[1]
        loss = -(torch.where(is_action_BT, objective_BT, 0.0).sum(dim=1) / length_B).mean()

        is_outside_BT = ((logp_BT - old_logp_BT).exp() - 1).abs() > self.clip_range
        for name, value_BT in (
            ("entropy_sampled", -logp_BT),
            ("kl_to_start", kl_BT),
            ("clip_fraction", is_outside_BT.float()),
        ):
            self.logger.record(f"agent/{name}", float(value_BT.detach()[is_action_BT].mean()))
        record_spread(self.logger, advantage_B1)
        return loss
