"""The GAN loop as a callback: which sequences, how much work, whose rewards, for agents of every kind."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch import Tensor

from seqgan_rl import AdversarialCallback, GeneratorPolicy, SeqGAN, make_sb3_env
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import DiscriminatorConfig, DiscriminatorTrainer, discriminators, train_discriminator

torch.set_num_threads(1)

V, T = 4, 5  # with EOS: 5 actions, PAD = 5
TASK: dict[str, Any] = {"vocab_size": V, "sequence_length": T, "variable_length": True, "num_rollouts": 2}
GENERATOR: dict[str, Any] = {"has_eos": True, "generator_options": {"embedding_dim": 4, "hidden_dim": 4}}
CONFIG = DiscriminatorConfig(batch_size=16, minibatches_per_round=3, learning_rate=0.01)
REAL_BT = torch.tensor([[0, 1, 2, 3, 0], [1, 1, 4, 5, 5], [2, 4, 5, 5, 5]])


def new_discriminator(seed: int = 0) -> Any:
    with torch_seeded(np.random.default_rng(seed)):
        return discriminators["small_cnn"](V + 1, T, widths=(1, 2), filters=4, embedding_dim=4)


def make_env(num_envs: int = 8, discriminator: Any = None, **options: Any) -> Any:
    options = {"reward": "discriminator", "discriminator": discriminator or new_discriminator()} | TASK | options
    return make_sb3_env("SeqGAN/Exact-v0", num_envs, **options)


def seqgan(num_envs: int = 8, **options: Any) -> SeqGAN:
    env = make_env(num_envs, shaping="deferred")
    return SeqGAN(GeneratorPolicy, env, seed=0, device="cpu", policy_kwargs=GENERATOR, learning_rate=0.05, **options)


SINGLE = {**TASK, "reward": "discriminator", "discriminator": new_discriminator()}
AGENTS: dict[str, Callable[[], BaseAlgorithm]] = {
    "SeqGAN": seqgan,
    "PPO with a generator": lambda: PPO(
        GeneratorPolicy, make_env(), n_steps=8, batch_size=32, gamma=1.0, seed=0, device="cpu", policy_kwargs=GENERATOR
    ),
    "A2C": lambda: A2C("MlpPolicy", make_env(), n_steps=8, gamma=1.0, seed=0, device="cpu"),
    "A2C on one-hot": lambda: A2C(
        "MlpPolicy", make_env(observation="onehot"), n_steps=8, gamma=1.0, seed=0, device="cpu"
    ),
    "PPO on a dict": lambda: PPO(
        "MultiInputPolicy", make_env(observation="dict"), n_steps=8, batch_size=32, gamma=1.0, seed=0, device="cpu"
    ),
    "TRPO with a generator": lambda: TRPO(
        GeneratorPolicy, make_env(), n_steps=8, batch_size=32, gamma=1.0, seed=0, device="cpu", policy_kwargs=GENERATOR
    ),
    "RecurrentPPO": lambda: RecurrentPPO(
        "MlpLstmPolicy", make_env(), n_steps=8, batch_size=32, gamma=1.0, seed=0, device="cpu"
    ),
    "MaskablePPO": lambda: MaskablePPO(
        "MlpPolicy", make_env(), n_steps=8, batch_size=32, gamma=1.0, seed=0, device="cpu"
    ),
    "ARS": lambda: ARS("LinearPolicy", make_env(), n_delta=1, n_eval_episodes=4, seed=0, device="cpu"),
    "QR-DQN": lambda: QRDQN(
        "MlpPolicy", make_env(shaping="deferred"), learning_starts=50, buffer_size=500, gamma=1.0, seed=0, device="cpu"
    ),
    "A2C on single environments": lambda: A2C(
        "MlpPolicy", make_vec_env("SeqGAN/Exact-v0", 4, env_kwargs=SINGLE), n_steps=8, gamma=1.0, seed=0, device="cpu"
    ),
    "DQN": lambda: DQN(
        "MlpPolicy", make_env(shaping="none"), learning_starts=50, buffer_size=500, gamma=1.0, seed=0, device="cpu"
    ),
}


class Watch(BaseCallback):
    """After the adversarial callback: every reward is D's of now, and which sequences were finished."""

    def __init__(self, adversary: AdversarialCallback) -> None:
        super().__init__()
        self.adversary = adversary
        self.finished: list[tuple[int, ...]] = []

    def _on_step(self) -> bool:
        assert self.adversary.trainer is not None
        for info, done in zip(self.locals.get("infos", []), self.locals.get("dones", []), strict=True):
            if done:
                self.finished.append(tuple(info["sequence"].tolist()))
                tokens_1T = torch.as_tensor(info["sequence"])[None]
                expected = torch.sigmoid(self.adversary.trainer.discriminator.score(tokens_1T)).item()
                assert info["sequence_reward"] == pytest.approx(expected, abs=1e-6)
        return True


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


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


# ---------------------------------------------------------------- agents of every kind


@pytest.mark.parametrize("name", AGENTS)
def test_the_discriminator_learns_from_this_agent_and_pays_it(name: str, fakes: list[Tensor]) -> None:
    """D changed, on sequences of this agent; every reward is that of D as it then is; D is left in evaluation mode."""
    model = AGENTS[name]()
    adversary = AdversarialCallback(REAL_BT, CONFIG)
    watch = Watch(adversary)
    reward = model.get_env().get_attr("reward")[0]  # type: ignore[union-attr]
    before = weights_of(reward.discriminator)
    model.learn(400, callback=[adversary, watch])
    assert adversary.trainer is not None
    assert adversary.retrainings >= 2
    assert adversary.trainer.discriminator is reward.discriminator  # passed as an object: that very object
    assert not are_equal(before, weights_of(reward.discriminator))
    assert not reward.discriminator.training
    assert adversary.trainer.minibatches == 3 * adversary.retrainings
    for fake_BT in fakes:
        assert fake_BT.shape == (48, T)
        assert fake_BT.dtype == torch.int64
        if "generator" in name or name == "SeqGAN":
            continue
        if name != "ARS":  # which does not tell its callbacks what was played
            assert {tuple(row) for row in fake_BT.tolist()} <= set(watch.finished)


@pytest.mark.parametrize("name", ["SeqGAN", "PPO with a generator"])
def test_a_generator_is_asked_for_fresh_sequences_of_its_own_distribution(name: str, fakes: list[Tensor]) -> None:
    """A generator that can only write word 2, and one that may not write it although the environment allows it."""
    for bias, is_two in ((50.0, True), (-50.0, False)):
        fakes.clear()
        model: Any = AGENTS[name]()
        with torch.no_grad():
            model.policy.generator.output_bias[2] = bias
            model.policy.generator.output_bias[V] = -50.0
        model.learn(200, callback=AdversarialCallback(REAL_BT, CONFIG))
        fake_BT = torch.cat(fakes)
        assert bool((fake_BT == 2).all() if is_two else (fake_BT != 2).all())
        if not is_two:
            assert len({tuple(row) for row in fake_BT.tolist()}) > len(fake_BT) / 10


def test_what_the_policy_forbids_is_in_no_generated_sequence(fakes: list[Tensor]) -> None:
    """The policy's own mask counts, not the environment's: D must see what the agent plays."""
    for forbidden in ((), (1,)):
        fakes.clear()
        env = make_env(shaping="none")
        model = SeqGAN(
            GeneratorPolicy, env, seed=0, device="cpu", policy_kwargs=GENERATOR | {"forbidden": forbidden}, batch_size=8
        )
        model.learn(100, callback=AdversarialCallback(REAL_BT, CONFIG))
        assert bool((torch.cat(fakes) == 1).any()) == (forbidden == ())


def test_another_agent_of_this_process_gets_the_discriminator_untouched() -> None:
    """Environments made by name share one discriminator; adversarial training of one agent must not reach the next."""
    options: dict[str, Any] = {"vocab_size": 12, "sequence_length": 5, "num_rollouts": 2, "shaping": "deferred"}
    first, second = (make_sb3_env("SeqGAN/Oracle-v0", 8, **options) for _ in range(2))
    shared = second.get_attr("reward")[0].discriminator
    assert first.get_attr("reward")[0].discriminator is shared
    before = weights_of(shared)
    model = SeqGAN(GeneratorPolicy, first, seed=0, device="cpu")
    adversary = AdversarialCallback(config=CONFIG)
    model.learn(200, callback=adversary)
    assert adversary.trainer is not None
    assert first.get_attr("reward")[0].discriminator is adversary.trainer.discriminator
    assert not are_equal(before, weights_of(adversary.trainer.discriminator))
    assert second.get_attr("reward")[0].discriminator is shared
    assert are_equal(before, weights_of(shared))
    third = make_sb3_env("SeqGAN/Oracle-v0", 8, **options)
    assert are_equal(before, weights_of(third.get_attr("reward")[0].discriminator))


def test_real_sequences_are_those_of_the_environment(small_text: str) -> None:
    """Draws of its oracle, or the training split of its corpus (never the held-out ones)."""
    env = make_sb3_env("SeqGAN/Corpus-v0", 4, corpus=small_text, min_count=2, shaping="none")
    model = SeqGAN(GeneratorPolicy, env, device="cpu")
    adversary = AdversarialCallback()
    model.learn(1, callback=adversary)
    assert adversary.trainer is not None
    corpus = env.get_attr("task")[0].corpus
    assert np.array_equal(adversary.trainer.real_BT.numpy(), corpus.train.tokens_NT)
    env = make_sb3_env("SeqGAN/Oracle-v0", 4, vocab_size=12, sequence_length=5, shaping="none")
    model = SeqGAN(GeneratorPolicy, env, device="cpu")
    adversary = AdversarialCallback()
    model.learn(1, callback=adversary)
    assert adversary.trainer is not None
    assert adversary.trainer.real_BT.shape == (9984, 5)
    assert adversary.trainer.real_BT.max() < 12


class Workers(BaseCallback):
    """Before every rollout: what the workers pay by and finish prefixes with is what the parent has."""

    def __init__(self, adversary: AdversarialCallback) -> None:
        super().__init__()
        self.adversary, self.checks = adversary, 0

    def _on_rollout_start(self) -> None:
        own: Any = self.adversary.reward
        for reward in self.training_env.get_attr("reward"):
            assert are_equal(weights_of(reward.discriminator), weights_of(own.discriminator))
        if self.adversary.generator is not None:
            for policy in self.training_env.get_attr("rollout_policy"):
                assert are_equal(weights_of(policy), weights_of(self.adversary.generator))
        self.checks += 1

    def _on_step(self) -> bool:
        return True


def test_the_discriminator_and_the_generator_reach_subprocesses(fakes: list[Tensor]) -> None:
    """By name, so that each worker has made its own; rewards in the workers are D's of now (Watch), and relabelling and
    gathering work through the pipe."""
    options = {"vocab_size": 6, "sequence_length": 4, "num_rollouts": 2}
    env = make_vec_env("seqgan_rl:SeqGAN/Oracle-v0", 2, env_kwargs=options, vec_env_cls=SubprocVecEnv)
    try:
        for model in (
            PPO(GeneratorPolicy, env, n_steps=16, batch_size=32, n_epochs=1, gamma=1.0, seed=0, device="cpu"),
            DQN("MlpPolicy", env, learning_starts=20, buffer_size=200, gamma=1.0, seed=0, device="cpu"),
        ):
            adversary = AdversarialCallback(config=CONFIG)
            watch, workers = Watch(adversary), Workers(adversary)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # DQN falls back to the terminal reward
                model.learn(160, callback=[adversary, workers, watch])
            assert adversary.retrainings >= 2
            assert workers.checks > 3
            if isinstance(model, DQN):
                assert {tuple(row) for row in fakes[-1].tolist()} <= set(watch.finished)
                buffer: Any = model.replay_buffer
                assert ((buffer.rewards[:80] != 0) == (buffer.dones[:80] != 0)).all()
    finally:
        env.close()


def test_prompts_and_constraints_are_part_of_what_the_discriminator_sees(fakes: list[Tensor]) -> None:
    """A generator's own samples would lack them, so the sequences played are gathered instead."""
    model = seqgan()
    model.get_env().env_method("set_prompts", [[2, 2]])
    model.learn(200, callback=AdversarialCallback(REAL_BT, CONFIG))
    assert bool((torch.cat(fakes)[:, :2] == 2).all())


def test_what_seqgan_did_not_play_to_its_end_is_not_preferred(fakes: list[Tensor]) -> None:
    """Single environments play on after an early end, and more short than long ones would be gathered: every batch that
    D sees is made of the sequences of whole batches of the agent."""
    env = make_vec_env("SeqGAN/Exact-v0", 4, env_kwargs=SINGLE | {"shaping": "none"})
    env.env_method("set_prompts", [[2]])
    model = SeqGAN(GeneratorPolicy, env, seed=0, device="cpu", policy_kwargs=GENERATOR, learning_rate=0.0)
    adversary = AdversarialCallback(REAL_BT, CONFIG, gathered=10_000)
    played: list[Tensor] = []

    class Batches(BaseCallback):
        def _on_rollout_end(self) -> None:
            played.append(self.model.batch.tokens_BT.clone())  # type: ignore[attr-defined]

        def _on_step(self) -> bool:
            return True

    model.learn(400, callback=[adversary, Batches()])
    assert adversary.adversary is not None
    assert np.array_equal(np.array(adversary.adversary.sequences), torch.cat(played).numpy())


def test_a_callback_goes_on_with_its_discriminator_in_another_environment() -> None:
    options: dict[str, Any] = {"vocab_size": 12, "sequence_length": 5, "num_rollouts": 2, "shaping": "deferred"}
    model = SeqGAN(GeneratorPolicy, make_sb3_env("SeqGAN/Oracle-v0", 8, **options), seed=0, device="cpu")
    adversary = AdversarialCallback(config=CONFIG)
    model.learn(100, callback=adversary)
    assert adversary.trainer is not None
    before = adversary.retrainings
    model.set_env(make_sb3_env("SeqGAN/Oracle-v0", 8, **options))
    model.learn(100, callback=adversary)
    paying = model.get_env().get_attr("reward")[0].discriminator
    assert paying is adversary.trainer.discriminator
    assert adversary.retrainings > before


def test_another_agent_with_the_same_callback_gets_its_own_rollout_policy() -> None:
    adversary = AdversarialCallback(REAL_BT, CONFIG, rollout_update_rate=0.5)
    seqgan().learn(60, callback=adversary)
    other = seqgan()
    with torch.no_grad():
        other.policy.generator.output_bias.add_(1.0)
    old = adversary.rollout_policy
    other._setup_learn(10, adversary)
    assert adversary.rollout_policy is not old
    assert adversary.rollout_policy is not None
    assert are_equal(weights_of(adversary.rollout_policy), weights_of(other.policy.generator))


def test_what_an_evaluation_has_played_in_between_is_not_taken() -> None:
    env = make_env(4)
    model = A2C("MlpPolicy", env, n_steps=8, gamma=1.0, seed=0, device="cpu")
    adversary = AdversarialCallback(REAL_BT, CONFIG, every=10_000)
    model.learn(64, callback=adversary)
    seen = adversary.unseen
    env.env_method("collect_finished", 100)  # as an interrupted learn() leaves it
    env.reset()
    for _ in range(30):
        env.step(np.zeros(4, dtype=np.int64))
    adversary.init_callback(model)
    adversary._gather()
    assert adversary.unseen == seen


def test_the_discriminator_that_all_share_is_not_trained_through_a_trainer() -> None:
    options: dict[str, Any] = {"vocab_size": 12, "sequence_length": 5, "shaping": "none"}
    env = make_sb3_env("SeqGAN/Oracle-v0", 4, **options)
    shared = env.get_attr("reward")[0].discriminator
    trainer = DiscriminatorTrainer(shared, torch.zeros(4, 5, dtype=torch.int64), CONFIG, np.random.default_rng(0))
    with pytest.raises(ValueError, match="or other environments share it"):
        A2C("MlpPolicy", env, gamma=1.0, device="cpu").learn(10, callback=AdversarialCallback(trainer=trainer))


def test_an_environment_that_trains_its_own_discriminator_is_refused() -> None:
    env = make_sb3_env("SeqGAN/Oracle-v0", 2, vocab_size=6, sequence_length=4, adversary="online")
    with pytest.raises(ValueError, match='adversary="frozen", or learn without AdversarialCallback'):
        A2C("MlpPolicy", env, gamma=1.0, device="cpu").learn(10, callback=AdversarialCallback())
    env.close()


def test_a_trainer_of_another_discriminator_is_refused() -> None:
    trainer = DiscriminatorTrainer(new_discriminator(1), REAL_BT, CONFIG, np.random.default_rng(0))
    with pytest.raises(ValueError, match="not the one that pays, or other environments share it; make the env"):
        seqgan().learn(10, callback=AdversarialCallback(trainer=trainer))


# ---------------------------------------------------------------- how often, how much


@pytest.mark.parametrize("name", ["SeqGAN", "A2C", "DQN"])
@pytest.mark.parametrize("every", [1, 40])
def test_it_retrains_after_so_many_sequences(name: str, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never before ``every`` finished sequences, and at the next chance after: within one rollout."""
    model = AGENTS[name]()
    adversary = AdversarialCallback(REAL_BT, CONFIG, every=every)
    watch, at = Watch(adversary), []
    retrain = AdversarialCallback._retrain

    def note(self: AdversarialCallback) -> None:
        at.append(len(watch.finished))
        retrain(self)

    monkeypatch.setattr(AdversarialCallback, "_retrain", note)
    model.learn(600, callback=[adversary, watch])
    gaps = np.diff([0, *at])
    assert len(gaps) >= 2
    assert (gaps >= every).all()
    assert (gaps < every + 64).all()
    assert adversary.retrainings == len(at)


def test_by_default_a_generator_update_and_a_round_of_the_discriminator_alternate() -> None:
    """Algorithm 1: after each generator update, and not before the first."""
    model, adversary = seqgan(batch_size=16), AdversarialCallback(REAL_BT, CONFIG)

    class Count(BaseCallback):
        def _on_rollout_start(self) -> None:
            assert adversary.retrainings == self.model._n_updates

        def _on_step(self) -> bool:
            return True

    model.learn(300, callback=[adversary, Count()])
    assert adversary.retrainings == model._n_updates - 1 > 2


@pytest.mark.parametrize("minibatches", [0, 1, 2, 7, 10, 15])
@pytest.mark.parametrize("draw_size", [0, 4, 10, 33])
@pytest.mark.parametrize("epochs_per_draw", [1, 3, 4])
def test_the_work_of_a_round_is_exact_in_minibatches(minibatches: int, draw_size: int, epochs_per_draw: int) -> None:
    """Pitfall 8. However draws and epochs divide it; no draw is larger than asked for, none is used more often."""
    config = DiscriminatorConfig(batch_size=4, draw_size=draw_size, epochs_per_draw=epochs_per_draw)
    trainer = DiscriminatorTrainer(new_discriminator(), REAL_BT, config, np.random.default_rng(0))
    draws: list[int] = []

    def fake(n: int) -> Tensor:
        draws.append(n)
        return REAL_BT[:1].repeat(n, 1)

    record = train_discriminator(trainer, fake, minibatches)
    assert trainer.minibatches == minibatches
    assert bool(record) == (minibatches > 0)
    assert all(n <= (draw_size or 4 * minibatches) for n in draws)
    assert sum(draws) <= 4 * minibatches
    if draw_size == 0 and epochs_per_draw == 1 and minibatches:
        assert draws == [4 * minibatches]


def test_every_minibatch_holds_as_many_real_as_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    update = DiscriminatorTrainer._update

    def spy(self: DiscriminatorTrainer, real_BT: Tensor, fake_BT: Tensor) -> dict[str, float]:
        assert self.discriminator.training
        sizes.append((len(real_BT), len(fake_BT)))
        return update(self, real_BT, fake_BT)

    monkeypatch.setattr(DiscriminatorTrainer, "_update", spy)
    model = seqgan()
    model.learn(100, callback=AdversarialCallback(REAL_BT, CONFIG))
    assert set(sizes) == {(16, 16)}


# ---------------------------------------------------------------- the rollout policy


class Betas(BaseCallback):
    """θ and β at the start of every rollout, after the adversarial callback."""

    def __init__(self, adversary: AdversarialCallback) -> None:
        super().__init__()
        self.adversary = adversary
        self.thetas: list[Tensor] = []
        self.betas: list[Tensor] = []

    def _on_rollout_start(self) -> None:
        policy = self.training_env.get_attr("rollout_policy")[0]
        assert policy is self.adversary.rollout_policy
        self.thetas.append(torch.cat([p.detach().flatten() for p in self.adversary.generator.parameters()]))
        self.betas.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))

    def _on_step(self) -> bool:
        return True


def test_the_rollout_policy_follows_at_its_rate_also_over_two_learns() -> None:
    """β <- β + r (θ - β) after each generator update; a second learn() goes on with β and does not start from θ."""
    model, rate = seqgan(), 0.3
    adversary = AdversarialCallback(REAL_BT, CONFIG, rollout_update_rate=rate)
    watch = Betas(adversary)
    model.learn(120, callback=[adversary, watch])
    model.learn(120, callback=[adversary, watch], reset_num_timesteps=False)
    assert len(watch.betas) > 6
    assert torch.equal(watch.betas[0], watch.thetas[0])
    for k in range(1, len(watch.betas)):
        expected = watch.betas[k - 1] + rate * (watch.thetas[k] - watch.betas[k - 1])
        torch.testing.assert_close(watch.betas[k], expected, rtol=0, atol=1e-6)
    assert not torch.allclose(watch.betas[-1], watch.thetas[-1], atol=1e-3)


def test_at_rate_one_the_rollout_policy_is_the_generator_itself() -> None:
    model, adversary = seqgan(), AdversarialCallback(REAL_BT, CONFIG)
    model.learn(60, callback=adversary)
    assert adversary.rollout_policy is model.policy.generator
    assert model.get_env().get_attr("rollout_policy")[0] is model.policy.generator


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize("name", ["SeqGAN", "A2C"])
def test_a_saved_state_continues_identically(name: str) -> None:
    """Discriminator, optimiser, order, fresh draws, gathered sequences, β and counters: the next round is the same."""
    model = AGENTS[name]()
    rate = 0.5 if name == "SeqGAN" else 1.0
    adversary = AdversarialCallback(REAL_BT, CONFIG, rollout_update_rate=rate, every=30)
    model.learn(300, callback=adversary)
    state = copy.deepcopy(adversary.state_dict())

    other = AGENTS[name]()
    other.policy.load_state_dict(model.policy.state_dict())
    again = AdversarialCallback(REAL_BT, CONFIG, rollout_update_rate=rate, every=30, seed=99)
    other.set_logger(Logger(None, []))
    again.init_callback(other)
    again.load_state_dict(state)
    assert (again.unseen, again.retrainings) == (adversary.unseen, adversary.retrainings)
    if name == "SeqGAN":
        again.init_callback(other)  # as learn() does
        assert adversary.rollout_policy is not None
        assert again.rollout_policy is not None
        assert are_equal(weights_of(adversary.rollout_policy), weights_of(again.rollout_policy))
    for one in (adversary, again):
        one._retrain()
    assert adversary.trainer is not None
    assert again.trainer is not None
    assert are_equal(weights_of(adversary.trainer.discriminator), weights_of(again.trainer.discriminator))
    assert len(again.adversary.sequences) == len(adversary.adversary.sequences)


# ---------------------------------------------------------------- messages


def test_what_cannot_be_trained_is_named() -> None:
    with pytest.raises(ValueError, match="every must be at least 1 sequence or None, got 0"):
        AdversarialCallback(every=0)
    model = A2C("MlpPolicy", make_sb3_env("SeqGAN/Exact-v0", 2, **TASK), device="cpu")
    with pytest.raises(ValueError, match="the environment's reward has none; make it with reward='discriminator'"):
        model.learn(10, callback=AdversarialCallback(REAL_BT))
    with pytest.raises(ValueError, match="or give them to AdversarialCallback as `real`"):
        A2C("MlpPolicy", make_env(2), device="cpu").learn(10, callback=AdversarialCallback())
    ppo = PPO(GeneratorPolicy, make_env(2), n_steps=8, batch_size=8, device="cpu")  # has_eos forgotten
    with pytest.raises(ValueError, match=r"make it with has_eos=True \(of a GeneratorPolicy: policy_kwargs"):
        ppo.learn(10, callback=AdversarialCallback(REAL_BT))


def test_a_discount_that_is_not_the_environments_is_warned_of() -> None:
    agent = PPO("MlpPolicy", make_env(), n_steps=8, batch_size=32, gamma=0.99, seed=0, device="cpu")
    with pytest.warns(UserWarning, match=r"gamma is 0.99, the environment's 1.0.*make it with gamma=1.0"):
        agent.learn(8, callback=AdversarialCallback(config=CONFIG, real=REAL_BT))


def test_a_rollout_policy_on_another_device_is_refused_with_the_fix() -> None:
    policy = seqgan().policy.generator
    env = make_env()
    policy.__class__ = type("OnCuda", (type(policy),), {"device": property(lambda self: torch.device("cuda:0"))})
    with pytest.raises(ValueError, match=r"rollout policy is on cuda:0, the environment on cpu; make both with device"):
        env.env_method("set_rollout_policy", policy)
