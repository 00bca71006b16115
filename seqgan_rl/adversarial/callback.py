"""The GAN loop as a Stable-Baselines3 callback: one ``learn()``, whichever agent it is.

Letters: B sequences, T tokens each.
"""

import copy
import pickle
import warnings
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch import Tensor

from seqgan_rl.adversarial.replay import check_replay, relabel
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import Adversary, DiscriminatorConfig, DiscriminatorTrainer
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.sampling import PLAIN
from seqgan_rl.rewards import Reward

RELABEL_COST = 20
"""Stored sequences that are scored anew for each new one, at the most."""
_KEPT = 100_000
"""Finished sequences that an environment keeps at the most, until the end of a rollout."""


class AdversarialCallback(BaseCallback):
    """Retrains the discriminator that pays the agent, every so many of the agent's sequences.

    An agent whose policy is a generator is asked for fresh sequences, before it plays on (Algorithm 1: after each
    generator update the discriminator is trained on the new generator's samples). Of any other agent, and where prompts
    or masks from outside take part, the finished sequences are gathered as it plays, and the discriminator is trained
    at the end of a rollout.

    The rewards in a replay buffer are those of the discriminator as it was: after each retraining the whole buffer is
    relabelled. Only whole sequences can be, so a replay agent is paid at the end of a sequence (``shaping="none"``),
    whatever the environment was made with. To environments in subprocesses the discriminator, and the generator where
    rollouts need it, are sent after each update.

    Args:
        real: real sequences, int64 (N, T); None takes those of the environment (its corpus, or draws of its oracle).
        config: how the discriminator is trained; ``minibatches_per_round`` is the work of one retraining.
        every: finished sequences between two retrainings; None: once per rollout of an on-policy agent, else every
            ``config.batch_size`` sequences, less often where the replay buffer holds more than 20 times as many.
        trainer: continue with this trainer (its discriminator must be the one that pays) instead of a new one.
        rollout_update_rate: below 1 the environment's rollout policy is a copy β of the generator, moved by this share
            towards it after each update; at 1 it is the generator itself. Only for policies that hold a generator.
        gathered: how many of the agent's last sequences are kept to be drawn from; None: what one retraining draws.
        seed: of minibatch order, dropout and fresh draws.
    """

    def __init__(
        self,
        real: Tensor | None = None,
        config: DiscriminatorConfig | None = None,
        *,
        every: int | None = None,
        trainer: DiscriminatorTrainer | None = None,
        rollout_update_rate: float = 1.0,
        gathered: int | None = None,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        for name, value in (("every", every), ("gathered", gathered)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 sequence or None, got {value}")
        self.real, self.config, self.every, self.trainer = real, config or DiscriminatorConfig(), every, trainer
        self.rollout_update_rate, self.gathered, self.seed = rollout_update_rate, gathered, seed
        self.rng = stream(seed, "adversarial")
        self.adversary: Adversary | None = None
        self.reward: Reward | None = None
        """The reward that pays, or with subprocesses the original of theirs."""
        self.rollout_policy: Generator | None = None
        self.followed_updates = -1
        """Updates of the agent that the rollout policy has followed."""
        self._followed: Generator | None = None
        self._is_remote = False
        self._draws_fresh = False
        self._stored = 0
        self.num_relabelled = 0
        """Stored sequences scored again so far, each as often as it was."""

    def _init_callback(self) -> None:
        env = self.training_env
        self._is_remote = isinstance(env.unwrapped, SubprocVecEnv)
        if not env.has_attr("real_sequences"):
            raise ValueError("AdversarialCallback needs an environment of seqgan_rl, such as make_sb3_env(...)")
        if env.get_attr("is_online", indices=0)[0]:
            raise ValueError(
                'the environment retrains its discriminator itself (adversary="online"); make it with '
                'adversary="frozen", or learn without AdversarialCallback'
            )
        self._warn_of_discount()
        if isinstance(self.model, OffPolicyAlgorithm):
            self._prepare_replay(self.model)
        self.reward = self._reward_to_train()
        if self.trainer is None:
            if self.reward.discriminator is None:
                raise ValueError(
                    "AdversarialCallback retrains the discriminator that pays, but the environment's reward has none; "
                    "make it with reward='discriminator' or 'logit'"
                )
            real = self.real
            if real is None:
                real = torch.from_numpy(env.env_method("real_sequences", self.seed, indices=0)[0])
            rng = stream(self.seed, "discriminator")
            self.trainer = DiscriminatorTrainer(self.reward.discriminator, real, self.config, rng)
        if self.adversary is None:
            self.adversary = Adversary(self.trainer, gathered=self.gathered, rng=self.rng)
        env.env_method("pop_finished")  # of nobody's, such as an evaluation in between
        env.env_method("collect_finished", _KEPT)
        self._send_reward()
        generator, samples_freely = self.generator, getattr(self.model.policy, "samples_freely", True)
        is_bound = any(env.get_attr(name, indices=0)[0] for name in ("has_prompts", "has_constraint"))
        self._draws_fresh = generator is not None and samples_freely and not is_bound
        if generator is not None:
            if self.followed_updates < 0:
                self.followed_updates = self.model._n_updates
            if self.rollout_update_rate == 1:
                self.rollout_policy = generator
            elif self.rollout_policy is None or self._followed is not generator:  # another learn() goes on with β
                self.rollout_policy = copy.deepcopy(generator)
            self._followed = generator
            self._send_rollout_policy()

    def _warn_of_discount(self) -> None:
        """An agent whose discount is not the environment's optimises something else."""
        gamma = self.training_env.get_attr("gamma", indices=0)[0]
        own = getattr(self.model, "gamma", gamma)
        if own != gamma:
            warnings.warn(
                f"the agent's gamma is {own}, the environment's {gamma}: the agent will prefer other "
                f"sequences than the reward does; make it with gamma={gamma}",
                stacklevel=2,
            )

    def _prepare_replay(self, model: OffPolicyAlgorithm) -> None:
        """Only what was paid for whole sequences can be paid anew."""
        check_replay(model)
        shaping = self.training_env.get_attr("shaping", indices=0)[0]
        if shaping == "rollout":
            warnings.warn(
                f"{type(model).__name__} replays old steps, whose Monte-Carlo rewards cannot be brought up to "
                'date: it is trained on the terminal reward, as with shaping="none"',
                stacklevel=2,
            )
        if shaping != "none":
            self.training_env.env_method("set_shaping", "none")

    def _reward_to_train(self) -> Reward:
        """The reward that pays, the agent's own; another learn(), in another environment too, goes on with it."""
        if self.reward is not None:
            return self.reward
        if self._is_remote:
            # what comes through the pipe may share its memory with the worker
            reward: Reward = copy.deepcopy(self.training_env.get_attr("reward", indices=0)[0])
            if self.trainer is not None and reward.discriminator is not None:
                reward.discriminator = self.trainer.discriminator
            return reward
        reward = self.training_env.env_method("own_reward", indices=0)[0]
        if self.trainer is not None and reward.discriminator not in (None, self.trainer.discriminator):
            raise ValueError(
                "the trainer's discriminator is not the one that pays, or other environments share it; make the "
                "environment with discriminator=trainer.discriminator"
            )
        return reward

    @property
    def generator(self) -> Generator | None:
        """The agent's generator, if its policy holds one."""
        return getattr(self.model.policy, "generator", None)

    @property
    def unseen(self) -> int:
        """Sequences finished since the last retraining."""
        return 0 if self.adversary is None else self.adversary.unseen

    @property
    def retrainings(self) -> int:
        """How often the discriminator was retrained."""
        return 0 if self.adversary is None else self.adversary.retrainings

    def _on_training_start(self) -> None:
        self._relabel()

    def _on_rollout_start(self) -> None:
        self._follow()
        if self._draws_fresh and self._is_due():
            self._retrain()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._gather()
        if not self._draws_fresh and self._is_due():
            self._retrain()

    def _on_training_end(self) -> None:
        if not isinstance(self.model, SeqGAN):
            self._gather()
        self.training_env.env_method("collect_finished", 0)

    def _gather(self) -> None:
        """Take the sequences that the environments have finished: not from what the algorithm tells its callbacks,
        which differs from one to another."""
        assert self.adversary is not None
        finished = self.training_env.env_method("pop_finished")
        if isinstance(self.model, SeqGAN):  # one from each: what ends while others are still played is not its own
            finished = [] if self.model.batch is None else [self.model.batch.tokens_BT.cpu().numpy()]
        for tokens_NT in finished:
            self.adversary.observe(tokens_NT, keep=not self._draws_fresh)

    def _is_due(self) -> bool:
        return self.unseen >= (self.every or self._default_every())

    def _default_every(self) -> int:
        if isinstance(self.model, OnPolicyAlgorithm):
            return 1
        return max(self.config.batch_size, self._stored // RELABEL_COST)

    def _retrain(self) -> None:
        """The discriminator's minibatches of one round, and what follows from new weights."""
        assert self.adversary is not None
        if self._draws_fresh and self.generator is not None:
            self.adversary.trainer.discriminator.follow(self.generator)
        record = self.adversary.retrain(self._fresh if self._draws_fresh else None)
        for name, value in record.items():
            self.logger.record(f"discriminator/{name}", value)
        self._send_reward()
        self._relabel()

    def _fresh(self, n: int) -> Tensor:
        """``n`` sequences of the agent's generator, without what its policy never plays."""
        assert self.generator is not None
        options = getattr(self.model.policy, "sampling_options", PLAIN)
        return self.generator.sample(n, forbidden=options.forbidden, rng=self.rng)

    def _relabel(self) -> None:
        """Pay what is stored by the discriminator of now."""
        buffer = getattr(self.model, "replay_buffer", None)
        if buffer is not None and self.reward is not None:
            env, num_actions = self.training_env, int(self.model.action_space.n)  # type: ignore[attr-defined]
            eos_id = num_actions - 1 if env.get_attr("has_eos", indices=0)[0] else None
            self._stored = relabel(buffer, self.reward, num_actions, eos_id, env.get_attr("device", indices=0)[0])
            self.num_relabelled += self._stored

    def _send_reward(self) -> None:
        """Every environment pays by the discriminator of now."""
        assert self.reward is not None
        if self.reward.discriminator is not None:
            self.training_env.env_method("set_reward", ByValue(self.reward) if self._is_remote else self.reward)

    def _send_rollout_policy(self) -> None:
        """Every environment finishes prefixes with the generator of now, or with β."""
        env, policy = self.training_env, self.rollout_policy
        if not self._is_remote:
            env.env_method("set_rollout_policy", policy)
        elif env.get_attr("shaping", indices=0)[0] != "none":
            env.env_method("set_rollout_policy", ByValue(policy))

    @property
    def _has_own_beta(self) -> bool:
        return self.generator is not None and self.rollout_policy is not self.generator

    @torch.no_grad()
    def _follow(self) -> None:
        """β <- β + rate * (θ - β), after each update of θ."""
        if self.generator is None or self.followed_updates == self.model._n_updates:
            return
        self.followed_updates = self.model._n_updates
        if self._has_own_beta:
            assert self.rollout_policy is not None
            for beta, theta in zip(self.rollout_policy.parameters(), self.generator.parameters(), strict=True):
                beta.lerp_(theta, self.rollout_update_rate)
        if self._is_remote:
            self._send_rollout_policy()

    def state_dict(self) -> dict[str, Any]:
        """Discriminator, its optimiser, counters, random state, gathered sequences and β."""
        assert self.adversary is not None
        return {
            **self.adversary.state_dict(),
            "followed_updates": self.followed_updates,
            "rollout_policy": self.rollout_policy.state_dict() if self._has_own_beta and self.rollout_policy else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; after ``init_callback``."""
        assert self.adversary is not None
        self.adversary.load_state_dict(state)
        self.followed_updates = state["followed_updates"]
        if state["rollout_policy"] is not None and self.rollout_policy is not None:
            self.rollout_policy.load_state_dict(state["rollout_policy"])
        self._send_reward()
        if self._is_remote and self.rollout_policy is not None:
            self._send_rollout_policy()


class ByValue:
    """Arrives in another process as the object itself, copied: tensors sent through a pipe would be shared with it."""

    def __init__(self, content: object) -> None:
        self._bytes = pickle.dumps(content)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._bytes,)
