"""Wrappers, and the setters behind them that the native environment has too: each against its definition."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from seqgan_rl import make_sb3_env
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.wrappers import (
    KLPenalty,
    KLToReference,
    LastTokenObservation,
    MaskedDictObservation,
    NGramConstraint,
    OneHotObservation,
    PromptSampling,
    RepetitionConstraint,
    corpus_prompts,
    known_ngrams,
    no_repeated_ngrams,
)
from seqgan_rl.models.decoding import UniformPolicy
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.sampling import SamplingOptions

torch.set_num_threads(1)

V, T = 4, 5
A, EOS, PAD = V + 1, V, V + 1
TASK: dict[str, Any] = {"vocab_size": V, "sequence_length": T, "variable_length": True, "num_rollouts": 2}
KNOWN_NT = np.array([[0, 1, 2, EOS, PAD], [1, 1, 3, 0, EOS], [2, 0, 1, 1, 1]])


def make(**options: Any) -> Any:
    return gym.make("SeqGAN/Exact-v0", **(TASK | options))


def generator(seed: int, scale: float = 1.0) -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(seed)):
        return LSTMGenerator(A, T, True, embedding_dim=4, hidden_dim=4, init_std=scale)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "last token": LastTokenObservation,
    "one-hot": OneHotObservation,
    "dict": MaskedDictObservation,
    "prompts": lambda env: PromptSampling(env, [[1, 2], [3]]),
    "n-grams": lambda env: NGramConstraint(env, 2, KNOWN_NT),
    "repetition": lambda env: RepetitionConstraint(env, 2),
    "KL": lambda env: KLPenalty(env, generator(0), generator(1)),
    "many": lambda env: MaskedDictObservation(
        RepetitionConstraint(NGramConstraint(PromptSampling(env, [[0]]), 2, KNOWN_NT), 1)
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_environment_passes_both_checkers_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is different from the unwrapped version.*")
        check_env(WRAPPERS[name](make()), skip_render_check=True)
        sb3_check_env(WRAPPERS[name](make()))


@pytest.mark.parametrize(("wrapper", "kind"), [("last token", "last_token"), ("one-hot", "onehot"), ("dict", "dict")])
def test_an_observation_wrapper_shows_what_the_argument_shows(wrapper: str, kind: str) -> None:
    wrapped, plain = WRAPPERS[wrapper](make()), make(observation=kind)
    assert wrapped.observation_space == plain.observation_space
    rng = np.random.default_rng(0)
    pair = [env.reset(seed=3)[0] for env in (wrapped, plain)]
    for _ in range(40):
        np.testing.assert_equal(*pair)
        assert wrapped.observation_space.contains(pair[0])
        action = rng.integers(A)
        steps = [env.step(action) for env in (wrapped, plain)]
        pair = [step[0] for step in steps]
        if steps[0][2]:
            np.testing.assert_equal(*pair)
            pair = [env.reset()[0] for env in (wrapped, plain)]


# ---------------------------------------------------------------- prompts


def test_prompts_are_drawn_uniformly_by_the_environments_own_generator() -> None:
    """Chi-square over 3,000 starts, false alarm 1e-6 (2 degrees of freedom: 27.6); the same seed, the same prompts."""
    prompts = [[0], [1, 2], [3, 3, 3]]
    env: Any = PromptSampling(make(shaping="none"), prompts)
    counts = np.zeros(3)
    env.reset(seed=0)
    for _ in range(3000):
        observation, _ = env.reset()
        counts[[p + [PAD] * (T - len(p)) for p in prompts].index(observation.tolist())] += 1
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.6
    starts = [[env.reset(seed=s)[0].tolist() for s in range(20)] for _ in range(2)]
    assert starts[0] == starts[1]
    assert len({tuple(start) for start in starts[0]}) == 3
    assert env.reset(options={"prefix": [2]})[0].tolist() == [2, PAD, PAD, PAD, PAD]
    assert env.reset(options={"prefix": []})[0].tolist() == [PAD] * T
    env.unwrapped.set_prompts([])
    assert env.reset()[0].tolist() == [PAD] * T


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("observation", ["tokens", "dict"])
def test_the_native_environment_with_all_of_it_equals_single_ones(mode: AutoresetMode, observation: str) -> None:
    """Prompts at every autoreset, masks that follow the prefix, penalties: seed for seed, infos too."""
    prompts, penalty = [[0], [1, 2], []], KLToReference(generator(0), generator(1), 0.3)

    def dress(inner: Any) -> None:
        inner.set_prompts(prompts)
        inner.set_constraint(no_repeated_ngrams(1, A))
        inner.set_penalty(penalty)

    def single() -> Any:
        env = make(observation=observation)
        dress(env.unwrapped)
        return env

    native: Any = gym.make_vec("SeqGAN/Exact-v0", 3, autoreset_mode=mode, observation=observation, **TASK)
    dress(native.unwrapped)
    sync = SyncVectorEnv([single] * 3, autoreset_mode=mode)
    mine: Any = native.reset(seed=5)
    theirs: Any = sync.reset(seed=5)
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(60):
        np.testing.assert_equal(mine[0], theirs[0])
        assert set(mine[-1]) == set(theirs[-1])
        for key in ("action_mask", "_action_mask"):
            np.testing.assert_equal(mine[-1][key], theirs[-1][key])
        tokens = mine[0]["tokens"] if observation == "dict" else mine[0]
        starts |= {tuple(row) for row in tokens.tolist()}
        actions = rng.integers(A, size=3)
        mine, theirs = native.step(actions), sync.step(actions)
        np.testing.assert_allclose(mine[1], theirs[1], atol=1e-5)
    assert {(0, *[PAD] * 4), (1, 2, *[PAD] * 3), (PAD,) * 5} <= starts


def test_prompts_from_a_corpus_are_heads_of_its_training_lines(small_text: str) -> None:
    env: Any = gym.make("SeqGAN/Corpus-v0", corpus=small_text, min_count=2, shaping="none")
    task = env.unwrapped.task
    lines = [[t for t in row if t != task.pad_id] for row in task.corpus.train.tokens_NT.tolist()]
    expected = sorted(line[:2] for line in lines if len(line) > 2 and max(line[:3]) < task.vocab_size)
    assert sorted(corpus_prompts(env.unwrapped, 2)) == expected
    assert PromptSampling(env, 2).reset(seed=0)[0][:2].tolist() in expected
    with pytest.raises(ValueError, match="a prompt of 6 words leaves nothing to write"):
        PromptSampling(env, 6)
    with pytest.raises(ValueError, match="this environment has none; give lists"):
        PromptSampling(make(), 2)
    with pytest.raises(ValueError, match=r"must be shorter than the sequence length 5"):
        PromptSampling(make(), [[0] * T])


# ---------------------------------------------------------------- constraints


def prefixes() -> tuple[np.ndarray, np.ndarray]:
    """All unfinished prefixes of the task."""
    rows: list[list[int]] = [[]]
    everything: list[list[int]] = [[]]
    for _ in range(T - 1):
        rows = [[*row, word] for row in rows for word in range(V)]
        everything = everything + rows
    tokens_BT = np.array([row + [PAD] * (T - len(row)) for row in everything])
    return tokens_BT, np.array([len(row) for row in everything])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_no_ngram_is_repeated(n: int) -> None:
    """Every prefix: an action is allowed exactly where the sequence with it holds no n-gram twice at its end."""
    tokens_BT, lengths_B = prefixes()
    allowed_BA = no_repeated_ngrams(n, A)(tokens_BT, lengths_B)
    for tokens, length, allowed in zip(tokens_BT.tolist(), lengths_B.tolist(), allowed_BA, strict=True):
        for action in range(A):
            sequence = [*tokens[:length], action]
            grams = [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]
            assert allowed[action] == (len(sequence) < n or grams[-1] not in grams[:-1])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_only_what_was_seen_may_follow(n: int) -> None:
    """Every prefix: the followers of its last n - 1 tokens in the corpus, of fewer where those were never seen."""
    tokens_BT, lengths_B = prefixes()
    allowed_BA = known_ngrams(KNOWN_NT, n, A)(tokens_BT, lengths_B)
    lines = [["^"] * (n - 1) + [t for t in row if t != PAD] for row in KNOWN_NT.tolist()]
    for tokens, length, allowed in zip(tokens_BT.tolist(), lengths_B.tolist(), allowed_BA, strict=True):
        context = (["^"] * (n - 1) + tokens[:length])[length:]
        followers: set[Any] = set()
        while not followers:
            k = len(context)
            followers = {line[i + k] for line in lines for i in range(len(line) - k) if line[i : i + k] == context}
            followers.discard("^")
            context = context[1:]
        assert set(np.flatnonzero(allowed)) == followers


def test_masks_are_shown_everywhere_and_never_empty() -> None:
    """action_masks(), info, the dict observation; where nothing is left, and after the end, all is allowed."""
    env: Any = MaskedDictObservation(RepetitionConstraint(make(variable_length=False, shaping="none"), 1))
    observation, info = env.reset(seed=0)
    played: list[int] = []
    for action in (2, 0, 3, 1, 2):
        expected = np.array([word not in played or len(played) == V for word in range(V)])
        for mask in (observation["action_mask"], info["action_mask"], env.unwrapped.action_masks()):
            assert np.array_equal(mask, expected)
        assert info["action_mask"].dtype == np.int8
        assert env.unwrapped.action_masks().dtype == np.bool_
        observation, _, terminated, _, info = env.step(action)
        played.append(action)
    assert terminated
    assert info["action_mask"].all()


def test_two_constraints_hold_together() -> None:
    env: Any = RepetitionConstraint(NGramConstraint(make(shaping="none"), 2, KNOWN_NT), 1)
    env.reset(seed=0, options={"prefix": [1]})
    assert set(np.flatnonzero(env.unwrapped.action_masks())) == {2, 3}  # seen after 1: 1, 2, 3


def test_forbidden_words_stay_forbidden_under_a_constraint(small_text: str) -> None:
    env: Any = gym.make("SeqGAN/Corpus-v0", corpus=small_text, min_count=2, shaping="none")
    unk = env.unwrapped.task.forbidden[0]
    NGramConstraint(env, 1).reset(seed=0)
    assert not env.unwrapped.action_masks()[unk]
    env.unwrapped.set_constraint(lambda tokens_BT, lengths_B: np.eye(env.action_space.n, dtype=bool)[[unk]])
    assert env.unwrapped.action_masks().sum() == env.action_space.n - 1  # nothing left: all that is never forbidden


# ---------------------------------------------------------------- KL


@pytest.mark.parametrize("has_policy", [True, False])
@pytest.mark.parametrize("shaping", ["rollout", "none"])
def test_the_penalty_sums_to_the_log_ratio_of_the_sequence(shaping: str, has_policy: bool) -> None:
    """The return is R(Y) - beta (log π(Y) - log π_ref(Y)); R(Y) itself is told apart."""
    policy, reference = generator(1), generator(0)
    env = KLPenalty(make(shaping=shaping), reference, policy if has_policy else None, beta=0.3)
    rng = np.random.default_rng(0)
    for seed in range(20):
        env.reset(seed=seed)
        total, terminated = 0.0, False
        while not terminated:
            _, reward, terminated, _, info = env.step(rng.integers(A))
            total += float(reward)
        tokens_1T = torch.as_tensor(info["sequence"])[None]
        with torch.no_grad():
            ratio = has_policy * policy.log_prob(tokens_1T).sum() - reference.log_prob(tokens_1T).sum()
        assert total == pytest.approx(info["sequence_reward"] - 0.3 * float(ratio), abs=1e-4)


@pytest.mark.parametrize("policy", [None, UniformPolicy(V, has_eos=False)], ids=["alone", "with a policy"])
def test_the_penalty_waits_where_every_sequence_has_just_ended(policy: Any) -> None:
    """NEXT_STEP, fixed length: the step in which all begin anew asks it nothing and costs nothing."""
    env: Any = gym.make_vec("SeqGAN/Exact-v0", num_envs=3, **(TASK | {"variable_length": False})).unwrapped
    env.set_penalty(KLToReference(UniformPolicy(V, has_eos=False), policy, 0.5))
    env.reset(seed=0)
    sums = []
    for _ in range(2):
        rewards_TB = [env.step(np.zeros(3, dtype=np.int64))[1] for _ in range(T + 1)]
        assert (rewards_TB[-1] == 0).all()
        sums.append(np.sum(rewards_TB))
    assert sums[0] == pytest.approx(sums[1], abs=1e-5)  # both are R(Y) and the cost of the same sequences


def test_its_mean_is_the_divergence() -> None:
    """Played by π itself, mean cost = beta KL(π || π_ref), enumerated; z-test, false alarm 1e-6 (4.9)."""
    policy, reference = generator(1), generator(0)
    uniforms = np.random.default_rng(0)
    tokens_BT = policy.sample(4000, rng=uniforms).numpy()
    penalty = KLToReference(reference, policy, beta=1.0)
    cost_B = np.zeros(4000)
    for t in range(T):
        prefix_BT = np.where(np.arange(T) < t, tokens_BT, PAD)
        rows = np.flatnonzero(tokens_BT[:, t] != PAD)
        lengths_B = np.full(len(rows), t)
        cost_B[rows] += penalty(prefix_BT[rows], lengths_B, tokens_BT[rows, t])
    every: list[list[int]] = [[]]
    finished: list[list[int]] = []
    for _ in range(T):
        every = [[*row, action] for row in every for action in range(A)]
        finished += [row for row in every if row[-1] == EOS or len(row) == T]
        every = [row for row in every if row[-1] != EOS]
    all_NT = torch.tensor([row + [PAD] * (T - len(row)) for row in finished])
    with torch.no_grad():
        p_N, q_N = (model.log_prob(all_NT).sum(dim=1).double() for model in (policy, reference))
    assert float(p_N.exp().sum()) == pytest.approx(1, abs=1e-5)
    divergence = float((p_N.exp() * (p_N - q_N)).sum())
    assert abs(cost_B.mean() - divergence) < 4.9 * cost_B.std() / np.sqrt(4000)


def test_the_penalty_reads_any_policy_and_follows_a_live_one() -> None:
    tokens_BT, lengths_B = prefixes()
    actions_B = np.random.default_rng(0).integers(A, size=len(lengths_B))
    uniform = KLToReference(UniformPolicy(A, True), None, 1.0)(tokens_BT, lengths_B, actions_B)
    np.testing.assert_allclose(uniform, np.log(A))
    policy, reference = generator(1), generator(1)
    penalty = KLToReference(reference, policy, 1.0)
    assert np.abs(penalty(tokens_BT, lengths_B, actions_B)).max() == 0
    with torch.no_grad():
        policy.output_bias[0] += 1
    assert np.abs(penalty(tokens_BT, lengths_B, actions_B)).min() > 0
    masked = KLToReference(UniformPolicy(A, True), None, 1.0, SamplingOptions(forbidden=(0, 1)))
    words = np.full(len(lengths_B), 2)
    np.testing.assert_allclose(masked(tokens_BT, lengths_B, words), np.log(A - 2))
    with pytest.raises(ValueError, match="beta must be at least 0, got -1"):
        KLToReference(reference, beta=-1)


def test_an_agent_that_ignores_the_mask_is_charged_a_number(small_text: str) -> None:
    """UNK has a probability under both; options say that the agent never plays it, and then it must not."""
    env: Any = gym.make("SeqGAN/Corpus-v0", corpus=small_text, min_count=2, shaping="none")
    inner = env.unwrapped
    unk, reference = inner.task.forbidden[0], inner.rollout_policy
    wrapped = KLPenalty(env, reference, reference)
    wrapped.reset(seed=0)
    assert wrapped.step(unk)[1] == pytest.approx(0)
    strict = KLPenalty(env, reference, options=inner.task.rollout_options)
    strict.reset(seed=0)
    assert np.isfinite(float(strict.step(0)[1]))
    with pytest.raises(ValueError, match=f"action {unk} was played, which the options of this penalty forbid"):
        strict.step(unk)


def test_a_ppo_agent_with_the_penalty_stays_near_the_reference() -> None:
    """On the native adapter: with a large beta the policy goes to the reference, whatever the reward says."""
    from seqgan_rl import GeneratorPolicy

    reference = generator(0, scale=1.5)

    def divergence(beta: float) -> float:
        env = make_sb3_env("SeqGAN/Exact-v0", 16, shaping="none", **TASK)
        options = {"has_eos": True, "generator_options": {"embedding_dim": 4, "hidden_dim": 4}}
        model: Any = PPO(
            GeneratorPolicy, env, n_steps=16, batch_size=128, n_epochs=4, gamma=1.0, seed=0, device="cpu",
            learning_rate=0.02, policy_kwargs=options,
        )  # fmt: skip
        env.env_method("set_penalty", KLToReference(reference, model.policy.generator, beta))
        model.learn(8_000)
        tokens_BT = model.policy.generator.sample(2000, rng=np.random.default_rng(0))
        with torch.no_grad():
            ratio_BT = model.policy.generator.log_prob(tokens_BT) - reference.log_prob(tokens_BT)
        return float(ratio_BT.sum(dim=1).mean())

    assert divergence(1.0) < 0.5 * divergence(0.0)


def test_a_vector_environment_is_told_of_its_setters() -> None:
    with pytest.raises(TypeError, match="a vector environment has set_prompts, set_constraint and set_penalty"):
        RepetitionConstraint(gym.make_vec("SeqGAN/Exact-v0", 2, **TASK))  # type: ignore[arg-type]
