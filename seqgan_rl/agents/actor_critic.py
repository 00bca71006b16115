"""Actor-critic for sequences: a critic that reads prefixes and values every next token.

Bahdanau, Brakel, Xu, Goyal, Lowe, Pineau, Courville, Y. Bengio: "An Actor-Critic Algorithm for Sequence Prediction"
(ICLR 2017, arXiv:1607.07086), Algorithm 1. Their critic also reads the reference translation; unconditional generation
has none, so ours reads the prefix alone.
Letters: B sequences, T tokens each, A actions.
"""

import copy
from typing import Any

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from seqgan_rl.agents.policy import GeneratorPolicy
from seqgan_rl.agents.seqgan import Played, SeqGAN, SequenceBatch, record_spread
from seqgan_rl.core.modules import adam
from seqgan_rl.models.generator import Generator


class ActorCritic(SeqGAN):
    """One critic step, then one actor step on every batch of whole sequences.

    - Critic: Σ_t (Q(Y_{1:t-1}, y_t) - q_t)² + λ C_t with q_t = r_t + Σ_a π'(a | Y_{1:t}) Q'(Y_{1:t}, a), where Q' is
      the target critic and π' the delayed actor; C_t = Σ_a (Q(a) - mean Q)² holds down values of actions never taken.
    - Actor: ∇J ≈ Σ_t Σ_a ∇π(a | Y_{1:t-1}) Q(Y_{1:t-1}, a), over all actions, not only those taken.

    Q is a network of the actor's kind and sizes whose logits are read as action values. All next-token distributions of
    a batch are held at once, some eight times B * T * A float32.

    Args:
        critic_learning_rate: Adam's step size for the critic.
        critic_update_rate: γ_φ: φ' <- φ' + γ_φ (φ - φ') after each update.
        actor_update_rate: γ_θ of the delayed actor, which then plays and gives the targets, as in the paper; 1 has
            none: the actor does both itself.
        variance_penalty: λ.
        critic_warmup: updates at the start in which only the critic learns, from an actor that stays as it is.
        policy, env, learning_rate, batch_size, max_grad_norm, score_differences, policy_kwargs, stats_window_size,
            tensorboard_log, verbose, seed, device: see :class:`SeqGAN`.
    """

    critic: Generator
    target_critic: Generator
    delayed_actor: Generator | None

    def __init__(
        self,
        policy: str | type[GeneratorPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        *,
        batch_size: int | None = None,
        critic_learning_rate: float = 1e-2,
        critic_update_rate: float = 0.1,
        actor_update_rate: float = 1.0,
        variance_penalty: float = 1e-3,
        critic_warmup: int = 20,
        score_differences: bool = False,
        max_grad_norm: float = 5.0,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        for name, rate in (("critic_update_rate", critic_update_rate), ("actor_update_rate", actor_update_rate)):
            if not 0 < rate <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {rate}")
        if not critic_learning_rate > 0:
            raise ValueError(f"critic_learning_rate must be above 0, got {critic_learning_rate}")
        if not 0 <= variance_penalty < float("inf"):
            raise ValueError(f"variance_penalty must be a finite number of at least 0, got {variance_penalty}")
        if critic_warmup < 0:
            raise ValueError(f"critic_warmup must be at least 0, got {critic_warmup}")
        self.critic_learning_rate, self.critic_update_rate = critic_learning_rate, critic_update_rate
        self.actor_update_rate, self.variance_penalty = actor_update_rate, variance_penalty
        self.critic_warmup = critic_warmup
        super().__init__(
            policy,
            env,
            learning_rate,
            batch_size=batch_size,
            max_grad_norm=max_grad_norm,
            score_differences=score_differences,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        actor = self.policy.generator
        self.critic = type(actor)(**actor.config).to(self.device)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False).eval()
        self.critic_optimizer = adam(self.critic.parameters(), lr=self.critic_learning_rate)
        delays = self.actor_update_rate != 1
        self.delayed_actor = copy.deepcopy(actor).requires_grad_(False).eval() if delays else None

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer | None, n_rollout_steps: int
    ) -> bool:
        """See :meth:`SeqGAN.collect_rollouts`."""
        if self._n_updates == 0:  # the actor may have been given other weights since it was made
            self._follow(self.delayed_actor, self.policy.generator, 1.0)
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def _play_one_each(self, env: VecEnv, callback: BaseCallback) -> Played | None:
        """See :meth:`SeqGAN._play_one_each`; the delayed actor plays, where there is one."""
        actor = self.policy.generator
        self.policy.generator = self.delayed_actor or actor
        try:
            return super()._play_one_each(env, callback)
        finally:
            self.policy.generator = actor
            self.policy.forget()

    def train(self) -> None:
        """A critic step and, after the warm-up, an actor step on the sequences just played."""
        assert self.batch is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._step_critic(self._critic_loss(self.batch))
        if self._n_updates < self.critic_warmup:
            self._n_updates += 1
        else:
            self._descend(self._actor_loss(self.batch))
        self._follow(self.target_critic, self.critic, self.critic_update_rate)
        self._follow(self.delayed_actor, self.policy.generator, self.actor_update_rate)

    def _critic_loss(self, batch: SequenceBatch) -> Tensor:
        """Squared errors against the targets, and the penalty; a mean over the actions taken."""
        tokens_BT, is_action_BT = batch.tokens_BT, batch.is_action_BT
        with torch.no_grad():
            probs_BTA = self._probabilities(self.delayed_actor or self.policy.generator, tokens_BT)
            target_BT = td_targets(batch.reward_BT, is_action_BT, probs_BTA, self.target_critic.logits(tokens_BT))
        q_BTA, actions_BT1 = self.critic.logits(tokens_BT), tokens_BT.masked_fill(~is_action_BT, 0)[:, :, None]
        taken_BT = q_BTA.gather(2, actions_BT1).squeeze(2)
        error = (taken_BT - target_BT)[is_action_BT].square().mean()
        variance = (q_BTA - q_BTA.mean(dim=2, keepdim=True)).square().sum(dim=2)[is_action_BT].mean()
        self.logger.record("agent/td_error", float(error.detach().sqrt()))
        self.logger.record("agent/q_variance", float(variance.detach()))
        played_BT = probs_BTA.gather(2, actions_BT1).squeeze(2)
        self.logger.record("agent/entropy_sampled", -float(played_BT[is_action_BT].log().mean()))
        advantage_BT = taken_BT.detach() - (probs_BTA * q_BTA.detach()).sum(dim=2)
        record_spread(self.logger, advantage_BT[is_action_BT])
        return error + self.variance_penalty * variance

    def _actor_loss(self, batch: SequenceBatch) -> Tensor:
        """Minus Σ_t Σ_a π(a) Q(a), a mean over the sequences; Q is constant."""
        probs_BTA = self._probabilities(self.policy.generator, batch.tokens_BT)
        with torch.no_grad():
            q_BTA = self.critic.logits(batch.tokens_BT)
        value_BT = (probs_BTA * q_BTA).sum(dim=2)
        return -torch.where(batch.is_action_BT, value_BT, 0.0).sum(dim=1).mean()

    def _probabilities(self, actor: Generator, tokens_BT: Tensor) -> Tensor:
        """π(a | Y_{1:t-1}), (B, T, A), 0 for what is forbidden."""
        return self.policy.sampling_options.apply(actor.logits(tokens_BT)).softmax(dim=-1)

    def _step_critic(self, loss: Tensor) -> None:
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.critic.parameters(), self.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError("the critic's gradient is not finite; lower its learning rate or check the reward")
        self.critic_optimizer.step()
        self.logger.record("agent/critic_loss", float(loss.detach()))

    @torch.no_grad()
    def _follow(self, copied: Generator | None, source: Generator, rate: float) -> None:
        """copied <- copied + rate * (source - copied)."""
        if copied is not None:
            for late, new in zip(copied.parameters(), source.parameters(), strict=True):
                late.lerp_(new, rate)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        delayed = [] if self.delayed_actor is None else ["delayed_actor"]
        return [*names, "critic", "critic_optimizer", "target_critic", *delayed], tensors


def td_targets(reward_BT: Tensor, is_action_BT: Tensor, probs_BTA: Tensor, target_q_BTA: Tensor) -> Tensor:
    """q_t = r_t + Σ_a π'(a | Y_{1:t}) Q'(Y_{1:t}, a), (B, T); nothing follows the last action.

    Args:
        reward_BT: r_t, paid for token t.
        is_action_BT: bool.
        probs_BTA, target_q_BTA: π' and Q' at the prefix *before* token t.
    """
    value_BT = torch.where(is_action_BT, (probs_BTA * target_q_BTA).sum(dim=2), 0.0)
    return reward_BT + nn.functional.pad(value_BT[:, 1:], (0, 1))
