"""Gymnasium environments of token-by-token generation: ``SeqGAN/Oracle-v0``, ``SeqGAN/Corpus-v0``, ``SeqGAN/Exact-v0``.

The state is the prefix, the action the next token (Yu et al. 2017, section "Sequence Generative Adversarial Nets").
Reaching T tokens or EOS terminates: the horizon is part of the task, never a truncation.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from torch import Tensor

from seqgan_rl.discriminators import Adversary
from seqgan_rl.envs.episodes import Episodes, StepResult
from seqgan_rl.envs.exact import ExactTask
from seqgan_rl.envs.observations import encode, observation_space, pick_row
from seqgan_rl.envs.options import CorpusOptions, EnvOptions, ExactOptions, OracleOptions, check_policy
from seqgan_rl.envs.task import SequenceTask
from seqgan_rl.models.decoding import RolloutPolicy
from seqgan_rl.rewards import Reward, ShuffledReward
from seqgan_rl.rewards.base import as_reward

METADATA: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}
_CELL = 16
"""Pixels of one token in the raster."""
Constraint = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""Which actions may follow prefixes: from tokens (B, T) and lengths (B,) to bool (B, num_actions)."""
Penalty = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""What actions cost: from prefixes (B, T), their lengths (B,) and actions (B,) to floats (B,)."""


class TaskHolder:
    """What the single and the vector environment share: the task, the live reward and rollout policy, and what is done
    with finished sequences. Setters are meant to be called by users, on ``env.unwrapped`` or through SB3's
    ``env_method``."""

    def __init__(self, options: EnvOptions, num_envs: int) -> None:
        self.options, self.task = options, options.task()
        self.task.holders.add(self)
        self.episodes = Episodes(self.task, options.shaping_options, num_envs, options.device)
        self._reward: Reward | None = None
        self._rollout_policy: RolloutPolicy | None = None
        self._prompts: list[list[int]] = []
        self._constraint: Constraint | None = None
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
    def has_eos(self) -> bool:
        """Whether the last action ends the sequence."""
        return self.task.has_eos

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
        return self.task.reward if self._reward is None else self._reward

    def set_reward(self, reward: Reward | Callable[[Tensor, Tensor], Tensor]) -> None:
        """Pay with this reward from the next step on; the object is kept, not copied. An episode in progress keeps
        the values it has been given: its rewards still sum to R under the new reward."""
        self._reward = as_reward(reward)

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
        check_policy(policy, self.task.num_actions, has_eos=self.task.has_eos)
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
        self._prompts = [self.episodes.check_prefix(prompt) for prompt in prompts]

    @property
    def has_prompts(self) -> bool:
        """Whether sequences start with prompts of their own accord."""
        return bool(self._prompts)

    def _draw_prompt(self, rng: np.random.Generator) -> list[int]:
        """The prompt of a new sequence; empty where there are none."""
        return self._prompts[int(rng.integers(len(self._prompts)))] if self._prompts else []

    def set_constraint(self, constraint: Constraint | None) -> None:
        """Let the action mask follow this rule besides the words that are always forbidden; None: no rule."""
        self._constraint = constraint

    @property
    def has_constraint(self) -> bool:
        """Whether the action mask depends on the prefix."""
        return self._constraint is not None

    def masks(self) -> NDArray[np.bool_]:
        """Which actions may be taken in each row, bool (B, num_actions); a fresh array. A row for which the constraint
        would leave nothing, and a finished one, has the words that are never forbidden."""
        allowed_BA = np.ones((len(self.episodes.lengths_B), self.task.num_actions), dtype=np.bool_)
        allowed_BA[:, list(self.task.forbidden)] = False
        if self._constraint is None:
            return allowed_BA
        tokens_BT, lengths_B = self.episodes.tokens_BT, self.episodes.lengths_B
        constrained_BA = allowed_BA & self._constraint(tokens_BT, lengths_B)
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
        paid_B = np.zeros(len(active_B))
        if self._penalty is not None:
            tokens_BT, lengths_B = self.episodes.tokens_BT, self.episodes.lengths_B
            rows = np.flatnonzero(active_B)
            paid_B[rows] = self._penalty(tokens_BT[rows], lengths_B[rows], actions_B[rows])
        result = self.episodes.advance(actions_B, active_B, rngs, self.reward, self.policy_in_use())
        if self._penalty is not None:
            result = replace(result, reward_B=result.reward_B - paid_B)
        finished = [tokens_T.copy() for tokens_T in self.episodes.tokens_BT[result.ended_B]]
        self._finished.extend(finished)
        if self.adversary is not None:
            self.adversary.observe(finished)
            if self.adversary.is_due:
                self.adversary.retrain()
        return result

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

    def real_sequences(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Real training sequences of the task, int64 (N, T); InputError where it has none."""
        real_BT: NDArray[np.int64] = self.task.real_sequences(rng).numpy()
        return real_BT

    def _state(self) -> dict[str, Any]:
        """The part of a state that both kinds of environment have."""
        adversary = None if self.adversary is None else copy.deepcopy(self.adversary.state_dict())
        return {**self.episodes.state_dict(), "adversary": adversary}

    def _load_state(self, state: dict[str, Any]) -> None:
        self.episodes.load_state_dict(state)
        if self.adversary is not None and state["adversary"] is not None:
            self.adversary.load_state_dict(state["adversary"])

    def _leave(self) -> None:
        """Say that this environment is closed."""
        self.options.release(self)


class SequenceEnv(TaskHolder, gym.Env[Any, np.int64]):
    """Token-by-token generation of one sequence.

    Action: ``Discrete(num_actions)``: V words, then EOS where sequences may end early.
    Observation: the prefix, see :func:`seqgan_rl.envs.observations.observation_space`.
    Reward: see :class:`seqgan_rl.envs.episodes.ShapingOptions`; a float.
    ``reset(options={"prefix": [ids]})`` starts from a prompt (T includes it).
    ``info`` at the end: ``sequence`` int64 (T,), ``sequence_reward`` R(Y), and
    ``action_value`` float32 (T,) where something was rolled out;
    ``action_mask`` int8 (num_actions,) always where some action is forbidden.
    """

    metadata: dict[str, Any] = METADATA
    options_class: ClassVar[type[EnvOptions]] = EnvOptions

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        TaskHolder.__init__(self, self.options_class.of(options), num_envs=1)
        if self.options.reward == "shuffled" or isinstance(self.options.reward, ShuffledReward):
            raise ValueError("reward='shuffled' permutes the rewards of a batch; use gym.make_vec, which has one")
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(self.task.num_actions)
        self.observation_space = observation_space(self.options.observation, self.task)
        self._is_running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new sequence, from ``options["prefix"]`` if given."""
        super().reset(seed=seed)
        prefix = (options or {}).get("prefix")
        self.episodes.begin(
            0, self._draw_prompt(self.np_random) if prefix is None else self.episodes.check_prefix(prefix)
        )
        self._is_running = True
        return self._observation(), self._info()

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Append one token. ValueError for an action out of range; RuntimeError after the end, until ``reset``."""
        if not self._is_running:
            raise RuntimeError("the sequence has ended or not begun; call reset() before step()")
        active_B = np.ones(1, dtype=np.bool_)
        actions_B = self.episodes.check_actions(np.reshape(action, 1), active_B)
        result = self._advance(actions_B, active_B, [self.np_random])
        info = self._info()
        terminated = bool(result.ended_B[0])
        if terminated:
            self._is_running = False
            info["sequence"] = self.episodes.tokens_BT[0].copy()
            info["sequence_reward"] = float(result.sequence_reward_B[0])
            if result.action_value_BT is not None:
                info["action_value"] = result.action_value_BT[0]
        return self._observation(), float(result.reward_B[0]), terminated, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions may be taken, bool, (num_actions,); sb3-contrib's name for it."""
        mask_A: NDArray[np.bool_] = self.masks()[0]
        return mask_A

    def close(self) -> None:
        """Leave the task; nothing else is held."""
        self._leave()

    def render(self) -> Any:
        """The prefix as text ("ansi") or as a row of coloured cells ("rgb_array")."""
        if self.render_mode == "ansi":
            return as_text(self.task, self.episodes.tokens_BT[0])
        if self.render_mode == "rgb_array":
            return as_raster(self.task, self.episodes.tokens_BT[0])
        return None

    def state_dict(self) -> dict[str, Any]:
        """Prefix, random state and stored values, mid-episode too, and a discriminator that it trains."""
        return {
            **self._state(),
            "is_running": self._is_running,
            "rng": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self._load_state(state)
        self._is_running = state["is_running"]
        self.np_random.bit_generator.state = state["rng"]

    def _observation(self) -> Any:
        tokens_BT, lengths_B = self.episodes.tokens_BT, self.episodes.lengths_B
        return pick_row(encode(self.options.observation, self.task, tokens_BT, lengths_B, self.masks), 0)

    def _info(self) -> dict[str, Any]:
        """What every info holds: the mask where some action may not be taken."""
        return {"action_mask": self.masks()[0].astype(np.int8)} if self.has_masks else {}


class OracleEnv(SequenceEnv):
    """``SeqGAN/Oracle-v0``: the synthetic task, fixed length, V=5000 and T=20 by default."""

    options_class = OracleOptions


class CorpusEnv(SequenceEnv):
    """``SeqGAN/Corpus-v0``: any text corpus, variable length with EOS."""

    options_class = CorpusOptions


class ExactEnv(SequenceEnv):
    """``SeqGAN/Exact-v0``: enumerable tasks, where regret and action values are known exactly."""

    options_class = ExactOptions

    @property
    def exact_task(self) -> ExactTask:
        """The enumerated task: optimum, exact Q and V and regret of any policy."""
        assert isinstance(self.options, ExactOptions)
        return self.options.exact_task()


def as_text(task: SequenceTask, tokens_T: NDArray[np.int64]) -> str:
    """A prefix as readable text: words where there is a vocabulary, else ids."""
    if task.vocabulary is not None:
        return task.vocabulary.decode(tokens_T.tolist())
    return " ".join("." if token == task.eos_id else str(token) for token in tokens_T if token != task.pad_id)


def as_raster(task: SequenceTask, tokens_T: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A prefix as a row of cells, uint8, (16, 16 T, 3): one colour a token, white for PAD."""
    hashed_T = tokens_T.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # spreads neighbouring ids over colours
    colours_T3 = np.stack([(hashed_T >> np.uint64(shift)) % np.uint64(200) for shift in (40, 48, 56)], axis=1)
    colours_T3[tokens_T == task.pad_id] = 255
    return np.tile(np.repeat(colours_T3.astype(np.uint8), _CELL, axis=0)[None], (_CELL, 1, 1))
