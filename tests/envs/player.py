"""Plays a native vector environment and holds every answer against a plain model of what it should be.

Used by the stateful test (Hypothesis chooses the calls) and by ``make soak`` (millions of random ones).
Letters: B sub-environments, T tokens each, A actions.
"""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from seqgan_rl.envs.vector import SequenceVectorEnv
from seqgan_rl.envs.wrappers import no_repeated_ngrams

KEPT = 1_000_000
"""More finished sequences than are ever gathered here between two calls of ``pop_finished``."""


def assert_same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    """Equal in structure, dtype and value: bit for bit, or to a tolerance."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_same(one[key], other[key], tolerance)
    elif isinstance(one, list | tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs, tolerance)
    elif isinstance(one, np.ndarray | torch.Tensor):
        mine, theirs = np.asarray(one), np.asarray(other)
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        if tolerance and mine.dtype.kind == "f":
            assert np.abs(mine - theirs).max(initial=0) <= tolerance
        else:
            assert np.array_equal(mine, theirs)
    else:
        assert one == other


class TokenCost:
    """A penalty that any test can work out: 0.01 for each token of the prefix, 0.001 times the action."""

    def __call__(
        self, tokens_BT: NDArray[np.int64], lengths_B: NDArray[np.int64], actions_B: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        assert len(actions_B) > 0
        cost_B: NDArray[np.float64] = 0.01 * lengths_B + 0.001 * actions_B
        return cost_B


class Player:
    """An environment and what is known of it; every method makes one call and checks all that it returns.

    Args:
        make: makes the environment; called again by :meth:`remake`.
        is_repeatable: whether rewards follow from the state (not for "random" and "shuffled").
    """

    def __init__(self, make: Callable[[], SequenceVectorEnv], *, is_repeatable: bool = True) -> None:
        self.make, self.is_repeatable = make, is_repeatable
        self.env = make()
        self.settings: dict[str, Any] = {"collect_finished": KEPT}
        self._apply_settings()
        task, B = self.env.task, self.env.num_envs
        self.tokens_BT = np.full((B, task.sequence_length), task.pad_id)
        self.lengths_B, self.start_B = np.zeros(B, dtype=np.int64), np.zeros(B, dtype=np.int64)
        self.waiting_B, self.held_B = np.ones(B, dtype=np.bool_), np.zeros(B, dtype=np.bool_)
        self.paid_B = np.zeros(B)
        """Rewards since the start of the sequence, penalties added back."""
        self.is_whole_B = np.zeros(B, dtype=np.bool_)
        """Whether one shaping has paid the sequence from its start."""
        self.finished: list[NDArray[np.int64]] = []
        self.steps = self.sequences = self.resets = self.rewinds = 0
        self._calls: list[tuple[str, Any, Any]] | None = None
        """While a state is being returned to: each call with its argument and answer."""

    # --- calls --------------------------------------------------------------------------------------------------

    def reset(
        self,
        mask_B: NDArray[np.bool_] | None = None,
        prefix: Any = None,
        seed: int | Sequence[int | None] | None = None,
    ) -> None:
        """Reset all rows or some, from prompts or not."""
        options: dict[str, Any] = {} if mask_B is None else {"reset_mask": mask_B}
        if prefix is not None:
            options["prefix"] = prefix
        arguments = {"seed": seed, "options": options}
        observations, infos = answer = self.env.reset(seed=seed, options=options)
        self._note("reset", arguments, answer)
        rows = np.arange(self.env.num_envs) if mask_B is None else np.flatnonzero(mask_B)
        self._began(rows, prefix)
        self.waiting_B[rows] = self.held_B[rows] = False
        self.resets += len(rows)
        assert set(infos) == (self._mask_keys())
        if self.env.has_masks:
            assert infos["_action_mask"].tolist() == np.isin(np.arange(self.env.num_envs), rows).tolist()
            assert np.array_equal(infos["action_mask"][rows], self._masks()[rows].astype(np.int8))
        self._check_observations(observations)

    def step(self, actions_B: NDArray[np.int64]) -> None:
        """One step; in DISABLED mode what has ended is reset first."""
        env, mode = self.env, self.env.autoreset_mode
        if mode != AutoresetMode.NEXT_STEP and self.waiting_B.any():
            self.reset(self.waiting_B.copy())
        active_B = ~self.waiting_B & ~self.held_B
        cost_B = 0.01 * self.lengths_B + 0.001 * actions_B if env.has_penalty else np.zeros(env.num_envs)
        observations, reward_B, terminated_B, truncated_B, infos = answer = env.step(actions_B)
        self._note("step", actions_B, answer)
        rows = np.flatnonzero(active_B)
        self.tokens_BT[rows, self.lengths_B[rows]] = actions_B[rows]
        self.lengths_B[rows] += 1
        ended_B = active_B & ((self.lengths_B == env.sequence_length) | (actions_B == env.task.eos_id))
        cut_B = active_B & (self.lengths_B - self.start_B == env.max_episode_steps)
        over_B = ended_B | cut_B
        assert_same(terminated_B, ended_B)
        assert_same(truncated_B, cut_B)
        self._check_infos(infos, ended_B, over_B)
        self._check_pay(infos, reward_B, np.where(active_B, cost_B, 0), active_B, ended_B)
        self.finished.extend(self.tokens_BT[ended_B].copy())
        began_B = over_B
        if mode == AutoresetMode.SAME_STEP:
            self.held_B |= over_B & env.hold_finished
        else:
            began_B = self.waiting_B & (mode == AutoresetMode.NEXT_STEP)
            self.waiting_B = over_B.copy()
        self._began(np.flatnonzero(began_B))
        self._check_observations(observations)
        if env.has_masks:
            assert infos["_action_mask"].all()
            assert np.array_equal(infos["action_mask"], self._masks().astype(np.int8))
            assert np.array_equal(env.action_masks(), self._masks())
        self.steps += len(rows)
        self.sequences += int(ended_B.sum())

    def play(self, actions: list[NDArray[np.int64]]) -> None:
        """Several steps."""
        for actions_B in actions:
            self.step(actions_B)

    def apply(self, setter: str, value: Any) -> None:
        """Call one of the environment's setters; the next environment that :meth:`remake` makes gets it too."""
        if setter == "set_shaping" and value != self.env.shaping:
            self.is_whole_B &= self.lengths_B == self.start_B
        self.settings[setter] = value
        getattr(self.env, setter)(value)

    def hold(self, is_on: bool) -> None:
        """SAME_STEP: let rows that end wait."""
        self.env.hold_finished = is_on

    def release(self) -> None:
        """Let the waiting rows go on."""
        self.env.release()
        self.held_B[:] = False

    def pop_finished(self) -> None:
        """Every finished sequence comes once, in order."""
        popped = self.env.pop_finished()
        assert_same(popped, np.array(self.finished, dtype=np.int64).reshape(-1, self.env.sequence_length))
        self.finished.clear()

    def refuse(self, call: Callable[[SequenceVectorEnv], Any], error: type[Exception]) -> None:
        """A call that must raise and change nothing."""
        before = self.env.state_dict()
        try:
            call(self.env)
        except error:
            assert_same(self.env.state_dict(), before)
            return
        raise AssertionError(f"{error.__name__} was not raised")

    def rewind(self, play: Callable[[], Any]) -> None:
        """Play on, return to a pickled state of before and repeat the same calls: all answers bit for bit the same."""
        if not self.is_repeatable:
            return
        self.pop_finished()
        state = pickle.loads(pickle.dumps(self.env.state_dict()))
        calls: list[tuple[str, Any, Any]] = []
        self._calls = calls
        play()
        self._calls = None
        self.env.load_state_dict(state)
        for name, argument, answer in calls:
            again = self.env.reset(**argument) if name == "reset" else self.env.step(argument)
            assert_same(again, answer)
        self.rewinds += 1
        self.env.pop_finished()
        self.finished.clear()

    def remake(self) -> None:
        """Close the environment and go on in a new one, from a pickled state."""
        self.pop_finished()
        state, is_holding = pickle.dumps(self.env.state_dict()), self.env.hold_finished
        self.env.close()
        self.env.close()  # twice must work
        self.env = self.make()
        self._apply_settings()
        self.env.hold_finished = is_holding
        self.env.load_state_dict(pickle.loads(state))

    def copy(self) -> None:
        """Go on in a deep copy."""
        self.env = copy.deepcopy(self.env)

    # --- what must be so ----------------------------------------------------------------------------------------

    def _apply_settings(self) -> None:
        for setter, value in self.settings.items():
            getattr(self.env, setter)(value)

    def _note(self, call: str, argument: Any, answer: Any) -> None:
        if self._calls is not None:
            self._calls.append((call, copy.deepcopy(argument), copy.deepcopy(answer)))

    def _began(self, rows: NDArray[np.int64], prefix: Any = None) -> None:
        """New sequences: from the prompt given, else from one of those set, else empty."""
        is_many = prefix is not None and len(prefix) > 0 and not isinstance(prefix[0], int | np.integer)
        self.tokens_BT[rows] = self.env.task.pad_id
        for row in rows.tolist() if prefix is not None or self.env.prompts else []:
            drawn = self.env.episodes.tokens_BT[row, : self.env.episodes.lengths_B[row]].tolist()
            if prefix is None:
                assert drawn in self.env.prompts
            else:
                assert drawn == list(prefix[row] if is_many else prefix)
            self.tokens_BT[row, : len(drawn)] = drawn
        self.start_B[rows] = self.lengths_B[rows] = (self.tokens_BT[rows] != self.env.task.pad_id).sum(axis=1)
        self.paid_B[rows], self.is_whole_B[rows] = 0, True
        assert np.array_equal(self.env.episodes.tokens_BT, self.tokens_BT)
        assert np.array_equal(self.env.episodes.lengths_B, self.lengths_B)

    def _check_observations(self, observations: Any) -> None:
        """In the space, and the prefix as this kind of observation shows it."""
        env, tokens_BT = self.env, self.tokens_BT
        assert env.observation_space.contains(observations)
        kind, B = env.options.observation, env.num_envs
        if kind == "dict":
            assert_same(observations, {"action_mask": self._masks().astype(np.int8), "tokens": tokens_BT})
        elif kind == "onehot":
            shown_BTA = tokens_BT[:, :, None] == np.arange(env.task.num_actions)
            assert_same(observations, shown_BTA.reshape(B, -1).astype(np.float32))
        elif kind == "last_token":
            last_B = tokens_BT[np.arange(B), self.lengths_B - 1]
            assert_same(observations, np.where(self.lengths_B > 0, last_B, env.task.pad_id))
        else:
            assert_same(observations, tokens_BT.astype(np.float32 if kind == "tokens_float32" else np.int64))

    def _masks(self) -> NDArray[np.bool_]:
        """Forbidden words never; under the constraint that no word comes twice, none of the prefix; if that leaves
        nothing or the sequence has ended, all that is not forbidden."""
        task, B = self.env.task, self.env.num_envs
        free_BA = np.ones((B, task.num_actions + 1), dtype=np.bool_)
        free_BA[:, list(task.forbidden)] = False
        free_BA[:, task.pad_id] = False
        mask_BA = free_BA.copy()
        if self.env.has_constraint:
            np.put_along_axis(mask_BA, self.tokens_BT, False, axis=1)
            is_over_B = self.lengths_B == task.sequence_length
            if task.eos_id is not None:
                is_over_B |= (self.tokens_BT == task.eos_id).any(axis=1)
            mask_BA = np.where((is_over_B | ~mask_BA.any(axis=1))[:, None], free_BA, mask_BA)
        return mask_BA[:, :-1]

    def masks(self) -> NDArray[np.bool_]:
        """What may be played now, by the model; bool (B, A)."""
        return self._masks()

    def _mask_keys(self) -> set[str]:
        return {"action_mask", "_action_mask"} if self.env.has_masks else set()

    def _check_infos(self, infos: dict[str, Any], ended_B: NDArray[np.bool_], over_B: NDArray[np.bool_]) -> None:
        """Keys, dtypes and shapes follow from what ended; the rows they speak of are those that ended."""
        env, B = self.env, self.env.num_envs
        names = ["sequence", "sequence_reward", *(["action_value"] if env.shaping != "none" else [])]
        keys = {key for name in names for key in (name, f"_{name}")} if ended_B.any() else set()
        if env.autoreset_mode == AutoresetMode.SAME_STEP:
            outer = {"final_obs", "_final_obs", "final_info", "_final_info"} if over_B.any() else set()
            assert set(infos) == outer | self._mask_keys()
            if not over_B.any():
                return
            assert_same(infos["_final_obs"], over_B)
            assert_same(infos["_final_info"], over_B)
            assert set(infos["final_info"]) == keys | self._mask_keys()
            for row in np.flatnonzero(over_B)[:4].tolist():  # some: it is slow
                final = infos["final_obs"][row]
                assert env.single_observation_space.contains(final)
                if env.options.observation == "tokens":
                    assert_same(final, self.tokens_BT[row])
            infos = infos["final_info"]
        else:
            assert set(infos) == keys | self._mask_keys()
        if not ended_B.any():
            return
        assert_same(infos["_sequence"], ended_B)
        assert_same(infos["_sequence_reward"], ended_B)
        assert_same(infos["sequence"], np.where(ended_B[:, None], self.tokens_BT, 0))
        assert (infos["sequence_reward"].dtype, infos["sequence_reward"].shape) == (np.float64, (B,))
        if env.shaping != "none":
            assert_same(infos["_action_value"], ended_B)
            self._check_action_values(infos["action_value"][ended_B], infos["sequence_reward"][ended_B], ended_B)

    def _check_action_values(
        self, value_ET: NDArray[np.float32], R_E: NDArray[np.float64], ended_B: NDArray[np.bool_]
    ) -> None:
        """T finite values: R(Y) at the last token, 0 at the prompt and after the end."""
        assert value_ET.dtype == np.float32
        assert value_ET.shape[1] == self.env.sequence_length
        assert np.isfinite(value_ET).all()
        length_E, start_E = self.lengths_B[ended_B], self.start_B[ended_B]
        assert np.abs(value_ET[np.arange(len(R_E)), length_E - 1] - R_E).max() <= 1e-6
        column_T = np.arange(self.env.sequence_length)
        is_outside_ET = (column_T >= length_E[:, None]) | (column_T < start_E[:, None])
        assert (value_ET[is_outside_ET] == 0).all()

    def _check_pay(
        self,
        infos: dict[str, Any],
        reward_B: NDArray[np.float64],
        cost_B: NDArray[np.float64],
        active_B: NDArray[np.bool_],
        ended_B: NDArray[np.bool_],
    ) -> None:
        """Finite; nothing for rows that wait; nothing before the end unless shaped; a sequence is paid R(Y) in all."""
        env = self.env
        assert reward_B.dtype == np.float64
        assert reward_B.shape == (env.num_envs,)
        assert np.isfinite(reward_B).all()
        assert (reward_B[~active_B] == 0).all()
        gross_B = reward_B + cost_B
        if env.shaping != "rollout":
            assert np.abs(gross_B[~ended_B]).max(initial=0) <= 1e-12
        self.paid_B[active_B] += gross_B[active_B]
        if not ended_B.any():
            return
        R_B = infos["final_info" if env.autoreset_mode == AutoresetMode.SAME_STEP else "sequence_reward"]
        R_B = R_B["sequence_reward"] if isinstance(R_B, dict) else R_B
        is_whole_B = ended_B & self.is_whole_B
        assert np.abs(self.paid_B - R_B)[is_whole_B].max(initial=0) <= 1e-4
        if self.is_repeatable and not env.is_online:  # else the next scoring is another
            tokens_ET, lengths_E = self.tokens_BT[ended_B], self.lengths_B[ended_B]
            expected_E = env.reward(torch.from_numpy(tokens_ET), torch.from_numpy(lengths_E)).numpy()
            assert np.abs(expected_E - R_B[ended_B]).max() <= 1e-5


def no_word_twice(env: SequenceVectorEnv) -> Any:
    """The constraint that :class:`Player` knows."""
    return no_repeated_ngrams(1, env.task.num_actions)


def random_action(rng: np.random.Generator, player: Player, *, obey: bool = True) -> NDArray[np.int64]:
    """Uniform in each row, or uniform over what the mask allows."""
    env = player.env
    if not (obey and env.has_masks):
        return rng.integers(env.task.num_actions, size=env.num_envs)
    scores_BA = np.where(player.masks(), rng.random((env.num_envs, env.task.num_actions)), -1.0)
    chosen_B: NDArray[np.int64] = scores_BA.argmax(axis=1)
    return chosen_B
