"""Rewards by formula: what is written is what is built, and what is not a reward is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqgan_rl.core.errors import InputError
from seqgan_rl.discriminators.base import Discriminator
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.rewards import MixtureReward, NormalisedReward, RankReward, ShuffledReward, formula_of, rewards
from seqgan_rl.rewards.base import RewardParts

torch.set_num_threads(1)

V, T = 6, 5


class FirstTokenDiscriminator(Discriminator):
    """Logit = first token - 2."""

    def __init__(self) -> None:
        super().__init__(V, T)
        self.shift = nn.Parameter(torch.tensor(-2.0))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return tokens_BT[:, 0] + self.shift


def some_tokens(B: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed)), torch.full((B,), T)


def parts() -> RewardParts:
    return RewardParts(
        discriminator=FirstTokenDiscriminator(),
        oracle=Oracle.from_seed(0, vocab_size=V, sequence_length=T),
        real=lambda: some_tokens(20, seed=1)[0],
        rng=np.random.default_rng(0),
    )


@pytest.mark.parametrize(
    ("formula", "weights"),
    [
        ("0.5*discriminator+0.5*bleu", {"discriminator": 0.5, "bleu": 0.5}),
        ("discriminator - 1e-1 * bleu2", {"discriminator": 1, "bleu2": -0.1}),
        ("-2*logit", {"logit": -2}),
        (" .25*oracle + logit+3.*constant ", {"oracle": 0.25, "logit": 1, "constant": 3}),
    ],
)
def test_a_formula_is_the_weighted_sum(formula: str, weights: dict[str, float]) -> None:
    assert formula in rewards
    batch = some_tokens()
    expected_B = sum(weight * rewards[name](parts())(*batch) for name, weight in weights.items())
    for written in (formula, formula_of(weights)):
        reward = rewards[written](parts())
        assert isinstance(reward, MixtureReward)
        torch.testing.assert_close(reward(*batch), expected_B, rtol=0, atol=1e-6)


def test_wrappers_go_around_formulas() -> None:
    batch = some_tokens()
    normalised = rewards["normalised(0.5*logit + bleu)"](parts())
    assert isinstance(normalised, NormalisedReward)
    assert isinstance(normalised.inner, MixtureReward)
    shuffled = rewards["shuffled(rank(logit))"](parts())
    assert isinstance(shuffled, ShuffledReward)
    assert isinstance(shuffled.inner, RankReward)
    assert torch.equal(shuffled(*batch).sort().values, rewards["rank(logit)"](parts())(*batch).sort().values)
    nested = rewards["2*normalised(logit) - oracle"](parts())
    assert nested.discriminator is not None
    with pytest.raises(InputError, match="RankReward acts on whole batches"):
        rewards["0.5*rank(logit) + bleu"](parts())


@pytest.mark.parametrize(
    ("formula", "needed"),
    [
        ("logit", True),
        ("bleu", False),
        ("bleu + oracle", False),
        ("bleu + 0.1*logit", True),
        ("normalised(bleu)", False),
        ("normalised", True),
        ("shuffled(constant)", False),
    ],
)
def test_it_is_known_which_need_a_discriminator(formula: str, needed: bool) -> None:
    assert rewards.needs_discriminator(formula) is needed


def test_the_names_in_a_formula_are_known() -> None:
    assert rewards.names_in("oracle_log_ratio") == {"oracle_log_ratio"}
    assert rewards.names_in("2*normalised(bleu - logit) + bleu") == {"bleu", "logit"}


@pytest.mark.parametrize(
    "wrong",
    [
        "0.5*",
        "*bleu",
        "bleu+",
        "bleu bleu+bleu",
        "0.5+bleu",
        "normalised(",
        "normalised()",
        "(bleu)",
        "bleu+)",
        "2*3*bleu",
    ],
)
def test_what_is_no_formula_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="is no reward: write a name, or a sum such as"):
        rewards[wrong]
    assert wrong not in rewards


def test_unknown_names_in_formulas_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown reward 'blue' \(did you mean 'bleu'\?\)"):
        rewards["0.5*blue + logit"]
    with pytest.raises(InputError, match="unknown wrapper of rewards 'normalized'"):
        rewards["normalized(logit)"]
    assert "0.5*blue + logit" not in rewards
    with pytest.raises(InputError, match="at least one name, got an empty mapping"):
        formula_of({})


def test_a_users_reward_takes_part_in_formulas() -> None:
    @rewards.register("test_names_first", needs_discriminator=False)
    def first(parts: Any) -> Any:
        return rewards["constant"](parts)

    assert rewards["3*test_names_first"](parts())(*some_tokens(2)).tolist() == [3.0, 3.0]
    assert not rewards.needs_discriminator("3*test_names_first")
    del rewards._factories["test_names_first"]
    rewards._without_discriminator.discard("test_names_first")
