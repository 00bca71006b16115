"""adversary="online": environments that retrain their discriminator themselves, for agents without callbacks."""

import copy
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.discriminators import DiscriminatorTrainer
from seqgan_rl.envs import defaults

torch.set_num_threads(1)

ID = "SeqGAN/Oracle-v0"
V, T = 8, 4
ONLINE: dict[str, Any] = {
    "vocab_size": V,
    "sequence_length": T,
    "num_rollouts": 2,
    "adversary": "online",
    "adversary_every": 12,
    "adversary_minibatches": 2,
}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every batch of generated sequences that a discriminator is trained on."""
    seen: list[Tensor] = []
    train = DiscriminatorTrainer.train

    def spy(self: DiscriminatorTrainer, fake_BT: Tensor, epochs: int = 1) -> dict[str, float]:
        seen.append(fake_BT.clone())
        return train(self, fake_BT, epochs)

    monkeypatch.setattr(DiscriminatorTrainer, "train", spy)
    return seen


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """No environment of an earlier test is left to share a discriminator with."""
    gc.collect()


def weights_of(module: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten().clone() for weight in module.parameters()])


def make(form: str, **options: Any) -> Any:
    if form == "single":
        return gym.make(ID, **(ONLINE | options))
    mode = {"native": "vector_entry_point", "sync": "sync", "async": "async"}[form]
    return gym.make_vec(ID, num_envs=3, vectorization_mode=mode, **(ONLINE | options))


def discriminator_of(env: Any) -> Any:
    inner: Any = env.unwrapped.envs[0] if isinstance(env.unwrapped, SyncVectorEnv) else env
    return inner.unwrapped.reward.discriminator


def play(env: Any, sequences: int, rng: np.random.Generator, word: int | None = None) -> list[tuple[int, ...]]:
    """Finished sequences, first words random."""
    finished: list[tuple[int, ...]] = []
    is_single = isinstance(env.action_space, gym.spaces.Discrete)
    env.reset(seed=0)
    while len(finished) < sequences:
        actions = rng.integers(V, size=None if is_single else 3) if word is None else np.full(3, word)
        _, _, terminated, _, info = env.step(actions if not is_single or word is None else word)
        if is_single:
            if terminated:
                finished.append(tuple(info["sequence"].tolist()))
                env.reset()
        elif "sequence" in info:
            finished.extend(tuple(row.tolist()) for row in info["sequence"][info["_sequence"]])
    return finished


@pytest.mark.parametrize("shaping", ["rollout", "none", "deferred"])
@pytest.mark.parametrize("form", ["single", "native", "sync"])
def test_it_trains_on_what_was_played_and_pays_by_the_new_weights(
    form: str, shaping: str, fakes: list[Tensor], rng: np.random.Generator
) -> None:
    """After every 12 finished sequences, wherever in the process they were finished, also without gradients."""
    env = make(form, shaping=shaping)
    before = weights_of(discriminator_of(env))
    fakes.clear()  # of the fit of the default discriminator
    with torch.inference_mode():
        finished = play(env, 40, rng)
    adversary = (env.unwrapped.envs[0] if form == "sync" else env).unwrapped.adversary
    assert adversary.retrainings == len(fakes) == 3
    assert adversary.trainer.minibatches == 6
    assert {tuple(row) for fake_BT in fakes for row in fake_BT.tolist()} <= set(finished)
    assert not torch.equal(before, weights_of(discriminator_of(env)))
    assert adversary.trainer.discriminator is discriminator_of(env)
    assert not discriminator_of(env).training
    assert set(adversary.record) >= {"loss", "accuracy_real", "accuracy_fake", "minibatches"}
    env.close()


def test_rewards_follow_the_weights(rng: np.random.Generator) -> None:
    """An agent that always writes the same sequence is told from real ones: its reward falls."""
    env = make("single", shaping="none", adversary_minibatches=30)
    rewards = []
    env.reset(seed=0)
    for _ in range(60):
        for _ in range(T):
            _, reward, terminated, _, info = env.step(3)
        assert terminated
        tokens_1T = torch.as_tensor(info["sequence"])[None]
        rewards.append(reward)
        env.reset()
    expected = torch.sigmoid(discriminator_of(env).score(tokens_1T)).item()
    assert info["sequence_reward"] != pytest.approx(expected, abs=1e-6)  # the 60th sequence made a retraining due
    assert np.mean(rewards[:12]) > np.mean(rewards[-12:]) + 0.1
    assert len(set(np.round(rewards, 6))) == 60 // 12
    env.close()


def test_each_process_of_an_async_environment_has_its_own(rng: np.random.Generator) -> None:
    """Workers retrain on what was finished in them; the parent has no say."""
    env = make("async")
    assert isinstance(env.unwrapped, AsyncVectorEnv)
    play(env, 3 * 12 + 6, rng)
    states = env.call("state_dict")
    retrainings = [state["adversary"]["retrainings"] for state in states]
    assert retrainings == [1, 1, 1]
    first, second, _ = (state["adversary"]["trainer"]["discriminator"] for state in states)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    env.close()


def test_one_process_has_one_discriminator_until_all_are_closed() -> None:
    """64 copies cost one; the next run in the same process starts anew; frozen environments never see its training."""
    frozen = gym.make(ID, **(ONLINE | {"adversary": "frozen"}))
    shared = weights_of(discriminator_of(frozen))
    one, two = make("single"), make("single")
    assert discriminator_of(one) is discriminator_of(two)
    assert discriminator_of(make("native")) is discriminator_of(one)
    assert torch.equal(shared, weights_of(discriminator_of(one)))
    play(one, 12, np.random.default_rng(0))
    assert two.unwrapped.adversary.retrainings == 1
    assert torch.equal(shared, weights_of(discriminator_of(frozen)))
    other = make("single", adversary_every=13)
    assert discriminator_of(other) is not discriminator_of(one)
    one.close()
    assert discriminator_of(make("single")) is discriminator_of(two)
    gc.collect()
    two.close()
    fresh = make("single")
    assert discriminator_of(fresh) is not discriminator_of(two)
    assert torch.equal(shared, weights_of(discriminator_of(fresh)))
    assert fresh.unwrapped.adversary.retrainings == 0


def test_the_next_run_in_a_process_starts_anew_without_closing() -> None:
    """A loop over seeds that forgets its environments does not hand the discriminator on."""
    seen = []
    for _ in range(2):
        env = make("native")
        seen.append(weights_of(discriminator_of(env)))
        play(env, 12, np.random.default_rng(0))
        assert not torch.equal(seen[-1], weights_of(discriminator_of(env)))
        del env
        gc.collect()
    assert torch.equal(seen[0], seen[1])


def test_it_is_marked_nondeterministic_and_its_spec_stays_json() -> None:
    env = make("single")
    assert env.unwrapped.spec.nondeterministic
    assert not gym.make(ID, **(ONLINE | {"adversary": "frozen"})).unwrapped.spec.nondeterministic  # type: ignore[union-attr]
    assert gym.make(ID, vocab_size=V, sequence_length=T, reward="random").unwrapped.spec.nondeterministic  # type: ignore[union-attr]
    assert json.loads(env.spec.to_json())["kwargs"]["adversary"] == "online"
    assert make("native").unwrapped.spec.nondeterministic


@pytest.mark.parametrize("form", ["single", "native"])
def test_a_state_holds_the_discriminator(form: str) -> None:
    """Discriminator, its optimiser, what was gathered: the same numbers from there on."""
    env = make(form)
    play(env, 17, np.random.default_rng(0))
    state = env.unwrapped.state_dict()
    env.reset(seed=5)
    first = play(env, 30, np.random.default_rng(1))
    weights = weights_of(discriminator_of(env))
    env.close()
    other = make(form)
    other.reset(seed=0)
    other.unwrapped.load_state_dict(state)
    assert play(other, 30, np.random.default_rng(1)) == first
    assert torch.equal(weights, weights_of(discriminator_of(other)))
    other.close()


def test_a_state_loaded_without_gradients_can_be_trained_on() -> None:
    env = make("single")
    play(env, 12, np.random.default_rng(0))
    with torch.inference_mode():
        state = env.unwrapped.state_dict()
        env.unwrapped.load_state_dict(state)
    play(env, 24, np.random.default_rng(1))
    assert env.unwrapped.adversary.retrainings == 3
    env.close()


def test_the_first_use_may_be_without_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default parts are fitted, or loaded from the cache, by agents that play under no_grad or inference_mode."""
    monkeypatch.setenv("SEQGAN_RL_CACHE", str(tmp_path))
    for size, context in ((9, torch.no_grad), (10, torch.inference_mode)):
        for _ in ("fitted", "loaded"):
            monkeypatch.setattr(defaults, "_PARTS", {})
            with context():
                env = make("native", vocab_size=size)
                play(env, 12, np.random.default_rng(0))
            play(env, 12, np.random.default_rng(0))
            assert env.unwrapped.adversary.retrainings == 2
            env.close()


def test_what_stops_a_retraining_leaves_the_step_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does: the sequence has ended, the discriminator scores in evaluation mode, and all goes on."""
    for form in ("single", "native"):
        env = make(form)

        def stop(*arguments: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(DiscriminatorTrainer, "_update", stop)
            with pytest.raises(KeyboardInterrupt):
                play(env, 40, np.random.default_rng(0))
        assert not discriminator_of(env).training
        if form == "single":
            with pytest.raises(RuntimeError, match="the sequence has ended"):
                env.unwrapped.step(0)
        play(env, 24, np.random.default_rng(0))
        assert env.unwrapped.adversary.retrainings >= 2
        env.close()


def test_forked_workers_do_not_wait_for_threads_that_are_not_there(tmp_path: Path) -> None:
    """AsyncVectorEnv forks; OpenMP's pool of the parent does not come along, and a parallel loop would never end."""
    script = """
import sys, gymnasium as gym, numpy as np, torch
torch.set_num_threads(2)
x = torch.rand(1500, 1500); (x @ x).exp().sum()
envs = gym.make_vec("seqgan_rl:SeqGAN/Oracle-v0", num_envs=2, vectorization_mode="async", vocab_size=2000,
                    sequence_length=4, num_rollouts=16, reward="oracle", rollout_policy="uniform", shaping="deferred")
envs.reset(seed=0)
for _ in range(10):
    envs.step(np.zeros(2, dtype=np.int64))
envs.close()
"""
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", script], timeout=120, check=False, env=threads, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_a_live_discriminator_is_trained_itself() -> None:
    own = discriminator_of(gym.make(ID, **(ONLINE | {"adversary": "frozen"})))
    mine = copy.deepcopy(own)
    env = make("single", discriminator=mine)
    assert discriminator_of(env) is mine
    before = weights_of(mine)
    play(env, 12, np.random.default_rng(0))
    assert not torch.equal(before, weights_of(mine))


def test_real_sequences_are_those_of_the_corpus(small_text: str) -> None:
    env: Any = gym.make("SeqGAN/Corpus-v0", corpus=small_text, min_count=2, shaping="none", adversary="online")
    corpus = env.unwrapped.task.corpus
    assert np.array_equal(env.unwrapped.adversary.trainer.real_BT.numpy(), corpus.train.tokens_NT)


def test_autoreset_modes_count_each_sequence_once(rng: np.random.Generator) -> None:
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        env = gym.make_vec(ID, num_envs=3, autoreset_mode=mode, **(ONLINE | {"adversary_every": 1000}))
        env.reset(seed=0)
        steps = 4 * (T + (mode == AutoresetMode.NEXT_STEP))
        for _ in range(steps):
            env.step(rng.integers(V, size=3))
        assert env.unwrapped.adversary.unseen == 12  # type: ignore[attr-defined]
        env.close()


def test_what_cannot_be_retrained_is_refused_with_the_fix() -> None:
    with pytest.raises(InputError, match=r"adversary must be one of frozen, online; got 'onlin' \(did you mean"):
        gym.make(ID, adversary="onlin")
    with pytest.raises(InputError, match="adversary_every must be at least 1, got 0"):
        gym.make(ID, adversary_every=0)
    with pytest.raises(InputError, match="reward='constant' has none; use reward=\"discriminator\""):
        gym.make(ID, adversary="online", reward="constant")
    with pytest.raises(InputError, match='this reward has none; use reward="discriminator"'):
        gym.make(ID, vocab_size=V, sequence_length=T, adversary="online", reward=lambda tokens, lengths: lengths * 0.0)
    with pytest.raises(InputError, match="reward='task' has none"):
        gym.make("SeqGAN/Exact-v0", adversary="online")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
