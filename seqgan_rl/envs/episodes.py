"""The rules of generation for a batch of prefixes: the one place where tokens are appended and rewards are shaped.

Both the single environment (B = 1) and the native vector environment are thin shells around :class:`Episodes`.
Letters: B sequences, T tokens each, N rollouts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.envs.task import SequenceTask
from seqgan_rl.models.decoding import RolloutPolicy
from seqgan_rl.rewards.base import Reward
from seqgan_rl.rollout import action_values, prefix_values

SHAPINGS = ("rollout", "none", "deferred")
RESET_OPTIONS = ("prefix", "reset_mask")


@dataclass(frozen=True, kw_only=True)
class ShapingOptions:
    """How the reward R(Y) of a finished sequence is spread over its steps.

    With Φ_t the Monte-Carlo value of the first t tokens, Φ_0 = 0 and Φ_T = R(Y):
    "rollout" gives γΦ_t - Φ_{t-1} at step t (Ng, Harada, Russell 1999), "none" gives R(Y) at the end,
    "deferred" gives the same as "none" and all T action values at the end in ``info["action_value"]``.
    """

    shaping: str = "rollout"
    num_rollouts: int = 16
    """N of Eq. (4); the authors' program uses 16."""
    gamma: float = 1.0
    """The discount that the agent uses; any other agent discount changes which sequence is best."""

    def __post_init__(self) -> None:
        if self.shaping not in SHAPINGS:
            hint = did_you_mean(str(self.shaping), list(SHAPINGS))
            raise ValueError(f"shaping must be one of {', '.join(SHAPINGS)}; got {self.shaping!r}{hint}")
        if self.num_rollouts < 1:
            raise ValueError(f"num_rollouts must be at least 1, got {self.num_rollouts}")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], got {self.gamma}")


@dataclass(frozen=True)
class StepResult:
    """What one step did to each row; rows that were not active have reward 0 and ended False."""

    reward_B: NDArray[np.float64]
    ended_B: NDArray[np.bool_]
    sequence_reward_B: NDArray[np.float32]
    """R(Y), valid where the row ended."""
    action_value_BT: NDArray[np.float32] | None
    """Q of every token, valid where the row ended; None when nothing was rolled out."""


class Episodes:
    """B prefixes that grow by one token a step.

    Randomness: each row has its own numpy generator, handed in at each step, from which one (N, T) block of uniforms
    is drawn for every step that does not end the row (at once, or for "deferred" at the end): the same numbers
    whatever the mode, and whatever the other rows do.
    """

    def __init__(self, task: SequenceTask, options: ShapingOptions, num_envs: int, device: str = "cpu") -> None:
        self.task, self.options, self.device = task, options, torch.device(device)
        B, T = num_envs, task.sequence_length
        self.tokens_BT = np.full((B, T), task.pad_id, dtype=np.int64)
        self.lengths_B = np.zeros(B, dtype=np.int64)
        self.start_B = np.zeros(B, dtype=np.int64)
        """Tokens given as a prompt."""
        self.value_BT = np.zeros((B, T), dtype=np.float32)
        """Φ after each token, for rows being shaped."""
        self.num_scored = 0
        """Sequences that the reward has scored: finished ones, and N completions of every prefix that was valued."""

    @property
    def is_finished_B(self) -> NDArray[np.bool_]:
        """Rows that hold T tokens or end in EOS."""
        is_full_B: NDArray[np.bool_] = self.lengths_B == self.task.sequence_length
        return is_full_B if self.task.eos_id is None else is_full_B | (self.tokens_BT == self.task.eos_id).any(axis=1)

    def begin(self, row: int, prefix: Sequence[int] = ()) -> None:
        """Start a row anew from a prompt."""
        self.tokens_BT[row] = self.task.pad_id
        self.tokens_BT[row, : len(prefix)] = prefix
        self.lengths_B[row] = self.start_B[row] = len(prefix)
        self.value_BT[row] = 0

    def check_prefix(self, prefix: Any) -> list[int]:
        """A prompt as token ids; ValueError unless it is a list of word ids shorter than T."""
        task = self.task
        example = "[0, 1]" if task.vocabulary is None else "env.unwrapped.task.vocabulary.encode(text)"
        try:
            array = np.asarray(prefix if len(prefix) else [], dtype=object)
            ids = [int(token) for token in array]
            is_whole = all(not isinstance(t, bool | np.bool_ | str) and int(t) == t for t in array)
        except (TypeError, ValueError, OverflowError):
            ids, is_whole = [], False
        if not is_whole:
            raise ValueError(f"options['prefix'] must be a list of token ids such as {example}, got {prefix!r:.80}")
        if len(ids) >= task.sequence_length:
            raise ValueError(
                f"options['prefix'] has {len(ids)} tokens; it must be shorter than the sequence length "
                f"{task.sequence_length}, which includes it"
            )
        bad = [token for token in ids if not 0 <= token < task.vocab_size]
        if bad:
            raise ValueError(f"options['prefix'] must hold word ids in [0, {task.vocab_size}), got {bad[0]}")
        return ids

    def check_actions(self, actions: Any, active_B: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions as int64 (B,); ValueError unless each active row's lies in [0, num_actions)."""
        actions_B = np.asarray(actions)
        if actions_B.shape != active_B.shape or actions_B.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be integers of shape {active_B.shape}, got {actions_B.dtype} of shape {actions_B.shape}"
            )
        is_bad_B = active_B & ((actions_B < 0) | (actions_B >= self.task.num_actions))
        if is_bad_B.any():
            row = int(is_bad_B.argmax())
            raise ValueError(
                f"action must lie in [0, {self.task.num_actions}), got {actions_B[row]} in sub-environment {row}"
            )
        return actions_B.astype(np.int64)

    def advance(
        self,
        actions_B: NDArray[np.int64],
        active_B: NDArray[np.bool_],
        rngs: Sequence[np.random.Generator],
        reward: Reward,
        policy: RolloutPolicy | None,
    ) -> StepResult:
        """Append one token to every active row and pay for it. ``policy`` may be None when nothing is rolled out."""
        task, B = self.task, len(self.lengths_B)
        rows = np.flatnonzero(active_B)
        self.tokens_BT[rows, self.lengths_B[rows]] = actions_B[rows]
        self.lengths_B[rows] += 1
        ended_B = active_B & (self.lengths_B == task.sequence_length)
        if task.eos_id is not None:
            ended_B |= active_B & (actions_B == task.eos_id)
        reward_B, final_B = np.zeros(B), np.zeros(B, dtype=np.float32)
        if self.options.shaping == "rollout":
            assert policy is not None
            reward_B[rows] = self._shaped(rows, ended_B[rows], rngs, reward, policy)
            final_B[ended_B] = self.value_BT[ended_B, self.lengths_B[ended_B] - 1]
        elif ended_B.any():
            ended = np.flatnonzero(ended_B)
            if self.options.shaping == "deferred":
                assert policy is not None
                self.value_BT[ended] = self._deferred(ended, rngs, reward, policy)
                final_B[ended] = self.value_BT[ended, self.lengths_B[ended] - 1]
            else:
                final_B[ended] = reward(self._tensor(self.tokens_BT[ended]), self._tensor(self.lengths_B[ended])).cpu()
            reward_B[ended] = final_B[ended]
        self.num_scored += self._count_scored(rows, ended_B[rows])
        values = None if self.options.shaping == "none" else self.value_BT.copy()
        return StepResult(reward_B, ended_B, final_B, values)

    def _count_scored(self, rows: NDArray[np.int64], ended_R: NDArray[np.bool_]) -> int:
        """Sequences scored in a step in which these rows grew."""
        N, finished = self.options.num_rollouts, int(ended_R.sum())
        prefixes = {
            "rollout": len(rows) - finished,
            "deferred": int((self.lengths_B - self.start_B - 1)[rows[ended_R]].sum()),
            "none": 0,
        }
        return finished + N * prefixes[self.options.shaping]

    def _shaped(
        self,
        rows: NDArray[np.int64],
        ended_R: NDArray[np.bool_],
        rngs: Sequence[np.random.Generator],
        reward: Reward,
        policy: RolloutPolicy,
    ) -> NDArray[np.float64]:
        """r_t = γΦ_t - Φ_{t-1} of some rows that have just grown; keeps Φ_t."""
        N, T = self.options.num_rollouts, self.task.sequence_length
        uniforms_RNT = np.zeros((len(rows), N, T), dtype=np.float32)
        for i in np.flatnonzero(~ended_R):
            rngs[rows[i]].random(dtype=np.float32, out=uniforms_RNT[i])
        value_R = prefix_values(
            policy,
            reward,
            self._tensor(self.tokens_BT[rows]),
            self._tensor(self.lengths_B[rows]),
            self._tensor(uniforms_RNT),
            is_finished_B=self._tensor(ended_R),
            options=self.task.rollout_options,
        )
        lengths_R = self.lengths_B[rows]
        has_previous_R = lengths_R - 1 > self.start_B[rows]
        previous_R = np.where(has_previous_R, self.value_BT[rows, lengths_R - 2], 0).astype(np.float64)
        self.value_BT[rows, lengths_R - 1] = value_R.cpu().numpy()
        shaped_R: NDArray[np.float64] = self.options.gamma * self.value_BT[rows, lengths_R - 1] - previous_R
        return shaped_R

    def _deferred(
        self,
        rows: NDArray[np.int64],
        rngs: Sequence[np.random.Generator],
        reward: Reward,
        policy: RolloutPolicy,
    ) -> NDArray[np.float32]:
        """All action values of some finished rows in one batch, from the same uniforms as step by step."""
        N, T = self.options.num_rollouts, self.task.sequence_length
        uniforms_RTNT = np.zeros((len(rows), T - 1, N, T), dtype=np.float32)
        for i, row in enumerate(rows):
            rngs[row].random(dtype=np.float32, out=uniforms_RTNT[i, self.start_B[row] : self.lengths_B[row] - 1])
        q_RT = action_values(
            policy,
            reward,
            self._tensor(self.tokens_BT[rows]),
            self._tensor(self.lengths_B[rows]),
            self._tensor(uniforms_RTNT),
            options=self.task.rollout_options,
            start_B=self._tensor(self.start_B[rows]),
        )
        values_RT: NDArray[np.float32] = q_RT.cpu().numpy()
        return values_RT

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """All rows, mid-episode too; arrays are copies."""
        return {
            "tokens": self.tokens_BT.copy(),
            "lengths": self.lengths_B.copy(),
            "start": self.start_B.copy(),
            "values": self.value_BT.copy(),
            "num_scored": self.num_scored,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; ValueError if it is of another task or batch size."""
        arrays: dict[str, NDArray[Any]] = {
            "tokens": self.tokens_BT,
            "lengths": self.lengths_B,
            "start": self.start_B,
            "values": self.value_BT,
        }
        for name, array in arrays.items():
            if np.shape(state[name]) != array.shape:
                raise ValueError(
                    f"state of another environment: {name} has shape {np.shape(state[name])}, not {array.shape}"
                )
        A, tokens_BT = self.task.num_actions, np.asarray(state["tokens"])
        is_token_BT = np.arange(self.task.sequence_length) < np.asarray(state["lengths"])[:, None]
        if not np.where(is_token_BT, (tokens_BT >= 0) & (tokens_BT < A), tokens_BT == self.task.pad_id).all():
            raise ValueError(f"state of another environment: its tokens are not those of a task with {A} actions")
        for name, array in arrays.items():
            array[...] = state[name]
        self.num_scored = int(state["num_scored"])


def check_state(state: Any, names: Iterable[str]) -> None:
    """ValueError unless a state has all of these parts."""
    missing = [name for name in names if not isinstance(state, Mapping) or name not in state]
    if missing:
        raise ValueError(
            f"state lacks {', '.join(missing)}; give what state_dict() of an equal environment returned, "
            f"not {state!r:.80}"
        )


def checked_options(options: Any) -> dict[str, Any]:
    """The options of a reset; ValueError unless they are a dictionary or None, and for a misspelt key. Keys unlike ours
    are for wrappers."""
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"options must be a dictionary such as {{'prefix': [0, 1]}} or None, got {options!r:.80}")
    options = dict(options or {})
    for key in options:
        hint = did_you_mean(str(key), list(RESET_OPTIONS))
        if hint and key not in RESET_OPTIONS:
            raise ValueError(f"options of reset: unknown key {key!r}{hint}")
    return options
