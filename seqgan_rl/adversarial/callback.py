"""The GAN loop as a Stable-Baselines3 callback: one ``learn()``, whichever agent it is.

Letters: B sequences, T tokens each.
"""

import copy
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch import Tensor

from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import DiscriminatorConfig, DiscriminatorTrainer
from seqgan_rl.models.generator import Generator
from seqgan_rl.rewards import Reward, ShuffledReward


class AdversarialCallback(BaseCallback):
    """Retrains the discriminator that pays the agent, every so many of the agent's sequences.

    An agent whose policy holds a generator is asked for fresh sequences, before it plays on (Algorithm 1: after each
    generator update the discriminator is trained on the new generator's samples). Of any other agent the finished
    sequences are gathered as it plays, and the discriminator is trained at the end of a rollout.

    Args:
        real: real sequences, int64 (N, T); None takes those of the environment (its corpus, or draws of its oracle).
        config: how the discriminator is trained; ``minibatches_per_round`` is the work of one retraining.
        every: finished sequences between two retrainings; None: once per rollout of an on-policy agent, else every
            ``config.batch_size`` sequences.
        trainer: continue with this trainer (its discriminator must be the one that pays) instead of a new one.
        rollout_update_rate: below 1 the environment's rollout policy is a copy β of the generator, moved by this share
            towards it after each update; at 1 it is the generator itself. Only for policies that hold a generator.
        gathered: how many of the agent's last sequences are kept.
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
        gathered: int = 10_000,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1 sequence or None, got {every}")
        self.real, self.config, self.every, self.trainer = real, config or DiscriminatorConfig(), every, trainer
        self.rollout_update_rate, self.seed = rollout_update_rate, seed
        self.rng = stream(seed, "adversarial")
        self.sequences: deque[np.ndarray] = deque(maxlen=gathered)
        self.unseen = 0
        """Sequences finished since the last retraining."""
        self.retrainings = 0
        self.rollout_policy: Generator | None = None

    def _init_callback(self) -> None:
        if isinstance(self.training_env.unwrapped, SubprocVecEnv):
            raise ValueError(
                "AdversarialCallback cannot retrain the discriminators of environments in subprocesses; "
                "use make_sb3_env(...) or DummyVecEnv"
            )
        if self.trainer is None:
            discriminator = paying_discriminator(self._own_reward())
            if discriminator is None:
                raise ValueError(
                    "AdversarialCallback retrains the discriminator that pays, but the environment's reward has none; "
                    "make it with reward='discriminator' or 'logit'"
                )
            real = self._real_of_environment() if self.real is None else self.real
            self.trainer = DiscriminatorTrainer(discriminator, real, self.config, stream(self.seed, "discriminator"))
        self._warn_of_discount()
        generator = self.generator
        if generator is not None:
            if self.rollout_update_rate == 1:
                self.rollout_policy = generator
            elif self.rollout_policy is None:  # another learn() goes on with β
                self.rollout_policy = copy.deepcopy(generator)
            self.training_env.env_method("set_rollout_policy", self.rollout_policy)

    def _warn_of_discount(self) -> None:
        """An agent whose discount is not the environment's optimises something else."""
        gamma = self.training_env.get_attr("options", indices=0)[0].gamma
        own = getattr(self.model, "gamma", gamma)
        if own != gamma:
            warnings.warn(
                f"the agent's gamma is {own}, the environment's {gamma}: the agent will prefer other "
                f"sequences than the reward does; make it with gamma={gamma}",
                stacklevel=2,
            )

    def _own_reward(self) -> Reward:
        """The reward that pays. One that the environment made by name is shared with all equal environments of the
        process; training its discriminator would reach into those of other agents, so this agent gets a copy."""
        names = ("reward", "task", "options")
        reward, task, options = (self.training_env.get_attr(name, indices=0)[0] for name in names)
        is_by_name = all(isinstance(part, str | Path) for part in (options.reward, options.discriminator))
        if is_by_name and reward is task.reward:
            reward = copy.deepcopy(reward)
            self.training_env.env_method("set_reward", reward)
        return reward

    @property
    def generator(self) -> Generator | None:
        """The agent's generator, if its policy holds one."""
        return getattr(self.model.policy, "generator", None)

    @property
    def _has_own_beta(self) -> bool:
        return self.generator is not None and self.rollout_policy is not self.generator

    def _on_rollout_start(self) -> None:
        self._follow()
        if self.generator is not None and self._is_due():
            self._retrain()

    def _on_step(self) -> bool:
        infos, dones = self.locals.get("infos", []), self.locals.get("dones", [])
        for info, done in zip(infos, dones, strict=False):
            if done and "sequence" in info:
                self.unseen += 1
                if self.generator is None:
                    self.sequences.append(info["sequence"])
        return True

    def _on_rollout_end(self) -> None:
        if self.generator is None and self._is_due():
            self._retrain()

    def _is_due(self) -> bool:
        once_per_rollout = 1 if isinstance(self.model, OnPolicyAlgorithm) else self.config.batch_size
        return self.unseen >= (self.every or once_per_rollout)

    def _retrain(self) -> None:
        """The discriminator's minibatches of one round."""
        assert self.trainer is not None
        record = train_discriminator(self.trainer, self._fake, self.trainer.config.minibatches_per_round)
        self.unseen = 0
        self.retrainings += 1
        for name, value in record.items():
            self.logger.record(f"discriminator/{name}", value)
        self.logger.record("discriminator/minibatches", self.trainer.minibatches)

    def _fake(self, n: int) -> Tensor:
        """``n`` of the agent's sequences: fresh ones, or a draw from those gathered."""
        if self.generator is not None:
            return self.generator.sample(n, forbidden=self._forbidden(), rng=self.rng)
        rows = self.rng.integers(len(self.sequences), size=n)
        return torch.from_numpy(np.stack([self.sequences[row] for row in rows]))

    def _forbidden(self) -> tuple[int, ...]:
        """What the agent never plays: its policy knows, which need not be the environment's mask."""
        options = getattr(self.model.policy, "sampling_options", None)
        forbidden: tuple[int, ...] = () if options is None else options.forbidden
        return forbidden

    @torch.no_grad()
    def _follow(self) -> None:
        """β <- β + rate * (θ - β)."""
        if self._has_own_beta and self.unseen:
            assert self.rollout_policy is not None
            assert self.generator is not None
            for beta, theta in zip(self.rollout_policy.parameters(), self.generator.parameters(), strict=True):
                beta.lerp_(theta, self.rollout_update_rate)

    def _real_of_environment(self) -> Tensor:
        task = self.training_env.get_attr("task", indices=0)[0]
        if task.corpus is not None:
            return torch.tensor(task.corpus.train.tokens_NT)
        if task.oracle is not None:
            return task.oracle.sample(9_984, stream(self.seed, "real"))
        raise ValueError("the environment has neither a corpus nor an oracle; give the real sequences as `real`")

    def state_dict(self) -> dict[str, Any]:
        """Discriminator, its optimiser, counters, random state, gathered sequences and β."""
        assert self.trainer is not None
        return {
            "trainer": self.trainer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "unseen": self.unseen,
            "retrainings": self.retrainings,
            "sequences": np.array(self.sequences, dtype=np.int64),
            "rollout_policy": self.rollout_policy.state_dict() if self._has_own_beta and self.rollout_policy else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; after ``init_callback``."""
        assert self.trainer is not None
        self.trainer.load_state_dict(state["trainer"])
        self.rng.bit_generator.state = state["rng"]
        self.unseen, self.retrainings = state["unseen"], state["retrainings"]
        self.sequences.clear()
        self.sequences.extend(state["sequences"])
        if state["rollout_policy"] is not None and self.rollout_policy is not None:
            self.rollout_policy.load_state_dict(state["rollout_policy"])


def paying_discriminator(reward: Reward) -> Any:
    """The discriminator behind a reward, or None."""
    if isinstance(reward, ShuffledReward):
        return paying_discriminator(reward.inner)
    return getattr(reward, "discriminator", None)


def train_discriminator(trainer: DiscriminatorTrainer, fake: Any, minibatches: int) -> dict[str, float]:
    """So many minibatches against ``fake(n)``, drawn ``draw_size`` at a time and used ``epochs_per_draw`` times.

    The number of minibatches is exact. Returns the means over all of them.
    """
    config, total, left = trainer.config, dict[str, float](), minibatches
    while left > 0:
        draw = config.draw_size or max(1, left // config.epochs_per_draw) * config.batch_size
        per_epoch = -(-draw // config.batch_size)
        if left < per_epoch * config.epochs_per_draw:  # a smaller last draw
            per_epoch = max(1, left // config.epochs_per_draw)
            draw = per_epoch * config.batch_size
        epochs = min(config.epochs_per_draw, left // per_epoch)
        for name, mean in trainer.train(fake(draw), epochs).items():
            total[name] = total.get(name, 0.0) + mean * per_epoch * epochs
        left -= per_epoch * epochs
    return {name: value / minibatches for name, value in total.items()}
