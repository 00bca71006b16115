"""Scheduled sampling: schedules as published, prefixes drawn from the generator itself, and the loss on true tokens."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.exact import SequenceTree
from seqgan_rl.models.decoding import State
from seqgan_rl.models.generator import Generator, LSTMGenerator, generators
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer, likelihood_loss
from seqgan_rl.models.scheduled_sampling import (
    ScheduledSamplingConfig,
    ScheduledSamplingTrainer,
    mixed_prefixes,
    prefix_loss,
)

torch.set_num_threads(1)


def make_lstm(num_actions: int, sequence_length: int, has_eos: bool = False) -> LSTMGenerator:
    """Its conditionals differ clearly from prefix to prefix."""
    with torch_seeded(np.random.default_rng(0)):
        return LSTMGenerator(num_actions, sequence_length, has_eos, embedding_dim=4, hidden_dim=6, init_std=1.0)


class Stepwise(Generator):
    """The same distribution through the two methods that a generator must have."""

    def __init__(self, inner: Generator) -> None:
        super().__init__(inner.num_actions, inner.sequence_length, inner.eos_id is not None)
        self.inner = inner

    def initial_state(self, batch_size: int) -> State:
        return self.inner.initial_state(batch_size)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        return self.inner.step(tokens_B, state)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "inverse_sigmoid", "k": 10.0}, {0: 10 / 11, 23: 10 / (10 + math.exp(2.3)), 10**7: 0.0}),
        ({"schedule": "linear", "k": 0.9, "slope": 0.01, "floor": 0.25}, {0: 0.9, 20: 0.7, 65: 0.25, 1000: 0.25}),
        ({"schedule": "exponential", "k": 0.5}, {0: 1.0, 1: 0.5, 3: 0.125}),
        ({}, {0: 300 / 301, 1711: 0.5}),
        ({"schedule": "exponential"}, {1386: 0.5}),
    ],
)
def test_schedules_are_those_of_the_paper(options: dict[str, Any], expected: dict[int, float]) -> None:
    config = ScheduledSamplingConfig(**options)
    for i, rate in expected.items():
        assert config.truth_rate(i) == pytest.approx(rate, abs=1e-3 if i > 1000 else 1e-12)


@pytest.mark.parametrize("has_eos", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "stepwise"])
def test_prefixes_are_true_tokens_or_draws_from_the_generator(kind: str, has_eos: bool) -> None:
    """20,000 mixed prefixes of one true sequence against their exact distribution, at a share of true tokens of 0.4:
    P(r) = Π_t [0.4 [r_t = y_t] + 0.6 p(r_t | r_{<t})], where a draw of EOS gives y_t. Chi-square, false alarm 1e-6;
    argmax in place of the draw, or one coin a sequence, fails it by far."""
    V, T, n, rate = 3, 4, 20_000, 0.4
    tree = SequenceTree(V, T, has_eos)
    lstm = make_lstm(tree.num_actions, T, has_eos)
    generator = lstm if kind == "lstm" else Stepwise(lstm)
    true = [2, 0, 1, V if has_eos else 0]
    read_BT = mixed_prefixes(generator, torch.tensor([true]).expand(n, T), rate, np.random.default_rng(0))
    assert (read_BT[:, -1] == true[-1]).all()  # nothing reads it
    tables = [logp_PA.detach().exp() for logp_PA in tree.policy_log_probs(lstm)]
    probability = np.zeros(V ** (T - 1))
    for number, prefix in enumerate(tree.prefixes(T - 1).tolist()):
        p, row = 1.0, 0
        for t, token in enumerate(prefix):
            draws = tables[t][row]
            stays = rate + (1 - rate) * (float(draws[true[t]]) + float(draws[V:].sum()))
            p *= stays if token == true[t] else (1 - rate) * float(draws[token])
            row = row * V + token
        probability[number] = p
    assert probability.sum() == pytest.approx(1, abs=1e-5)
    counts = np.bincount((read_BT[:, :-1] @ torch.tensor([9, 3, 1])).numpy(), minlength=27)
    frequent = probability * n > 5
    assert (
        stats.chisquare(
            [*counts[frequent], counts[~frequent].sum() + 1e-9],
            [*(probability[frequent] * n), n * probability[~frequent].sum() + 1e-9],
        ).pvalue
        > 1e-6
    )


def test_true_tokens_alone_at_rate_1_and_pad_always_stays() -> None:
    generator = make_lstm(4, 5, has_eos=True)
    tokens_BT = torch.tensor([[0, 1, 3, 4, 4], [2, 2, 1, 0, 1], [3, 4, 4, 4, 4]])
    assert torch.equal(mixed_prefixes(generator, tokens_BT, 1.0, np.random.default_rng(0)), tokens_BT)
    for seed in range(20):
        read_BT = mixed_prefixes(generator, tokens_BT, 0.0, np.random.default_rng(seed))
        assert torch.equal(read_BT == 4, tokens_BT == 4)
        is_true_eos = tokens_BT == 3
        assert ((read_BT != 3) | is_true_eos).all()
    state = np.random.default_rng(7), np.random.default_rng(7)
    mixed_prefixes(generator, tokens_BT, 1.0, state[0])
    mixed_prefixes(generator, tokens_BT, 0.3, state[1])
    assert state[0].random() == state[1].random()  # the rate does not move the stream


@pytest.mark.parametrize("has_eos", [False, True])
def test_the_loss_is_of_the_true_tokens_after_the_prefixes_read(has_eos: bool) -> None:
    """Value and gradient against plain loops, -Σ log p(y_t | r_{<t}) / tokens; both routes."""
    generator = make_lstm(4, 3, has_eos).double()
    tokens_BT = torch.tensor([[0, 1, 3], [3, 4, 4] if has_eos else [3, 2, 1], [1, 1, 1]])
    read_BT = torch.where(tokens_BT == 4, 4, torch.tensor([[2, 2, 3], [0, 0, 0], [1, 0, 2]]))
    total, count = torch.zeros((), dtype=torch.float64), 0
    for read, true in zip(read_BT.tolist(), tokens_BT.tolist(), strict=True):
        state, last = generator.initial_state(1), generator.pad_id
        for read_token, true_token in zip(read, true, strict=True):
            if true_token == generator.pad_id:
                break
            logits_1A, state = generator.step(torch.tensor([last]), state)
            total, count, last = total - logits_1A.log_softmax(dim=1)[0, true_token], count + 1, read_token
    expected = torch.autograd.grad(total / count, list(generator.parameters()))
    for network in (generator, Stepwise(generator)):
        loss = prefix_loss(network, read_BT, tokens_BT)
        assert float(loss.detach()) == pytest.approx(float(total.detach()) / count, abs=1e-7)  # weights 1/9 in float32
        for got, wanted in zip(torch.autograd.grad(loss, list(generator.parameters())), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-7)
    generator.float()
    likelihood = prefix_loss(generator, tokens_BT, tokens_BT)
    assert float(likelihood.detach()) == float(likelihood_loss(generator, tokens_BT).detach())


def test_a_transformer_is_trained_as_well() -> None:
    """Its output layer's own route against the steps, value and gradient."""
    with torch_seeded(np.random.default_rng(0)):
        generator = generators["transformer"](5, 4, True).eval()
    rng = np.random.default_rng(1)
    tokens_BT = generator.sample(12, rng=rng)
    read_BT = mixed_prefixes(generator, tokens_BT, 0.3, rng)
    assert not torch.equal(read_BT, tokens_BT)
    parameters, grads = list(generator.parameters()), []
    for network in (generator, Stepwise(generator)):
        loss = prefix_loss(network, read_BT, tokens_BT)
        grads.append(torch.autograd.grad(loss, parameters))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def small_trainer(**options: Any) -> ScheduledSamplingTrainer:
    rng = np.random.default_rng(3)
    data_BT = make_lstm(4, 6, True).sample(60, rng=rng)
    config = ScheduledSamplingConfig(**{"batch_size": 8, "max_epochs": 12, "patience": 2, "k": 5.0} | options)
    with torch_seeded(np.random.default_rng(9)):
        generator = LSTMGenerator(4, 6, True, embedding_dim=4, hidden_dim=6)
    return ScheduledSamplingTrainer(generator, data_BT[:40], data_BT[40:], config, rng)


def test_without_draws_it_is_maximum_likelihood() -> None:
    """The first epoch, bit for bit; after it the streams differ by the coins."""
    ours = small_trainer(schedule="linear", k=1.0, slope=0.0)
    theirs = LikelihoodTrainer(
        copy.deepcopy(ours.generator),
        ours.train_BT,
        ours.valid_BT,
        LikelihoodConfig(batch_size=8),
        copy.deepcopy(ours.rng),
    )
    figures = ours.run_epoch()
    assert figures.pop("truth_rate") == 1.0
    assert figures == theirs.run_epoch()
    for name, weights in theirs.generator.state_dict().items():
        assert torch.equal(ours.generator.state_dict()[name], weights)


def test_the_share_of_true_tokens_falls_by_minibatches() -> None:
    history = list(small_trainer(max_epochs=4, patience=0).epochs())
    expected = [5 / (5 + math.exp(5 * epoch / 5)) for epoch in (1, 2, 3, 4)]  # five minibatches an epoch
    assert [figures["truth_rate"] for figures in history] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("epochs_before", [0, 1, 5])
def test_a_resumed_training_gives_the_same_bits(epochs_before: int) -> None:
    whole, first, second = small_trainer(), small_trainer(), small_trainer()
    expected = list(whole.epochs())
    got = [first.run_epoch() for _ in range(epochs_before)]
    second.rng.random(17)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    got += list(second.epochs())
    assert got == expected
    assert len(expected) > 5
    for name, weights in whole.generator.state_dict().items():
        assert torch.equal(second.generator.state_dict()[name], weights), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "cosine"}, "schedule must be one of inverse_sigmoid, linear, exponential; got 'cosine'"),
        ({"k": 0.5}, "k of the inverse_sigmoid schedule must be at least 1, got 0.5"),
        ({"schedule": "linear", "k": 1.5}, r"k of the linear schedule must be in \[0, 1\], got 1.5"),
        ({"schedule": "exponential", "k": 1.0}, r"k of the exponential schedule must be in \(0, 1\), got 1.0"),
        ({"schedule": "linear", "slope": -1.0}, "slope must be a finite number of at least 0, got -1.0"),
        ({"schedule": "linear", "floor": 1.0}, r"floor must lie in \[0, 1\), got 1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScheduledSamplingConfig(**options)
