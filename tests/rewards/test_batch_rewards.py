"""Rewards that set each sequence against its batch: their formulas on action values, and where they are refused."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import CNNDiscriminator
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.rewards import (
    ConstantReward,
    MaliGANReward,
    MixtureReward,
    NormalisedReward,
    RandomReward,
    RankReward,
    Reward,
    ShuffledReward,
    check_batch,
)
from seqgan_rl.rewards.base import FunctionReward
from seqgan_rl.rewards.rescaled import descending_ranks
from seqgan_rl.rollout import action_values, prefix_values

torch.set_num_threads(1)

V, T, B, N = 5, 4, 6, 3


def make_discriminator() -> CNNDiscriminator:
    with torch_seeded(np.random.default_rng(1)):
        network = CNNDiscriminator(V, T, widths=(1, 2), filters=8, embedding_dim=8)
        with torch.no_grad():
            network.output.weight.mul_(10)
    return network


def some_values(*shape: int, ties: bool = True) -> Tensor:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return (values * 4).ceil() / 4 if ties else values


MAKERS: dict[str, Any] = {
    "maligan": lambda: MaliGANReward(make_discriminator()),
    "rank": lambda: RankReward(FunctionReward(lambda tokens_BT, lengths_B: tokens_BT.double().sum(dim=1))),
}


def test_maligan_divides_by_the_mean_of_the_batch() -> None:
    """B r_D(x_i) / sum_j r_D(x_j) with r_D = D / (1 - D), and the same at each position of action values."""
    reward, discriminator = MAKERS["maligan"](), make_discriminator()
    tokens_BT, lengths_B = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0)), torch.full((B,), T)
    d = discriminator.score(tokens_BT).double().sigmoid()
    ratios = (d / (1 - d)).tolist()
    assert reward(tokens_BT, lengths_B).tolist() == pytest.approx([B * r / sum(ratios) for r in ratios], rel=1e-5)
    assert max(ratios) / min(ratios) > 1.5, "the case tells sequences apart"
    values_BT = some_values(B, T)
    torch.testing.assert_close(reward.arrange(values_BT), values_BT / values_BT.mean(dim=0), rtol=1e-6, atol=1e-6)
    values_BT[:2, 0] = 0  # given by a prompt, so not scored
    arranged_BT = reward.arrange(values_BT)
    assert arranged_BT[:2, 0].tolist() == [0, 0]
    assert float(arranged_BT[2:, 0].mean()) == pytest.approx(1, abs=1e-6)
    assert not reward.arrange(torch.zeros(3, 2)).any(), "a position that nobody acts at"


@pytest.mark.parametrize("shape", [(7,), (7, 3), (2, 1)])
def test_ranks_are_counted_with_ties_shared(shape: tuple[int, ...]) -> None:
    """1 + those above + half the others that are equal, and then sigmoid(delta (0.5 - rank / B)), per position."""
    values = some_values(*shape)
    assert len(values.unique()) < values.numel() or shape == (2, 1), "the case holds ties"
    expected = torch.empty(shape, dtype=torch.float64)
    for index in np.ndindex(*shape):
        column = values[(slice(None), *index[1:])]
        expected[index] = 1 + (column > values[index]).sum() + ((column == values[index]).sum() - 1) / 2
    assert torch.equal(descending_ranks(values), expected)
    reward = RankReward(ConstantReward(), delta=3.0)
    got = reward.arrange(values)
    assert got.dtype == torch.float32
    for index in np.ndindex(*shape):
        rescaled = 1 / (1 + math.exp(-3.0 * (0.5 - float(expected[index]) / len(values))))
        assert float(got[index]) == pytest.approx(rescaled, abs=1e-6)


def test_ranks_do_not_depend_on_the_order_of_the_rows() -> None:
    """What the released program gets wrong: there the rank is the order in which values appear."""
    values_BT = some_values(9, 4, ties=False)
    order_B = torch.from_numpy(np.random.default_rng(0).permutation(9))
    reward = RankReward(ConstantReward())
    assert torch.equal(reward.arrange(values_BT[order_B]), reward.arrange(values_BT)[order_B])
    best_BT = reward.arrange(values_BT).argmax(dim=0)
    assert torch.equal(best_BT, values_BT.argmax(dim=0))
    with pytest.raises(ValueError, match="delta must be a finite number above 0, got 0"):
        RankReward(ConstantReward(), delta=0)


@pytest.mark.parametrize("name", MAKERS)
def test_shaped_rewards_telescope_to_the_arranged_reward(name: str) -> None:
    """Of sequences of one length, Φ of every step (one call a step) equals the column of the action values (one call
    for all), and so r_t = Φ_t - Φ_{t-1} sums to the arranged R(Y) of the batch."""
    reward = MAKERS[name]()
    with torch_seeded(np.random.default_rng(0)):
        policy = LSTMGenerator(V, T, hidden_dim=6, init_std=1.0)
    rng = np.random.default_rng(1)
    tokens_BT, lengths_B = policy.sample(B, rng=rng), torch.full((B,), T)
    uniforms_BTNT = torch.from_numpy(rng.random((B, T - 1, N, T), dtype=np.float32))
    q_BT = action_values(policy, reward, tokens_BT, lengths_B, uniforms_BTNT)
    phi_B, total_B = torch.zeros(B), torch.zeros(B)
    for t in range(1, T + 1):
        is_finished_B = torch.full((B,), t == T)
        uniforms_BNT = uniforms_BTNT[:, min(t, T - 1) - 1]
        value_B = prefix_values(
            policy, reward, tokens_BT, torch.full((B,), t), uniforms_BNT, is_finished_B=is_finished_B
        )
        torch.testing.assert_close(value_B, q_BT[:, t - 1], rtol=1e-5, atol=1e-5)
        total_B, phi_B = total_B + value_B - phi_B, value_B
    torch.testing.assert_close(total_B, reward(tokens_BT, lengths_B), rtol=1e-5, atol=1e-5)
    assert q_BT.std() > 0.01


@pytest.mark.parametrize("name", [*MAKERS, "shuffled"])
def test_they_are_refused_where_there_is_no_batch(name: str) -> None:
    """A single environment for all of them; for those that take a scale from the batch also sequences with EOS."""
    reward: Reward = (
        ShuffledReward(ConstantReward(), np.random.default_rng(0)) if name == "shuffled" else MAKERS[name]()
    )
    assert reward.depends_on_batch
    with pytest.raises(InputError, match="a single environment has no others"):
        check_batch(reward, num_envs=1, has_eos=False)
    check_batch(reward, num_envs=2, has_eos=False)
    if name == "shuffled":
        check_batch(reward, num_envs=2, has_eos=True)
        return
    with pytest.raises(InputError, match="sequences that end by EOS"):
        check_batch(reward, num_envs=2, has_eos=True)
    with pytest.raises(InputError, match="score more than 1"):
        reward(torch.zeros(1, T, dtype=torch.int64), torch.tensor([T]))
    with pytest.raises(InputError, match="sequences that end by EOS"):  # also where a control holds it
        check_batch(ShuffledReward(reward, np.random.default_rng(0)), num_envs=2, has_eos=True)
    for wrap in (NormalisedReward, RankReward, lambda inner: MixtureReward([(0.5, inner)])):
        with pytest.raises(InputError, match="acts on whole batches of action values and cannot be part of"):
            wrap(reward)
    check_batch(ConstantReward(), num_envs=1, has_eos=True)


def test_noise_per_action_value_cannot_be_mixed_in() -> None:
    """Summed with others before completions are averaged it would shrink, and no longer be the control."""
    with pytest.raises(InputError, match="RandomReward acts on whole batches"):
        MixtureReward([(1.0, RandomReward(np.random.default_rng(0)))])


def test_shuffling_keeps_what_the_inner_reward_does_to_its_batch() -> None:
    values_BT = some_values(40, 3)
    shuffled = ShuffledReward(MAKERS["maligan"](), np.random.default_rng(0)).arrange(values_BT)
    torch.testing.assert_close(shuffled.mean(dim=0), torch.ones(3))
    assert not torch.equal(shuffled, MAKERS["maligan"]().arrange(values_BT))


def test_rows_that_end_alone_do_not_keep_their_own_value() -> None:
    """Groups of 1 to 3 rows with values 0, 1, 2, ...: after the first 70 rows at most a tenth get their own (about 1
    in 64 would by chance), what was handed out is what was handed in, and profiles stay whole."""
    reward, sizes = ShuffledReward(ConstantReward(), np.random.default_rng(0)), np.random.default_rng(1)
    given, got, first = [], [], 0
    for _ in range(400):
        n = int(sizes.integers(1, 4))
        values_BT = torch.arange(first, first + n)[:, None].float() + torch.tensor([0.0, 0.5])
        out_BT = reward.arrange(values_BT)
        assert torch.equal(out_BT[:, 1], out_BT[:, 0] + 0.5)
        given += values_BT[:, 0].tolist()
        got += out_BT[:, 0].tolist()
        first += n
    own = [a == b for a, b in zip(given[70:], got[70:], strict=True)]
    assert np.mean(own) < 0.1
    assert set(got) <= set(given)
    assert len(set(got)) > 0.85 * len(given), "hardly a value is handed out twice, and few are left waiting"


def test_the_pool_is_part_of_the_state() -> None:
    first, second = (ShuffledReward(ConstantReward(), np.random.default_rng(seed)) for seed in (0, 1))
    for start in range(20):
        first.arrange(torch.arange(start, start + 5.0))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for start in range(20, 30):
        values_B = torch.arange(start, start + 5.0)
        assert torch.equal(second.arrange(values_B), first.arrange(values_B))
