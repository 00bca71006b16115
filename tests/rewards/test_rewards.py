"""Rewards: each is its formula, scored in evaluation mode, without gradients, row by row."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators.base import Discriminator
from seqgan_rl.discriminators.cnn import CNNDiscriminator
from seqgan_rl.discriminators.likelihood_ratio import LikelihoodRatioDiscriminator
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.rewards import (
    BLEUReward,
    ConstantReward,
    DiscriminatorReward,
    MaliGANReward,
    MixtureReward,
    NormalisedReward,
    OracleLogLikelihood,
    OracleLogRatio,
    RandomReward,
    RankGANReward,
    RankReward,
    Reward,
    ShuffledReward,
    rewards,
)
from seqgan_rl.rewards.base import FunctionReward, RewardParts, as_reward

torch.set_num_threads(1)

V, T = 6, 5


class FirstTokenDiscriminator(Discriminator):
    """Logit = weight * first token; in training mode it returns nonsense instead."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(V, T)
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return torch.full((len(tokens_BT),), 1e6) if self.training else self.weight * tokens_BT[:, 0]


def some_tokens(B: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed)), torch.full((B,), T)


def make_generator() -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(0)):
        return LSTMGenerator(V, T, hidden_dim=8, init_std=0.5)


def make_discriminator(dropout: float = 0.5) -> CNNDiscriminator:
    with torch_seeded(np.random.default_rng(1)):
        return CNNDiscriminator(V, T, widths=(1, 2, 3), filters=8, embedding_dim=8, dropout=dropout, token_dropout=0.3)


def make_oracle() -> Oracle:
    return Oracle.from_seed(0, vocab_size=V, sequence_length=T)


# ---------------------------------------------------------------- formulas


def test_probability_is_the_sigmoid_of_the_logit() -> None:
    tokens_BT, lengths_B = some_tokens()
    reward_B = DiscriminatorReward(FirstTokenDiscriminator(0.7))(tokens_BT, lengths_B)
    expected = [1 / (1 + math.exp(-0.7 * token)) for token in tokens_BT[:, 0].tolist()]
    assert reward_B.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_logit_is_clipped_to_10_on_both_sides() -> None:
    tokens_BT, lengths_B = torch.arange(V)[:, None].expand(V, T), torch.full((V,), T)
    for weight in (4.0, -4.0):
        reward_B = DiscriminatorReward(FirstTokenDiscriminator(weight), "logit")(tokens_BT, lengths_B)
        assert reward_B.tolist() == [max(-10.0, min(10.0, weight * token)) for token in range(V)]
    with pytest.raises(
        ValueError, match="form must be one of probability, logit, log_d, neg_log_one_minus_d, odds; got"
    ):
        DiscriminatorReward(FirstTokenDiscriminator(), "hinge")


@pytest.mark.parametrize(
    ("form", "formula"),
    [
        ("log_d", lambda d: math.log(d)),
        ("neg_log_one_minus_d", lambda d: -math.log(1 - d)),
        ("odds", lambda d: d / (1 - d)),
    ],
)
def test_the_other_forms_are_their_formulas_of_d(form: str, formula: Callable[[float], float]) -> None:
    """Of D = sigmoid(0.7 * first token), and of the logit clipped to +-10 where it is larger."""
    tokens_BT, lengths_B = torch.arange(V)[:, None].expand(V, T), torch.full((V,), T)
    for weight in (0.7, -0.7, 4.0, -4.0):
        reward_B = DiscriminatorReward(FirstTokenDiscriminator(weight), form)(tokens_BT, lengths_B)
        logits = [max(-10.0, min(10.0, weight * token)) for token in range(V)]
        expected = [formula(1 / (1 + math.exp(-logit))) for logit in logits]
        assert reward_B.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_rankgan_is_its_formula() -> None:
    """Mean over references of exp(g cos(y, u)) / (exp(g cos(y, u)) + sum over comparisons of exp(g cos(s, u))), then
    the logarithm: by loops over the discriminator's features."""
    discriminator, real_NT = make_discriminator().eval(), some_tokens(50, seed=3)[0]
    reward = RankGANReward(
        discriminator, real_NT, np.random.default_rng(0), num_references=4, num_compared=7, gamma=2.5
    )
    (tokens_BT, lengths_B), got = some_tokens(6), []
    assert (reward.reference_UT.shape, reward.compared_CT.shape) == ((4, T), (7, T))
    rows = torch.cat([reward.reference_UT, reward.compared_CT])
    assert all((row == real_NT).all(dim=1).any() for row in rows)

    def cosine(one_T: Tensor, other_T: Tensor) -> float:
        one_F, other_F = (discriminator.features(t[None])[0].detach().double() for t in (one_T, other_T))
        return float(one_F @ other_F / (one_F.norm() * other_F.norm()))

    for tokens_T in tokens_BT:
        shares = []
        for reference_T in reward.reference_UT:
            own = math.exp(2.5 * cosine(tokens_T, reference_T))
            others = sum(math.exp(2.5 * cosine(other_T, reference_T)) for other_T in reward.compared_CT)
            shares.append(own / (own + others))
        got.append(math.log(sum(shares) / len(shares)))
    assert reward(tokens_BT, lengths_B).tolist() == pytest.approx(got, abs=1e-5)
    assert np.std(got) > 0.01, "the case tells sequences apart"
    for wrong in ({"num_references": 0}, {"num_compared": 0}, {"gamma": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            RankGANReward(discriminator, real_NT, np.random.default_rng(0), **wrong)


def test_a_mixture_is_the_weighted_sum_and_hands_its_discriminator_on() -> None:
    first, second, (tokens_BT, lengths_B) = FirstTokenDiscriminator(0.7), FirstTokenDiscriminator(-0.4), some_tokens()
    mixture = MixtureReward([(0.25, DiscriminatorReward(first)), (-2.0, MAKERS["oracle"]()), (3.0, ConstantReward())])
    expected_B = 0.25 * first.score(tokens_BT).sigmoid() - 2 * MAKERS["oracle"]()(tokens_BT, lengths_B) + 3
    torch.testing.assert_close(mixture(tokens_BT, lengths_B), expected_B, rtol=0, atol=1e-5)
    assert mixture.discriminator is first
    mixture.discriminator = second
    assert mixture.components[0].discriminator is second
    assert mixture.components[1].discriminator is None
    assert mixture.reads_sequences
    for weight in (float("nan"), float("inf"), -1e39):  # the last is infinite in float32
        with pytest.raises(InputError, match="the weights of a mixture of rewards must be finite numbers"):
            MixtureReward([(1.0, ConstantReward()), (weight, ConstantReward())])
    assert not MixtureReward([(1.0, ConstantReward())]).reads_sequences
    with pytest.raises(ValueError, match="at least one reward, got none"):
        MixtureReward([])


def test_normalised_takes_each_batch_in_after_scoring_it() -> None:
    """Three batches against the mean and deviation of all raw scores before; the first stays as it is."""
    raw, reward, seen = MAKERS["oracle"](), NormalisedReward(MAKERS["oracle"]()), torch.empty(0)
    for seed, B in enumerate((1, 7, 30, 4)):
        tokens_BT, lengths_B = some_tokens(B, seed)
        score_B = raw(tokens_BT, lengths_B)
        mean, deviation = (seen.mean(), seen.std(correction=0)) if len(seen) > 1 else (0.0, 1.0)
        torch.testing.assert_close(reward(tokens_BT, lengths_B), (score_B - mean) / deviation, rtol=1e-4, atol=1e-4)
        seen = torch.cat([seen, score_B])
    assert reward.count == 42
    reward.is_frozen = True
    once_B = reward(*some_tokens())
    assert torch.equal(reward(*some_tokens()), once_B)
    assert NormalisedReward(ConstantReward(2.0))(*some_tokens()).tolist() == [2.0] * 20
    steady = NormalisedReward(ConstantReward(2.0))
    assert [steady(*some_tokens(3))[0].item() for _ in range(3)] == [2.0, 0.0, 0.0], "no deviation divides by 1"
    small = NormalisedReward(FunctionReward(lambda tokens_BT, lengths_B: 1e-9 * tokens_BT[:, 0]))
    small(*some_tokens(30))
    assert float(small(*some_tokens(30)).std(correction=0)) == pytest.approx(1), "a small reward is a reward"


def test_oracle_log_likelihood_is_nats_per_token() -> None:
    oracle, (tokens_BT, lengths_B) = make_oracle(), some_tokens()
    reward_B = OracleLogLikelihood(oracle)(tokens_BT, lengths_B)
    torch.testing.assert_close(reward_B, oracle.generator.log_prob(tokens_BT).mean(dim=1), rtol=0, atol=1e-6)


def test_oracle_log_ratio_is_the_difference_per_token_to_the_generator_as_it_was() -> None:
    oracle, generator, (tokens_BT, lengths_B) = make_oracle(), make_generator(), some_tokens()
    reward = OracleLogRatio(oracle, generator)

    def ratio_B() -> Tensor:
        return ((oracle.log_prob(tokens_BT) - generator.log_prob(tokens_BT)).sum(dim=1) / T).detach()

    then_B = ratio_B()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(3)
    torch.testing.assert_close(reward(tokens_BT, lengths_B), then_B, rtol=0, atol=1e-5)
    reward.refresh(generator)
    torch.testing.assert_close(reward(tokens_BT, lengths_B), ratio_B(), rtol=0, atol=1e-5)
    assert all(parameter.requires_grad for parameter in generator.parameters()), "the caller's own stays trainable"


def test_the_log_ratio_of_the_oracle_to_itself_is_zero() -> None:
    oracle, (tokens_BT, lengths_B) = make_oracle(), some_tokens()
    assert OracleLogRatio(oracle, oracle.generator)(tokens_BT, lengths_B).abs().max() < 1e-6


# ---------------------------------------------------------------- promises of every reward


def frozen_after_a_batch(reward: NormalisedReward) -> NormalisedReward:
    reward(*some_tokens(20, seed=8))
    reward.is_frozen = True
    return reward


MAKERS: dict[str, Callable[[], Reward]] = {
    "discriminator": lambda: DiscriminatorReward(make_discriminator()),
    "logit": lambda: DiscriminatorReward(make_discriminator(), "logit"),
    "oracle": lambda: OracleLogLikelihood(make_oracle()),
    "oracle_log_ratio": lambda: OracleLogRatio(make_oracle(), make_generator()),
    "log_d": lambda: DiscriminatorReward(make_discriminator(), "log_d"),
    "neg_log_one_minus_d": lambda: DiscriminatorReward(make_discriminator(), "neg_log_one_minus_d"),
    "odds": lambda: DiscriminatorReward(make_discriminator(), "odds"),
    "rankgan": lambda: RankGANReward(make_discriminator(), some_tokens(90, seed=9)[0], np.random.default_rng(0)),
    "bleu": lambda: BLEUReward(some_tokens(30, seed=9)[0], max_n=2),
    "mixture": lambda: MixtureReward([(0.5, MAKERS["logit"]()), (-1.0, MAKERS["bleu"]())]),
    "normalised": lambda: frozen_after_a_batch(NormalisedReward(MAKERS["logit"]())),
    "constant": lambda: ConstantReward(0.5),
    "function": lambda: FunctionReward(lambda tokens_BT, lengths_B: tokens_BT.double().mean(dim=1)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_reward_is_float32_without_gradient_and_each_row_its_own(name: str) -> None:
    """Permuting rows permutes rewards, a changed row changes itself alone, a row alone scores the same (to 1e-5).

    The second batch is large enough that the discriminator tabulates its filters, the single row is not.
    """
    reward = MAKERS[name]()
    tokens_BT, lengths_B = some_tokens(40)
    reward_B = reward(tokens_BT, lengths_B)
    assert reward_B.dtype == torch.float32
    assert reward_B.shape == (40,)
    assert not reward_B.requires_grad
    order_B = torch.from_numpy(np.random.default_rng(0).permutation(40))
    torch.testing.assert_close(reward(tokens_BT[order_B], lengths_B), reward_B[order_B], rtol=0, atol=1e-5)
    for b in (0, 17, 39):
        torch.testing.assert_close(reward(tokens_BT[b : b + 1], lengths_B[:1])[0], reward_B[b], rtol=0, atol=1e-5)
        changed_BT = tokens_BT.clone()
        changed_BT[b] = (changed_BT[b] + 1) % V
        others = torch.arange(40) != b
        torch.testing.assert_close(reward(changed_BT, lengths_B)[others], reward_B[others], rtol=0, atol=1e-5)
    assert reward(tokens_BT[:0], lengths_B[:0]).shape == (0,)


@pytest.mark.parametrize("form", ["probability", "logit"])
@pytest.mark.parametrize("was_training", [True, False])
def test_the_discriminator_scores_in_evaluation_mode_whatever_mode_it_was_left_in(
    form: str, was_training: bool
) -> None:
    """No dropout in rewards (pitfall 2 of seqgan.md), and the mode, of all submodules, is put back."""
    discriminator, (tokens_BT, lengths_B) = make_discriminator(), some_tokens()
    reward = DiscriminatorReward(discriminator, form)
    with torch.no_grad():
        logits_B = discriminator.eval()(tokens_BT)
    discriminator.train(was_training)
    reward_B = reward(tokens_BT, lengths_B)
    torch.testing.assert_close(reward_B, logits_B.sigmoid() if form == "probability" else logits_B, rtol=0, atol=1e-5)
    assert torch.equal(reward(tokens_BT, lengths_B), reward_B)
    assert [module.training for module in discriminator.modules()] == [was_training] * len(
        list(discriminator.modules())
    )


def test_the_mode_is_put_back_after_an_error() -> None:
    discriminator = make_discriminator().train()

    def fail() -> None:
        with evaluation_mode(discriminator):
            assert not discriminator.training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert discriminator.training


def test_a_reward_follows_its_discriminator_as_it_is_retrained() -> None:
    discriminator, (tokens_BT, lengths_B) = FirstTokenDiscriminator(0.0), some_tokens()
    reward = DiscriminatorReward(discriminator)
    assert (reward(tokens_BT, lengths_B) == 0.5).all()
    with torch.no_grad():
        discriminator.weight.fill_(100.0)
    assert torch.equal(reward(tokens_BT, lengths_B) == 0.5, tokens_BT[:, 0] == 0)


@pytest.mark.parametrize("name", MAKERS)
def test_scoring_moves_no_global_random_state(name: str) -> None:
    reward = MAKERS[name]()
    before = torch.random.get_rng_state()
    reward(*some_tokens())
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------- controls


def test_constant() -> None:
    assert ConstantReward(0.25)(*some_tokens(3)).tolist() == [0.25] * 3


def test_random_is_uniform_and_anew_each_time() -> None:
    """Mean and variance of 40,000 draws: two-sided z-tests, false alarm 1e-6 each."""
    reward = RandomReward(np.random.default_rng(0))
    first_B, second_B = reward(*some_tokens(40_000)), reward(*some_tokens(40_000))
    assert first_B.dtype == torch.float32
    assert not torch.equal(first_B, second_B)
    assert 0 <= first_B.min() < 0.001
    assert 0.999 < first_B.max() < 1
    assert abs(float(first_B.mean()) - 1 / 2) < 4.892 * (1 / 12 / 40_000) ** 0.5
    assert abs(float(first_B.var()) - 1 / 12) < 4.892 * (1 / 180 / 40_000) ** 0.5  # var of (U - 1/2)^2 is 1/180


def test_shuffled_is_a_permutation_of_the_inner_reward() -> None:
    inner, (tokens_BT, lengths_B) = MAKERS["oracle"](), some_tokens(50)
    inner_B = inner(tokens_BT, lengths_B)
    shuffled = ShuffledReward(inner, np.random.default_rng(0))
    first_B, second_B = shuffled(tokens_BT, lengths_B), shuffled(tokens_BT, lengths_B)
    for got_B in (first_B, second_B):
        torch.testing.assert_close(got_B.sort().values, inner_B.sort().values)
        assert not torch.equal(got_B, inner_B)
    assert not torch.equal(first_B, second_B)
    assert torch.equal(shuffled.score(tokens_BT, lengths_B), inner_B), (
        "completions are averaged before they are permuted"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: RandomReward(np.random.default_rng(seed)),
        lambda seed: ShuffledReward(MAKERS["oracle"](), np.random.default_rng(seed)),
        lambda seed: ShuffledReward(RandomReward(np.random.default_rng(seed)), np.random.default_rng(seed + 1)),
    ],
    ids=["random", "shuffled", "shuffled random"],
)
def test_a_control_continues_from_its_state(make: Callable[[int], Reward]) -> None:
    first, second = make(0), make(10)
    first(*some_tokens())
    state = copy.deepcopy(first.state_dict())
    expected_B = first(*some_tokens())
    assert not torch.equal(second(*some_tokens()), expected_B)
    second.load_state_dict(state)
    assert torch.equal(second(*some_tokens()), expected_B)


def test_running_figures_continue_from_their_state() -> None:
    first, second = NormalisedReward(MAKERS["oracle"]()), NormalisedReward(MAKERS["oracle"]())
    first(*some_tokens(30))
    second(*some_tokens(9, seed=1))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for seed in (2, 3):
        assert torch.equal(second(*some_tokens(10, seed)), first(*some_tokens(10, seed)))
    first.is_frozen = True
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for seed in (4, 5):
        assert torch.equal(second(*some_tokens(10, seed)), first(*some_tokens(10, seed)))
    assert second.count == first.count == 50, "what stood still stands still"
    mixture = MixtureReward([(1.0, first), (2.0, ConstantReward())])
    other = MixtureReward([(1.0, NormalisedReward(MAKERS["oracle"]())), (2.0, ConstantReward())])
    other.load_state_dict(mixture.state_dict())
    assert torch.equal(other(*some_tokens()), mixture(*some_tokens()))


# ---------------------------------------------------------------- users' functions, names


def test_a_function_is_a_reward_and_its_answer_is_checked() -> None:
    tokens_BT, lengths_B = some_tokens(4)
    assert as_reward(lambda tokens, lengths: lengths)(tokens_BT, lengths_B).tolist() == [float(T)] * 4
    assert as_reward(lambda tokens, lengths: [1, 2, 3, 4])(tokens_BT, lengths_B).tolist() == [1, 2, 3, 4]  # type: ignore[arg-type, return-value]
    wrong: list[Any] = [
        lambda tokens, lengths: tokens,
        lambda tokens, lengths: 1.0,
        lambda tokens, lengths: lengths[:2],
    ]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"a reward must return shape \(4,\), one number a row; got"):
            as_reward(bad)(tokens_BT, lengths_B)
    with pytest.raises(TypeError, match=r"a reward is a Reward or a function of .* got str"):
        as_reward("probability")  # type: ignore[arg-type]
    reward = ConstantReward()
    assert as_reward(reward) is reward


def test_every_name_makes_its_reward_and_says_what_it_lacks() -> None:
    parts: dict[str, Any] = {
        "discriminator": FirstTokenDiscriminator(),
        "oracle": make_oracle(),
        "generator": make_generator(),
        "real": lambda: some_tokens(30)[0],
        "rng": np.random.default_rng(0),
    }
    kinds = {name: type(rewards[name](RewardParts(**parts))) for name in rewards}
    assert kinds == {
        "bleu": BLEUReward,
        "bleu2": BLEUReward,
        "bleu3": BLEUReward,
        "constant": ConstantReward,
        "discriminator": DiscriminatorReward,
        "log_d": DiscriminatorReward,
        "logit": DiscriminatorReward,
        "maligan": MaliGANReward,
        "neg_log_one_minus_d": DiscriminatorReward,
        "normalised": NormalisedReward,
        "oracle": OracleLogLikelihood,
        "oracle_log_ratio": OracleLogRatio,
        "random": RandomReward,
        "rank": RankReward,
        "rankgan": RankGANReward,
        "shuffled": ShuffledReward,
    }
    lacking = RewardParts(rng=np.random.default_rng(0))
    for name, words in (
        ("logit", "needs a discriminator"),
        ("oracle", "needs the oracle"),
        ("shuffled", "needs a discriminator"),
        ("bleu", "reward 'bleu' compares with real sequences, and the task has none"),
    ):
        with pytest.raises(InputError, match=words):
            rewards[name](lacking)
    with pytest.raises(InputError, match="needs the generator"):
        rewards["oracle_log_ratio"](RewardParts(oracle=parts["oracle"], rng=parts["rng"]))
    with pytest.raises(
        InputError, match="unknown reward 'shufled' \\(did you mean 'shuffled'\\?\\); known are: bleu, "
    ):
        rewards["shufled"]


def test_prefixes_are_scored_as_if_they_were_whole() -> None:
    """However a reward comes by it: equal to its scores of every prefix, one sequence at a time; R(Y) after the end."""
    with torch_seeded(np.random.default_rng(0)):
        network = LikelihoodRatioDiscriminator(V, T, embedding_dim=4, hidden_dim=4)
    tokens_BT, lengths_B = some_tokens(20)[0], torch.arange(20) % T + 1
    tokens_BT = tokens_BT.masked_fill(torch.arange(T) >= lengths_B[:, None], V)
    length = FunctionReward(lambda tokens_BT, lengths_B: lengths_B.float())
    for reward in (
        DiscriminatorReward(network, "logit"),
        ShuffledReward(DiscriminatorReward(network), np.random.default_rng(0)),
        MixtureReward([(0.5, DiscriminatorReward(network)), (-2.0, length)]),
        length,
    ):
        found_BT = reward.score_prefixes(tokens_BT, V)
        for t in range(T):
            prefixes_BT = tokens_BT.masked_fill(torch.arange(T) > t, V)
            expected_B = reward.score(prefixes_BT, lengths_B.clamp(max=t + 1))
            torch.testing.assert_close(found_BT[:, t], expected_B, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found_BT[:, -1], reward.score(tokens_BT, lengths_B), rtol=1e-5, atol=1e-5)
