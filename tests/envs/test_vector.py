"""The native vector environment: equal to SyncVectorEnv of single environments, in every autoreset mode."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

import seqgan_rl  # noqa: F401 - registers the environments
from seqgan_rl.envs.observations import OBSERVATIONS
from seqgan_rl.envs.vector import SequenceVectorEnv
from seqgan_rl.models.decoding import UniformPolicy
from seqgan_rl.rewards import ConstantReward

torch.set_num_threads(1)

B = 5
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
FIXED: dict[str, Any] = {"vocab_size": 3, "sequence_length": 4, "num_rollouts": 3}
VARIABLE = FIXED | {"variable_length": True}


def weighted(tokens_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """A reward that tells every token and position apart."""
    return (tokens_BT * torch.tensor([0.31, 0.17, 0.23, 0.11, 0.05, 0.07])[: tokens_BT.shape[1]]).sum(dim=1).cos()


def native(env_id: str = "SeqGAN/Exact-v0", num_envs: int = B, **options: Any) -> SequenceVectorEnv:
    env = gym.make_vec(env_id, num_envs=num_envs, **options)
    assert isinstance(env.unwrapped, SequenceVectorEnv)
    return env.unwrapped


def synchronous(env_id: str, mode: AutoresetMode, limit: int | None = None, **options: Any) -> SyncVectorEnv:
    """The definition: single environments, one after the other."""

    def make() -> gym.Env[Any, Any]:
        env = gym.make(env_id, **options).unwrapped
        return env if limit is None else TimeLimit(env, limit)

    return SyncVectorEnv([make for _ in range(B)], autoreset_mode=mode)


def assert_same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    """Equal in structure, dtype and value."""
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_same(one[key], other[key], tolerance)
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert other.dtype == object
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs, tolerance)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.abs(one.astype(np.float64) - other.astype(np.float64)).max() <= tolerance
    else:
        assert type(one) is type(other)
        assert one == other


def assert_plays_the_same(
    env: SequenceVectorEnv,
    sync: SyncVectorEnv,
    steps: int,
    draw: Callable[[np.random.Generator], np.ndarray],
    options: Callable[[], dict[str, Any]] = dict,
) -> int:
    """Step both with the same actions; returns how many sequences ended. DISABLED: ended rows are reset at once."""
    rng, ended = np.random.default_rng(7), 0
    assert env.single_observation_space == sync.single_observation_space
    assert env.observation_space == sync.observation_space
    assert env.action_space == sync.action_space
    assert env.metadata["autoreset_mode"] == env.autoreset_mode == sync.metadata["autoreset_mode"]
    for mine, theirs in zip(env.reset(seed=11, options=options()), sync.reset(seed=11, options=options()), strict=True):
        assert_same(mine, theirs)
    for _ in range(steps):
        actions = draw(rng)
        mine, theirs = env.step(actions), sync.step(actions)
        assert_same(mine[0], theirs[0])
        assert_same(mine[1], theirs[1], 1e-5)
        assert_same(mine[2], theirs[2])
        assert_same(mine[3], theirs[3])
        assert_same(mine[4], theirs[4], 1e-5)
        done_B = mine[2] | mine[3]
        ended += int(done_B.sum())
        if env.autoreset_mode == AutoresetMode.DISABLED and done_B.any():
            pairs = [vector.reset(options=options() | {"reset_mask": done_B.copy()}) for vector in (env, sync)]
            for part, other in zip(*pairs, strict=True):
                assert_same(part, other)
    return ended


@pytest.mark.parametrize("limit", [None, 3], ids=["", "limit"])
@pytest.mark.parametrize("prefix", [[], [1, 2]], ids=["no prompt", "prompt"])
@pytest.mark.parametrize("options", [FIXED, VARIABLE], ids=["fixed", "variable"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("shaping", ["rollout", "none", "deferred"])
def test_native_equals_sync(
    mode: AutoresetMode, options: dict[str, Any], shaping: str, prefix: list[int], limit: int | None
) -> None:
    """40 steps of seeded random actions: observations, flags, infos (keys, masks, dtypes) exactly, values to 1e-5."""
    options = options | {"shaping": shaping}
    env = native(autoreset_mode=mode, max_episode_steps=limit, **options)
    sync = synchronous("SeqGAN/Exact-v0", mode, limit, **options)
    A = env.task.num_actions
    start = (lambda: {"prefix": prefix}) if prefix else dict
    ended = assert_plays_the_same(env, sync, 40, lambda rng: rng.integers(A, size=B), start)
    assert ended > 30


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_native_equals_sync_on_text_with_masks(mode: AutoresetMode, observation: str, small_text: str) -> None:
    """Variable length, UNK forbidden, every kind of observation, a reward function."""
    options: dict[str, Any] = {
        "corpus": small_text,
        "min_count": 2,
        "num_rollouts": 2,
        "rollout_policy": "uniform",
        "reward": weighted,
        "observation": observation,
    }
    env = native("SeqGAN/Corpus-v0", autoreset_mode=mode, **options)
    sync = synchronous("SeqGAN/Corpus-v0", mode, **options)
    allowed = np.flatnonzero(env.action_masks()[0])
    assert len(allowed) == env.task.num_actions - 1
    assert assert_plays_the_same(env, sync, 30, lambda rng: rng.choice(allowed, size=B)) > 15


def test_each_sub_environment_can_have_a_prompt_of_its_own() -> None:
    """Row by row the single environment with that prompt and seed."""
    prompts = [[], [1], [2, 0], [0, 1, 2], [2]]
    env = native(autoreset_mode="Disabled", **VARIABLE)
    env.reset(seed=5, options={"prefix": prompts})
    singles = [gym.make("SeqGAN/Exact-v0", **VARIABLE).unwrapped for _ in range(B)]
    for i, single in enumerate(singles):
        single.reset(seed=5 + i, options={"prefix": prompts[i]})
    for _ in range(4):
        obs, rewards_B, terminated_B, _, infos = env.step(np.ones(B, dtype=np.int64))
        for i, single in enumerate(singles):
            one_obs, reward, terminated, _, info = single.step(np.int64(1))
            assert np.array_equal(one_obs, obs[i])
            assert reward == pytest.approx(rewards_B[i], abs=1e-5)
            assert terminated == terminated_B[i]
            if terminated:
                assert infos["action_value"][i] == pytest.approx(info["action_value"], abs=1e-5)
                single.reset()
        if terminated_B.any():
            env.reset(options={"reset_mask": terminated_B})
    assert np.array_equal(env.reset(options={"prefix": np.array([[0, 1]] * B)})[0][:, :2], [[0, 1]] * B)
    assert np.array_equal(env.reset(options={"prefix": [0, 1]})[0][:, :2], [[0, 1]] * B)


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_make_vec_modes_play_the_same(mode: str) -> None:
    env = gym.make_vec("SeqGAN/Exact-v0", num_envs=3, vectorization_mode=mode, **FIXED)
    default = gym.make_vec("SeqGAN/Exact-v0", num_envs=3, **FIXED)
    assert isinstance(default.unwrapped, SequenceVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert_same(env.reset(seed=0)[0], default.reset(seed=0)[0])
    for _ in range(12):
        actions = np.array([0, 1, 2])
        for one, other in zip(env.step(actions), default.step(actions), strict=True):
            assert_same(one, other, 1e-5)
    env.close()
    env.close()  # twice must work


def test_make_vec_async_plays_the_same() -> None:
    """Worker processes make their own environments from the same arguments, and pay the same."""
    env = gym.make_vec("SeqGAN/Exact-v0", num_envs=2, vectorization_mode="async", **FIXED)
    default = gym.make_vec("SeqGAN/Exact-v0", num_envs=2, **FIXED)
    try:
        assert_same(env.reset(seed=0)[0], default.reset(seed=0)[0])
        for _ in range(8):
            actions = np.array([0, 2])
            for one, other in zip(env.step(actions), default.step(actions), strict=True):
                assert_same(one, other, 1e-5)
    finally:
        env.close()


def test_max_episode_steps_truncates_through_make_vec() -> None:
    env = gym.make_vec("SeqGAN/Exact-v0", num_envs=2, max_episode_steps=2, autoreset_mode="SameStep", **FIXED)
    env.reset(seed=0)
    env.step(np.array([0, 0]))
    obs, _, terminated_B, truncated_B, infos = env.step(np.array([1, 1]))
    assert truncated_B.all()
    assert not terminated_B.any()
    assert (obs == 3).all()  # already begun anew
    assert [obs.tolist() for obs in infos["final_obs"]] == [[0, 1, 3, 3]] * 2
    assert "sequence_reward" not in infos["final_info"]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("shaping", ["rollout", "deferred"])
def test_a_saved_state_continues_identically(mode: AutoresetMode, shaping: str) -> None:
    """Rows at different depths, some ended, some held."""
    env, copy = (native(autoreset_mode=mode, shaping=shaping, **VARIABLE) for _ in range(2))
    rng = np.random.default_rng(0)

    def advance(env: SequenceVectorEnv, actions: np.ndarray) -> tuple[Any, ...]:
        if mode == AutoresetMode.DISABLED and env._needs_reset_B.any():
            env.reset(options={"reset_mask": env._needs_reset_B.copy()})
        return env.step(actions)

    env.reset(seed=1, options={"prefix": [[], [1], [2], [], [0]]})
    env.hold_finished = copy.hold_finished = mode == AutoresetMode.SAME_STEP
    for _ in range(3):
        advance(env, rng.integers(4, size=B))
    state, actions = env.state_dict(), rng.integers(4, size=(9, B))
    expected = [advance(env, row_B) for row_B in actions]
    copy.load_state_dict(state)
    for row_B, step in zip(actions, expected, strict=True):
        for one, other in zip(advance(copy, row_B), step, strict=True):
            assert_same(one, other)


def test_held_rows_wait_until_released_and_pay_nothing() -> None:
    env = native(autoreset_mode=AutoresetMode.SAME_STEP, num_envs=2, **VARIABLE)
    env.reset(seed=0)
    env.hold_finished = True
    eos = 3
    obs, _, terminated_B, _, infos = env.step(np.array([eos, 0]))
    assert terminated_B.tolist() == [True, False]
    assert infos["final_obs"][0].tolist() == [eos, 4, 4, 4]
    before = env.state_dict()["rngs"][0]
    for _ in range(2):
        obs, rewards_B, terminated_B, _, _ = env.step(np.array([1, 0]))
        assert obs[0].tolist() == [4, 4, 4, 4]
        assert rewards_B[0] == 0
        assert not terminated_B[0]
    assert env.state_dict()["rngs"][0] == before  # no rollouts were made for it
    env.step(np.array([99, 0]))  # not even looked at
    env.release()
    assert env.step(np.array([1, 0]))[0][0].tolist() == [1, 4, 4, 4]
    env.step(np.array([eos, 0]))
    assert env.reset()[0].tolist() == [[4] * 4] * 2  # a reset releases, too
    assert env.step(np.array([2, 2]))[0][0].tolist() == [2, 4, 4, 4]


def test_live_parts_reach_all_rows_and_stay_the_same_objects() -> None:
    env, other = native(**FIXED), native(**FIXED)
    reward, policy = ConstantReward(5.0), UniformPolicy(3, has_eos=False)
    env.set_reward(reward)
    env.set_rollout_policy(policy)
    assert env.reward is reward
    assert env.rollout_policy is policy
    assert other.reward is native(**FIXED).reward is not reward
    env.reset(seed=0)
    returns = sum(env.step(np.zeros(B, dtype=np.int64))[1] for _ in range(4))
    assert np.allclose(returns, 5.0)


def test_shuffled_rewards_are_those_of_other_rows() -> None:
    """Every reward of the batch is there once, and not all stay in place."""
    discriminator = _tiny_discriminator()
    kinds = {
        name: native(num_envs=32, reward=name, discriminator=discriminator, shaping="none", **FIXED)
        for name in ("discriminator", "shuffled")
    }
    actions = np.random.default_rng(0).integers(3, size=(4, 32))
    paid = {}
    for name, env in kinds.items():
        env.reset(seed=0)
        for row_B in actions:
            paid[name] = env.step(row_B)[1]
    assert sorted(paid["shuffled"]) == sorted(paid["discriminator"])
    assert (paid["shuffled"] != paid["discriminator"]).sum() > 16


def _tiny_discriminator() -> Any:
    from seqgan_rl.core.streams import torch_seeded
    from seqgan_rl.discriminators import discriminators

    with torch_seeded(np.random.default_rng(0)):
        return discriminators["small_cnn"](3, 4, widths=(1, 2), filters=4, embedding_dim=4).eval()


def test_nothing_handed_out_shares_memory() -> None:
    env = native(autoreset_mode=AutoresetMode.SAME_STEP, **FIXED)
    flat: list[np.ndarray] = [env.episodes.tokens_BT, env.episodes.value_BT]

    def collect(value: Any) -> None:
        if isinstance(value, np.ndarray):
            flat.append(value)
        elif isinstance(value, dict):
            for part in value.values():
                collect(part)

    env.reset(seed=0)
    for _ in range(9):
        obs, _, _, _, infos = env.step(np.zeros(B, dtype=np.int64))
        collect(obs)
        collect(infos)
        collect(env.action_masks())
    for i, one in enumerate(flat):
        assert not any(np.shares_memory(one, other) for other in flat[:i])


def test_render_gives_one_frame_a_row() -> None:
    env = native(render_mode="ansi", num_envs=2, **VARIABLE)
    env.reset(seed=0)
    env.step(np.array([2, 3]))
    assert env.render() == ("2", ".")
    pixels = native(render_mode="rgb_array", num_envs=2, **VARIABLE)
    pixels.reset(seed=0)
    assert [frame.shape for frame in pixels.render() or ()] == [(16, 64, 3)] * 2
    assert native(**FIXED).render() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, got 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer of at least 1, got 0"),
        ({"shaping": "deferd"}, "did you mean 'deferred'"),
        ({"autoreset_mode": "sometimes"}, "sometimes"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        native(**options)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_first_step_needs_a_reset(mode: AutoresetMode) -> None:
    """As of single environments; a loaded state has begun."""
    env, other = (native(autoreset_mode=mode, **VARIABLE) for _ in range(2))
    with pytest.raises(RuntimeError, match=r"sub-environment 0 has ended or not begun; call reset\(\)"):
        env.step(np.zeros(B, dtype=np.int64))
    other.reset(seed=0)
    env.load_state_dict(other.state_dict())
    assert_same(env.step(np.zeros(B, dtype=np.int64))[0], other.step(np.zeros(B, dtype=np.int64))[0])


def test_a_state_of_another_task_is_refused_whole() -> None:
    """Of as many rows and tokens but other words: its PAD would be a word here, or its words none."""
    env, other = native(**FIXED), native(**VARIABLE)
    for one, another in ((env, other), (other, env)):
        one.reset(seed=1)
        another.reset(seed=0)
        another.step(np.arange(B) % another.task.num_actions)
        before = one.state_dict()
        with pytest.raises(ValueError, match=f"not those of a task with {one.task.num_actions} actions"):
            one.load_state_dict(another.state_dict())
        assert_same(one.state_dict(), before)


def test_bad_calls_are_named() -> None:
    env = native(autoreset_mode=AutoresetMode.DISABLED, **VARIABLE)
    with pytest.raises(RuntimeError, match="sub-environment 0 has ended or not begun"):
        env.step(np.zeros(B, dtype=np.int64))
    with pytest.raises(ValueError, match=f"seed must be an int or {B} of them, got 2"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match=f"must be one prompt or {B} of them, got 2"):
        env.reset(options={"prefix": [[0], [1]]})
    with pytest.raises(ValueError, match="it must be shorter than the sequence length 4"):
        env.reset(options={"prefix": [[0, 0, 0, 0]] + [[]] * (B - 1)})
    for mask in ([True] * B, np.ones(B), np.ones(2, dtype=np.bool_)):
        with pytest.raises(ValueError, match="must be a bool array of shape"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="must be True for at least one"):
        env.reset(options={"reset_mask": np.zeros(B, dtype=np.bool_)})
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must lie in \[0, 4\), got 4 in sub-environment 2"):
        env.step(np.array([0, 0, 4, 0, 0]))
    with pytest.raises(ValueError, match=r"actions must be integers of shape \(5,\), got float64"):
        env.step(np.zeros(B))
    with pytest.raises(ValueError, match=r"actions must be integers of shape \(5,\), got int64 of shape \(3,\)"):
        env.step(np.zeros(3, dtype=np.int64))
    assert (env.episodes.lengths_B == 0).all()  # none of these moved anything
    env.step(np.array([3, 0, 0, 0, 0]))
    with pytest.raises(RuntimeError, match="reset_mask"):
        env.step(np.zeros(B, dtype=np.int64))
