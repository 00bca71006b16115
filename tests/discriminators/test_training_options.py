"""Options of the discriminator's training, each against its formula, and the diagnostics."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorTrainer,
    calibration_error,
    discriminators,
    mean_per_position,
    spread,
)
from seqgan_rl.discriminators.replay import Reservoir

torch.set_num_threads(1)

A, T = 9, 7


def some_tokens(B: int, seed: int = 0) -> Tensor:
    return torch.randint(A, (B, T), generator=torch.Generator().manual_seed(seed))


def make_trainer(config: DiscriminatorConfig) -> DiscriminatorTrainer:
    with torch_seeded(np.random.default_rng(0)):
        network = discriminators["small_cnn"](A, T, widths=(1, 2), filters=4, embedding_dim=5, dropout=0.0)
    return DiscriminatorTrainer(network, some_tokens(50, seed=5), config, np.random.default_rng(0))


def gradients_of(trainer: DiscriminatorTrainer) -> list[Tensor]:
    return [parameter.grad.double() for parameter in trainer.discriminator.parameters() if parameter.grad is not None]


def test_label_smoothing_is_one_sided() -> None:
    """-mean((1 - e) log D + e log(1 - D)) on real sequences, -mean(log(1 - D)) on generated ones, halved."""
    trainer = make_trainer(DiscriminatorConfig(label_smoothing=0.1))
    network = copy.deepcopy(trainer.discriminator).double()
    real_BT, fake_BT = some_tokens(16, seed=1), some_tokens(16, seed=2)
    d_real_B, d_fake_B = network(real_BT).sigmoid(), network(fake_BT).sigmoid()
    on_real = 0.9 * d_real_B.log() + 0.1 * (1 - d_real_B).log()
    loss = -(on_real.mean() + (1 - d_fake_B).log().mean()) / 2
    expected = torch.autograd.grad(loss, list(network.parameters()))
    assert trainer._update(real_BT, fake_BT)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for got, gradient in zip(gradients_of(trainer), expected, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["small_cnn", "gru", "causal_gru", "transformer"])
def test_the_gradient_penalty_is_r1(name: str) -> None:
    """gamma/2 mean |d logit / d embedded|^2 over the real sequences alone; the norm by finite differences in float64,
    and the step's gradient as the difference to the one without a penalty."""
    with torch_seeded(np.random.default_rng(0)):
        network = discriminators[name](A, T, dropout=0.0).double()
    tokens_BT = some_tokens(3)
    embedded_BTE = network.embed(tokens_BT).detach()
    squared = 0.0
    for index in np.ndindex(*embedded_BTE.shape[:2], 4):  # four of the E numbers of each position
        moved = [embedded_BTE.clone(), embedded_BTE.clone()]
        moved[0][index] += 1e-5
        moved[1][index] -= 1e-5
        up, down = (float(network.read(each, tokens_BT)[index[0]].detach()) for each in moved)
        squared += ((up - down) / 2e-5) ** 2
    embedded_BTE.requires_grad_()
    (gradient_BTE,) = torch.autograd.grad(network.read(embedded_BTE, tokens_BT).sum(), embedded_BTE)
    assert float(gradient_BTE[:, :, :4].square().sum()) == pytest.approx(squared, rel=1e-4)
    expected = float(gradient_BTE.square().sum(dim=(1, 2)).mean())
    assert float(network.squared_gradient(tokens_BT).detach()) == pytest.approx(expected, rel=1e-9)
    assert squared > 1e-6


def test_the_step_follows_the_penalty_on_real_sequences() -> None:
    real_BT, fake_BT = some_tokens(16, seed=1), some_tokens(16, seed=2)
    with_it, without = make_trainer(DiscriminatorConfig(gradient_penalty=3.0)), make_trainer(DiscriminatorConfig())
    squared = with_it.discriminator.squared_gradient(real_BT)
    parameters = list(with_it.discriminator.parameters())
    extra = torch.autograd.grad(1.5 * squared, parameters, allow_unused=True)
    record = with_it._update(real_BT, fake_BT)
    assert record["squared_gradient"] == pytest.approx(float(squared.detach()), rel=1e-5)
    assert "squared_gradient" not in without._update(real_BT, fake_BT)
    for got, plain, more in zip(gradients_of(with_it), gradients_of(without), extra, strict=True):
        wanted = plain if more is None else plain + more.double()
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_a_network_without_embedded_tokens_cannot_be_penalised() -> None:
    class Plain(Discriminator):
        def __init__(self) -> None:
            super().__init__(A, T)
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, tokens_BT: Tensor) -> Tensor:
            return self.weight * tokens_BT[:, 0]

    trainer = DiscriminatorTrainer(
        Plain(), some_tokens(5), DiscriminatorConfig(gradient_penalty=1.0), np.random.default_rng(0)
    )
    with pytest.raises(NotImplementedError, match=r"Plain has no embed\(\), which a gradient penalty needs"):
        trainer.train(some_tokens(5))
    assert not trainer.discriminator.training


# ---------------------------------------------------------------- older negatives


def test_a_share_of_each_minibatch_is_older() -> None:
    """None in the first call; then 4 of 16, from what was offered before, and none of the present draw among them."""
    trainer, seen = make_trainer(DiscriminatorConfig(batch_size=16, replay_share=0.25, replay_size=50)), []
    update = trainer._update

    def watch(real_BT: Tensor, fake_BT: Tensor) -> dict[str, float]:
        seen.append(fake_BT[:, 0].tolist())
        return update(real_BT, fake_BT)

    trainer._update = watch  # type: ignore[method-assign]
    draws = [torch.full((32, T), draw, dtype=torch.int64) for draw in range(3)]
    for fake_BT in draws:
        trainer.train(fake_BT)
    assert [sorted(set(first)) for first in seen[:2]] == [[0], [0]]
    assert [first.count(1) for first in seen[2:4]] == [12, 12]
    assert [first.count(0) for first in seen[2:4]] == [4, 4]
    assert [first.count(2) for first in seen[4:]] == [12, 12]
    assert all(set(first) <= {0, 1, 2} for first in seen)
    assert len(trainer.replay) == 50


def test_without_replay_nothing_is_kept_and_no_number_changes() -> None:
    """The random stream of runs without replay is that of before there was one."""
    trainer, rng = make_trainer(DiscriminatorConfig(batch_size=16)), np.random.default_rng(0)
    trainer.train(some_tokens(32))
    rng.integers(2**63)
    rng.permutation(32)
    for _ in range(2):
        rng.integers(50, size=16)
    assert trainer.rng.random() == rng.random()
    assert len(trainer.replay) == 0


def test_a_reservoir_keeps_every_offer_with_the_same_probability() -> None:
    """3,000 reservoirs of 5 places, 20 offers in uneven calls: chi-square over the offers, false alarm 1e-6."""
    counts = np.zeros(20)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        reservoir, first = Reservoir(5), 0
        for size in (3, 1, 7, 0, 9):
            reservoir.offer(torch.arange(first, first + size)[:, None], rng)
            first += size
        assert reservoir.tokens_CT is not None
        kept = reservoir.tokens_CT[:, 0].numpy()
        assert len(set(kept)) == 5
        counts[kept] += 1
    expected = 3000 * 5 / 20
    # each count is binomial(3000, 1/4); the 20 sum to 15,000
    statistic = ((counts - expected) ** 2 / (expected * 0.75)).sum() * 19 / 20
    assert stats.chi2.sf(statistic, 19) > 1e-6
    draws = reservoir.draw(200, rng)
    assert set(draws[:, 0].tolist()) == set(kept.tolist())


@pytest.mark.parametrize("capacity", [4, 20])
def test_a_reservoir_of_another_size_is_no_continuation(capacity: int) -> None:
    """10 of 30 kept are no uniform 4, and 20 places would keep all that is offered next."""
    rng, reservoir, other = np.random.default_rng(0), Reservoir(10), Reservoir(capacity)
    reservoir.offer(torch.arange(30)[:, None], rng)
    words = f"holds 10 of 30 sequences offered, which is not what a reservoir of {capacity} places keeps"
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(reservoir.state_dict())
    assert (len(other), other.num_offered) == (0, 0)
    same = Reservoir(10)
    same.load_state_dict(reservoir.state_dict())
    assert torch.equal(same.draw(50, np.random.default_rng(1)), reservoir.draw(50, np.random.default_rng(1)))


def test_states_from_before_there_was_replay_can_be_loaded() -> None:
    trainer = make_trainer(DiscriminatorConfig(batch_size=16))
    state = trainer.state_dict()
    del state["replay"]
    trainer.load_state_dict(state)
    assert len(trainer.replay) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_smoothing": 0.5}, r"label_smoothing must lie in \[0, 0.5\), got 0.5"),
        ({"gradient_penalty": -1}, "gradient_penalty must be a finite number of at least 0, got -1"),
        ({"gradient_penalty": math.inf}, "gradient_penalty must be a finite number"),
        ({"replay_share": 1.5}, r"replay_share must lie in \[0, 1\], got 1.5"),
        ({"replay_size": 0}, "replay_size must be at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DiscriminatorConfig(**options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- diagnostics


def test_calibration_error_is_its_sum_over_bins() -> None:
    """Sum over 10 bins of n_bin / n |share real - mean probability|, by loops; 0 for what is calibrated."""
    rng = np.random.default_rng(0)
    p, is_real = rng.random(500), rng.random(500) < 0.5
    p[:3] = 0, 1, 0.3
    expected = 0.0
    for m in range(10):
        inside = (p * 10 >= m) & ((p * 10 < m + 1) | (m == 9))
        if inside.any():
            expected += inside.mean() * abs(is_real[inside].mean() - p[inside].mean())
    assert calibration_error(torch.from_numpy(p), torch.from_numpy(is_real)) == pytest.approx(expected, abs=1e-12)
    assert calibration_error(torch.tensor([0.5] * 4), torch.tensor([True, False, True, False])) == 0
    assert calibration_error(torch.tensor([1.0] * 4), torch.tensor([False] * 4)) == 1
    # the last two bins, wrong in opposite ways: (|1 - 0.85| + |0 - 0.95|) / 2
    assert calibration_error(torch.tensor([0.85, 0.95]), torch.tensor([True, False])) == pytest.approx(0.55, abs=1e-6)
    assert math.isnan(calibration_error(torch.empty(0), torch.empty(0, dtype=torch.bool)))
    n = 200_000
    p, is_real = np.full(n, 0.37), rng.random(n) < 0.37
    deviation = math.sqrt(0.37 * 0.63 / n)  # two-sided z-test, false alarm 1e-6
    assert calibration_error(torch.from_numpy(p), torch.from_numpy(is_real)) < 4.892 * deviation


def test_held_out_reports_calibration_as_if_of_equal_numbers() -> None:
    """20 real and 30 generated sequences count as 60 and 60; D = 1/2 is calibrated however many there are of each."""
    trainer = make_trainer(DiscriminatorConfig())
    real_BT, fake_BT = some_tokens(20, seed=1), some_tokens(30, seed=2)
    probability = trainer.discriminator.score(torch.cat([real_BT.repeat(3, 1), fake_BT.repeat(2, 1)])).sigmoid()
    got = trainer.held_out(real_BT, fake_BT)
    assert got["held_out_calibration"] == pytest.approx(
        calibration_error(probability, torch.arange(120) < 60), abs=1e-6
    )
    with torch.no_grad():
        for weight in trainer.discriminator.output.parameters():  # type: ignore[union-attr]
            weight.zero_()
    assert trainer.held_out(real_BT, fake_BT)["held_out_calibration"] == pytest.approx(0, abs=1e-12)


def test_profile_and_spread_read_actions_alone() -> None:
    value_NT = torch.tensor([[1.0, 5.0, 9.0], [3.0, 100.0, 100.0], [5.0, 7.0, 100.0]])
    is_action_NT = torch.tensor([[True, True, False], [True, False, False], [True, True, False]])
    profile_T = mean_per_position(value_NT, is_action_NT)
    assert profile_T[:2].tolist() == [3.0, 6.0]
    assert profile_T[2].isnan()
    figures = spread(value_NT, is_action_NT)
    values = np.array([1.0, 5, 3, 5, 7])
    assert figures["advantage_std"] == pytest.approx(values.std())
    assert figures["advantage_p5"] == pytest.approx(np.percentile(values, 5))
    assert figures["advantage_p95"] == pytest.approx(np.percentile(values, 95))
    assert math.isnan(spread(value_NT, torch.zeros_like(is_action_NT))["advantage_std"])


def test_the_step_size_falls_in_a_line_over_pretraining_and_stays() -> None:
    trainer = make_trainer(DiscriminatorConfig(learning_rate=0.1, decay_to=0.2, pretrain_minibatches=4, batch_size=4))
    rates = []
    for _ in range(6):
        trainer.train(some_tokens(4))
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02, 0.02])
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"decay_to must lie in \(0, 1\], got"):
            DiscriminatorConfig(decay_to=share)
