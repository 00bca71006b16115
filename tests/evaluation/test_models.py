"""evaluate_models: what it finds is what the parts say, for generators and for any policy with probabilities."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from torch import Tensor

from seqgan_rl import ModelPolicy, make_sb3_env
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.evaluation import Evaluator, PolicyGenerator, Scores, TemperatureCurve, evaluate_models, pareto_test
from seqgan_rl.models.decoding import State
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.oracle import Oracle

V, T = 7, 5
SWEEP = (0.6, 0.8, 1.0)


class Policy:
    """The least that a rollout policy is, around a generator."""

    eos_id: int | None = None

    def __init__(self, generator: LSTMGenerator) -> None:
        self.num_actions, self.generator = generator.num_actions, generator

    def initial_state(self, batch_size: int) -> State:
        return self.generator.initial_state(batch_size)

    @torch.no_grad()
    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        return self.generator.step(tokens_B, state)


def make_generator(seed: int) -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(seed)):
        return LSTMGenerator(V, T, embedding_dim=4, hidden_dim=4, init_std=1.0)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    oracle = Oracle.from_seed(3, vocab_size=V, sequence_length=T, embedding_dim=4, hidden_dim=4)
    test_BT, train_BT = (oracle.sample(n, np.random.default_rng(n)) for n in (200, 300))
    return Evaluator(test_BT, oracle=oracle, train_BT=train_BT, n_samples=150, smoothing="method1", js_sequences=50)


def test_finds_what_the_parts_say(evaluator: Evaluator, tmp_path: Path) -> None:
    assert evaluator.oracle is not None
    mle, other = make_generator(0), make_generator(1)
    models = {"MLE": mle, "other": other, "oracle": evaluator.oracle.generator}
    found = evaluate_models(models, evaluator, sweep=SWEEP, baseline_temperatures=(*SWEEP, 1.2), progress=False)
    curve = TemperatureCurve.measure(mle, evaluator, (*SWEEP, 1.2))
    assert found.curves["MLE"].points == curve.points
    assert found.curves["other"].temperatures == SWEEP
    for name, model in models.items():
        assert found.scores(name) == evaluator.scores(model)
    assert set(found.gaps) == {"other", "oracle"}
    assert found.gaps["other"] == {
        "nll": curve.gap(found.scores("other")),
        "bleu_4": curve.bleu_gap(found.scores("other")),
    }
    scored = {name: found.scores(name) for name in models}
    bleu_test = pareto_test(scored, quality="bleu_4", coverage="self_bleu_4")
    assert [test.dominated for test in found.pareto] == [pareto_test(scored).dominated, bleu_test.dominated]
    assert {"MLE", "other"} <= set(found.pareto[0].dominated)  # the oracle is better than both
    assert list(found.tables) == ["scores", "samples", "gaps", "sweep"]
    assert found.tables["samples"].header == ("score", "real (training)", "MLE", "other", "oracle")

    names = {path.name for path in found.write(tmp_path / "scores")}
    assert names == {"scores.json", "scores.md"} | {f"sweep_{x}.{s}" for x in ("nll", "bleu") for s in ("png", "svg")}
    document = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert Scores.from_json(document["rows"][1]["scores"]) == found.scores("other")
    assert "Dominated in both nll_oracle" in (tmp_path / "scores" / "scores.md").read_text()


def test_floors_are_scored_and_do_not_compete(evaluator: Evaluator) -> None:
    assert evaluator.oracle is not None
    models = {"oracle": evaluator.oracle.generator, "MLE": make_generator(0), "other": make_generator(1)}
    found = evaluate_models(
        models, evaluator, sweep=SWEEP, baseline_temperatures=SWEEP, floors=["oracle"], progress=False
    )
    assert [row.name for row in found.rows] == ["oracle", "MLE", "other"]
    assert set(found.curves) == {"MLE", "other"}
    assert set(found.gaps) == {"other"}
    assert {test.names for test in found.pareto} == {("MLE", "other")}


def test_without_a_sweep_there_are_scores_alone(evaluator: Evaluator, tmp_path: Path) -> None:
    plain = Evaluator(evaluator.test_BT, n_samples=100)
    found = evaluate_models({"MLE": make_generator(0)}, plain, progress=False)
    assert (found.curves, found.gaps, found.pareto, found.real) == ({}, {}, (), None)
    assert list(found.tables) == ["scores"]
    assert [path.name for path in found.write(tmp_path)] == ["scores.json", "scores.md"]
    with pytest.raises(KeyError, match="no model 'MLF'"):
        found.scores("MLF")


def test_a_policy_is_scored_as_its_generator(evaluator: Evaluator) -> None:
    """Samples are equal: a generator and the policy around it draw with the same numbers."""
    generator = make_generator(0)
    found = evaluate_models({"policy": Policy(generator)}, evaluator, sweep=SWEEP, progress=False)
    for temperature, point in zip(SWEEP, found.curves["policy"].points, strict=True):
        expected = evaluator.scores(generator, temperature=temperature)
        for metric in ("nll_oracle", "nll_test", "entropy", "conditional_js", "bleu_4", "distinct_tokens"):
            assert point.value(metric) == pytest.approx(expected.value(metric), abs=1e-5), metric


@pytest.mark.parametrize("exploration", [0.4, 0.0])
def test_an_sb3_model_has_probabilities_at_every_temperature(exploration: float) -> None:
    """Those of all 3^3 sequences add up to 1, and what a greedy model never plays has none."""
    env = make_sb3_env("SeqGAN/Exact-v0", 2, vocab_size=3, sequence_length=3, variable_length=False, num_rollouts=2)
    model = DQN("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    model.exploration_rate = exploration
    player = PolicyGenerator(ModelPolicy(model), 3)
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    for temperature in (0.5, 1.0, 2.0):
        probs = player.log_prob(every, temperature=temperature).sum(dim=1).exp()
        assert float(probs.sum()) == pytest.approx(1, abs=1e-5)
        assert int((probs > 0).sum()) == (27 if exploration else 1)
    scores = Evaluator(every, n_samples=20).scores(player)
    assert math.isinf(scores.nll_test) == (exploration == 0)
    env.close()


def test_same_seed_same_numbers(evaluator: Evaluator) -> None:
    one, again = (evaluate_models({"MLE": make_generator(0)}, evaluator, progress=False).to_json() for _ in range(2))
    assert one == again


def test_refusals(evaluator: Evaluator) -> None:
    with pytest.raises(InputError, match="at least one model"):
        evaluate_models({}, evaluator)
    for sweep in ((1.0, 0.5), (1.0, 1.0, 0.5), (0.0, 0.5, 1.0)):
        with pytest.raises(InputError, match="sweep must hold at least 3 temperatures above 0"):
            evaluate_models({"MLE": make_generator(0)}, evaluator, sweep=sweep)
    with pytest.raises(ValueError, match="js_sequences must be 0, for none, or at least 2"):
        Evaluator(evaluator.test_BT, js_sequences=1)
