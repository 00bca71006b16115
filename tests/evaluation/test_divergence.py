"""The conditional Jensen-Shannon divergence against a plain loop over prefixes, and at its ends."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.evaluation import Evaluator, conditional_js, divergence
from seqgan_rl.models.generator import Generator, LSTMGenerator
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.models.sampling import SamplingOptions

V, T = 6, 4


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.from_seed(3, vocab_size=V, sequence_length=T, embedding_dim=4, hidden_dim=4)


@pytest.fixture(scope="module")
def held_out_BT(oracle: Oracle) -> Tensor:
    return oracle.sample(40, np.random.default_rng(0))


@pytest.fixture(scope="module")
def generator() -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(0)):
        return LSTMGenerator(V, T, embedding_dim=4, hidden_dim=4, init_std=1.0)


def next_word(model: Generator, prefix: list[int], options: SamplingOptions) -> list[float]:
    state = model.initial_state(1)
    for token in [model.pad_id, *prefix]:
        with torch.no_grad():
            logits, state = model.step(torch.tensor([token]), state)
    return options.apply(logits)[0].double().softmax(0).tolist()


def kl(p: list[float], m: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, m, strict=True) if a > 0)


@pytest.mark.parametrize("options", [SamplingOptions(temperature=0.7), SamplingOptions(top_k=2, forbidden=(1,))])
def test_equals_plain_loops(
    oracle: Oracle,
    generator: LSTMGenerator,
    held_out_BT: Tensor,
    options: SamplingOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also cut into blocks of two sequences."""
    samples_BT = generator.sample(10, rng=np.random.default_rng(1))
    halves = list[list[float]]()
    for part in (samples_BT, held_out_BT):
        halves.append([])
        for tokens in part.tolist():
            total = 0.0
            for t in range(T):
                g = next_word(generator, tokens[:t], options)
                o = next_word(oracle.generator, tokens[:t], SamplingOptions())
                m = [(a + b) / 2 for a, b in zip(g, o, strict=True)]
                total += kl(g, m) / 2 + kl(o, m) / 2
            halves[-1].append(total / T)
    error = math.sqrt(sum(np.var(half, ddof=1) / len(half) for half in halves)) / 2
    expected = (sum(np.mean(half) for half in halves) / 2, error)
    assert conditional_js(generator, oracle, samples_BT, held_out_BT, options) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(divergence, "NUMBERS", 2 * T * V)
    assert conditional_js(generator, oracle, samples_BT, held_out_BT, options) == pytest.approx(expected, abs=1e-6)


def test_zero_for_the_oracle_and_near_ln_2_for_what_it_hardly_writes(oracle: Oracle, held_out_BT: Tensor) -> None:
    assert conditional_js(
        oracle.generator, oracle, held_out_BT, held_out_BT, SamplingOptions()
    ) == pytest.approx((0, 0), abs=1e-6)  # fmt: skip
    with torch.no_grad():
        unlikely = int(oracle.generator.logits(held_out_BT).mean(dim=(0, 1)).argmin())
    rest = tuple(word for word in range(V) if word != unlikely)
    js, _ = conditional_js(oracle.generator, oracle, held_out_BT, held_out_BT, SamplingOptions(forbidden=rest))
    assert 0.6 * math.log(2) < js < math.log(2)


def test_evaluator_reports_it_and_a_collapse_costs(
    oracle: Oracle, generator: LSTMGenerator, held_out_BT: Tensor
) -> None:
    """The oracle has none at temperature 1; sharpened to one string, more than an untrained model."""
    evaluator = Evaluator(held_out_BT, oracle=oracle, n_samples=40, js_sequences=40)
    plain, sharp = (evaluator.scores(oracle.generator, temperature=t) for t in (1.0, 0.05))
    untrained = evaluator.scores(generator)
    assert plain.conditional_js == pytest.approx(0, abs=1e-6)
    assert (sharp.conditional_js or 0) > (untrained.conditional_js or 0) > 0.01
    assert sharp.standard_errors["conditional_js"] > 0
    assert Evaluator(held_out_BT, n_samples=40, js_sequences=40).scores(generator).conditional_js is None
