"""The native vector environment as a Stable-Baselines3 ``VecEnv``: one batched step instead of a loop over copies."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from seqgan_rl.envs.observations import pick_row
from seqgan_rl.envs.vector import SequenceVectorEnv


class SB3VecEnv(VecEnv):
    """Adapter; equal step by step to ``DummyVecEnv`` of single environments.

    ``env_method`` and ``get_attr`` reach the native environment, which is one object for all sub-environments:
    ``env_method("set_reward", reward)`` sets it once.
    """

    def __init__(self, env: SequenceVectorEnv) -> None:
        if not isinstance(env, SequenceVectorEnv) or env.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                "SB3VecEnv takes a native vector environment in SAME_STEP mode; make one with "
                "make_sb3_env(id, num_envs=...)"
            )
        self.env = env
        self.render_mode = env.render_mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Start all sequences anew; seeds given with ``seed`` and options with ``set_options`` are used once."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        prefixes = [list(options.get("prefix", [])) for options in self._options]
        has_prompts = any(len(prefix) > 0 for prefix in prefixes)
        # all-empty prompts are no prompts; a list of lists is one prompt per sub-environment
        observations, infos = self.env.reset(seed=seeds, options={"prefix": prefixes} if has_prompts else None)
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step; ended rows carry ``terminal_observation`` and what their last info held."""
        observations, rewards_B, terminated_B, truncated_B, infos = self.env.step(self._actions)
        rows = self._split({key: value for key, value in infos.items() if key.lstrip("_") not in ("final_info",)})
        final_rows = self._split(infos.get("final_info", {}))
        dones_B = terminated_B | truncated_B
        is_cut_B = truncated_B & ~terminated_B
        for info, is_truncated in zip(rows, is_cut_B.tolist(), strict=True):
            info["TimeLimit.truncated"] = is_truncated
        for row in np.flatnonzero(dones_B):
            self.reset_infos[row] = {
                k: v for k, v in rows[row].items() if k not in ("final_obs", "TimeLimit.truncated")
            }
            rows[row] = {
                **final_rows[row],
                "terminal_observation": rows[row]["final_obs"],
                "TimeLimit.truncated": bool(is_cut_B[row]),
            }
        return observations, rewards_B.astype(np.float32), dones_B, rows

    def close(self) -> None:
        """Close the native environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The native environment's attribute, once per index."""
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set the native environment's attribute; it has one for all sub-environments."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call the native environment's method once; ``action_masks`` is handed out row by row, and what
        ``pop_finished`` gives is given once."""
        rows = list(self._get_indices(indices))
        value = getattr(self.env, method_name)(*args, **kwargs)
        if method_name == "action_masks":
            return [value[row] for row in rows]
        if method_name == "pop_finished":
            return [value, *[value[:0] for _ in rows[1:]]]
        return [value for _ in rows]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """Never: there are no single environments to wrap."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One raster per sub-environment (``render_mode="rgb_array"``)."""
        return self.env.render() or [None] * self.num_envs

    def _split(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Vector infos as one dict per sub-environment."""
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for key, value in infos.items():
            if not key.startswith("_"):
                for row in np.flatnonzero(infos["_" + key]).tolist():
                    rows[row][key] = pick_row(value, row)
        return rows


def make_sb3_env(
    env_id: str = "SeqGAN/Oracle-v0", num_envs: int = 64, *, monitor: bool = True, **options: Any
) -> VecEnv:
    """A Stable-Baselines3 ``VecEnv`` over the native vector environment of this id.

    Args:
        env_id: a registered id of this library.
        num_envs: B.
        monitor: wrap in ``VecMonitor``, so that ``rollout/ep_rew_mean`` is logged.
        **options: arguments of the environment.
    """
    native = gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options)
    adapter = SB3VecEnv(native.unwrapped)  # type: ignore[arg-type]
    return VecMonitor(adapter) if monitor else adapter
