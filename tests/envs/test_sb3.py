"""The Stable-Baselines3 adapter: equal, step by step, to DummyVecEnv of single environments."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from seqgan_rl import make_sb3_env
from seqgan_rl.envs.observations import OBSERVATIONS
from seqgan_rl.envs.sb3 import SB3VecEnv
from seqgan_rl.rewards import ConstantReward

torch.set_num_threads(1)

B = 4
EXACT: dict[str, Any] = {"vocab_size": 3, "sequence_length": 4, "num_rollouts": 3, "variable_length": True}


def dummy(env_id: str, limit: int | None = None, **options: Any) -> DummyVecEnv:
    def make() -> gym.Env[Any, Any]:
        env = gym.make(env_id, **options)
        return env if limit is None else TimeLimit(env, limit)

    return DummyVecEnv([make for _ in range(B)])


def assert_same(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_same(one[key], other[key], tolerance)
    elif isinstance(one, bool | str):
        assert one is other
    else:
        assert np.asarray(one).dtype == np.asarray(other).dtype
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=tolerance)


def assert_plays_the_same(adapter: Any, other: DummyVecEnv, allowed: np.ndarray, prompts: list[list[int]]) -> None:
    rng = np.random.default_rng(0)
    assert adapter.observation_space == other.observation_space
    assert adapter.action_space == other.action_space
    for vector in (adapter, other):
        vector.seed(3)
        if any(prompts):
            vector.set_options([{"prefix": prompt} for prompt in prompts])
    assert_same(adapter.reset(), other.reset(), 0)
    assert_same(dict(enumerate(adapter.reset_infos)), dict(enumerate(other.reset_infos)))
    for step in range(30):
        actions = rng.choice(allowed, size=B)
        mine, theirs = adapter.step(actions), other.step(actions)
        assert_same(mine[0], theirs[0], 0)
        assert mine[1].dtype == theirs[1].dtype == np.float32
        assert_same(mine[1], theirs[1])
        assert np.array_equal(mine[2], theirs[2])
        assert_same(dict(enumerate(mine[3])), dict(enumerate(theirs[3])))
        assert_same(dict(enumerate(adapter.reset_infos)), dict(enumerate(other.reset_infos)))
        if step == 17:  # seeds and options were for once
            assert_same(adapter.reset(), other.reset(), 0)


@pytest.mark.parametrize("limit", [None, 2], ids=["", "limit"])
@pytest.mark.parametrize("shaping", ["rollout", "none", "deferred"])
@pytest.mark.parametrize("prompts", [[[]] * B, [[1], [], [2, 0], [0]]], ids=["no prompt", "prompts"])
def test_the_adapter_equals_dummy_vec_env(shaping: str, prompts: list[list[int]], limit: int | None) -> None:
    """Observations exactly, rewards to 1e-5, dones, all infos with `terminal_observation` and `TimeLimit.truncated`."""
    options = EXACT | {"shaping": shaping}
    adapter = make_sb3_env("SeqGAN/Exact-v0", B, monitor=False, max_episode_steps=limit, **options)
    assert_plays_the_same(adapter, dummy("SeqGAN/Exact-v0", limit, **options), np.arange(4), prompts)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_the_adapter_equals_dummy_vec_env_on_text(observation: str, small_text: str) -> None:
    """Every kind of observation; UNK forbidden, so infos hold masks."""
    options: dict[str, Any] = {"corpus": small_text, "min_count": 2, "num_rollouts": 2, "observation": observation}
    options |= {"rollout_policy": "uniform", "reward": lambda tokens_BT, lengths_B: 1.0 / lengths_B}
    adapter = make_sb3_env("SeqGAN/Corpus-v0", B, monitor=False, **options)
    allowed = np.flatnonzero(adapter.env_method("action_masks", indices=[0])[0])
    assert_plays_the_same(adapter, dummy("SeqGAN/Corpus-v0", **options), allowed, [[]] * B)


def test_methods_and_attributes_reach_the_native_environment() -> None:
    env = make_sb3_env("SeqGAN/Exact-v0", B, **EXACT)
    assert isinstance(env, VecMonitor)
    assert isinstance(env.unwrapped, SB3VecEnv)
    assert not make_sb3_env("SeqGAN/Exact-v0", 2, monitor=False, **EXACT).env_is_wrapped(VecMonitor)[0]
    reward = ConstantReward(2.0)
    env.env_method("set_reward", reward)
    assert all(got is reward for got in env.get_attr("reward"))
    assert env.has_attr("hold_finished")
    assert not env.has_attr("nothing_of_that_name")
    env.set_attr("hold_finished", True)
    assert env.get_attr("hold_finished", indices=0) == [True]
    masks = env.env_method("action_masks", indices=[1, 2])
    assert len(masks) == 2
    assert masks[0].shape == (4,)
    state = env.env_method("state_dict", indices=0)[0]
    env.env_method("load_state_dict", state)


def test_the_monitor_reports_the_return_of_each_sequence() -> None:
    """Episode return = R(Y) and length = tokens, from shaped rewards."""
    env = make_sb3_env("SeqGAN/Exact-v0", B, **EXACT)
    env.seed(0)
    env.reset()
    found, rng = 0, np.random.default_rng(0)
    for _ in range(40):
        _, _, dones_B, infos = env.step(rng.integers(4, size=B))
        for row in np.flatnonzero(dones_B):
            found += 1
            assert infos[row]["episode"]["r"] == pytest.approx(infos[row]["sequence_reward"], abs=1e-5)
            assert infos[row]["episode"]["l"] == (infos[row]["terminal_observation"] != 4).sum()
    assert found > 40


def test_images_and_wrong_environments() -> None:
    env = make_sb3_env("SeqGAN/Exact-v0", 2, monitor=False, render_mode="rgb_array", **EXACT)
    env.reset()
    assert [image.shape for image in env.get_images() if image is not None] == [(16, 64, 3)] * 2
    next_step = gym.make_vec("SeqGAN/Exact-v0", num_envs=2, autoreset_mode=AutoresetMode.NEXT_STEP, **EXACT)
    for wrong in (next_step.unwrapped, gym.make("SeqGAN/Exact-v0", **EXACT)):
        with pytest.raises(ValueError, match="SB3VecEnv takes a native vector environment in SAME_STEP mode"):
            SB3VecEnv(wrong)  # type: ignore[arg-type]
