"""Warm start: exactly the pretrained probabilities, copied, under every algorithm; where refused, nothing changes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from torch import nn

from seqgan_rl import GeneratorPolicy, LSTMGenerator, SeqGAN, generators, make_sb3_env
from seqgan_rl.agents.extractor import TokenExtractor
from seqgan_rl.agents.warm_start import generator_kwargs, warm_start
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.models.files import save_model
from seqgan_rl.models.generator import Generator

torch.set_num_threads(1)

V, T = 4, 4
EXACT: dict[str, Any] = {"vocab_size": V, "sequence_length": T, "variable_length": True, "shaping": "none"}
PREFIXES_BT = torch.tensor([[5, 5, 5, 5], [0, 5, 5, 5], [1, 3, 5, 5], [2, 2, 0, 5]])


def pretrained(seed: int = 1, **options: Any) -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(seed)):
        return LSTMGenerator(
            V + 1, T, has_eos=True, **{"embedding_dim": 3, "hidden_dim": 6, "init_std": 1.0, **options}
        )


def make_model(algorithm: str, generator: Generator, features: str | None = None, **options: Any) -> Any:
    """A model with a generator policy, or with a TokenExtractor."""
    contrib = pytest.importorskip("sb3_contrib") if algorithm not in ("PPO", "A2C", "DQN", "SeqGAN") else None
    cls = {"PPO": PPO, "A2C": A2C, "DQN": DQN, "SeqGAN": SeqGAN}.get(algorithm) or getattr(contrib, algorithm)
    steps: dict[str, Any] = (
        {"n_steps": 4, "batch_size": 16} if algorithm in ("PPO", "TRPO", "MaskablePPO", "RecurrentPPO") else {}
    )
    if "DQN" in algorithm:
        steps = {"learning_starts": 8, "batch_size": 8}
    policy: Any = GeneratorPolicy
    kwargs = generator_kwargs(generator)
    if features is not None:
        policy = "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"
        extra = kwargs if features == "generator" else {"embedding_dim": generator.config["embedding_dim"]}
        kwargs = {
            "features_extractor_class": TokenExtractor,
            "features_extractor_kwargs": {"features": features, **extra},
            "net_arch": [8],
        }
    elif algorithm == "MaskablePPO":
        from seqgan_rl.agents.masked_policy import MaskableGeneratorPolicy as policy
    env = make_sb3_env("SeqGAN/Exact-v0", 4, **EXACT)
    return cls(policy, env, seed=0, device="cpu", policy_kwargs={**kwargs, **options}, **steps)


def next_token_probs(generator: Generator) -> torch.Tensor:
    lengths_B = (PREFIXES_BT != V + 1).sum(dim=1)
    return generator.next_logits(PREFIXES_BT, lengths_B)[0].softmax(dim=-1)


@pytest.mark.parametrize("algorithm", ["SeqGAN", "PPO", "A2C", "TRPO", "MaskablePPO"])
def test_generator_policies_get_the_pretrained_probabilities(algorithm: str) -> None:
    """In mid-training: moments of the optimiser and decoding states are there, and are forgotten; nothing is shared."""
    source = pretrained()
    model = make_model(algorithm, source)
    model.learn(64)
    model.policy(PREFIXES_BT)  # states kept
    rates = [group["lr"] for group in model.policy.optimizer.param_groups]
    if algorithm == "SeqGAN":
        model.reference = pretrained(3)
    assert model.policy.optimizer.state
    assert warm_start(model, source) is model

    found = model.policy.get_distribution(PREFIXES_BT).distribution.probs
    torch.testing.assert_close(found, next_token_probs(source), rtol=0, atol=1e-6)
    actions_B, _, logp_B = model.policy(PREFIXES_BT)
    torch.testing.assert_close(
        logp_B.exp(), next_token_probs(source).gather(1, actions_B[:, None]).squeeze(1), rtol=0, atol=1e-6
    )
    assert not model.policy.optimizer.state
    assert [group["lr"] for group in model.policy.optimizer.param_groups] == rates
    assert getattr(model, "reference", None) is None

    kept = copy.deepcopy(source.state_dict())
    model.learn(64)
    assert all(torch.equal(weight, kept[name]) for name, weight in source.state_dict().items())
    assert not torch.allclose(model.policy.get_distribution(PREFIXES_BT).distribution.probs, next_token_probs(source))


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "QRDQN", "RecurrentPPO"])
@pytest.mark.parametrize("features", ["flat", "generator"])
def test_extractors_get_it_wherever_they_stand(algorithm: str, features: str) -> None:
    """Also in DQN's target network, and in both extractors where actor and critic have one each."""
    source = pretrained()
    is_two = {"share_features_extractor": False} if algorithm == "PPO" else {}
    model = make_model(algorithm, source, features, **is_two)
    model.learn(32)
    warm_start(model, source)
    extractors = [module for module in model.policy.modules() if isinstance(module, TokenExtractor)]
    assert len(extractors) == (1 if algorithm == "RecurrentPPO" else 2)
    for extractor in extractors:
        if features == "flat":
            assert extractor.embedding is not None
            assert torch.equal(extractor.embedding.weight, source.embedding)
        else:
            assert extractor.generator is not None
            torch.testing.assert_close(
                next_token_probs(extractor.generator), next_token_probs(source), rtol=0, atol=1e-6
            )
    assert not model.policy.optimizer.state
    kept = copy.deepcopy(source.state_dict())
    model.learn(32)
    assert all(torch.equal(weight, kept[name]) for name, weight in source.state_dict().items())


def test_a_saved_generator_is_taken_by_its_path(tmp_path: Any) -> None:
    source = pretrained()
    save_model(tmp_path / "generator", source, "lstm")
    model = warm_start(make_model("PPO", source), tmp_path / "generator")
    torch.testing.assert_close(next_token_probs(model.policy.generator), next_token_probs(source), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="nothing"):
        warm_start(model, str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (pretrained(hidden_dim=7), r"hidden_dim=6 in the model, hidden_dim=7 given; .*=generator_kwargs\(generator\)"),
        (pretrained(start_token=0), "start_token=None in the model, start_token=0 given"),
        (LSTMGenerator(V + 1, T, embedding_dim=3, hidden_dim=6), "has_eos=True in the model, has_eos=False given"),
        (LSTMGenerator(V + 2, T, True, embedding_dim=3, hidden_dim=6), "num_actions=5 .*they are of different tasks"),
        (LSTMGenerator(V + 1, T + 1, True, embedding_dim=3, hidden_dim=6), "sequence_length=4 in the model"),
    ],
)
def test_other_networks_are_refused_and_nothing_is_changed(source: Generator, words: str) -> None:
    for features in (None, "generator"):
        model = make_model("PPO", pretrained(), features)
        model.learn(16)
        before, moments = copy.deepcopy(model.policy.state_dict()), len(model.policy.optimizer.state)
        with pytest.raises(ValueError, match=words):
            warm_start(model, source)
        assert all(torch.equal(weight, before[name]) for name, weight in model.policy.state_dict().items())
        assert len(model.policy.optimizer.state) == moments > 0


@pytest.mark.parametrize(
    "source",
    [
        pretrained(embedding_dim=2),
        pretrained(start_token=0),
        LSTMGenerator(V + 2, T, embedding_dim=3, start_token=0),  # as many rows, of another task
    ],
)
def test_other_tables_are_refused(source: Generator) -> None:
    with pytest.raises(ValueError, match=r"table has \(6, 3\) .* choose embedding_dim as it has"):
        warm_start(make_model("DQN", pretrained(), "flat"), source)


def test_a_policy_without_a_place_is_refused() -> None:
    model = PPO("MlpPolicy", make_sb3_env("SeqGAN/Exact-v0", 2, **EXACT), device="cpu")
    with pytest.raises(ValueError, match=r"GeneratorPolicy, or policy_kwargs=.*TokenExtractor"):
        warm_start(model, pretrained())


def test_how_weights_were_drawn_does_not_matter() -> None:
    model = make_model("PPO", pretrained(init_std=0.1))
    source = pretrained(init_std=2.0)
    warm_start(model, source)
    torch.testing.assert_close(next_token_probs(model.policy.generator), next_token_probs(source))


class Bigram(Generator):
    """A generator that is in no registry; its embedding is a module."""

    def __init__(self, num_actions: int, sequence_length: int, has_eos: bool = False) -> None:
        super().__init__(num_actions, sequence_length, has_eos)
        self.embedding = nn.Embedding(num_actions + 1, 3)

    def initial_state(self, batch_size: int) -> Any:
        """Nothing read."""
        return (torch.zeros(batch_size, 3),)

    def step(self, tokens_B: torch.Tensor, state: Any) -> Any:
        """Logits of the last token alone."""
        hidden = self.embedding(tokens_B)
        return hidden @ self.embedding.weight[:-1].T, (hidden,)


def test_generators_of_other_classes() -> None:
    """Unregistered: no name to give; refused as a network; its table serves "flat" all the same."""
    source = Bigram(V + 1, T, True)
    with pytest.raises(ValueError, match=r"Bigram is not a registered generator; put @generators.register\(name\)"):
        generator_kwargs(source)
    with pytest.raises(ValueError, match=r"class='LSTMGenerator', .* in the model, class='Bigram'"):
        warm_start(make_model("PPO", pretrained()), source)
    model = warm_start(make_model("PPO", pretrained(), "flat"), source)
    assert torch.equal(model.policy.features_extractor.embedding.weight, source.embedding.weight)


def test_generator_kwargs_make_the_same_network() -> None:
    source = pretrained(start_token=2)
    kwargs = generator_kwargs(source)
    assert kwargs["generator"] == "lstm"
    assert kwargs["has_eos"] is True
    again = generators[kwargs["generator"]](V + 1, T, kwargs["has_eos"], **kwargs["generator_options"])
    assert again.config == source.config
