"""sample_sequences: what a model plays, from any algorithm and through any wrapper, and no trace of it in training."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from seqgan_rl import GeneratorPolicy, SeqGAN, make_sb3_env
from seqgan_rl.agents.model_policy import ModelPolicy
from seqgan_rl.agents.sampling import sample_sequences

torch.set_num_threads(1)

V, T = 2, 3
A = V + 1  # with EOS: 15 sequences; PAD = 3
EXACT: dict[str, Any] = {"vocab_size": V, "sequence_length": T, "variable_length": True, "shaping": "none"}
OPTIONS = {"embedding_dim": 4, "hidden_dim": 6, "init_std": 0.5}
ALGORITHMS = ["SeqGAN", "PPO generator", "MaskablePPO", "PPO", "A2C", "RecurrentPPO", "DQN", "QRDQN"]


def make_model(algorithm: str, env: VecEnv | None = None, **options: Any) -> Any:
    """A model whose next-token distributions are far from uniform and differ from prefix to prefix."""
    name, *kind = algorithm.split()
    contrib = pytest.importorskip("sb3_contrib") if name not in ("PPO", "A2C", "DQN", "SeqGAN") else None
    cls = {"PPO": PPO, "A2C": A2C, "DQN": DQN, "SeqGAN": SeqGAN}.get(name) or getattr(contrib, name)
    policy: Any = {"RecurrentPPO": "MlpLstmPolicy", "SeqGAN": GeneratorPolicy}.get(name, "MlpPolicy")
    if name == "MaskablePPO":
        from seqgan_rl.agents.masked_policy import MaskableGeneratorPolicy as policy
    elif kind:
        policy = GeneratorPolicy
    kwargs: dict[str, Any] = {"lstm_hidden_size": 5} if name == "RecurrentPPO" else {}
    if not isinstance(policy, str):
        kwargs = {"generator_options": OPTIONS, "has_eos": True}
    env = env or make_sb3_env("SeqGAN/Exact-v0", 3, **EXACT)
    model = cls(policy, env, seed=0, device="cpu", policy_kwargs=kwargs, **options)
    if isinstance(policy, str):
        with torch.no_grad():
            for parameter in model.policy.parameters():
                parameter.normal_(std=0.1 if name != "RecurrentPPO" else 0.2)
    if "DQN" in name:
        model.exploration_rate = 0.5
    return model


def enumerated(policy: Any) -> dict[tuple[int, ...], float]:
    """Every sequence with its probability under next-token distributions, by plain recursion."""

    def below(tokens: list[int], last: int, state: Any, p: float) -> Iterator[tuple[tuple[int, ...], float]]:
        if len(tokens) == T or (tokens and tokens[-1] == V):
            yield (*tokens, *[A] * (T - len(tokens))), p
            return
        logits_BA, state = policy.step(torch.tensor([last]), state)
        for a, q in enumerate(logits_BA.softmax(dim=-1)[0].tolist()):
            yield from below([*tokens, a], a, state, p * q)

    return dict(below([], A, policy.initial_state(1), 1.0))


def assert_drawn_from(sequences: torch.Tensor, probs: dict[tuple[int, ...], float]) -> None:
    """Chi-square, false alarm 1e-6; sequences expected less than 5 times are taken together."""
    assert sequences.dtype == torch.int64
    n, drawn = len(sequences), [tuple(row) for row in sequences.tolist()]
    assert set(drawn) <= {sequence for sequence, p in probs.items() if p > 0}
    common = [sequence for sequence, p in probs.items() if n * p >= 5]
    counts = [drawn.count(sequence) for sequence in common]
    expected = [n * probs[sequence] / sum(probs.values()) for sequence in common]
    counts, expected = [*counts, n - sum(counts)], [*expected, max(n - sum(expected), 1e-3)]
    assert stats.chisquare(counts, np.array(expected) / sum(expected) * n).pvalue > 1e-6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sequences_have_the_models_probabilities(algorithm: str) -> None:
    """All 15 sequences enumerated; rows of DQN are independent though its ``predict`` throws one coin for all."""
    model = make_model(algorithm)
    sequences = sample_sequences(model, 4_001, seed=3)
    assert sequences.shape == (4_001, T)
    assert_drawn_from(sequences, enumerated(ModelPolicy(model)))


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "ARS"])
def test_deterministic_sequences_are_the_greedy_one(algorithm: str) -> None:
    options: dict[str, Any] = {"zero_policy": False} if algorithm == "ARS" else {}
    model = make_model(algorithm, **options)
    if "DQN" in algorithm:
        model.exploration_rate = 0.0
    policy = ModelPolicy(model)
    tokens: list[int] = []
    last, state = A, policy.initial_state(1)
    while len(tokens) < T and last != V:
        logits_BA, state = policy.step(torch.tensor([last]), state)
        last = int(logits_BA.argmax())
        tokens.append(last)
    expected = tokens + [A] * (T - len(tokens))
    assert sample_sequences(model, 5, deterministic=True).tolist() == [expected] * 5


def test_a_seed_is_a_draw() -> None:
    for algorithm in ("PPO generator", "PPO", "DQN"):
        model = make_model(algorithm)
        first = sample_sequences(model, 40, seed=1)
        torch.rand(3)
        assert torch.equal(sample_sequences(model, 40, seed=1), first)
        assert not torch.equal(sample_sequences(model, 40, seed=2), first)
        assert not torch.equal(sample_sequences(model, 40), sample_sequences(model, 40))


# ---------------------------------------------------------------- no trace


class SampleInBetween(BaseCallback):
    """Samples in the middle of rollouts and after them."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = seed

    def _on_step(self) -> bool:
        if self.n_calls % 3 == 1:
            sample_sequences(self.model, 7, seed=self.seed)
        return True

    def _on_rollout_end(self) -> None:
        sample_sequences(self.model, 300, deterministic=self.n_calls % 2 == 0, seed=self.seed)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "TRPO", "ARS"])
def test_training_is_not_changed_by_sampling(algorithm: str) -> None:
    """Two copies, one sampled from in mid-episode and between updates, end with the same bits."""
    name = algorithm.split()[0]
    steps: dict[str, Any] = {"n_steps": 4, "batch_size": 12} if "PPO" in name or name == "TRPO" else {}
    steps = {"learning_starts": 6, "batch_size": 8, "exploration_fraction": 0.9} if "DQN" in name else steps
    trained = []
    for seed in ("none", None, 5):
        env = make_sb3_env("SeqGAN/Exact-v0", 3, **EXACT)
        model = make_model(algorithm, env, **steps)
        callback = None if seed == "none" else SampleInBetween(seed)  # type: ignore[arg-type]
        for _ in range(2):
            model.learn(48, callback=callback, reset_num_timesteps=False)
        trained.append((model.policy.state_dict(), torch.rand(1), np.random.rand(), model.action_space.sample()))  # noqa: NPY002
    for other in trained[1:]:
        assert all(torch.equal(weight, other[0][key]) for key, weight in trained[0][0].items())
        assert other[1:] == trained[0][1:]


def test_the_policys_mode_is_put_back() -> None:
    model = make_model("PPO")
    for mode in (True, False):
        model.policy.set_training_mode(mode)
        sample_sequences(model, 2)
        assert model.policy.training == mode


# ---------------------------------------------------------------- environments


def exact_env(observation: str = "tokens") -> Callable[[], gym.Env[Any, Any]]:
    return lambda: Monitor(gym.make("seqgan_rl:SeqGAN/Exact-v0", observation=observation, **EXACT))


@pytest.mark.parametrize("observation", ["tokens", "tokens_float32", "onehot", "dict", "last_token"])
def test_the_private_environment_observes_as_the_models_does(observation: str) -> None:
    env = make_sb3_env("SeqGAN/Exact-v0", 3, observation=observation, **EXACT)
    model = PPO("MultiInputPolicy" if observation == "dict" else "MlpPolicy", env, device="cpu", seed=0)
    assert_drawn_from(sample_sequences(model, 2_000, seed=0), enumerated(ModelPolicy(model)))


@pytest.mark.parametrize("kind", ["dummy", "subproc", "normalised"])
def test_wrappers_are_seen_through(kind: str) -> None:
    """Also the online adversary and costly rewards of the model's environment are left out of the private one."""
    env: VecEnv = {
        "dummy": lambda: DummyVecEnv([exact_env()] * 2),
        "subproc": lambda: SubprocVecEnv([exact_env("last_token")], start_method="spawn"),
        "normalised": lambda: VecNormalize(DummyVecEnv([exact_env("onehot")] * 2), norm_reward=False),
    }[kind]()
    model = make_model("PPO", env, n_steps=16, batch_size=16)
    if kind == "normalised":
        model.learn(32)
        statistics = env.obs_rms.mean.copy()  # type: ignore[attr-defined]
    assert_drawn_from(sample_sequences(model, 2_000, seed=0), enumerated(ModelPolicy(model)))
    if kind == "normalised":
        assert (env.obs_rms.mean == statistics).all()  # type: ignore[attr-defined]
        assert env.training  # type: ignore[attr-defined]
    env.close()


def test_nothing_is_paid_for_and_no_adversary_learns(small_text: str) -> None:
    def dear(tokens_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        raise AssertionError("scored a sample")

    env = make_sb3_env("SeqGAN/Exact-v0", 3, **{**EXACT, "reward": dear, "shaping": "rollout"})
    assert sample_sequences(make_model("PPO", env), 9).shape == (9, T)

    options: dict[str, Any] = {"corpus": small_text, "min_count": 2, "adversary": "online", "adversary_every": 1}
    env = make_sb3_env("SeqGAN/Corpus-v0", 2, rollout_policy="uniform", **options)
    adversary = env.get_attr("adversary")[0]
    adversary.retrain = None  # whoever is due calls it
    assert sample_sequences(PPO("MlpPolicy", env, device="cpu"), 9).shape == (9, 6)


def never_twice(tokens_BT: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
    last_B = np.where(lengths_B > 0, tokens_BT[np.arange(len(tokens_BT)), lengths_B - 1], A)
    allowed: np.ndarray = np.arange(A) != last_B[:, None]
    return allowed


def test_prompts_and_constraints_of_the_models_environment_hold() -> None:
    env = make_sb3_env("SeqGAN/Exact-v0", 3, **EXACT)
    env.env_method("set_constraint", never_twice)
    env.env_method("set_prompts", [[0], [1]])
    sequences = sample_sequences(make_model("MaskablePPO", env), 200, seed=0)
    assert set(sequences[:, 0].tolist()) == {0, 1}
    assert ((sequences[:, 1:] != sequences[:, :-1]) | (sequences[:, 1:] == A)).all()


def test_forbidden_words_are_masked(small_text: str) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    options: dict[str, Any] = {"corpus": small_text, "min_count": 2, "shaping": "none", "reward": "constant"}
    env = make_sb3_env("SeqGAN/Corpus-v0", 2, **options)
    (unk,) = env.get_attr("forbidden")[0]
    masked = sample_sequences(contrib.MaskablePPO("MlpPolicy", env, device="cpu"), 300, seed=0)
    assert (masked != unk).all()
    assert (sample_sequences(PPO("MlpPolicy", env, device="cpu"), 300, seed=0) == unk).any()


@pytest.mark.parametrize("kind", ["vec", "gym"])
def test_another_environment_can_be_given(kind: str) -> None:
    """Sub-environments give equal shares: the first 8 to finish of 8 would be the short ones. 1,600 sequences."""
    model = make_model("PPO")
    env = DummyVecEnv([exact_env()] * 8) if kind == "vec" else exact_env()()
    shares = [sample_sequences(model, 8, env=env, seed=seed) for seed in range(200)]
    assert_drawn_from(torch.cat(shares), enumerated(ModelPolicy(model)))
    uneven = sample_sequences(model, 11, env=env, seed=1)
    assert uneven.shape == (11, T)
    assert torch.equal(sample_sequences(model, 11, env=env, seed=1), uneven)


def test_models_without_an_environment_play_in_the_one_given(tmp_path: Any) -> None:
    model = make_model("PPO")
    model.save(tmp_path / "model.zip")
    alone = PPO.load(tmp_path / "model.zip", device="cpu")
    with pytest.raises(ValueError, match="the model has no environment; pass one as env="):
        sample_sequences(alone, 3)
    assert sample_sequences(alone, 3, env=exact_env()()).shape == (3, T)


def test_what_cannot_be_played_is_refused() -> None:
    model = make_model("PPO")
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        sample_sequences(model, 0)
    with pytest.raises(ValueError, match=r"env must be a VecEnv or a gym\.Env, got str"):
        sample_sequences(model, 1, env="SeqGAN/Exact-v0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the model's own environment"):
        sample_sequences(model, 1, env=model.get_env())
    single = exact_env()()
    with pytest.raises(ValueError, match="the model's own environment"):
        sample_sequences(PPO("MlpPolicy", single, device="cpu"), 1, env=single)
    with pytest.raises(ValueError, match="env has observation_space"):
        sample_sequences(model, 1, env=exact_env("onehot")())
    with pytest.raises(ValueError, match="not one of this library; pass one to play in as env="):
        sample_sequences(PPO("MlpPolicy", "CartPole-v1", device="cpu"), 1)
    flat = gym.wrappers.FlattenObservation(gym.make("SeqGAN/Exact-v0", observation="last_token", **EXACT))
    with pytest.raises(ValueError, match="or sample with an environment wrapped alike as env="):
        sample_sequences(PPO("MlpPolicy", flat, device="cpu"), 1)
    with pytest.raises(ValueError, match=r"an episode ended without info\['sequence'\]"):
        sample_sequences(model, 50, env=make_sb3_env("SeqGAN/Exact-v0", 1, max_episode_steps=1, **EXACT))


def test_masks_from_a_wrapper_need_that_wrapper() -> None:
    pytest.importorskip("sb3_contrib")
    from sb3_contrib.common.wrappers import ActionMasker

    def only_the_first(env: gym.Env[Any, Any]) -> np.ndarray:
        return np.arange(A) == 0

    def wrapped() -> gym.Env[Any, Any]:
        return ActionMasker(gym.make("SeqGAN/Exact-v0", **EXACT), only_the_first)

    model = make_model("MaskablePPO", DummyVecEnv([wrapped]))
    with pytest.raises(ValueError, match="come from an ActionMasker"):
        sample_sequences(model, 1)
    assert sample_sequences(model, 2, env=wrapped()).tolist() == [[0, 0, 0]] * 2
