"""GeneratorPolicy: what it samples is what it reports, decoded step by step or re-read; under PPO, A2C and TRPO."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from seqgan_rl import GeneratorPolicy, make_sb3_env
from seqgan_rl.core.streams import torch_seeded

torch.set_num_threads(1)

V, T = 4, 5  # with EOS: 5 actions, PAD = 5
OPTIONS = {"embedding_dim": 4, "hidden_dim": 6, "init_std": 1.0}
EXACT: dict[str, Any] = {"vocab_size": V, "sequence_length": T, "variable_length": True, "shaping": "none"}


def make_policy(
    seed: int = 0, forbidden: tuple[int, ...] = (), dtype: Any = np.int64, **options: Any
) -> GeneratorPolicy:
    with torch_seeded(np.random.default_rng(seed)):
        policy = GeneratorPolicy(
            spaces.Box(0, V + 1, (T,), dtype),
            spaces.Discrete(V + 1),
            lambda _: 0.01,
            generator_options=OPTIONS,
            has_eos=True,
            forbidden=forbidden,
            **options,
        )
        torch.nn.init.normal_(policy.value_head.weight)
    policy.set_training_mode(False)
    return policy


def vec_env(kind: str, num_envs: int = 6) -> VecEnv:
    if kind == "adapter":
        return make_sb3_env("SeqGAN/Exact-v0", num_envs, monitor=False, **EXACT)
    return DummyVecEnv([lambda: gym.make("SeqGAN/Exact-v0", **EXACT)] * num_envs)


def assert_as_if_read_anew(policy: GeneratorPolicy, obs: np.ndarray) -> Tensor:
    """Play one step; its numbers must be those of re-reading the prefixes. Returns the actions."""
    obs_BT = torch.as_tensor(obs)
    actions_B, values_B1, logp_B = policy(obs_BT)
    again_values_B1, again_logp_B, _ = policy.evaluate_actions(obs_BT, actions_B)
    torch.testing.assert_close(logp_B, again_logp_B, rtol=0, atol=1e-6)
    torch.testing.assert_close(values_B1, again_values_B1, rtol=0, atol=1e-6)
    torch.testing.assert_close(policy.predict_values(obs_BT), values_B1, rtol=0, atol=1e-6)
    assert values_B1.shape == (len(obs), 1)
    assert logp_B.shape == actions_B.shape == (len(obs),)
    return actions_B


# ---------------------------------------------------------------- incremental decoding


@pytest.mark.parametrize("kind", ["adapter", "dummy"])
def test_incremental_decoding_equals_reading_anew_and_never_reads_anew(kind: str) -> None:
    """60 steps over automatic resets with EOS at different times; one generator step a call, whatever the length."""
    policy, env = make_policy(), vec_env(kind)
    env.seed(0)
    obs, ended = env.reset(), set()
    calls: list[int] = []
    policy._read = lambda *args: calls.append(1)
    for _ in range(60):
        actions_B = assert_as_if_read_anew(policy, obs)  # type: ignore[arg-type]
        obs, _, _, infos = env.step(actions_B.numpy())
        ended |= {
            int(info["terminal_observation"].tolist().index(V))
            for info in infos
            if V in info.get("terminal_observation", [])
        }
    assert len(ended) >= 4  # EOS came at different times
    assert calls == []


@pytest.mark.parametrize("how", ["optimizer", "load_state_dict", "parameter.data", "other module", "in place on data"])
def test_weight_changes_in_mid_episode_are_noticed(how: str) -> None:
    """Also TRPO's way, ``parameter.data = ...``, which leaves no mark on the parameter's version."""
    policy, other, env = make_policy(), make_policy(1), vec_env("adapter")
    obs = env.reset()
    for step in range(12):
        actions_B = assert_as_if_read_anew(policy, obs)  # type: ignore[arg-type]
        obs = env.step(actions_B.numpy())[0]
        if step % 2 == 0:
            continue
        policy.set_training_mode(True)  # as every SB3 algorithm does before its update
        if how == "optimizer":
            _, logp_B, _ = policy.evaluate_actions(torch.as_tensor(obs), actions_B)
            logp_B.sum().backward()
            policy.optimizer.step()
        elif how == "load_state_dict":
            policy.load_state_dict({k: v + 0.1 for k, v in policy.state_dict().items()})
        elif how == "parameter.data":
            for parameter in policy.parameters():
                parameter.data = parameter.data + 0.1
        elif how == "in place on data":
            for parameter in policy.parameters():
                parameter.data.add_(0.1)
        else:
            policy.generator, other.generator = other.generator, policy.generator
        policy.set_training_mode(False)


def test_jumps_between_prefixes_and_batch_sizes_are_noticed() -> None:
    """Random unrelated prefixes, in changing batches, with the same rows in another order in between."""
    policy, rng = make_policy(), np.random.default_rng(0)
    for _ in range(20):
        B = int(rng.integers(1, 5))
        lengths_B1 = rng.integers(0, T, size=B)[:, None]
        obs = np.where(np.arange(T) < lengths_B1, rng.integers(0, V, size=(B, T)), V + 1)
        actions_B = assert_as_if_read_anew(policy, obs)
        order = rng.permutation(B)
        longer = obs.copy()
        longer[np.arange(B), lengths_B1[:, 0]] = np.minimum(actions_B.numpy(), V - 1)
        keep = lengths_B1[order, 0] < T - 1
        if keep.any():
            assert_as_if_read_anew(policy, longer[order][keep])


def test_predict_plays_incrementally_and_deterministically() -> None:
    policy, obs = make_policy(), np.full((3, T), V + 1)
    first, _ = policy.predict(obs, deterministic=True)
    distribution = policy.get_distribution(torch.as_tensor(obs))
    assert first.tolist() == distribution.distribution.probs.argmax(dim=1).tolist()
    assert policy.predict(obs[0])[0].shape == ()
    assert len({int(policy.predict(obs[:1])[0][0]) for _ in range(40)}) > 1  # it samples unless told otherwise


def test_float_observations_are_read_as_tokens() -> None:
    """ "tokens_float32" gives the same numbers as "tokens"."""
    policy, real = make_policy(), make_policy(dtype=np.float32)
    obs_BT = torch.tensor([[0, 1, 5, 5, 5], [3, 5, 5, 5, 5]])
    actions_B = torch.tensor([1, 4])
    assert torch.equal(
        policy.evaluate_actions(obs_BT, actions_B)[1], real.evaluate_actions(obs_BT.float(), actions_B)[1]
    )


# ---------------------------------------------------------------- what it samples


@pytest.mark.parametrize("forbidden", [(), (1, 3)])
def test_sampled_actions_have_the_reported_probabilities(forbidden: tuple[int, ...]) -> None:
    """Chi-square of 40,000 draws at each of three prefixes, by `forward` and by `predict`; false alarm 1e-6 each.

    Forbidden tokens are never drawn, have probability 0, and entropy, gradient and KL stay finite."""
    policy, n = make_policy(forbidden=forbidden), 40_000
    allowed = np.setdiff1d(np.arange(V + 1), forbidden)
    for prefix in ([], [2], [0, 2, 2]):
        obs_BT = torch.tensor([prefix + [V + 1] * (T - len(prefix))]).repeat(n, 1)
        every_A = torch.arange(V + 1)
        _, logp_A, entropy_A = policy.evaluate_actions(obs_BT[: V + 1], every_A)
        assert entropy_A is not None
        assert torch.isfinite(entropy_A).all()
        p_A = logp_A.detach().exp().double().numpy()
        assert p_A.sum() == pytest.approx(1, abs=1e-6)
        assert (p_A[list(forbidden)] == 0).all()
        assert (p_A[allowed] > 0).all()
        expected_entropy = -sum(p * np.log(p) for p in p_A[allowed])
        assert float(entropy_A[0].detach()) == pytest.approx(expected_entropy, abs=1e-5)
        for actions in (policy(obs_BT)[0].numpy(), policy.predict(obs_BT.numpy())[0]):
            counts = np.bincount(actions, minlength=V + 1)
            assert (counts[list(forbidden)] == 0).all()
            assert stats.chisquare(counts[allowed], p_A[allowed] / p_A[allowed].sum() * n).pvalue > 1e-6
        policy.zero_grad()
        _, logp_B, entropy_B = policy.evaluate_actions(obs_BT[:4], torch.as_tensor(allowed[[0, 1, 2, 0]]))
        assert entropy_B is not None
        (logp_B.sum() + entropy_B.sum()).backward()
        assert all(torch.isfinite(p.grad).all() for p in policy.generator.parameters() if p.grad is not None)
        one, two = (make_policy(seed, forbidden).get_distribution(obs_BT[:1]).distribution for seed in (0, 1))
        assert torch.isfinite(torch.distributions.kl_divergence(one, two)).all()


def test_sequence_log_prob_is_the_sum_of_what_the_steps_report() -> None:
    policy, env = make_policy(forbidden=(1,)), vec_env("adapter", 4)
    obs = env.reset()
    total_B, done_B, sequences = torch.zeros(4), np.zeros(4, dtype=np.bool_), np.zeros((4, T), dtype=np.int64)
    while not done_B.all():
        actions_B, _, logp_B = policy(torch.as_tensor(obs))
        total_B += torch.where(torch.as_tensor(done_B), 0.0, logp_B)
        obs, _, dones_B, infos = env.step(actions_B.numpy())
        for row in np.flatnonzero(dones_B & ~done_B):
            sequences[row] = infos[row]["terminal_observation"]
        done_B |= dones_B
    logp_BT = policy.sequence_log_prob(torch.as_tensor(sequences))
    torch.testing.assert_close(logp_BT.sum(dim=1).detach(), total_B, rtol=0, atol=1e-5)
    assert (logp_BT[torch.as_tensor(sequences) == V + 1] == 0).all()


# ---------------------------------------------------------------- under SB3's algorithms


class OldLogProbs(BaseCallback):
    """At the end of every rollout: log-probabilities noted while playing are those of the policy that is trained."""

    worst = 0.0
    rollouts = 0

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        obs = torch.as_tensor(buffer.observations.reshape(-1, T))
        actions = torch.as_tensor(buffer.actions.reshape(-1))
        with torch.no_grad():
            values, logp, _ = self.model.policy.evaluate_actions(obs, actions)  # type: ignore[operator]
        noted = torch.as_tensor(buffer.log_probs.reshape(-1))
        self.worst = max(self.worst, float((logp - noted).abs().max()))
        self.worst = max(self.worst, float((values.flatten() - torch.as_tensor(buffer.values.reshape(-1))).abs().max()))
        self.rollouts += 1

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO"])
def test_sb3_algorithms_run_it_on_policy(algorithm: str) -> None:
    """Rollouts of 3 steps cut sequences of 5, so weights change in mid-episode: states kept from before the update
    would make the noted log-probabilities those of no policy at all."""
    if algorithm == "TRPO":
        contrib = pytest.importorskip("sb3_contrib")
        make, options = contrib.TRPO, {"n_steps": 3, "batch_size": 18, "learning_rate": 0.05, "target_kl": 0.1}
    elif algorithm == "PPO":
        make, options = PPO, {"n_steps": 3, "batch_size": 9, "learning_rate": 0.05}
    else:
        make, options = A2C, {"n_steps": 3, "learning_rate": 0.05}
    env = make_sb3_env("SeqGAN/Exact-v0", 6, **EXACT)
    model = make(
        GeneratorPolicy,
        env,
        gamma=1.0,
        seed=0,
        device="cpu",
        policy_kwargs={"has_eos": True, "generator_options": OPTIONS},
        **options,
    )
    before = {name: weight.clone() for name, weight in model.policy.generator.state_dict().items()}
    check = OldLogProbs()
    model.learn(6 * 3 * 10, callback=check)
    assert check.rollouts == 10
    assert check.worst < 1e-5
    assert any(not torch.equal(weight, before[name]) for name, weight in model.policy.generator.state_dict().items())


def test_it_is_saved_and_loaded_by_sb3(tmp_path: Any) -> None:
    policy = make_policy(forbidden=(1,), value_gradient=True)
    policy.save(tmp_path / "policy.pt")
    again = GeneratorPolicy.load(tmp_path / "policy.pt")
    obs_BT = torch.tensor([[0, 2, 5, 5, 5]])
    for one, other in zip(
        policy.evaluate_actions(obs_BT, torch.tensor([2])),
        again.evaluate_actions(obs_BT, torch.tensor([2])),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert again.sampling_options.forbidden == (1,)
    assert again.generator.eos_id == V


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Box(0, 5, (T,), np.int64), spaces.Box(0, 1, (2,)), "needs a Discrete action space from 0"),
        (spaces.Box(0, 5, (T,), np.int64), spaces.Discrete(5, start=1), "needs a Discrete action space from 0"),
        (spaces.Discrete(6), spaces.Discrete(5), "make the environment with observation='tokens'"),
        (spaces.Box(0, 1, (T * 5,), np.float32), spaces.Discrete(5), r"token ids up to PAD = 5"),
    ],
)
def test_other_spaces_are_refused(observation: Any, action: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GeneratorPolicy(observation, action, lambda _: 0.01)
