"""What the single and the vector environment share: live parts, and what is done with finished sequences.

Letters: B prefixes, T tokens each, A actions.
"""

import copy
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import gradients_allowed
from seqgan_rl.discriminators import Adversary
from seqgan_rl.envs.episodes import Episodes, StepResult
from seqgan_rl.envs.options import EnvOptions
from seqgan_rl.envs.parts import check_policy, check_reward
from seqgan_rl.models.decoding import RolloutPolicy
from seqgan_rl.rewards import Reward, check_batch
from seqgan_rl.rewards.base import as_reward

_IMPORTED_IN = os.getpid()
Constraint = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""Which actions may follow prefixes: from tokens (B, T) and lengths (B,) to bool (B, num_actions)."""
Penalty = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""What actions cost: from prefixes (B, T), their lengths (B,) and actions (B,) to floats (B,)."""


class TaskHolder:
    """What the single and the vector environment share: the task, the live reward and rollout policy, and what is done
    with finished sequences. Setters are meant to be called by users, on ``env.unwrapped`` or through SB3's
    ``env_method``."""

    def __init__(self, options: EnvOptions, num_envs: int) -> None:
        if os.getpid() != _IMPORTED_IN:  # forked: OpenMP's threads are not here, and waiting for them never ends
            torch.set_num_threads(1)
        self.options, self.task = options, options.task()
        self.task.holders.add(self)
        self.episodes = Episodes(self.task, options.shaping_options, num_envs, options.device)
        self._reward: Reward | None = None
        self._checked: Reward | None = None
        if not self.options.is_reward_fitted:
            self._check_batch(self.task.reward)
        elif num_envs == 1 and self.options.is_of_batch:
            raise InputError(
                f"reward={options.reward!r} sets each sequence against the others of its batch, but a single "
                "environment has no others; play in a vector environment (gym.make_vec), or choose another reward"
            )
        self._rollout_policy: RolloutPolicy | None = None
        self.prompts: list[list[int]] = []
        """What sequences start with; none: they start empty."""
        self.constraint: Constraint | None = None
        """What the action mask follows besides the words that are always forbidden."""
        self._penalty: Penalty | None = None
        self._finished: deque[NDArray[np.int64]] = deque(maxlen=0)
        self._spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """Set by ``gym.make``; says whether an episode follows from its seed."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None and not self.options.is_deterministic:
            spec = replace(spec, nondeterministic=True)
        self._spec = spec

    @property
    def device(self) -> torch.device:
        """Where rollouts and scoring run."""
        return self.episodes.device

    @property
    def num_scored(self) -> int:
        """Sequences that the reward has scored in this environment: finished ones, and N completions of every prefix
        that was valued."""
        return self.episodes.num_scored

    @property
    def has_eos(self) -> bool:
        """Whether the last action ends the sequence."""
        return self.task.has_eos

    @property
    def sequence_length(self) -> int:
        """T."""
        return self.task.sequence_length

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Actions that the mask always rules out."""
        return self.task.forbidden

    @property
    def gamma(self) -> float:
        """The discount that the agent should have."""
        return self.options.gamma

    @property
    def shaping(self) -> str:
        """How the reward is spread over the steps."""
        return self.episodes.options.shaping

    def set_shaping(self, shaping: str) -> None:
        """Spread the reward in another way from the next step on; ValueError for one that does not exist. Rewards of a
        sequence in progress no longer sum to R."""
        self.episodes.options = replace(self.episodes.options, shaping=shaping)

    @property
    def reward(self) -> Reward:
        """R(Y) in force."""
        reward = self.task.reward if self._reward is None else self._reward
        if reward is not self._checked:
            self._check_batch(reward)
        return reward

    def _check_batch(self, reward: Reward) -> None:
        """InputError where a reward that depends on its batch would have none here."""
        check_batch(reward, num_envs=len(self.episodes.lengths_B), has_eos=self.task.has_eos)
        self._checked = reward

    def set_reward(self, reward: Reward | Callable[[Tensor, Tensor], Tensor]) -> None:
        """Pay with this reward from the next step on; the object is kept, not copied. An episode in progress keeps
        the values it has been given: its rewards still sum to R under the new reward."""
        reward = as_reward(reward)
        check_reward(reward, self.task)
        self._check_batch(reward)
        self._reward = reward

    def own_reward(self) -> Reward:
        """The reward in force, for whoever wants to train its discriminator: one that was made by name is shared by all
        equal environments of the process, so a copy takes its place here first."""
        is_by_name = all(isinstance(part, str | Path) for part in (self.options.reward, self.options.discriminator))
        if self._reward is None and is_by_name:
            self._reward = copy.deepcopy(self.task.reward)
        return self.reward

    @property
    def rollout_policy(self) -> RolloutPolicy:
        """The policy that finishes prefixes."""
        return self.task.rollout_policy if self._rollout_policy is None else self._rollout_policy

    def set_rollout_policy(self, policy: RolloutPolicy) -> None:
        """Finish prefixes with this policy from the next step on; the object is kept, not copied."""
        task = self.task
        check_policy(policy, task.num_actions, has_eos=task.has_eos, sequence_length=task.sequence_length)
        device = getattr(policy, "device", self.episodes.device)
        if torch.device(device).type != self.episodes.device.type:
            raise ValueError(
                f"the rollout policy is on {device}, the environment on {self.episodes.device}; "
                f"make both with device={str(device)!r} or both with device={str(self.episodes.device)!r}"
            )
        self._rollout_policy = policy

    def policy_in_use(self) -> RolloutPolicy | None:
        """The rollout policy, or None where the shaping needs none."""
        return None if self.shaping == "none" else self.rollout_policy

    def set_prompts(self, prompts: Iterable[Any]) -> None:
        """Start every sequence with one of these prompts (lists of word ids shorter than T), drawn uniformly by the
        environment's own generator; none: start empty. A prompt given to ``reset`` goes before."""
        self.prompts = [self.episodes.check_prefix(prompt) for prompt in prompts]

    @property
    def has_prompts(self) -> bool:
        """Whether sequences start with prompts of their own accord."""
        return bool(self.prompts)

    def _draw_prompt(self, rng: np.random.Generator) -> list[int]:
        """The prompt of a new sequence; empty where there are none."""
        return self.prompts[int(rng.integers(len(self.prompts)))] if self.prompts else []

    def set_constraint(self, constraint: Constraint | None) -> None:
        """Let the action mask follow this rule besides the words that are always forbidden; None: no rule."""
        self.constraint = constraint

    @property
    def has_constraint(self) -> bool:
        """Whether the action mask depends on the prefix."""
        return self.constraint is not None

    def masks(self) -> NDArray[np.bool_]:
        """Which actions may be taken in each row, bool (B, num_actions); a fresh array. A row for which the constraint
        would leave nothing, and a finished one, has the words that are never forbidden."""
        allowed_BA = np.ones((len(self.episodes.lengths_B), self.task.num_actions), dtype=np.bool_)
        allowed_BA[:, list(self.task.forbidden)] = False
        if self.constraint is None:
            return allowed_BA
        tokens_BT, lengths_B = self.episodes.tokens_BT, self.episodes.lengths_B
        constrained_BA = allowed_BA & self.constraint(tokens_BT, lengths_B)
        is_free_B = self.episodes.is_finished_B | ~constrained_BA.any(axis=1)
        return np.where(is_free_B[:, None], allowed_BA, constrained_BA)

    @property
    def has_masks(self) -> bool:
        """Whether infos hold ``action_mask``."""
        return bool(self.task.forbidden) or self.has_constraint

    def set_penalty(self, penalty: Penalty | None) -> None:
        """Subtract ``penalty(tokens_BT, lengths_B, actions_B)``, float (B,), from the reward of every step; tokens are
        the prefixes before the action. None: nothing. ``sequence_reward`` stays R(Y)."""
        self._penalty = penalty

    @property
    def has_penalty(self) -> bool:
        """Whether something is subtracted from the rewards."""
        return self._penalty is not None

    def _advance(
        self, actions_B: NDArray[np.int64], active_B: NDArray[np.bool_], rngs: Sequence[np.random.Generator]
    ) -> StepResult:
        """One step of all active rows: tokens, rewards, and what follows from sequences that end."""
        rows, cost_R = np.flatnonzero(active_B), None
        if self._penalty is not None and len(rows) > 0:  # of the prefixes as they are before the action
            tokens_BT, lengths_B = self.episodes.tokens_BT, self.episodes.lengths_B
            cost_R = self._penalty(tokens_BT[rows], lengths_B[rows], actions_B[rows])
        result = self.episodes.advance(actions_B, active_B, rngs, self.reward, self.policy_in_use())
        if cost_R is not None:
            result.reward_B[rows] -= cost_R
        finished = [tokens_T.copy() for tokens_T in self.episodes.tokens_BT[result.ended_B]]
        self._finished.extend(finished)
        if self.adversary is not None:
            self.adversary.observe(finished)
        return result

    def _retrain_if_due(self) -> None:
        """Last in a step: whatever stops it, the step is whole."""
        if self.adversary is not None and self.adversary.is_due:
            self.adversary.retrain()

    @property
    def is_online(self) -> bool:
        """Whether the discriminator is retrained here."""
        return self.task.online is not None

    @property
    def adversary(self) -> Adversary | None:
        """What retrains the discriminator here (``adversary="online"``), with its counters and last record."""
        return self.task.adversary

    def collect_finished(self, limit: int) -> None:
        """Keep the last ``limit`` finished sequences for :meth:`pop_finished`; 0 keeps none."""
        self._finished = deque(self._finished, maxlen=limit)

    def pop_finished(self) -> NDArray[np.int64]:
        """The sequences finished since the last call, int64 (n, T), oldest first."""
        finished = np.array(self._finished, dtype=np.int64).reshape(-1, self.task.sequence_length)
        self._finished.clear()
        return finished

    def real_sequences(self, seed: int = 0) -> NDArray[np.int64]:
        """Real training sequences of the task, int64 (N, T): the corpus's, or draws of the oracle from this seed.
        InputError where it has neither."""
        real_BT: NDArray[np.int64] = self.task.real_sequences(seed).cpu().numpy()
        return real_BT

    def _state(self) -> dict[str, Any]:
        """The part of a state that both kinds of environment have."""
        with gradients_allowed():  # a copy made in inference mode could not be trained on
            adversary = None if self.adversary is None else copy.deepcopy(self.adversary.state_dict())
        return {**self.episodes.state_dict(), "adversary": adversary}

    def _load_state(self, state: dict[str, Any]) -> None:
        self.episodes.load_state_dict(state)
        if self.adversary is not None and state["adversary"] is not None:
            with gradients_allowed():
                self.adversary.load_state_dict(copy.deepcopy(state["adversary"]))

    def _leave(self) -> None:
        """Say that this environment is closed; one that was refused while it was made has nothing to leave."""
        if hasattr(self, "options"):
            self.options.release(self)
