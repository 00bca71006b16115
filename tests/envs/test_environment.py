"""Single environments: Gymnasium's rules, what is paid and when, states, masks, rendering and error messages."""

import json
import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import seqgan_rl  # noqa: F401 - registers the environments
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import DiscriminatorConfig, DiscriminatorTrainer, discriminators
from seqgan_rl.envs.environment import SequenceEnv
from seqgan_rl.envs.observations import OBSERVATIONS
from seqgan_rl.models.decoding import UniformPolicy
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.rewards import ConstantReward, DiscriminatorReward

torch.set_num_threads(1)

IDS = ["SeqGAN/Exact-v0", "SeqGAN/Oracle-v0", "SeqGAN/Corpus-v0"]
SHAPINGS = ["rollout", "none", "deferred"]
FIXED: dict[str, Any] = {"vocab_size": 3, "sequence_length": 5, "num_rollouts": 3}
VARIABLE = FIXED | {"variable_length": True}


def small(env_id: str, small_text: str) -> dict[str, Any]:
    """Arguments that make an environment small."""
    options: dict[str, dict[str, Any]] = {
        "SeqGAN/Exact-v0": {"num_rollouts": 2, "variable_length": True},
        "SeqGAN/Oracle-v0": {"num_rollouts": 2, "vocab_size": 12, "sequence_length": 5},
        "SeqGAN/Corpus-v0": {"num_rollouts": 2, "corpus": small_text, "min_count": 2},
    }
    return options[env_id]


def exact_env(**options: Any) -> SequenceEnv:
    env = gym.make("SeqGAN/Exact-v0", **options).unwrapped
    assert isinstance(env, SequenceEnv)
    return env


def tiny_discriminator(seed: int = 0, num_actions: int = 3, sequence_length: int = 5) -> Any:
    with torch_seeded(np.random.default_rng(seed)):
        return discriminators["small_cnn"](
            num_actions, sequence_length, widths=(1, 2), filters=4, embedding_dim=4
        ).eval()


def play(env: Any, actions: list[int], seed: int | None = None, **reset: Any) -> tuple[list[float], dict[str, Any]]:
    """Rewards of the given actions until the sequence ends, and the last info."""
    env.reset(seed=seed, **reset)
    rewards = []
    for action in actions:
        _, reward, terminated, truncated, info = env.step(np.int64(action))
        rewards.append(reward)
        assert not truncated
        if terminated:
            return rewards, info
    raise AssertionError("the sequence has not ended")


# ---------------------------------------------------------------- the checkers


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_and_sb3_accept_every_kind_without_a_warning(
    env_id: str, observation: str, shaping: str, small_text: str
) -> None:
    """Spaces, dtypes, Python floats and bools, new objects every step, and the same numbers from the same seed."""
    options = small(env_id, small_text) | {"observation": observation, "shaping": shaping}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, **options).unwrapped)
        sb3_check_env(gym.make(env_id, **options))


@pytest.mark.parametrize("env_id", IDS)
def test_the_environment_is_remade_from_its_spec_and_by_module_and_id(env_id: str) -> None:
    """`spec.to_json` with default arguments, and the string that RLlib and spawned workers use."""
    env = gym.make(env_id)
    spec = json.loads(env.spec.to_json())  # type: ignore[union-attr]
    assert spec["id"] == env_id
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))  # type: ignore[union-attr]
    assert again.observation_space == env.observation_space
    assert gym.make(f"seqgan_rl:{env_id}").action_space == env.action_space


def test_defaults_are_those_of_the_design() -> None:
    env = gym.make("SeqGAN/Oracle-v0")
    assert env.action_space == gym.spaces.Discrete(5000)
    assert env.observation_space == gym.spaces.Box(0, 5000, (20,), np.int64)
    options = env.unwrapped.options  # type: ignore[attr-defined]
    assert (options.shaping, options.gamma, options.num_rollouts) == ("rollout", 1.0, 16)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_observations_show_the_prefix(observation: str) -> None:
    """Decoded by hand: PAD = 4 after words 2, 0 and EOS = 3."""
    env = exact_env(observation=observation, **VARIABLE)
    seen = [env.reset(seed=0)[0]] + [env.step(np.int64(action))[0] for action in (2, 0, 3)]
    prefixes = np.array([[4, 4, 4, 4, 4], [2, 4, 4, 4, 4], [2, 0, 4, 4, 4], [2, 0, 3, 4, 4]])
    for obs, prefix in zip(seen, prefixes, strict=True):
        assert obs in env.observation_space
        if observation in ("tokens", "tokens_float32"):
            assert np.array_equal(obs, prefix)
        elif observation == "onehot":
            assert np.array_equal(obs.reshape(5, 4), np.eye(5)[prefix][:, :4])
        elif observation == "dict":
            assert np.array_equal(obs["tokens"], prefix)
            assert obs["action_mask"].tolist() == [1, 1, 1, 1]
    if observation == "last_token":
        assert [int(obs) for obs in seen] == [4, 2, 0, 3]


def test_nothing_handed_out_shares_memory() -> None:
    env = exact_env(observation="dict", **FIXED)
    arrays = []
    for _ in range(2):
        arrays.append(env.reset(seed=0)[0])
        for _ in range(5):
            obs, _, _, _, info = env.step(np.int64(1))
            arrays += [obs, {k: v for k, v in info.items() if isinstance(v, np.ndarray)}]
    flat = [array for group in arrays for array in group.values()] + [env.episodes.tokens_BT, env.episodes.value_BT]
    for i, one in enumerate(flat):
        assert not any(np.shares_memory(one, other) for other in flat[:i])


# ---------------------------------------------------------------- what is paid


@pytest.mark.parametrize("variable", [False, True], ids=["fixed", "variable"])
@pytest.mark.parametrize("prefix", [[], [1, 0]], ids=["no prompt", "prompt"])
def test_shaped_rewards_telescope_to_the_reward_of_the_sequence(variable: bool, prefix: list[int]) -> None:
    """Their sum is R(Y), their running sum the raw Q; "none" pays R(Y) at the end; "deferred" has the same numbers
    from the same seed."""
    options = VARIABLE if variable else FIXED
    envs = {shaping: exact_env(shaping=shaping, **options) for shaping in SHAPINGS}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        actions = rng.integers(envs["none"].task.num_actions, size=5).tolist()
        runs = {
            name: play(env, actions, seed, options={"prefix": prefix} if prefix else None) for name, env in envs.items()
        }
        R = runs["none"][1]["sequence_reward"]
        n, start = len(runs["none"][0]), len(prefix)
        sequence = np.array(prefix + actions[:n])
        assert np.array_equal(runs["none"][1]["sequence"][: start + n], sequence)
        exact = envs["none"].exact_task  # type: ignore[attr-defined]
        number = exact.tree.numbers(
            *(torch.from_numpy(a) for a in (runs["none"][1]["sequence"][None], np.array([start + n])))
        )
        assert pytest.approx(float(exact.reward_N[number]), abs=1e-7) == R

        shaped, info = runs["rollout"]
        assert sum(shaped) == pytest.approx(R, abs=1e-12)
        value_T = info["action_value"]
        assert value_T.dtype == np.float32
        assert np.cumsum(shaped) == pytest.approx(value_T[start : start + n], abs=1e-12)
        assert (value_T[start + n :] == 0).all()
        assert (value_T[:start] == 0).all()
        for name in ("none", "deferred"):
            assert runs[name][0] == [0.0] * (n - 1) + [R]
        assert "action_value" not in runs["none"][1]
        assert runs["deferred"][1]["action_value"] == pytest.approx(value_T, abs=1e-6)
        assert {run[1]["sequence_reward"] for run in runs.values()} == {R}


def test_the_first_reward_is_the_value_of_the_prefix_that_includes_the_token() -> None:
    """Pitfall: r[t] from the prefix without y_t. Many rollouts of a uniform policy against exact Q; z-test over all
    tokens of 40 sequences, Bonferroni, false alarm 1e-6; an off-by-one shifts values by about 0.3, 30 errors."""
    env = exact_env(**FIXED | {"num_rollouts": 600, "shaping": "deferred"})
    exact = env.exact_task  # type: ignore[attr-defined]
    q = exact.evaluate(exact.tree.uniform_log_probs()).q
    rng, worst = np.random.default_rng(0), 0.0
    for seed in range(40):
        _, info = play(env, rng.integers(3, size=5).tolist(), seed)
        tokens_1T = torch.from_numpy(info["sequence"])[None]
        q_T = exact.tree.q_of_sequences(q, tokens_1T, torch.tensor([5]))[0].numpy()
        # the reward lies in [0, 1): the standard error of a mean of 600 is at most 0.5 / sqrt(600)
        worst = max(worst, float(np.abs(info["action_value"] - q_T).max()) / (0.5 / math.sqrt(600)))
    assert worst < 5.9  # 160 unfinished prefixes: 2 * 160 * (1 - Phi(5.9)) < 1e-6


@pytest.mark.parametrize("gamma", [0.5, 0.99])
def test_with_a_discount_the_discounted_return_is_the_discounted_reward(gamma: float) -> None:
    """r_t = γΦ_t - Φ_{t-1} with Φ from the environment of γ = 1 and the same seed: Σ γ^{t-1} r_t = γ^n R(Y)."""
    plain, discounted = exact_env(**VARIABLE), exact_env(gamma=gamma, **VARIABLE)
    for seed in range(8):
        actions = np.random.default_rng(seed).integers(4, size=5).tolist()
        _, info = play(plain, actions, seed)
        rewards, last = play(discounted, actions, seed)
        n = len(rewards)
        assert np.array_equal(last["action_value"], info["action_value"])
        phi = np.concatenate([[0.0], info["action_value"][:n].astype(np.float64)])
        assert rewards == pytest.approx(gamma * phi[1:] - phi[:-1], abs=1e-7)
        returned = sum(gamma**t * r for t, r in enumerate(rewards))
        assert returned == pytest.approx(gamma**n * last["sequence_reward"], abs=1e-6)


def test_a_discriminator_update_in_mid_episode_keeps_the_stored_values() -> None:
    """The rewards still sum to R under the new D; what was paid before the update stays what it was."""
    for shaping in SHAPINGS:
        discriminator = tiny_discriminator()
        env = exact_env(reward="discriminator", discriminator=discriminator, shaping=shaping, **FIXED)
        env.reset(seed=0)
        rewards = [env.step(np.int64(a))[1] for a in (0, 1, 2)]
        before = discriminator.score(torch.tensor([[0, 1, 2, 1, 1]])).sigmoid().item()
        real_BT = torch.ones(64, 5, dtype=torch.int64)
        trainer = DiscriminatorTrainer(
            discriminator, real_BT, DiscriminatorConfig(learning_rate=0.05), np.random.default_rng(0)
        )
        trainer.train(torch.zeros(640, 5, dtype=torch.int64))
        for action in (1, 1):
            _, reward, _, _, info = env.step(np.int64(action))
            rewards.append(reward)
        after = discriminator.score(torch.tensor([[0, 1, 2, 1, 1]])).sigmoid().item()
        assert abs(after - before) > 0.01  # the update matters
        assert info["sequence_reward"] == pytest.approx(after, abs=1e-6)
        assert sum(rewards) == pytest.approx(after, abs=1e-6)


def test_a_discriminator_left_in_training_mode_still_pays_without_dropout() -> None:
    discriminator = tiny_discriminator().train()
    env = exact_env(reward="discriminator", discriminator=discriminator, shaping="none", **FIXED)
    assert len({play(env, [0, 1, 2, 1, 0], seed)[1]["sequence_reward"] for seed in range(5)}) == 1


def test_set_reward_and_set_rollout_policy_keep_the_object_and_touch_no_other_environment() -> None:
    one, other = exact_env(**FIXED), exact_env(**FIXED)
    assert one.reward is other.reward
    assert one.rollout_policy is other.rollout_policy
    reward, policy = ConstantReward(7.0), UniformPolicy(3, has_eos=False)
    one.set_reward(reward)
    one.set_rollout_policy(policy)
    assert one.reward is reward
    assert one.rollout_policy is policy
    assert other.reward is not reward
    assert other.rollout_policy is not policy
    assert exact_env(**FIXED).reward is other.reward
    assert play(one, [0] * 5, 0)[1]["sequence_reward"] == 7.0
    assert play(other, [0] * 5, 0)[1]["sequence_reward"] < 1.0


def test_a_function_as_reward_sees_sequences_and_lengths() -> None:
    env = exact_env(reward=lambda tokens_BT, lengths_B: lengths_B + 0.5, **VARIABLE)
    assert play(env, [0, 1, 3], 0)[1]["sequence_reward"] == 3.5
    assert sum(play(env, [0, 1, 3], 0)[0]) == pytest.approx(3.5, abs=1e-6)


def test_a_full_sequence_terminates_and_the_time_limit_truncates() -> None:
    """The horizon is part of the task (terminated); `max_episode_steps` only stops looking (truncated)."""
    env = gym.make("SeqGAN/Exact-v0", max_episode_steps=3, **FIXED)
    env.reset(seed=0)
    ends = [env.step(np.int64(0))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    env = gym.make("SeqGAN/Exact-v0", max_episode_steps=5, **FIXED)
    env.reset(seed=0)
    info: dict[str, Any] = {}
    for _ in range(5):
        _, _, terminated, _, info = env.step(np.int64(0))
    assert terminated
    assert "sequence_reward" in info


# ---------------------------------------------------------------- states and sharing


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_a_saved_state_continues_identically_in_mid_episode(shaping: str) -> None:
    env, copy = exact_env(shaping=shaping, **VARIABLE), exact_env(shaping=shaping, **VARIABLE)
    env.reset(seed=3, options={"prefix": [2]})
    env.step(np.int64(1))
    state = env.state_dict()
    actions = [0, 2, 3]

    def rest(env: SequenceEnv) -> list[Any]:
        steps = [env.step(np.int64(a)) for a in actions]
        first = env.reset()[0].tolist()
        steps.append(env.step(np.int64(0)))
        return [
            first,
            *[(o.tolist(), r, t, {k: np.asarray(v).tolist() for k, v in i.items()}) for o, r, t, _, i in steps],
        ]

    expected = rest(env)
    copy.load_state_dict(state)
    assert rest(copy) == expected
    env.load_state_dict(state)  # and the state was not changed by going on
    assert rest(env) == expected


def test_a_state_of_another_task_is_refused() -> None:
    env = exact_env(**FIXED)
    with pytest.raises(ValueError, match="state of another environment: tokens has shape"):
        env.load_state_dict(exact_env(**FIXED | {"sequence_length": 4}).state_dict())


def test_64_environments_of_a_process_share_one_oracle_and_one_discriminator() -> None:
    options: dict[str, Any] = {"vocab_size": 12, "sequence_length": 5}
    envs = [gym.make("SeqGAN/Oracle-v0", **options).unwrapped for _ in range(64)]
    assert len({id(env.task.oracle) for env in envs}) == 1  # type: ignore[attr-defined]
    assert len({id(env.reward.discriminator) for env in envs}) == 1  # type: ignore[attr-defined]
    assert len({id(env.rollout_policy) for env in envs}) == 1  # type: ignore[attr-defined]


# ---------------------------------------------------------------- masks, prompts, rendering


def test_masks_rule_out_unk_and_rollouts_never_take_it(small_text: str) -> None:
    env = gym.make("SeqGAN/Corpus-v0", corpus=small_text, min_count=2, num_rollouts=64, rollout_policy="uniform")
    single = env.unwrapped
    unk = single.task.vocabulary.unk_id  # type: ignore[attr-defined]
    seen: list[int] = []

    def reward(tokens_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        seen.extend(tokens_BT.flatten().tolist())
        return torch.zeros(len(tokens_BT))

    single.set_reward(reward)  # type: ignore[attr-defined]
    _, info = env.reset(seed=0)
    mask = env.get_wrapper_attr("action_masks")()
    assert mask.dtype == np.bool_
    assert np.flatnonzero(~mask).tolist() == [unk]
    assert info["action_mask"].dtype == np.int8
    assert np.array_equal(info["action_mask"], mask)
    action = env.action_space.sample(mask=info["action_mask"])
    assert action != unk
    info = env.step(np.int64(0))[4]
    assert np.array_equal(info["action_mask"], mask)
    assert unk not in seen
    assert len(set(seen)) > 5
    free = gym.make("SeqGAN/Corpus-v0", corpus=small_text, min_count=2, sample_unk=True).unwrapped
    assert free.action_masks().all()  # type: ignore[attr-defined]
    assert "action_mask" not in free.reset(seed=0)[1]


def test_a_prompt_starts_the_sequence_and_counts_to_its_length() -> None:
    env = exact_env(**FIXED)
    obs, _ = env.reset(seed=0, options={"prefix": np.array([2, 1])})
    assert obs.tolist() == [2, 1, 3, 3, 3]
    ends = [env.step(np.int64(0))[2] for _ in range(3)]
    assert ends == [False, False, True]
    assert env.reset(options={})[0].tolist() == [3] * 5
    assert env.reset(options={"prefix": []})[0].tolist() == [3] * 5


def test_render_shows_text_and_a_raster(small_text: str) -> None:
    env = gym.make("SeqGAN/Corpus-v0", corpus=small_text, min_count=2, shaping="none", render_mode="ansi")
    env.reset(seed=0, options={"prefix": env.unwrapped.task.vocabulary.encode("a b")})  # type: ignore[attr-defined]
    assert env.render() == "a b"
    one = exact_env(render_mode="ansi", **VARIABLE)
    play(one, [0, 2, 3], 0)
    assert one.render() == "0 2 ."
    pixels = exact_env(render_mode="rgb_array", **FIXED)
    pixels.reset(seed=0)
    blank = pixels.render()
    assert blank.shape == (16, 80, 3)
    assert blank.dtype == np.uint8
    assert (blank == 255).all()
    pixels.step(np.int64(1))
    assert (pixels.render()[:, :16] != 255).all()
    assert (pixels.render()[:, 16:] == 255).all()
    silent = exact_env(**FIXED)
    silent.reset(seed=0)
    assert silent.render() is None


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shaping": "rolout"}, "shaping must be one of rollout, none, deferred; got 'rolout' .did you mean 'rollout'"),
        ({"observation": "onehote"}, "observation must be one of .* got 'onehote' .did you mean 'onehot'"),
        ({"reward": "logits"}, "unknown reward 'logits' .did you mean 'logit'"),
        ({"num_rollouts": 0}, "num_rollouts must be at least 1, got 0"),
        ({"gamma": 0.0}, r"gamma must lie in \(0, 1\], got 0.0"),
        ({"gamma": 1.5}, r"gamma must lie in \(0, 1\], got 1.5"),
        (
            {"reward": "shuffled", **FIXED, "discriminator": tiny_discriminator()},
            "ShuffledReward sets each sequence against the others of its batch, but a single environment has no others",
        ),
        ({"task_name": "tabel"}, 'task_name must be "table", "oracle" or "grammar"'),
        ({"vocab_size": 1}, "vocab_size must be at least 2"),
        ({"task_name": "oracle", "variable_length": True}, "fixed length"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        exact_env(**options)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ([0] * 5, "has 5 tokens; it must be shorter than the sequence length 5"),
        ([0, 7], r"must hold word ids in \[0, 3\), got 7"),
        ([3], r"must hold word ids in \[0, 3\), got 3"),  # EOS
        ([-1], r"must hold word ids in \[0, 3\), got -1"),
        ("a b", "must be a list of token ids"),
        (["0"], "must be a list of token ids"),
        ([0.5], "must be a list of token ids"),
        (3, "must be a list of token ids"),
        ([[0, 1]], "must be a list of token ids"),
        ([True], "must be a list of token ids"),
    ],
)
def test_a_bad_prompt_is_named(prefix: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        exact_env(**VARIABLE).reset(options={"prefix": prefix})


@pytest.mark.parametrize("action", [-1, 3, 10**12])
def test_an_action_out_of_range_is_named(action: int) -> None:
    env = exact_env(**FIXED)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"action must lie in \[0, 3\), got {action}"):
        env.step(np.int64(action))
    assert env.step(np.int64(0))[0].tolist() == [0, 3, 3, 3, 3]  # and nothing was appended


def test_an_action_that_is_no_integer_is_refused() -> None:
    env = exact_env(**FIXED)
    env.reset(seed=0)
    for action in (0.0, np.float32(1), "1", [0, 1]):
        with pytest.raises(ValueError, match=r"actions must be integers of shape \(1,\), got"):
            env.step(action)  # type: ignore[arg-type]


def test_a_step_before_the_start_or_after_the_end_is_refused() -> None:
    env = exact_env(**FIXED)
    with pytest.raises(RuntimeError, match=r"has ended or not begun; call reset\(\) before step\(\)"):
        env.step(np.int64(0))
    play(env, [0] * 5, 0)
    with pytest.raises(RuntimeError, match=r"has ended or not begun; call reset\(\) before step\(\)"):
        env.step(np.int64(0))


def test_parts_of_another_task_are_refused() -> None:
    with pytest.raises(ValueError, match="reads 9 actions and 5 tokens, the task has 3 and 5"):
        exact_env(reward="discriminator", discriminator=tiny_discriminator(num_actions=9), **FIXED)
    env = exact_env(**FIXED)
    with pytest.raises(ValueError, match="rollout policy has 9 actions, the task has 3"):
        env.set_rollout_policy(UniformPolicy(9, has_eos=False))
    with pytest.raises(ValueError, match="a rollout policy needs initial_state"):
        env.set_rollout_policy("uniform")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a reward is a Reward or a function"):
        env.set_reward(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no default generator and discriminator"):
        exact_env(reward="discriminator", **FIXED)
    with pytest.raises(ValueError, match="the reward's discriminator is of another task: it reads 9 actions"):
        env.set_reward(DiscriminatorReward(tiny_discriminator(num_actions=9)))
    with pytest.raises(ValueError, match="rollout policy writes 9 tokens, the task has 5; make it with"):
        env.set_rollout_policy(LSTMGenerator(3, 9, has_eos=False))


def test_a_rollout_policy_that_does_not_know_eos_is_refused() -> None:
    """It would write on after the end, and every reward would be of a sequence that cannot be."""
    env = exact_env(**VARIABLE)
    with pytest.raises(ValueError, match=r"ends sequences by None, the task by 3; make it with has_eos=True"):
        env.set_rollout_policy(LSTMGenerator(4, 5, has_eos=False))
    env.set_rollout_policy(LSTMGenerator(4, 5, has_eos=True))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"num_rollout": 3}, TypeError, r"keyword argument 'num_rollout' \(did you mean 'num_rollouts'\?\)"),
        ({"vocab_size": 2.5}, ValueError, "vocab_size must be a whole number, got 2.5"),
        ({"gamma": "one"}, ValueError, "gamma must be a number, got 'one'"),
        ({"reward": [1]}, TypeError, "a reward is a Reward or a function"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gym.make("SeqGAN/Exact-v0", **arguments)


def test_numbers_written_as_text_are_numbers() -> None:
    """Command lines such as rl-zoo's hand arguments over as text."""
    env: Any = gym.make("SeqGAN/Exact-v0", vocab_size="3", gamma="0.5").unwrapped
    assert (env.task.vocab_size, env.options.gamma) == (3, 0.5)


def test_an_oracle_object_brings_its_own_size() -> None:
    oracle = Oracle.from_seed(0, vocab_size=7, sequence_length=5)
    env: Any = gym.make("SeqGAN/Oracle-v0", oracle=oracle, reward="oracle", shaping="none").unwrapped
    assert (env.task.vocab_size, env.task.sequence_length, env.task.oracle) == (7, 5, oracle)
