"""Rewards of environments by name, formula or dict: built from the task's parts, checked before anything is fitted."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import seqgan_rl  # noqa: F401 - registers the environments
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import stream, torch_seeded
from seqgan_rl.discriminators import discriminators
from seqgan_rl.envs.options import OF_BATCHES, CorpusOptions, OracleOptions
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.rewards import (
    BLEUReward,
    ConstantReward,
    MixtureReward,
    NormalisedReward,
    RankGANReward,
    RankReward,
    rewards,
    wrappers,
)
from seqgan_rl.rewards.base import RewardParts

ORACLE, CORPUS, EXACT = "SeqGAN/Oracle-v0", "SeqGAN/Corpus-v0", "SeqGAN/Exact-v0"
SMALL: dict[str, dict[str, Any]] = {
    ORACLE: {"vocab_size": 12, "sequence_length": 5, "rollout_policy": "uniform", "num_rollouts": 2},
    EXACT: {"vocab_size": 3, "sequence_length": 4},
}


def tiny(num_actions: int, sequence_length: int) -> Any:
    with torch_seeded(np.random.default_rng(0)):
        return discriminators["small_cnn"](num_actions, sequence_length, widths=(1, 2), filters=4, embedding_dim=4)


def end_of_episode(env: Any) -> dict[str, Any]:
    """The last info of an episode of uniformly random actions."""
    env.reset(seed=0)
    env.action_space.seed(0)
    while True:
        *_, terminated, _, info = env.step(env.action_space.sample())
        if terminated:
            return dict(info)


@pytest.mark.parametrize(("name", "max_n"), [("bleu", 4), ("bleu2", 2), ("bleu3", 3)])
def test_bleu_by_name_is_against_the_oracles_draws(name: str, max_n: int) -> None:
    env = gym.make(ORACLE, reward=name, **SMALL[ORACLE])
    info = end_of_episode(env)
    real_BT = env.unwrapped.task.real_sequences(0)  # type: ignore[attr-defined]
    tokens_BT = torch.from_numpy(info["sequence"])[None]
    expected_B = BLEUReward(real_BT, max_n=max_n).score(tokens_BT, torch.tensor([5]))
    assert info["sequence_reward"] == pytest.approx(float(expected_B), abs=1e-6)
    assert 0 < info["sequence_reward"] <= 1


def test_bleu_of_a_corpus_leaves_eos_out(small_text: str) -> None:
    """Real lines have BLEU 1 against themselves, whatever their length, if they have four words or more."""
    env = gym.make_vec(CORPUS, num_envs=2, corpus=small_text, min_count=2, reward="bleu", rollout_policy="uniform")
    task = env.unwrapped.task  # type: ignore[attr-defined]
    real_BT = task.real_sequences(0)
    lengths_B = (real_BT != task.pad_id).sum(dim=1)
    long_B = lengths_B > 4  # EOS is no word
    assert bool((lengths_B < real_BT.shape[1]).any())
    assert task.reward.score(real_BT[long_B], lengths_B[long_B]).tolist() == pytest.approx([1.0] * int(long_B.sum()))


def test_rankgan_by_name_compares_with_real_sequences() -> None:
    discriminator = tiny(12, 5)
    env = gym.make(ORACLE, reward="rankgan", discriminator=discriminator, **SMALL[ORACLE])
    info = end_of_episode(env)
    real_BT = env.unwrapped.task.real_sequences(0)  # type: ignore[attr-defined]
    expected = RankGANReward(discriminator, real_BT, stream(0, "reward"))
    tokens_BT = torch.from_numpy(info["sequence"])[None]
    assert info["sequence_reward"] == pytest.approx(float(expected.score(tokens_BT, torch.tensor([5]))), abs=1e-6)


def test_a_formula_and_a_dict_are_one_reward_and_one_task() -> None:
    arguments = SMALL[ORACLE] | {"discriminator": tiny(12, 5)}
    formula = gym.make(ORACLE, reward="0.5*discriminator + 0.25*bleu2", **arguments).unwrapped
    mapping = gym.make(ORACLE, reward={"discriminator": 0.5, "bleu2": 0.25}, **arguments).unwrapped
    assert formula.task is mapping.task  # type: ignore[attr-defined]
    reward = formula.reward  # type: ignore[attr-defined]
    assert type(reward) is MixtureReward
    assert reward.weights == [0.5, 0.25]
    assert reward.discriminator is arguments["discriminator"]


def test_a_reward_without_a_discriminator_fits_none_and_is_not_retrained_online() -> None:
    for name in ("bleu", "0.5*bleu + 0.5*oracle", "normalised(bleu2)"):
        assert not OracleOptions(reward=name).is_reward_fitted
        with pytest.raises(InputError, match=r"adversary=\"online\" retrains a discriminator"):
            OracleOptions(reward=name, adversary="online")
    for name in ("rankgan", "0.5*bleu + 0.5*logit", "0.5*bleu + 0.5*oracle_log_ratio"):
        assert OracleOptions(reward=name).is_reward_fitted


def test_an_episode_follows_from_its_seed_unless_the_reward_says_otherwise() -> None:
    assert OracleOptions(reward="0.5*logit + 0.5*bleu").is_deterministic
    for name in ("random", "0.5*logit + 0.1*random", "normalised(bleu)", "shuffled(logit)"):
        assert not OracleOptions(reward=name).is_deterministic


def test_the_names_of_rewards_that_need_a_batch_are_all_known() -> None:
    """`OF_BATCHES` against what the rewards say of themselves."""
    generator = tiny(12, 5)
    oracle = Oracle.from_seed(0, vocab_size=12, sequence_length=5)
    parts = RewardParts(
        discriminator=generator,
        oracle=oracle,
        generator=oracle.generator,
        real=lambda: oracle.sample(100, stream(0, "real")),
        rng=stream(0, "reward"),
    )
    found = {name for name in rewards if rewards[name](parts).depends_on_batch}
    found |= {name for name in wrappers if wrappers[name](ConstantReward(), parts).depends_on_batch}
    assert found == set(OF_BATCHES)


@pytest.mark.parametrize("name", ["rank", "maligan", "shuffled", "rank(logit)"])
def test_what_needs_a_batch_is_refused_alone_and_paid_in_a_vector_environment(name: str) -> None:
    words = "others of its batch, but a single environment has no others"
    with pytest.raises(InputError, match=words):  # nothing was fitted: the default sizes would take minutes
        gym.make(ORACLE, reward=name, vocab_size=333, sequence_length=17)
    arguments = SMALL[ORACLE] | {"discriminator": tiny(12, 5)}
    with pytest.raises(InputError, match=words):
        gym.make(ORACLE, reward=name, **arguments)
    env = gym.make_vec(ORACLE, num_envs=4, reward=name, **arguments)
    env.reset(seed=0)
    for _ in range(7):  # in the sixth all begin anew, and nothing is scored
        _, reward_B, _, _, _ = env.step(env.action_space.sample())
        assert np.isfinite(reward_B).all()


def test_ranks_of_sequences_that_end_at_different_steps_are_refused(small_text: str) -> None:
    corpus: dict[str, Any] = {"corpus": small_text, "min_count": 2, "rollout_policy": "uniform"}
    env = gym.make_vec(CORPUS, num_envs=4, reward="constant", **corpus)
    with pytest.raises(InputError, match="sequences that end by EOS are scored in groups"):
        env.unwrapped.set_reward(RankReward(ConstantReward()))  # type: ignore[attr-defined]
    env.unwrapped.set_reward(NormalisedReward(ConstantReward()))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env_id", "reward", "words"),
    [
        (ORACLE, "blue", "unknown reward 'blue' .did you mean 'bleu'"),
        (ORACLE, "0.5*blue", "unknown reward 'blue'"),
        (ORACLE, "0.5*bleu +", "is no reward"),
        (ORACLE, "squared(bleu)", "unknown wrapper"),
        (ORACLE, {}, "at least one name"),
        (ORACLE, {"bleu": "much"}, "must map names to numbers"),
        (ORACLE, {"bleu": [1]}, "must map names to numbers"),
        (CORPUS, "0.5*bleu + 0.5*oracle", "is only for SeqGAN/Oracle-v0"),
        (EXACT, "bleu", "'bleu' compares with real sequences, and the task has none"),
        (EXACT, "0.5*task + 0.5*constant", "unknown reward 'task'"),
    ],
)
def test_what_is_no_reward_is_one_line(env_id: str, reward: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        gym.make(env_id, reward=reward, **SMALL.get(env_id, {}))
    assert len(str(caught.value).splitlines()) == 1


def test_a_reward_of_another_task_is_found_inside_a_mixture() -> None:
    from seqgan_rl.rewards import DiscriminatorReward

    inside = MixtureReward([(1.0, NormalisedReward(DiscriminatorReward(tiny(11, 5))))])
    with pytest.raises(ValueError, match="the reward's discriminator is of another task"):
        gym.make(ORACLE, reward=inside, **SMALL[ORACLE])


def test_options_of_a_corpus_take_formulas_too() -> None:
    assert CorpusOptions(reward={"bleu": 1, "logit": -0.5}).reward == "1.0*bleu - 0.5*logit"
