"""ModelPolicy: the distribution that a model plays with `predict`, as logits of a rollout policy."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from seqgan_rl import GeneratorPolicy, make_sb3_env
from seqgan_rl.agents.model_policy import ModelPolicy
from seqgan_rl.envs.observations import OBSERVATIONS
from seqgan_rl.envs.parts import check_policy
from seqgan_rl.models.decoding import concatenate, select

torch.set_num_threads(1)

V, T = 3, 4
A = V + 1  # with EOS; PAD = 4
EXACT: dict[str, Any] = {"vocab_size": V, "sequence_length": T, "variable_length": True, "num_rollouts": 2}
ALGORITHMS = ["PPO", "MaskablePPO", "RecurrentPPO", "DQN", "QRDQN", "ARS"]


def make_model(algorithm: str, observation: str = "tokens", env: VecEnv | None = None, **options: Any) -> Any:
    """A model whose next-token distributions are far from uniform and differ from prefix to prefix."""
    contrib = pytest.importorskip("sb3_contrib") if algorithm not in ("PPO", "DQN") else None
    cls = {"PPO": PPO, "DQN": DQN}.get(algorithm) or getattr(contrib, algorithm)
    env = env or make_sb3_env("SeqGAN/Exact-v0", 2, observation=observation, **EXACT)
    name = ("MultiInput" if observation == "dict" else "Mlp") + (
        "LstmPolicy" if algorithm == "RecurrentPPO" else "Policy"
    )
    kwargs: dict[str, Any] = {} if algorithm == "RecurrentPPO" else {"net_arch": [16]}
    kwargs |= {"lstm_hidden_size": 5, "n_lstm_layers": 2} if algorithm == "RecurrentPPO" else {}
    extra: dict[str, Any] = {"zero_policy": False} if algorithm == "ARS" else {}
    model = cls(name, env, seed=0, device="cpu", policy_kwargs=kwargs, **extra, **options)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.normal_(std=0.4)
    if "DQN" in algorithm:
        model.exploration_rate = 0.4
    return model


def read(policy: Any, tokens: list[int], rows: int = 1) -> torch.Tensor:
    """Next-token probabilities after a prefix, (A,)."""
    state, last = policy.initial_state(rows), A
    for token in tokens:
        state, last = policy.step(torch.full((rows,), last), state)[1], token
    logits_RA, _ = policy.step(torch.full((rows,), last), state)
    assert logits_RA.dtype == torch.float32
    assert logits_RA.shape == (rows, A)
    return logits_RA.softmax(dim=-1)[0]


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_what_predict_plays(algorithm: str, observation: str) -> None:
    """Chi-square of draws by ``predict`` in the environment after three prefixes; false alarm 1e-6 each. DQN throws one
    coin a call, so its draws are calls; the others' are the rows of one."""
    if algorithm == "ARS" and observation == "dict":
        pytest.skip("ARS reads no dict")
    model = make_model(algorithm, observation)
    rows, calls = (1, 1_000) if "DQN" in algorithm else (4_000, 1)
    env = gym.make_vec("SeqGAN/Exact-v0", rows, observation=observation, **{**EXACT, "shaping": "none"})
    distributions = []
    for tokens in ([], [1], [2, 0, 1]):
        p_A = read(ModelPolicy(model), tokens).double().numpy()
        distributions.append(tuple(p_A))
        obs, _ = env.reset()
        state, starts = None, np.ones(rows)
        for token in tokens:
            state, starts = model.predict(obs, state, starts)[1], np.zeros(rows)
            obs = env.step(np.full(rows, token))[0]
        draws = np.concatenate([model.predict(obs, state, starts)[0] for _ in range(calls)])
        counts, expected_A = np.bincount(draws, minlength=A), p_A / p_A.sum() * rows * calls
        assert counts[p_A == 0].sum() == 0
        common = expected_A >= 5  # the test's approximation needs that; rarer ones are taken together
        counts = np.append(counts[common], counts[~common].sum())
        expected = np.append(expected_A[common], expected_A[~common].sum())
        if (expected > 0).sum() > 1:
            assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-6
    assert observation == "last_token" or algorithm in ("ARS", "DQN", "QRDQN") or len(set(distributions)) == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_of_states_can_be_picked_repeated_and_joined(algorithm: str) -> None:
    policy = ModelPolicy(make_model(algorithm))
    check_policy(policy, A, has_eos=True)
    first_B = torch.tensor([A, A, A])
    _, state = policy.step(first_B, policy.initial_state(3))
    one_RA, grown = policy.step(torch.tensor([0, 1, 2]), state)
    rows = torch.tensor([2, 0, 2, 1])
    joined = concatenate([select(grown, rows), select(grown, slice(0, 1))])
    assert all(len(part) == 5 for part in joined)
    next_RA, _ = policy.step(torch.tensor([1, 0, 1, 0, 2]), joined)
    for row, tokens in enumerate([[2, 1], [0, 0], [2, 1], [1, 0], [0, 2]]):
        torch.testing.assert_close(next_RA[row].softmax(dim=-1), read(policy, tokens), rtol=0, atol=1e-5)
    for row in range(3):
        torch.testing.assert_close(one_RA[row].softmax(dim=-1), read(policy, [row]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("shaping", ["rollout", "deferred"])
def test_environments_roll_out_with_it(shaping: str, observation: str) -> None:
    """The environment's values of a first token agree with those of enumerating every completion; z-test, 1e-6."""
    model = make_model("PPO", observation)
    policy, n = ModelPolicy(model), 6_000
    options = {**EXACT, "num_rollouts": n, "shaping": shaping}
    env = gym.make("SeqGAN/Exact-v0", observation=observation, **options).unwrapped
    task = env.exact_task  # type: ignore[attr-defined]
    env.set_rollout_policy(policy)  # type: ignore[attr-defined]
    env.reset(seed=0)
    reward = env.reward  # type: ignore[attr-defined]

    def expected(tokens: list[int]) -> tuple[float, float]:
        """Mean and mean square of the reward over completions."""
        if len(tokens) == T or (tokens and tokens[-1] == V):
            padded = torch.tensor([tokens + [A] * (T - len(tokens))])
            value = float(reward(padded, torch.tensor([len(tokens)]))[0])
            return value, value**2
        p_A, inside = read(policy, tokens).tolist(), [expected([*tokens, a]) for a in range(A)]
        return sum(p * m for p, (m, _) in zip(p_A, inside, strict=True)), sum(
            p * s for p, (_, s) in zip(p_A, inside, strict=True)
        )

    assert task is not None
    _, first_reward, *_ = env.step(np.int64(1))
    for token in (0, 2):
        env.step(np.int64(token))
    values_T = env.step(np.int64(0))[4]["action_value"]
    mean, square = expected([1])
    assert abs(values_T[0] - mean) < 4.892 * np.sqrt((square - mean**2) / n) + 1e-6
    if shaping == "rollout":
        assert first_reward == pytest.approx(values_T[0])


def test_it_follows_the_model_as_it_learns() -> None:
    model = make_model("PPO", n_steps=4, batch_size=8)
    policy = ModelPolicy(model)
    before = read(policy, [1])
    model.get_env().env_method("set_rollout_policy", policy)
    model.learn(16)
    after = read(policy, [1])
    obs = torch.tensor([[1, A, A, A]])
    torch.testing.assert_close(after, model.policy.get_distribution(obs).distribution.probs[0], rtol=0, atol=1e-6)
    assert not torch.allclose(before, after)

    greedy = make_model("DQN")
    policy = ModelPolicy(greedy)
    for rate in (1.0, 0.4, 0.0):
        greedy.exploration_rate = rate
        assert sorted(read(policy, [1]).tolist())[-1] == pytest.approx(1 - rate + rate / A)


def test_it_leaves_the_policy_in_its_mode() -> None:
    model = make_model("PPO")
    model.policy.set_training_mode(True)
    read(ModelPolicy(model), [1])
    assert model.policy.training


def test_generator_policies_and_normalised_observations() -> None:
    env = make_sb3_env("SeqGAN/Exact-v0", 2, **EXACT)
    kwargs = {"has_eos": True, "generator_options": {"init_std": 1.0}}
    model = PPO(GeneratorPolicy, env, device="cpu", policy_kwargs=kwargs)
    generator = model.policy.generator
    for tokens in ([], [1, 2]):
        torch.testing.assert_close(read(ModelPolicy(model), tokens), read(generator, tokens).detach())

    normalised = VecNormalize(make_sb3_env("SeqGAN/Exact-v0", 2, observation="onehot", **EXACT), norm_reward=False)
    model = make_model("PPO", "onehot", normalised, n_steps=16, batch_size=32)
    model.learn(64)
    obs = normalised.reset()
    expected = model.policy.get_distribution(torch.as_tensor(obs)).distribution.probs[0]
    normalised.training = False
    expected = model.policy.get_distribution(
        torch.as_tensor(normalised.normalize_obs(np.zeros((1, T * A), dtype=np.float32)))
    ).distribution.probs[0]
    torch.testing.assert_close(read(ModelPolicy(model), []), expected.detach(), rtol=0, atol=1e-6)


def test_forbidden_words(small_text: str) -> None:
    """Masks take part where the model plays under them; where a greedy choice is forbidden, the others are equal."""
    contrib = pytest.importorskip("sb3_contrib")
    options: dict[str, Any] = {"corpus": small_text, "min_count": 2, "shaping": "none", "reward": "constant"}
    env = make_sb3_env("SeqGAN/Corpus-v0", 2, **options)
    (unk,) = env.get_attr("forbidden")[0]
    model = contrib.MaskablePPO("MlpPolicy", env, device="cpu")
    policy = ModelPolicy(model)
    first = torch.full((1,), policy.num_actions)
    assert policy.step(first, policy.initial_state(1))[0].softmax(dim=-1)[0, unk] == 0

    greedy: Any = DQN("MlpPolicy", env, device="cpu")
    greedy.exploration_rate = 0.0
    with torch.no_grad():
        greedy.policy.q_net.q_net[-1].bias[unk] = 1e6
    native = gym.make("SeqGAN/Corpus-v0", **{**options, "shaping": "rollout"}).unwrapped
    native.set_rollout_policy(ModelPolicy(greedy))  # type: ignore[attr-defined]
    native.reset(seed=0)
    assert native.step(np.int64(0))[1] == 1.0


def test_what_it_cannot_know_is_asked_for(tmp_path: Any) -> None:
    model = make_model("PPO")
    model.save(tmp_path / "model.zip")
    alone = PPO.load(tmp_path / "model.zip", device="cpu")
    with pytest.raises(ValueError, match="pass has_eos="):
        ModelPolicy(alone)
    assert ModelPolicy(alone, has_eos=True).eos_id == V
    assert ModelPolicy(alone, has_eos=False).eos_id is None
    torch.testing.assert_close(read(ModelPolicy(alone, has_eos=True), [1]), read(ModelPolicy(model), [1]))
    with pytest.raises(ValueError, match="played with Discrete actions from 0"):
        ModelPolicy(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), has_eos=False)
    with pytest.raises(ValueError, match="is none of tokens"):
        ModelPolicy(PPO("MlpPolicy", "CartPole-v1", device="cpu"), has_eos=False)


def never_twice(tokens_BT: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
    last_B = np.where(lengths_B > 0, tokens_BT[np.arange(len(tokens_BT)), lengths_B - 1], A)
    allowed: np.ndarray = np.arange(A) != last_B[:, None]
    return allowed


def test_masks_that_follow_a_rule_are_refused() -> None:
    model = make_model("MaskablePPO")
    model.get_env().env_method("set_constraint", never_twice)
    with pytest.raises(ValueError, match="follow a rule on the prefix"):
        ModelPolicy(model)


def test_a_recurrent_model_with_prompts_is_refused() -> None:
    """In play it begins to remember after the prompt; a rollout reads the prompt token by token."""
    model = make_model("RecurrentPPO")
    model.get_env().env_method("set_prompts", [[0]])
    with pytest.raises(ValueError, match="begins to remember after the prompt"):
        ModelPolicy(model)
