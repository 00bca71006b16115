"""Maximum likelihood: it finds a known distribution, keeps the best weights, and continues bit for bit."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.exact import ExactTask, SequenceTree
from seqgan_rl.models.decoding import State
from seqgan_rl.models.generator import Generator, LSTMGenerator
from seqgan_rl.models.likelihood import (
    LikelihoodConfig,
    LikelihoodTrainer,
    likelihood_loss,
    nll_per_token,
    sequence_nll,
    set_frequency_bias,
)
from seqgan_rl.models.oracle import Oracle

torch.set_num_threads(1)


def make_lstm(num_actions: int, sequence_length: int, has_eos: bool = False) -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(0)):
        return LSTMGenerator(num_actions, sequence_length, has_eos, embedding_dim=8, hidden_dim=16)


def constant_policy(probabilities: list[float], T: int, has_eos: bool) -> LSTMGenerator:
    """A generator with these next-token probabilities after every prefix."""
    generator = make_lstm(len(probabilities), T, has_eos)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
        generator.output_bias.copy_(torch.tensor(probabilities).log())
    return generator


def test_nll_per_token_by_hand() -> None:
    """Two sequences, EOS = 2 and PAD = 3, three and one tokens: (ln 2 + ln 4 + ln 4 + ln 4) / 4 nats."""
    generator = constant_policy([0.5, 0.25, 0.25], T=3, has_eos=True)
    tokens_BT = torch.tensor([[0, 1, 2], [2, 3, 3]])
    expected = (math.log(2) + 3 * math.log(4)) / 4
    assert nll_per_token(generator, tokens_BT) == pytest.approx(expected, abs=1e-6)
    assert float(likelihood_loss(generator, tokens_BT).detach()) == pytest.approx(expected, abs=1e-6)
    assert sequence_nll(generator, tokens_BT).tolist() == pytest.approx([math.log(32), math.log(4)], abs=1e-6)


def test_a_uniform_generator_costs_log_V() -> None:
    generator = constant_policy([1 / 5000] * 5000, T=20, has_eos=False)
    tokens_BT = torch.randint(5000, (3, 20), generator=torch.Generator().manual_seed(0))
    assert nll_per_token(generator, tokens_BT) == pytest.approx(8.517193, abs=1e-5)  # ln 5000


def test_temperature_reaches_the_score() -> None:
    """At temperature 0.5 probabilities are squared and normalised: 0.64 / 0.68 and 0.04 / 0.68."""
    generator = constant_policy([0.8, 0.2], T=2, has_eos=False)
    expected = -(math.log(0.64 / 0.68) + math.log(0.04 / 0.68)) / 2
    assert nll_per_token(generator, torch.tensor([[0, 1]]), temperature=0.5) == pytest.approx(expected, abs=1e-6)


def test_it_recovers_a_known_distribution() -> None:
    """Exact KL(oracle || generator) over all sequences falls below 0.01 nats from 6,000 samples.

    The floor of maximum likelihood with as many samples is about free parameters / 2n = 63 / 12,000 = 0.005.
    """
    V, T = 4, 3
    oracle, tree = Oracle.from_seed(5, vocab_size=V, sequence_length=T), SequenceTree(V, T)
    generator = make_lstm(V, T)
    real_BT = oracle.sample(7000, np.random.default_rng(0))
    config = LikelihoodConfig(batch_size=128, max_epochs=25)
    trainer = LikelihoodTrainer(generator, real_BT[:6000], real_BT[6000:], config, np.random.default_rng(1))
    task = ExactTask(tree, torch.zeros(tree.num_sequences))
    truth = task.policy_log_probs(oracle.generator)

    def divergence() -> float:
        kl = task.evaluate(truth, [logp_PA.detach() for logp_PA in task.policy_log_probs(generator)]).kl
        assert kl is not None
        return float(kl)

    before = divergence()
    for _ in trainer.epochs():
        pass
    assert before > 0.5
    assert 0 <= divergence() < 0.01


def small_trainer(**options: Any) -> LikelihoodTrainer:
    """Forty sequences with EOS: too few, so that it overfits soon."""
    rng = np.random.default_rng(3)
    teacher = constant_policy([0.4, 0.3, 0.2, 0.1], T=6, has_eos=True)
    data_BT = teacher.sample(60, rng=rng)
    config = LikelihoodConfig(**{"batch_size": 8, "max_epochs": 40, "patience": 2, "decays": 1} | options)
    return LikelihoodTrainer(make_lstm(4, 6, True), data_BT[:40], data_BT[40:], config, rng)


def test_early_stopping_keeps_the_best_weights() -> None:
    trainer = small_trainer()
    history, weights = [], []
    for figures in trainer.epochs():
        history.append(figures["valid_nll"])
        weights.append(copy.deepcopy(trainer.generator.state_dict()))
    best = int(np.argmin(history))
    assert best < len(history) - 1 < 39, "the case overfits and stops early"
    assert trainer.best_nll == history[best]
    assert nll_per_token(trainer.generator, trainer.valid_BT) == pytest.approx(history[best], abs=1e-12)
    assert len(history) > best + trainer.config.patience


def test_after_patience_the_step_shrinks_and_the_best_weights_return() -> None:
    trainer = small_trainer(learning_rate=0.05)
    history = list(trainer.epochs())
    rates = [figures["learning_rate"] for figures in history]
    assert sorted(set(rates), reverse=True) == pytest.approx([0.05, 0.01])
    assert rates == sorted(rates, reverse=True)


def test_patience_0_runs_every_epoch_and_keeps_the_last_weights() -> None:
    trainer = small_trainer(patience=0, max_epochs=12)
    history = list(trainer.epochs())
    assert [figures["epoch"] for figures in history] == list(range(1, 13))
    assert nll_per_token(trainer.generator, trainer.valid_BT) == pytest.approx(history[-1]["valid_nll"], abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.3, "frequency_bias": True}])
@pytest.mark.parametrize("epochs_before", [0, 1, 5, 100])
def test_a_resumed_training_gives_the_same_bits(epochs_before: int, options: dict[str, Any]) -> None:
    whole, first, second = small_trainer(**options), small_trainer(**options), small_trainer(**options)
    expected = list(whole.epochs())
    got: list[dict[str, float]] = []
    while len(got) < epochs_before and not first.done:
        got.append(first.run_epoch())
    second.rng.random(17)  # wherever its stream stands
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    got += list(second.epochs())
    assert got == expected
    for name, weights in whole.generator.state_dict().items():
        assert torch.equal(second.generator.state_dict()[name], weights), name


class Rows:
    """Stands in for forty sequences and notes which are asked for."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __len__(self) -> int:
        return 40

    def __getitem__(self, rows: Tensor) -> Tensor:
        self.seen.append(rows.tolist())
        return torch.zeros(len(rows), 6, dtype=torch.int64)


def test_the_order_of_the_data_is_the_rngs_or_none() -> None:
    """Without shuffling every epoch sees the same minibatches; with it no epoch repeats another, and all see all."""
    for shuffle in (False, True):
        trainer = small_trainer(shuffle=shuffle, patience=0, max_epochs=3)
        rows = Rows()
        trainer.train_BT = rows  # type: ignore[assignment]
        list(trainer.epochs())
        epochs = [list(itertools.chain.from_iterable(rows.seen[5 * e : 5 * e + 5])) for e in range(3)]
        assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
        assert (epochs[0] == epochs[1]) is not shuffle


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"decays": -1}, "decays must be at least 0"),
        ({"weight_decay": -0.1}, "weight_decay must be from 0 to below 1 / learning_rate"),
        ({"weight_decay": 100.0}, "weight_decay must be from 0 to below 1 / learning_rate"),
    ],
)
def test_impossible_configurations_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LikelihoodConfig(**options)


def test_no_data_is_refused() -> None:
    nothing, something = torch.zeros(0, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64)
    for train_BT, valid_BT in ((nothing, something), (something, nothing)):
        with pytest.raises(ValueError, match="training and validation need sequences"):
            LikelihoodTrainer(make_lstm(3, 3), train_BT, valid_BT, LikelihoodConfig(), np.random.default_rng(0))


def test_training_moves_no_global_random_state() -> None:
    trainer = small_trainer(max_epochs=2)
    before = torch.random.get_rng_state()
    list(trainer.epochs())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_trained_generator_that_gets_no_better_keeps_its_weights() -> None:
    """Continued training is a control: it must not hand back something worse than it was given."""
    rng = np.random.default_rng(0)
    real_BT = torch.from_numpy(rng.integers(3, size=(64, 4)))
    generator = LSTMGenerator(3, 4, hidden_dim=4)
    for _ in LikelihoodTrainer(generator, real_BT, real_BT, LikelihoodConfig(max_epochs=30), rng).epochs():
        pass
    before = {name: weight.clone() for name, weight in generator.state_dict().items()}
    wild = LikelihoodConfig(learning_rate=5.0, max_epochs=3, patience=3)
    for _ in LikelihoodTrainer(generator, real_BT, real_BT, wild, rng).epochs():
        pass
    assert all(torch.equal(before[name], weight) for name, weight in generator.state_dict().items())


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_weight_decay_is_adamw_on_all_but_biases(weight_decay: float) -> None:
    """Against torch's own, one optimiser for each weight."""
    trainer = small_trainer(weight_decay=weight_decay, clip_norm=1e9, learning_rate=0.02)
    twin, tokens_BT = copy.deepcopy(trainer.generator), trainer.train_BT[:8]
    optimizers = [
        torch.optim.AdamW([weight], lr=0.02, weight_decay=weight_decay if weight.dim() > 1 else 0.0)
        for weight in twin.parameters()
    ]
    for _ in range(5):
        trainer.update(tokens_BT)
        for optimizer in optimizers:
            optimizer.zero_grad()
        likelihood_loss(twin, tokens_BT).backward()
        for optimizer in optimizers:
            optimizer.step()
    for weight, expected in zip(trainer.generator.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


def test_the_frequency_bias_alone_is_the_unigram_model() -> None:
    generator = constant_policy([1 / 3, 1 / 3, 1 / 3], 3, True)  # two words, EOS, and PAD behind it
    tokens_BT = torch.tensor([[0, 0, 0], [1, 2, 3], [0, 2, 3]])
    set_frequency_bias(generator, tokens_BT)
    expected = torch.tensor([4.5, 1.5, 2.5]) / 8.5
    torch.testing.assert_close(generator.logits(tokens_BT)[1, 0].softmax(dim=-1), expected)
    assert float(generator.output_bias.detach().mean()) == pytest.approx(0, abs=1e-6)
    trainer = LikelihoodTrainer(
        generator, tokens_BT, tokens_BT, LikelihoodConfig(frequency_bias=True), np.random.default_rng(0)
    )
    counts = torch.tensor([4.0, 1.0, 2.0])
    assert trainer.best_nll == pytest.approx(float(-(counts * expected.log()).sum() / 7), abs=1e-6)


def test_the_frequency_bias_needs_an_output_bias() -> None:
    generator = make_lstm(3, 3)
    del generator.output_bias
    with pytest.raises(InputError, match=r"needs a generator with an output_bias of shape \(3,\), which LSTMGenerator"):
        set_frequency_bias(generator, torch.zeros(2, 3, dtype=torch.int64))


class Unigram(Generator):
    """One weight a word and no matrix."""

    def __init__(self, num_actions: int, sequence_length: int) -> None:
        super().__init__(num_actions, sequence_length, False)
        self.output_bias = torch.nn.Parameter(torch.zeros(num_actions))

    def initial_state(self, batch_size: int) -> State:
        return (self.output_bias.new_zeros(batch_size, 1),)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        return self.output_bias.expand(len(tokens_B), -1), state


def test_a_generator_of_biases_alone_has_nothing_to_decay() -> None:
    tokens_BT = torch.from_numpy(np.random.default_rng(0).integers(3, size=(32, 4)))
    weights = []
    for weight_decay in (0.0, 0.9):
        config = LikelihoodConfig(weight_decay=weight_decay, max_epochs=2)
        trainer = LikelihoodTrainer(Unigram(3, 4), tokens_BT, tokens_BT, config, np.random.default_rng(0))
        list(trainer.epochs())
        weights.append(trainer.generator.state_dict()["output_bias"])
    assert torch.equal(*weights)
