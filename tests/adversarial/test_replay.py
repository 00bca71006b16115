"""Replay buffers: every stored reward is that of the discriminator of now, whatever the ring has been through."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation, TimeLimit, TransformReward
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from seqgan_rl import AdversarialCallback, make_sb3_env
from seqgan_rl.adversarial.replay import relabel
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import DiscriminatorConfig, discriminators
from seqgan_rl.rewards import DiscriminatorReward

torch.set_num_threads(1)

V, T = 4, 5  # with EOS: 5 actions, PAD = 5
A, EOS, PAD = V + 1, V, V + 1
CONFIG = DiscriminatorConfig(batch_size=8, minibatches_per_round=2, learning_rate=0.01)
REAL_BT = torch.tensor([[0, 1, 2, 3, 0], [1, 1, 4, 5, 5], [2, 4, 5, 5, 5]])


def make_env(num_envs: int = 3, **options: Any) -> Any:
    with torch_seeded(np.random.default_rng(0)):
        discriminator = discriminators["small_cnn"](A, T, widths=(1, 2), filters=4, embedding_dim=4)
    options = {"reward": "discriminator", "discriminator": discriminator, "shaping": "none"} | options
    options |= {"vocab_size": V, "sequence_length": T, "variable_length": True}
    return make_sb3_env("SeqGAN/Exact-v0", num_envs, **options)


def make_wrapped(wrapper: Any, **options: Any) -> Any:
    task: dict[str, Any] = {"vocab_size": V, "sequence_length": T, "variable_length": True}
    return DummyVecEnv([lambda: wrapper(gym.make("SeqGAN/Exact-v0", **task, **options))])


class Ring(BaseCallback):
    """A plain record of the ring, step by step: what each of its places should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.sequences: dict[tuple[int, int], tuple[int, ...]] = {}

    def _on_step(self) -> bool:
        pos = self.model.replay_buffer.pos  # type: ignore[attr-defined]
        for env, (info, done) in enumerate(zip(self.locals["infos"], self.locals["dones"], strict=True)):
            self.sequences.pop((pos, env), None)
            if done and "sequence" in info:
                self.sequences[pos, env] = tuple(info["sequence"].tolist())
        return True


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "wrapped ring": {"buffer_size": 90},
    "memory saved": {"replay_buffer_kwargs": {"handle_timeout_termination": False}, "optimize_memory_usage": True},
    "memory saved, wrapped": {
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
        "optimize_memory_usage": True,
        "buffer_size": 90,
    },
    "n steps": {"n_steps": 3},
    "n steps, wrapped": {"n_steps": 3, "buffer_size": 90},
}


CASES = [(kind, setting) for kind in ("tokens", "tokens_float32", "onehot") for setting in SETTINGS]
CASES += [("dict", "plain"), ("dict", "wrapped ring")]  # SB3's other buffers take no dicts


@pytest.mark.parametrize(("observation", "setting"), CASES)
@pytest.mark.parametrize("algorithm", [DQN, QRDQN])
def test_the_whole_ring_is_paid_by_the_discriminator_of_now(algorithm: Any, setting: str, observation: str) -> None:
    """Terminal rows hold D(Y) of the sequence that was played there, all others 0, after wrapping too."""
    options = {"buffer_size": 600, "exploration_final_eps": 0.8} | SETTINGS[setting]
    policy = "MultiInputPolicy" if observation == "dict" else "MlpPolicy"
    env = make_env(observation=observation)
    model = algorithm(policy, env, learning_starts=20, gamma=1.0, seed=0, device="cpu", **options)
    adversary, ring = AdversarialCallback(REAL_BT, CONFIG), Ring()
    model.learn(450, callback=[adversary, ring])
    assert adversary.retrainings >= 2
    buffer: Any = model.replay_buffer
    adversary._retrain()  # every stored reward is of an older discriminator now, but for this
    rows = buffer.buffer_size if buffer.full else buffer.pos
    assert buffer.full == ("wrapped" in setting)
    expected = np.zeros((rows, 3), dtype=np.float32)
    assert len(ring.sequences) > 10
    assert len(set(ring.sequences.values())) > 5
    skipped = buffer.pos if buffer.full and buffer.optimize_memory_usage else None
    for (pos, env_index), sequence in ring.sequences.items():
        if pos != skipped:
            logit = adversary.reward.discriminator.score(torch.tensor([sequence]))
            expected[pos, env_index] = torch.sigmoid(logit).item()
    np.testing.assert_allclose(buffer.rewards[:rows], expected, atol=1e-6)


def test_what_a_time_limit_has_cut_is_not_paid() -> None:
    def make() -> Any:
        return TimeLimit(
            gym.make("SeqGAN/Exact-v0", vocab_size=V, sequence_length=T, variable_length=True, shaping="none"), 3
        )

    for options in ({}, {"replay_buffer_kwargs": {"handle_timeout_termination": False}, "optimize_memory_usage": True}):
        model = DQN("MlpPolicy", DummyVecEnv([make]), learning_starts=500, buffer_size=200, seed=0, **options)  # type: ignore[arg-type]
        model.learn(150)
        buffer: Any = model.replay_buffer
        with torch_seeded(np.random.default_rng(0)):
            reward = DiscriminatorReward(discriminators["small_cnn"](A, T, widths=(1, 2), filters=4, embedding_dim=4))
        paid = relabel(buffer, reward, A, EOS, torch.device("cpu"))
        is_eos = (buffer.actions[: buffer.pos, :, 0] == EOS) & (buffer.dones[: buffer.pos] == 1)
        assert 0 < paid == is_eos.sum() < buffer.dones.sum()
        assert ((buffer.rewards[: buffer.pos] != 0) == is_eos).all()


def test_an_empty_buffer_has_nothing_to_pay() -> None:
    model = DQN("MlpPolicy", make_env(), buffer_size=50)
    reward: Any = model.get_env().get_attr("reward")[0]  # type: ignore[union-attr]
    assert relabel(model.replay_buffer, reward, A, EOS, torch.device("cpu")) == 0  # type: ignore[arg-type]


def test_a_shaped_environment_falls_back_to_the_terminal_reward_with_one_warning() -> None:
    """The three lines of the README; the return of every sequence in the buffer is R(Y), paid at its end."""
    env = make_env(shaping="rollout")
    model = DQN("MlpPolicy", env, learning_starts=20, buffer_size=300, gamma=1.0, seed=0, device="cpu")
    with pytest.warns(UserWarning, match="Monte-Carlo") as caught:
        model.learn(200, callback=AdversarialCallback(REAL_BT, CONFIG))
    texts = [str(w.message) for w in caught if "Monte-Carlo" in str(w.message)]
    assert texts == [
        "DQN replays old steps, whose Monte-Carlo rewards cannot be brought up to date: it is trained on the terminal "
        'reward, as with shaping="none"'
    ]
    assert env.get_attr("shaping")[0] == "none"
    buffer: Any = model.replay_buffer
    assert ((buffer.rewards[: buffer.pos] != 0) == (buffer.dones[: buffer.pos] != 0)).all()


def test_a_loaded_buffer_is_paid_before_it_is_used(tmp_path: Any) -> None:
    """Its rewards are of a discriminator that no longer exists."""
    model = DQN("MlpPolicy", make_env(), learning_starts=20, buffer_size=300, gamma=1.0, seed=0, device="cpu")
    model.learn(150)
    model.replay_buffer.rewards[:] = 77  # type: ignore[union-attr]
    model.save_replay_buffer(tmp_path / "buffer")
    other = DQN("MlpPolicy", make_env(), learning_starts=20, buffer_size=300, gamma=1.0, seed=1, device="cpu")
    other.load_replay_buffer(tmp_path / "buffer")
    other.learn(3, callback=AdversarialCallback(REAL_BT, CONFIG))
    buffer: Any = other.replay_buffer
    assert (buffer.rewards[: buffer.pos] < 1).all()


def test_a_large_buffer_is_paid_less_often() -> None:
    """At most 20 stored sequences are scored for each new one."""
    model = DQN("MlpPolicy", make_env(), learning_starts=10**6, buffer_size=30_000, gamma=1.0, seed=0, device="cpu")
    adversary = AdversarialCallback(REAL_BT, CONFIG)
    model.learn(3, callback=adversary)
    for stored, every in ((0, 8), (160, 8), (200, 10), (4000, 200)):
        adversary._stored = stored
        assert adversary._default_every() == every


def test_what_cannot_be_paid_anew_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="make the environment with observation='tokens'"):
        DQN("MlpPolicy", make_env(observation="last_token"), buffer_size=50, gamma=1.0).learn(
            5, callback=AdversarialCallback(REAL_BT)
        )
    for stacked in (VecFrameStack(make_env(), 2), make_wrapped(FlattenObservation, observation="dict")):
        with pytest.raises(ValueError, match=r"which is none of tokens, .* of 5 tokens with 5 actions"):
            DQN("MlpPolicy", stacked, buffer_size=50, gamma=1.0).learn(5, callback=AdversarialCallback(REAL_BT))
    with pytest.raises(ValueError, match="use norm_reward=False with a replay agent"):
        DQN("MlpPolicy", VecNormalize(make_env(), norm_obs=False), buffer_size=50, gamma=1.0).learn(
            5, callback=AdversarialCallback(REAL_BT)
        )
    scaled = make_wrapped(lambda env: TransformReward(env, lambda reward: 100 * float(reward)), shaping="none")
    with pytest.raises(ValueError, match="a wrapper changes the rewards of this environment"):
        DQN("MlpPolicy", scaled, buffer_size=50, gamma=1.0).learn(5, callback=AdversarialCallback(REAL_BT))
    env = make_env()
    env.env_method("set_penalty", lambda tokens_BT, lengths_B, actions_B: np.ones(len(actions_B)))
    with pytest.raises(ValueError, match="use an on-policy agent, or env"):
        DQN("MlpPolicy", env, buffer_size=50, gamma=1.0).learn(5, callback=AdversarialCallback(REAL_BT))
