"""The native vector environment: B prefixes step as one array, and all rollouts of a step run in one batch.

Equal, seed for seed, to ``SyncVectorEnv`` of single environments: each sub-environment has its own random generator.
Letters: B sub-environments, T tokens.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from seqgan_rl.envs.environment import METADATA, as_raster, as_text
from seqgan_rl.envs.episodes import check_state, checked_options
from seqgan_rl.envs.holder import TaskHolder
from seqgan_rl.envs.observations import encode, observation_space, pick_row
from seqgan_rl.envs.options import CorpusOptions, EnvOptions, ExactOptions, OracleOptions


class SequenceVectorEnv(TaskHolder, gym.vector.VectorEnv[Any, Any, Any]):
    """Token-by-token generation of ``num_envs`` sequences; see :class:`~seqgan_rl.envs.environment.SequenceEnv`.

    Args:
        num_envs: B.
        autoreset_mode: NEXT_STEP (Gymnasium's default), SAME_STEP or DISABLED.
        max_episode_steps: truncate after so many steps; None does not.
        render_mode: None, "ansi" or "rgb_array".
        **options: as of the single environment.

    ``reset(options={"prefix": ...})`` takes one prompt for all, or a list of B prompts.
    """

    options_class: ClassVar[type[EnvOptions]] = EnvOptions

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        _check_count("num_envs", num_envs)
        if max_episode_steps is not None:
            _check_count("max_episode_steps", max_episode_steps)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        TaskHolder.__init__(self, self.options_class.of(options), num_envs)
        self.num_envs, self.render_mode, self.max_episode_steps = num_envs, render_mode, max_episode_steps
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        self.single_action_space = gym.spaces.Discrete(self.task.num_actions)
        self.single_observation_space = observation_space(self.options.observation, self.task)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rngs: list[np.random.Generator] = [gym.utils.seeding.np_random(None)[0] for _ in range(num_envs)]
        self._needs_reset_B = np.ones(num_envs, dtype=np.bool_)
        self._held_B = np.zeros(num_envs, dtype=np.bool_)
        self._has_begun = False
        self.hold_finished = False
        """SAME_STEP only: a sub-environment that ends waits at its new start, ignoring actions, until
        :meth:`release`; whoever wants one sequence from each loses no rollouts on a second."""

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new sequences; ``seed`` int seeds sub-environment i with seed + i. ``options["reset_mask"]`` (bool,
        (B,)) restarts only some; ``options["prefix"]`` gives prompts."""
        options = checked_options(options)
        rows = self._rows_to_reset(options.get("reset_mask"))
        seeds: Sequence[int | None]
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be an int or {self.num_envs} of them, got {len(seeds)}")
        prefixes = self._prefixes(options.get("prefix"))
        seeded = {row: gym.utils.seeding.np_random(seeds[row])[0] for row in rows if seeds[row] is not None}
        for row in rows:  # from here on things change
            self._rngs[row] = seeded.get(row, self._rngs[row])
            self._begin(row, prefixes[row])
        self._needs_reset_B[rows] = False
        self._held_B[rows] = False
        self._has_begun = True
        return self._observations(), self._infos(rows)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Append one token to every sub-environment, following the autoreset mode."""
        mode, waiting_B = self.autoreset_mode, self._needs_reset_B.copy()
        if waiting_B.any() and (mode != AutoresetMode.NEXT_STEP or not self._has_begun):
            raise RuntimeError(
                f"sub-environment {int(waiting_B.argmax())} has ended or not begun; call reset() before the first "
                'step(), and reset(options={"reset_mask": ...}) for those that ended before the next'
            )
        active_B = ~waiting_B & ~self._held_B
        actions_B = self.episodes.check_actions(actions, active_B)
        for row in np.flatnonzero(waiting_B).tolist():
            self._begin(row)
        result = self._advance(actions_B, active_B, self._rngs)
        terminated_B = result.ended_B
        steps_B = self.episodes.lengths_B - self.episodes.start_B
        truncated_B = active_B & (steps_B == self.max_episode_steps)  # also where it ends, as TimeLimit does
        ended_B = terminated_B | truncated_B

        endings: dict[Any, dict[str, Any]] = {}
        for row in np.flatnonzero(terminated_B).tolist():
            endings[row] = {
                "sequence": self.episodes.tokens_BT[row].copy(),
                "sequence_reward": float(result.sequence_reward_B[row]),
            }
            if result.action_value_BT is not None:
                endings[row]["action_value"] = result.action_value_BT[row]
        if mode == AutoresetMode.SAME_STEP:
            infos = self._reset_same_step(ended_B, endings)
        else:
            infos = self._infos()
            for row, info in endings.items():
                infos = self._add_info(infos, info, row)
            self._needs_reset_B = ended_B.copy()
        self._retrain_if_due()
        return self._observations(), result.reward_B, terminated_B, truncated_B, infos

    def release(self) -> None:
        """Let the sub-environments that were held at their start go on."""
        self._held_B[:] = False

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions may be taken, bool, (B, num_actions)."""
        return self.masks()

    def close_extras(self, **kwargs: Any) -> None:
        """Leave the task; nothing else is held."""
        self._leave()

    def render(self) -> tuple[Any, ...] | None:
        """One frame per sub-environment."""
        if self.render_mode not in ("ansi", "rgb_array"):
            return None
        draw = as_text if self.render_mode == "ansi" else as_raster
        return tuple(draw(self.task, tokens_T) for tokens_T in self.episodes.tokens_BT)

    def state_dict(self) -> dict[str, Any]:
        """Prefixes, random states and stored values, mid-episode too, and a discriminator that it trains."""
        return {
            **self._state(),
            "needs_reset": self._needs_reset_B.copy(),
            "held": self._held_B.copy(),
            "rngs": [rng.bit_generator.state for rng in self._rngs],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        check_state(state, self.state_dict())
        self._load_state(state)
        self._needs_reset_B[:], self._held_B[:] = state["needs_reset"], state["held"]
        for rng, rng_state in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = rng_state
        self._has_begun = True

    def _reset_same_step(self, ended_B: NDArray[np.bool_], endings: dict[Any, dict[str, Any]]) -> dict[str, Any]:
        """Begin the ended rows anew; infos hold what they ended with."""
        infos: dict[str, Any] = {}
        if not ended_B.any():
            return self._infos()
        final, masks_BA = self._observations(), self.masks().astype(np.int8)
        for row in np.flatnonzero(ended_B).tolist():
            mask = {"action_mask": masks_BA[row]} if self.has_masks else {}
            final_info = {**mask, **endings.get(row, {})}
            infos = self._add_info(infos, {"final_obs": pick_row(final, row), "final_info": final_info}, row)
            self._begin(row)
        self._held_B |= ended_B & self.hold_finished
        return {**infos, **self._infos()}

    def _rows_to_reset(self, mask: Any) -> NDArray[np.int64]:
        if mask is None:
            return np.arange(self.num_envs)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(
                f'options["reset_mask"] must be a bool array of shape ({self.num_envs},), got {mask!r:.80}'
            )
        if not mask.any():
            raise ValueError('options["reset_mask"] must be True for at least one sub-environment')
        return np.flatnonzero(mask)

    def _begin(self, row: int, prefix: Sequence[int] | None = None) -> None:
        """A new sequence in one row, from the prefix or a prompt of the environment's own."""
        self.episodes.begin(row, self._draw_prompt(self._rngs[row]) if prefix is None else prefix)

    def _prefixes(self, prefix: Any) -> Sequence[list[int] | None]:
        """One prompt per sub-environment; None where it shall choose its own."""
        if prefix is None:
            return [None] * self.num_envs
        is_list = isinstance(prefix, Sequence) or (isinstance(prefix, np.ndarray) and prefix.ndim > 0)
        is_many = is_list and len(prefix) > 0 and all(isinstance(part, Sequence | np.ndarray) for part in prefix)
        if not is_many:
            return [self.episodes.check_prefix(prefix)] * self.num_envs
        if len(prefix) != self.num_envs:
            raise ValueError(f'options["prefix"] must be one prompt or {self.num_envs} of them, got {len(prefix)}')
        return [self.episodes.check_prefix(part) for part in prefix]

    def _observations(self) -> Any:
        return encode(self.options.observation, self.task, self.episodes.tokens_BT, self.episodes.lengths_B, self.masks)

    def _infos(self, rows: NDArray[np.int64] | slice = slice(None)) -> dict[str, Any]:
        if not self.has_masks:
            return {}
        has_info_B = np.zeros(self.num_envs, dtype=np.bool_)
        has_info_B[rows] = True
        return {"action_mask": self.masks().astype(np.int8) * has_info_B[:, None], "_action_mask": has_info_B}


def _check_count(name: str, count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")


def _autoreset_mode(mode: Any) -> AutoresetMode:
    """A mode by its name or value, in whatever case."""
    for known in AutoresetMode:
        if mode is known or str(mode).lower() in (known.name.lower(), known.value.lower()):
            return known
    names = ", ".join(known.name for known in AutoresetMode)
    raise ValueError(f"autoreset_mode must be one of {names}, got {mode!r}")


class OracleVectorEnv(SequenceVectorEnv):
    """``gym.make_vec("SeqGAN/Oracle-v0", num_envs=64)``."""

    options_class = OracleOptions


class CorpusVectorEnv(SequenceVectorEnv):
    """``gym.make_vec("SeqGAN/Corpus-v0", num_envs=64)``."""

    options_class = CorpusOptions


class ExactVectorEnv(SequenceVectorEnv):
    """``gym.make_vec("SeqGAN/Exact-v0", num_envs=64)``."""

    options_class = ExactOptions
