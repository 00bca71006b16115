"""TokenExtractor: prefixes as features, equal to reading token by token; under algorithms without a generator."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from torch import Tensor

from seqgan_rl import make_sb3_env
from seqgan_rl.agents.extractor import TokenExtractor
from seqgan_rl.core.streams import torch_seeded

torch.set_num_threads(1)

A, T = 5, 4
GENERATOR: dict[str, Any] = {
    "generator_options": {"embedding_dim": 3, "hidden_dim": 6, "init_std": 1.0},
    "has_eos": True,
}
EXACT: dict[str, Any] = {"vocab_size": 4, "sequence_length": T, "variable_length": True, "shaping": "none"}
SPACES: dict[str, spaces.Space[Any]] = {
    "tokens": spaces.Box(0, A, (T,), np.int64),
    "tokens_float32": spaces.Box(0, A, (T,), np.float32),
    "dict": spaces.Dict({"action_mask": spaces.Box(0, 1, (A,), np.int8), "tokens": spaces.Box(0, A, (T,), np.int64)}),
}
EVERY_LENGTH_BT = torch.tensor([[A, A, A, A], [0, A, A, A], [3, 4, A, A], [1, 1, 2, A], [2, 0, 3, 1], [2, 0, 3, 4]])


def make_extractor(kind: str = "tokens", **options: Any) -> TokenExtractor:
    with torch_seeded(np.random.default_rng(0)):
        return TokenExtractor(SPACES[kind], **options)


def observed(kind: str) -> Any:
    if kind == "dict":
        return {"action_mask": torch.ones(len(EVERY_LENGTH_BT), A), "tokens": EVERY_LENGTH_BT.float()}
    return EVERY_LENGTH_BT if kind == "tokens" else EVERY_LENGTH_BT.float()


@pytest.mark.parametrize("kind", list(SPACES))
def test_flat_features_are_the_embeddings_side_by_side(kind: str) -> None:
    extractor = make_extractor(kind, embedding_dim=3)
    features_BF = extractor(observed(kind))
    assert features_BF.shape == (len(EVERY_LENGTH_BT), extractor.features_dim) == (6, T * 3)
    assert extractor.embedding is not None
    for features_F, tokens_T in zip(features_BF, EVERY_LENGTH_BT.tolist(), strict=True):
        rows = [extractor.embedding.weight[token] for token in tokens_T]
        assert torch.equal(features_F, torch.cat(rows))
    assert len({tuple(features_F.tolist()) for features_F in features_BF}) == 6


@pytest.mark.parametrize("kind", list(SPACES))
def test_generator_features_are_those_of_reading_token_by_token(kind: str) -> None:
    """Empty prefixes, those that end in EOS, and finished sequences of T tokens, in one batch and one at a time."""
    extractor = make_extractor(kind, features="generator", **GENERATOR)
    generator = extractor.generator
    assert generator is not None
    assert extractor.features_dim == 6

    def slow(tokens_T: list[int]) -> Tensor:
        state = generator.step(torch.tensor([A]), generator.initial_state(1))[1]
        for token in tokens_T:
            if token != A:
                state = generator.step(torch.tensor([token]), state)[1]
        return state[0][0]

    expected_BF = torch.stack([slow(tokens_T) for tokens_T in EVERY_LENGTH_BT.tolist()])
    torch.testing.assert_close(extractor(observed(kind)), expected_BF, rtol=0, atol=1e-6)
    for row in range(len(EVERY_LENGTH_BT)):
        torch.testing.assert_close(
            make_extractor(features="generator", **GENERATOR)(EVERY_LENGTH_BT[row : row + 1]),
            expected_BF[row : row + 1],
            rtol=0,
            atol=1e-6,
        )
    _, policy_features_BF = generator.next_logits(EVERY_LENGTH_BT[:4], torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(extractor(observed(kind))[:4], policy_features_BF, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1, (T * A,), np.float32),  # onehot
        spaces.Discrete(A + 1),  # last_token
        spaces.Box(-np.inf, np.inf, (T,)),
        spaces.Box(0, A, (T, 2), np.int64),
        spaces.Dict({"words": spaces.Box(0, A, (T,), np.int64)}),
    ],
)
def test_other_observations_are_refused(space: Any) -> None:
    with pytest.raises(ValueError, match="make the environment with observation='tokens'"):
        TokenExtractor(space)


def test_other_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match='features must be "flat" or "generator"'):
        make_extractor(features="onehot")
    with pytest.raises(ValueError, match="unknown generator 'lstn'"):
        make_extractor(features="generator", generator="lstn")
    with pytest.raises(ValueError, match="embedding_dim must be at least 1"):
        make_extractor(embedding_dim=0)


def make_model(algorithm: str, features: str, observation: str = "tokens") -> Any:
    contrib = pytest.importorskip("sb3_contrib") if algorithm in ("QRDQN", "RecurrentPPO", "TRPO") else None
    cls = {"PPO": PPO, "A2C": A2C, "DQN": DQN}.get(algorithm) or getattr(contrib, algorithm)
    on_policy = {"n_steps": 8, **({} if algorithm == "A2C" else {"batch_size": 8})}
    arguments = {"learning_starts": 10, "batch_size": 8} if "DQN" in algorithm else on_policy
    name = ("MultiInput" if observation == "dict" else "Mlp") + (
        "LstmPolicy" if algorithm == "RecurrentPPO" else "Policy"
    )
    options = GENERATOR if features == "generator" else {"embedding_dim": 3}
    policy_kwargs = {
        "features_extractor_class": TokenExtractor,
        "features_extractor_kwargs": {"features": features, **options},
        "net_arch": [8],
        **({"lstm_hidden_size": 4} if algorithm == "RecurrentPPO" else {}),
    }
    env = make_sb3_env("SeqGAN/Exact-v0", 2, observation=observation, **EXACT)
    return cls(name, env, seed=0, device="cpu", policy_kwargs=policy_kwargs, **arguments)


@pytest.mark.parametrize("features", ["flat", "generator"])
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "QRDQN", "RecurrentPPO", "TRPO"])
def test_algorithms_train_through_it(algorithm: str, features: str) -> None:
    model = make_model(algorithm, features)
    extractor = next(module for module in model.policy.modules() if isinstance(module, TokenExtractor))
    before = [p.clone() for p in extractor.parameters()]
    model.learn(64)
    assert any(not torch.equal(p, b) for p, b in zip(extractor.parameters(), before, strict=True))


@pytest.mark.parametrize("observation", ["tokens", "tokens_float32", "dict"])
@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_models_with_it_are_saved_and_loaded(algorithm: str, observation: str, tmp_path: Any) -> None:
    model = make_model(algorithm, "generator", observation)
    model.learn(32)
    model.save(tmp_path / "model.zip")
    again = type(model).load(tmp_path / "model.zip", device="cpu")
    obs = model.policy.obs_to_tensor(model.get_env().reset())[0]
    for one, other in zip(again.policy.parameters(), model.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    net, again_net = (m.q_net if algorithm == "DQN" else m.predict_values for m in (model.policy, again.policy))
    assert torch.equal(net(obs), again_net(obs))
