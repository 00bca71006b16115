"""SeqGAN (Yu et al., AAAI 2017) as a Stable-Baselines3 on-policy algorithm: Eqs. (6)-(8) on whole sequences.

Differences from the paper, all optional: a baseline and normalised advantages (``weights="advantage"``, the default),
the mean instead of the sum over the batch, an entropy bonus, a KL penalty to the generator at the start, maximum
likelihood of real sequences mixed in.
Letters: B sequences, T tokens each.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from seqgan_rl.agents.policy import GeneratorPolicy
from seqgan_rl.agents.policy_gradient import (
    BASELINES,
    advantages,
    normalised,
    reward_to_go,
)
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators.diagnostics import mean_per_position, spread
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.likelihood import likelihood_loss
from seqgan_rl.rewards import Reward

Self = TypeVar("Self", bound="SeqGAN")
Played = tuple[Tensor, Tensor, Tensor, Tensor, bool]
"""One sequence from each sub-environment, the fields of :class:`SequenceBatch`."""


@dataclass(frozen=True)
class SequenceBatch:
    """Finished sequences and what was paid for them."""

    tokens_BT: Tensor
    """int64, PAD after the end."""
    is_action_BT: Tensor
    """bool: tokens that the agent chose (not the prompt, not PAD)."""
    q_BT: Tensor
    """Action values: the rollouts' where there are any, else the reward-to-go."""
    reward_BT: Tensor
    """What the environment paid for each token: R(Y) at the last, or differences of it on a shaped one."""
    has_rollouts: bool = True
    """Whether the action values are Monte-Carlo estimates; the reward-to-go is no baseline for the next step's."""

    @property
    def return_B(self) -> Tensor:
        """Sum of the rewards of each sequence: R(Y)."""
        return self.reward_BT.sum(dim=1)


class SeqGAN(OnPolicyAlgorithm):
    """The reference SeqGAN generator as an agent.

    Args:
        policy: :class:`GeneratorPolicy` or its name.
        env: an environment of this library with observation "tokens", best ``make_sb3_env(id, shaping="deferred")``:
            all rollouts of an episode then run in one batch. On the shaped environment the action values are the
            running sums of the rewards (the same numbers); on an unshaped one the reward-to-go is used (REINFORCE).
        learning_rate: Adam's step size; the authors' program uses 0.01, which is too large (see docs/results.md).
        batch_size: sequences per update; a multiple of the number of sub-environments (None: one from each).
        weights: "q" multiplies log-probabilities with Q as the paper does; "advantage" subtracts ``baseline``.
        baseline: "rollout", "position_mean", "leave_one_out" or "learned", see
            :func:`seqgan_rl.agents.policy_gradient.advantages`. Without rollouts "rollout" is "leave_one_out": Q of the
            step before would be R(Y) itself, and the difference 0.
        normalize: divide the weights by their root mean square.
        loss: "mean" or "sum" over the batch.
        max_grad_norm: global gradient norm limit; the share of updates it cut is logged.
        ent_coef: weight of the mean entropy of the next-token distributions. A mean over tokens, beside a policy term
            that sums over them: it acts from about the sequence length times what one would expect.
        kl_coef: weight of their mean KL divergence from the generator as it was at the first update (after ``load``:
            as it was loaded), a mean over tokens too.
        mle_coef: weight of the mean negative log-likelihood per token of real sequences, as many as were played, drawn
            with replacement from the attribute ``real``, which must be set (again after ``load``). Beside the policy
            term it acts like ``ent_coef``; the likelihood is that of pretraining, forbidden words included.
        vf_coef: weight of the critic's squared error (baseline "learned").
        score_differences: every token is paid R(Y_{1:t}) - R(Y_{1:t-1}), the reward's own score of prefixes, R of
            nothing being 0, in place of what the environment pays: potential-based shaping (Ng, Harada, Russell 1999)
            without rollouts, for rewards that mean something at a prefix, as a likelihood ratio or BLEU does. With the
            baseline "rollout" the score of a prefix stands for its value, as rollouts would estimate it, and the
            advantage of a token is its difference alone: little variance, and a bias by what later tokens lose or gain.
            With any other baseline action values are the sums of what is still to come, unbiased. Make the environment
            with ``shaping="none"``.
        policy_kwargs, stats_window_size, tensorboard_log, verbose, seed, device: as everywhere in SB3, but "auto" is
            the environment's device, where the rollouts of this policy run. ``has_eos`` and
            ``forbidden`` are taken from the environment where ``policy_kwargs`` does not name them.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"GeneratorPolicy": GeneratorPolicy}
    policy: GeneratorPolicy

    def __init__(
        self,
        policy: str | type[GeneratorPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        *,
        batch_size: int | None = None,
        weights: str = "advantage",
        baseline: str = "rollout",
        normalize: bool = True,
        loss: str = "mean",
        max_grad_norm: float = 5.0,
        ent_coef: float = 0.0,
        kl_coef: float = 0.0,
        mle_coef: float = 0.0,
        vf_coef: float = 0.5,
        score_differences: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if weights not in ("q", "advantage"):
            raise ValueError(f'weights must be "q" or "advantage", got {weights!r}')
        if baseline not in BASELINES:
            raise ValueError(f"baseline must be one of {', '.join(BASELINES)}; got {baseline!r}")
        if loss not in ("mean", "sum"):
            raise ValueError(f'loss must be "mean" or "sum", got {loss!r}')
        if not 0 <= mle_coef < math.inf:
            raise ValueError(f"mle_coef must be a finite number of at least 0, got {mle_coef}")
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=1,
            gamma=1.0,
            gae_lambda=1.0,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.batch_size, self.weights, self.baseline = batch_size, weights, baseline
        self.normalize, self.loss, self.kl_coef, self.mle_coef = normalize, loss, kl_coef, mle_coef
        self.score_differences = score_differences
        self.num_prefixes_scored = 0
        """Prefixes that ``score_differences`` has had scored, besides what the environment counts."""
        self._device_argument = device
        self.reference: Generator | None = None
        self.real: Tensor | None = None
        """Real training sequences for ``mle_coef``, int64, (N, T), PAD after the end."""
        self.real_rng = np.random.default_rng() if seed is None else stream(seed, "real minibatches")
        """Draws from them, and nothing else does."""
        self.batch: SequenceBatch | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.score_differences and self.env is not None and not self.env.has_attr("reward"):
            raise ValueError(
                "score_differences needs an environment with a `reward` that scores prefixes; leave it off"
            )
        self.policy_kwargs = dict(self.policy_kwargs)  # the caller's own is left as it is
        if self.env is not None:
            if self._device_argument == "auto" and self.env.has_attr("device"):  # where the rollouts run
                self.device = torch.device(self.env.get_attr("device", indices=0)[0])
            per_env, rest = divmod(self.batch_size or self.n_envs, self.n_envs)
            if rest or per_env < 1:
                raise ValueError(
                    f"batch_size must be a multiple of the {self.n_envs} sub-environments, got {self.batch_size}"
                )
            for name in ("has_eos", "forbidden"):
                if name not in self.policy_kwargs and self.env.has_attr(name):
                    self.policy_kwargs[name] = self.env.get_attr(name, indices=0)[0]
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.rollout_buffer = None  # type: ignore[assignment] # whole sequences are kept in self.batch instead
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer | None, n_rollout_steps: int
    ) -> bool:
        """Play ``batch_size`` whole sequences, equally many in each sub-environment (the first B to finish would be
        the short ones). Returns False if a callback asked to stop."""
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        can_hold, parts = env.has_attr("hold_finished"), []
        has_penalty = env.has_attr("has_penalty") and any(env.get_attr("has_penalty"))
        if has_penalty and self.score_differences:
            raise ValueError(
                "the reward's scores of prefixes do not hold the environment's penalty; leave score_differences off"
            )
        if has_penalty and "none" not in env.get_attr("shaping"):
            raise ValueError(
                "action values of rollouts do not hold the environment's penalty; use kl_coef for a KL penalty, or "
                'shaping="none"'
            )
        if can_hold:
            env.set_attr("hold_finished", True)
        try:
            for _ in range((self.batch_size or env.num_envs) // env.num_envs):
                part = self._play_one_each(env, callback)
                if part is None:
                    return False
                parts.append(part)
        finally:
            if can_hold:
                env.set_attr("hold_finished", False)
        tokens, is_action, q, rewards, has_rollouts = zip(*parts, strict=True)
        self.batch = SequenceBatch(
            torch.cat(tokens), torch.cat(is_action), torch.cat(q), torch.cat(rewards), all(has_rollouts)
        )
        if self.score_differences:
            self.batch = self._paid_by_differences(self.batch)
        self.logger.record("agent/reward", float(self.batch.return_B.mean()))
        record_values(self.logger, self.batch.q_BT, self.batch.is_action_BT)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _paid_by_differences(self, batch: SequenceBatch) -> SequenceBatch:
        """The batch with R(Y_{1:t}) - R(Y_{1:t-1}) as the reward of every action; R is 0 before the first."""
        assert self.env is not None
        reward: Reward = self.env.get_attr("reward", indices=0)[0]
        score_BT = reward.arrange(reward.score_prefixes(batch.tokens_BT, self.policy.num_actions))
        score_BT = torch.where(batch.is_action_BT, score_BT, 0.0)
        self.num_prefixes_scored += int(batch.is_action_BT.sum()) - len(score_BT)  # whole ones are the environment's
        reward_BT = torch.where(batch.is_action_BT, score_BT - nn.functional.pad(score_BT, (1, -1)), 0.0)
        stands_for_value = self.baseline == "rollout"
        q_BT = score_BT if stands_for_value else torch.where(batch.is_action_BT, reward_to_go(reward_BT), 0.0)
        return replace(batch, reward_BT=reward_BT, q_BT=q_BT, has_rollouts=stands_for_value)

    def _play_one_each(self, env: VecEnv, callback: BaseCallback) -> Played | None:
        """One sequence from every sub-environment: tokens, action marks, action values, rewards, and whether the values
        are of rollouts."""
        B, T = env.num_envs, self.policy.sequence_length
        obs = env.reset()
        is_prompt_BT = np.asarray(obs) != self.policy.num_actions
        tokens_BT = np.zeros((B, T), dtype=np.int64)
        reward_BT, q_BT = np.zeros((2, B, T), dtype=np.float32)
        position_B, is_playing_B = is_prompt_BT.sum(axis=1), np.ones(B, dtype=np.bool_)
        has_values = True
        while is_playing_B.any():
            actions_B, _, _ = self.policy(obs_as_tensor(np.asarray(obs), self.device))
            obs, rewards_B, dones_B, infos = env.step(actions_B.cpu().numpy())
            self.num_timesteps += int(is_playing_B.sum())
            callback.update_locals({**locals(), "rewards": rewards_B, "dones": dones_B & is_playing_B, "new_obs": obs})
            if not callback.on_step():
                return None
            playing = np.flatnonzero(is_playing_B)
            self._update_info_buffer([infos[row] for row in playing], dones_B[playing])
            reward_BT[playing, position_B[playing]] = rewards_B[playing]
            position_B[playing] += 1
            for row in np.flatnonzero(is_playing_B & dones_B):
                info = infos[row]
                if info.get("TimeLimit.truncated", False):
                    raise ValueError(
                        "SeqGAN needs whole sequences, but the environment truncated one; make it without "
                        "max_episode_steps, or with a smaller sequence_length"
                    )
                tokens_BT[row] = info["terminal_observation"]
                if "action_value" in info:
                    q_BT[row] = info["action_value"]
                else:
                    has_values = False
                is_playing_B[row] = False
        tokens, is_prompt, q, reward = (torch.from_numpy(a) for a in (tokens_BT, is_prompt_BT, q_BT, reward_BT))
        is_action = (tokens != self.policy.num_actions) & ~is_prompt
        q = q if has_values else torch.where(is_action, reward_to_go(reward), 0.0)
        device = self.device
        return tokens.to(device), is_action.to(device), q.to(device), reward.to(device), has_values

    def train(self) -> None:
        """One gradient step on the sequences just played, Eqs. (7)-(8)."""
        assert self.batch is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._descend(self._loss(self.batch))

    def _descend(self, loss: Tensor) -> None:
        """One optimiser step of the policy."""
        self.policy.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError("the policy gradient is not finite; lower the learning rate or check the reward")
        self.policy.optimizer.step()
        self._n_updates += 1
        self.logger.record("agent/loss", float(loss.detach()))
        self.logger.record("agent/gradient_norm", float(norm))
        self.logger.record("agent/was_clipped", float(norm > self.max_grad_norm))
        self.logger.record("agent/updates", self._n_updates)

    def _loss(self, batch: SequenceBatch) -> Tensor:
        """The loss of one batch; its gradient is minus the estimate of Eq. (7), plus the optional terms."""
        is_action_BT = batch.is_action_BT
        learned = self.weights == "advantage" and self.baseline == "learned"
        value_BT = self.policy.sequence_values(batch.tokens_BT) if learned else None
        baseline = "none" if self.weights == "q" else self.baseline
        if baseline == "rollout" and not batch.has_rollouts:
            baseline = "leave_one_out"
        weight_BT = advantages(
            batch.q_BT,
            is_action_BT,
            baseline,
            None if value_BT is None else value_BT.detach(),
        )
        record_spread(self.logger, weight_BT[is_action_BT])
        if self.normalize:
            weight_BT = normalised(weight_BT, is_action_BT)
        # minus Eq. (7): summed over t; over B the mean, or the sum as in the authors' program
        scale = 1 / len(weight_BT) if self.loss == "mean" else 1
        loss, logp_BT = self.policy.weighted_nll(batch.tokens_BT, weight_BT * scale)
        self.logger.record("agent/entropy_sampled", -float(logp_BT[is_action_BT].mean()))
        if value_BT is not None:
            loss = loss + self.vf_coef * (value_BT - batch.q_BT)[is_action_BT].square().mean()
        if self.ent_coef or self.kl_coef:
            loss = loss + self._regularisation(batch)
        if self.mle_coef:
            nll = self._real_nll(len(batch.tokens_BT))
            self.logger.record("agent/mle_loss", float(nll.detach()))
            loss = loss + self.mle_coef * nll
        return loss

    def _real_nll(self, n: int) -> Tensor:
        """Mean negative log-likelihood of ``n`` real sequences, nats per token, a differentiable scalar."""
        assert self.real is not None
        rows = torch.from_numpy(self.real_rng.integers(len(self.real), size=n))
        return likelihood_loss(self.policy.generator, self.real[rows.to(self.real.device)].to(self.device))

    def _regularisation(self, batch: SequenceBatch) -> Tensor:
        """- ent_coef * entropy + kl_coef * KL(policy || reference), means over actions, exact over the vocabulary."""
        reference = self._start()
        reshape, is_action_BT = self.policy.sampling_options.apply, batch.is_action_BT
        logp_RA = reshape(self.policy.generator.logits(batch.tokens_BT)[is_action_BT]).log_softmax(dim=-1)
        with torch.no_grad():
            reference_RA = reshape(reference.logits(batch.tokens_BT)[is_action_BT]).log_softmax(dim=-1)
        probs_RA, is_impossible_RA = logp_RA.exp(), torch.isinf(logp_RA)
        logp_RA = logp_RA.masked_fill(is_impossible_RA, 0.0)  # 0 log 0 = 0, also in the gradient
        entropy = -(probs_RA * logp_RA).sum(dim=1).mean()
        kl = (probs_RA * (logp_RA - reference_RA.masked_fill(is_impossible_RA, 0.0))).sum(dim=1).mean()
        self.logger.record("agent/entropy", float(entropy.detach()))
        self.logger.record("agent/kl_to_start", float(kl.detach()))
        return self.kl_coef * kl - self.ent_coef * entropy

    def _start(self) -> Generator:
        """``reference``: the generator as it was at the first update, unless it was set."""
        if self.reference is None:
            self.reference = copy.deepcopy(self.policy.generator).requires_grad_(False).eval()
        return self.reference

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "SeqGAN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As everywhere in SB3; whole sequences are played, so up to one batch more than ``total_timesteps``.

        Raises:
            ValueError: ``mle_coef`` is above 0 and there are no real sequences of this length.
        """
        if self.mle_coef:
            self._check_real()
        return super().learn(
            total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type] # SB3 takes None, its annotation does not say so
            tb_log_name,
            reset_num_timesteps,
            progress_bar,
        )

    def _check_real(self) -> None:
        T, found = self.policy.sequence_length, None if self.real is None else tuple(self.real.shape)
        if found is None or len(found) != 2 or found[0] < 1 or found[1] != T:
            raise ValueError(
                f"mle_coef {self.mle_coef} needs real sequences, token ids of shape (N, {T}); got {found}. Set "
                "`agent.real`, or mle_coef=0"
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "batch", "reference", "real"]


def record_values(logger: Logger, value_NT: Tensor, is_action_NT: Tensor) -> None:
    """Record the mean action value at the first, the middle and the last position."""
    value_T = mean_per_position(value_NT, is_action_NT)
    for name, t in (("first", 0), ("middle", len(value_T) // 2), ("last", -1)):
        logger.record(f"agent/value_{name}", float(value_T[t]))


def record_spread(logger: Logger, weights: Tensor) -> None:
    """Record the standard deviation and the 5th and 95th percentiles of weights (Q or advantage) of any shape."""
    found = spread(weights, torch.ones_like(weights, dtype=torch.bool))
    logger.record("agent/weight_spread", found["advantage_std"])
    for percentile in ("p5", "p95"):
        logger.record(f"agent/weight_{percentile}", found[f"advantage_{percentile}"])
