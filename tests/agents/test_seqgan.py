"""The SeqGAN agent: whole sequences, the right values at the right tokens, and learning on tasks with known answers."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from torch import Tensor

from seqgan_rl import GeneratorPolicy, LSTMGenerator, Oracle, SeqGAN, make_sb3_env
from seqgan_rl.agents.policy_gradient import advantages
from seqgan_rl.agents.seqgan import SequenceBatch
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.environment import ExactEnv
from seqgan_rl.envs.exact import Evaluation, ExactTask
from seqgan_rl.evaluation import Evaluator, TemperatureCurve
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer
from seqgan_rl.rewards import ConstantReward, OracleLogRatio
from seqgan_rl.rewards.base import FunctionReward
from seqgan_rl.rewards.bleu import BLEUReward
from seqgan_rl.rollout import action_values
from seqgan_rl.sequences.padding import check_tokens, lengths_from_tokens

torch.set_num_threads(1)

SMALL: dict[str, Any] = {"vocab_size": 2, "sequence_length": 4, "variable_length": True, "num_rollouts": 2}
GENERATOR = {"generator_options": {"embedding_dim": 4, "hidden_dim": 8, "init_std": 1.0}}


def vec_env(kind: str, num_envs: int, **options: Any) -> VecEnv:
    if kind == "adapter":
        return make_sb3_env("SeqGAN/Exact-v0", num_envs, **options)
    return DummyVecEnv([lambda: Monitor(gym.make("SeqGAN/Exact-v0", **options)) for _ in range(num_envs)])


def make_agent(env: VecEnv, seed: int | None = 0, **options: Any) -> SeqGAN:
    options = {"policy_kwargs": GENERATOR, "device": "cpu"} | options
    agent = SeqGAN(GeneratorPolicy, env, seed=seed, **options)
    agent.set_logger(Logger(None, []))
    return agent


def exact_task(**options: Any) -> ExactTask:
    env = gym.make("SeqGAN/Exact-v0", **options).unwrapped
    assert isinstance(env, ExactEnv)
    return env.exact_task


def evaluate(agent: SeqGAN, task: ExactTask, reference: LSTMGenerator | None = None) -> Evaluation:
    with torch.no_grad():
        return task.evaluate(
            task.policy_log_probs(agent.policy.generator),
            None if reference is None else task.policy_log_probs(reference),
        )


class Watch(BaseCallback):
    """Keeps the batch of every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Any] = []
        self.num_dones = 0

    def _on_rollout_end(self) -> None:
        self.batches.append(self.model.batch)  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        self.num_dones += int(np.sum(self.locals["dones"]))
        return True


# ---------------------------------------------------------------- which sequences


@pytest.mark.parametrize("kind", ["adapter", "dummy"])
def test_sequences_are_those_of_the_policy_and_not_the_short_ones(kind: str) -> None:
    """2,000 sequences with frozen weights against the exact distribution over all 31 sequences of the task.

    Chi-square, false alarm 1e-6; and the mean length, z-test, 1e-6. Taking the first sequences to finish would halve
    the share of the longest. Each sub-environment gives equally many, and callbacks see each end once."""
    env = vec_env(kind, 8, shaping="none", **SMALL)
    agent, watch, n = make_agent(env, batch_size=40, learning_rate=0.0, stats_window_size=80), Watch(), 2000
    task = exact_task(**SMALL)
    probability_N = evaluate(agent, task).sequence_log_probs_N.exp().numpy()
    tokens_NT, lengths_N = task.tree.sequences()
    mean = float(probability_N @ lengths_N.numpy())
    while sum(len(batch.tokens_BT) for batch in watch.batches) < n:
        before = agent.num_timesteps
        agent.learn(1, callback=watch, reset_num_timesteps=False, log_interval=None)
        assert agent.num_timesteps - before == int(watch.batches[-1].is_action_BT.sum())  # steps that count, no others
    tokens_BT = torch.cat([batch.tokens_BT for batch in watch.batches])
    assert all(len(batch.tokens_BT) == 40 for batch in watch.batches)
    assert watch.num_dones == len(tokens_BT) == n
    logged = sorted(episode["l"] for episode in agent.ep_info_buffer or ())  # rollout/ep_len_mean is of these alone
    assert logged == sorted(
        torch.cat([batch.is_action_BT.sum(dim=1) for batch in watch.batches])[-len(logged) :].tolist()
    )
    check_tokens(tokens_BT.numpy(), 3, eos_id=2)
    lengths_B = torch.from_numpy(lengths_from_tokens(tokens_BT.numpy(), 3))
    counts_N = np.bincount(task.tree.numbers(tokens_BT, lengths_B).numpy(), minlength=len(tokens_NT))
    frequent = probability_N * n > 5
    expected = [*(probability_N[frequent] * n), probability_N[~frequent].sum() * n]
    assert stats.chisquare([*counts_N[frequent], counts_N[~frequent].sum()], expected).pvalue > 1e-6
    z = (float(lengths_B.double().mean()) - mean) / (float(lengths_B.double().std()) / n**0.5)
    assert abs(z) < 4.892
    assert 1.5 < mean < 3.9


@pytest.mark.parametrize("kind", ["adapter", "dummy"])
def test_marks_and_returns_of_a_batch(kind: str) -> None:
    """Actions are the tokens that are not PAD; returns are R(Y); REINFORCE's reward-to-go
    on an unshaped environment is R(Y) at every token."""
    task = exact_task(**SMALL)
    for shaping in ("rollout", "deferred", "none"):
        agent, watch = make_agent(vec_env(kind, 3, shaping=shaping, **SMALL), batch_size=6), Watch()
        agent.learn(1, callback=watch)
        batch = watch.batches[0]
        assert torch.equal(batch.is_action_BT, batch.tokens_BT != 3)
        lengths_B = batch.is_action_BT.sum(dim=1)
        R_B = task.reward_N[task.tree.numbers(batch.tokens_BT, lengths_B)].float()
        torch.testing.assert_close(batch.return_B, R_B, rtol=0, atol=1e-6)
        last_B = batch.q_BT.gather(1, lengths_B[:, None] - 1).squeeze(1)
        torch.testing.assert_close(last_B, R_B, rtol=0, atol=1e-6)
        if shaping == "none":
            torch.testing.assert_close(batch.q_BT, torch.where(batch.is_action_BT, R_B[:, None], 0.0))
        assert (batch.q_BT[~batch.is_action_BT] == 0).all()


@pytest.mark.parametrize("shaping", ["rollout", "deferred"])
def test_action_values_reach_their_own_sequence_and_token(shaping: str) -> None:
    """Pitfall 1: a reshape where a transpose was meant. The agent's table against `action_values`, called with the
    uniforms that each sub-environment's generator must have drawn."""
    options = SMALL | {"vocab_size": 3, "sequence_length": 5, "num_rollouts": 4}
    B, T, N, seed = 6, 5, 4, 21
    env = vec_env("adapter", B, shaping=shaping, **options)
    agent, watch = make_agent(env, seed=seed), Watch()
    agent.learn(1, callback=watch)
    batch = watch.batches[0]
    lengths_B = batch.is_action_BT.sum(dim=1)
    uniforms_BTNT = torch.zeros(B, T - 1, N, T)
    for b, n in enumerate(lengths_B.tolist()):
        rng = gym.utils.seeding.np_random(seed + b)[0]
        uniforms_BTNT[b, : n - 1] = torch.from_numpy(rng.random((n - 1, N, T), dtype=np.float32))
    policy, reward = env.get_attr("rollout_policy")[0], env.get_attr("reward")[0]
    expected_BT = action_values(policy, reward, batch.tokens_BT, lengths_B, uniforms_BTNT)
    torch.testing.assert_close(batch.q_BT, expected_BT, rtol=0, atol=1e-6)
    assert expected_BT[batch.is_action_BT].std() > 0.05
    assert len(set(lengths_B.tolist())) > 1


class Prompted(VecEnvWrapper):
    """Every sequence starts from a prompt."""

    def __init__(self, venv: VecEnv, prompts: list[list[int]]) -> None:
        super().__init__(venv)
        self.prompts = prompts

    def reset(self) -> Any:
        self.venv.set_options([{"prefix": prompt} for prompt in self.prompts])
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()


@pytest.mark.parametrize("kind", ["adapter", "dummy"])
@pytest.mark.parametrize("shaping", ["rollout", "deferred", "none"])
def test_prompts_are_no_actions(kind: str, shaping: str) -> None:
    prompts = [[], [1], [0, 1], [1, 1, 0]]
    agent = make_agent(Prompted(vec_env(kind, 4, shaping=shaping, **SMALL), prompts))
    agent.learn(1)
    batch = agent.batch
    assert batch is not None
    for b, prompt in enumerate(prompts):
        assert batch.tokens_BT[b, : len(prompt)].tolist() == prompt
        assert not batch.is_action_BT[b, : len(prompt)].any()
        assert batch.is_action_BT[b, len(prompt)]
        assert (batch.q_BT[b, : len(prompt)] == 0).all()
        assert (batch.q_BT[b, len(prompt)] > 0).all()


def test_unk_is_never_played(small_text: str) -> None:
    """`has_eos` and `forbidden` come from the environment; the caller's policy_kwargs are not written to."""
    kwargs: dict[str, Any] = {"generator_options": {"embedding_dim": 4, "hidden_dim": 4}}
    options: dict[str, Any] = {"corpus": small_text, "min_count": 2, "shaping": "none", "reward": lambda t, n: 1.0 / n}
    env = make_sb3_env("SeqGAN/Corpus-v0", 16, **options)
    agent, watch = make_agent(env, policy_kwargs=kwargs, batch_size=64), Watch()
    agent.learn(1200, callback=watch)
    (unk,) = env.get_attr("forbidden")[0]
    tokens_BT = torch.cat([batch.tokens_BT for batch in watch.batches])
    assert (tokens_BT != unk).all()
    assert len(tokens_BT) > 200
    assert agent.policy.generator.eos_id == unk + 1
    assert set(kwargs) == {"generator_options"}


def test_a_callback_stops_the_agent_at_once_and_leaves_no_row_held() -> None:
    class Stop(BaseCallback):
        steps = 0

        def _on_step(self) -> bool:
            self.steps += 1
            return self.steps < 2

    env = vec_env("adapter", 3, shaping="none", **SMALL)
    agent, stop = make_agent(env, batch_size=9), Stop()
    agent.learn(1000, callback=stop)
    assert stop.steps == 2
    assert agent._n_updates == 0
    assert env.get_attr("hold_finished")[0] is False


# ---------------------------------------------------------------- one update


@pytest.mark.parametrize("baseline", ["rollout", "position_mean", "leave_one_out"])
@pytest.mark.parametrize("shaping", ["rollout", "deferred", "none"])
def test_a_constant_reward_moves_nothing(baseline: str, shaping: str) -> None:
    """The control must be a null by construction; 0.3 is no float, so that rounding would show."""
    env = vec_env("adapter", 7, shaping=shaping, **SMALL)
    env.env_method("set_reward", ConstantReward(0.3))
    agent = make_agent(env, baseline=baseline, learning_rate=0.1)
    before = copy.deepcopy(agent.policy.state_dict())
    agent.learn(200)
    assert agent._n_updates > 5
    assert all(torch.equal(weight, before[name]) for name, weight in agent.policy.state_dict().items())


def test_one_update_is_one_adam_step_on_the_loss() -> None:
    """With clipping; `was_clipped` and the norm before it are logged."""
    env = vec_env("adapter", 8, shaping="deferred", **SMALL)
    agent = make_agent(env, max_grad_norm=0.01)
    twin = copy.deepcopy(agent.policy)
    agent.learn(1, log_interval=None)
    assert agent.batch is not None
    logged = dict(agent.logger.name_to_value)
    assert logged["agent/gradient_norm"] > 0.01
    assert logged["agent/was_clipped"] == 1.0
    after, agent.policy = agent.policy, twin
    loss = agent._loss(agent.batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.01)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, eps=after.optimizer.defaults["eps"])
    optimizer.step()
    for one, other in zip(twin.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
    assert logged["agent/reward"] == pytest.approx(float(agent.batch.return_B.mean()))


def test_one_seed_gives_one_run_and_another_seed_another() -> None:
    def run(seed: int) -> Tensor:
        agent = make_agent(vec_env("adapter", 4, shaping="rollout", **SMALL), seed=seed)
        agent.learn(60)
        return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_deferred_and_shaped_environments_train_alike() -> None:
    """The same seed: the same weights to rounding, after several updates."""

    def run(shaping: str) -> Tensor:
        agent = make_agent(vec_env("adapter", 4, shaping=shaping, **SMALL), batch_size=4)
        agent.learn(1)
        return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])

    torch.testing.assert_close(run("rollout"), run("deferred"), rtol=0, atol=1e-5)


def test_saved_and_loaded_it_predicts_the_same_and_goes_on(tmp_path: Any) -> None:
    env = vec_env("adapter", 4, shaping="deferred", **SMALL)
    agent = make_agent(env, batch_size=8, baseline="leave_one_out", kl_coef=0.1)
    agent.learn(100)
    agent.save(tmp_path / "agent")
    again = SeqGAN.load(tmp_path / "agent", env=env, device="cpu")
    alone = SeqGAN.load(tmp_path / "agent", device="cpu")
    obs_BT = torch.tensor([[3, 3, 3, 3], [0, 3, 3, 3], [1, 0, 1, 3]])
    p_BA = agent.policy.get_distribution(obs_BT).distribution.probs
    for other in (again, alone):
        assert torch.equal(other.policy.get_distribution(obs_BT).distribution.probs, p_BA)
        expected, _ = agent.predict(obs_BT.numpy(), deterministic=True)
        assert np.array_equal(other.predict(obs_BT.numpy(), deterministic=True)[0], expected)
        assert (other.batch_size, other.baseline, other.kl_coef) == (8, "leave_one_out", 0.1)
        assert other.policy.generator.eos_id == 2
    moments = [[s["exp_avg"] for s in a.policy.optimizer.state.values()] for a in (agent, again)]
    assert all(torch.equal(one, other) for one, other in zip(*moments, strict=True))
    again.learn(50, reset_num_timesteps=False)
    assert again._n_updates > agent._n_updates
    assert again.num_timesteps >= agent.num_timesteps + 50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "Q"}, 'weights must be "q" or "advantage", got \'Q\''),
        ({"baseline": "mean"}, "baseline must be one of .* got 'mean'"),
        ({"mle_coef": -0.5}, "mle_coef must be a finite number of at least 0, got -0.5"),
        ({"mle_coef": float("inf")}, "mle_coef must be a finite number of at least 0, got inf"),
        ({"loss": "max"}, 'loss must be "mean" or "sum", got \'max\''),
        ({"batch_size": 10}, "batch_size must be a multiple of the 4 sub-environments, got 10"),
        ({"batch_size": 2}, "batch_size must be a multiple of the 4 sub-environments, got 2"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_agent(vec_env("adapter", 4, shaping="none", **SMALL), **options)


def test_a_truncated_sequence_is_refused() -> None:
    agent = make_agent(vec_env("adapter", 4, shaping="none", max_episode_steps=2, **SMALL))
    with pytest.raises(ValueError, match="SeqGAN needs whole sequences, but the environment truncated one"):
        agent.learn(100)


def test_a_reward_that_is_no_number_stops_before_the_weights_are_spoilt() -> None:
    env = vec_env("adapter", 4, shaping="none", **SMALL)
    env.env_method("set_reward", ConstantReward(float("nan")))
    agent = make_agent(env)
    before = copy.deepcopy(agent.policy.state_dict())
    with pytest.raises(FloatingPointError, match="the policy gradient is not finite"):
        agent.learn(10)
    assert all(torch.equal(weight, before[name]) for name, weight in agent.policy.state_dict().items())


# ---------------------------------------------------------------- maximum likelihood mixed in


REAL = torch.tensor([[0, 1, 2, 3], [1, 1, 0, 2], [2, 3, 3, 3], [0, 0, 0, 0]])
"""Of :data:`SMALL`: words 0 and 1, EOS 2, PAD 3."""


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_the_gradient_is_the_policys_plus_that_of_the_real_nll(loss: str) -> None:
    """Real rows drawn by `real_rng`, as many as are played; their NLL per token by torch's own log-softmax. The word
    that is never played still counts, as in pretraining."""
    kwargs = GENERATOR | {"forbidden": (0,)}
    agent = make_agent(vec_env("adapter", 6, shaping="deferred", **SMALL), loss=loss, policy_kwargs=kwargs)
    agent.learn(1)
    assert agent.batch is not None
    weights = [p for p in agent.policy.generator.parameters()]
    without = torch.autograd.grad(agent._loss(agent.batch), weights)
    agent.mle_coef, agent.real = 0.7, REAL
    rows = copy.deepcopy(agent.real_rng).integers(len(REAL), size=6)
    assert len(set(rows.tolist())) > 1
    both = torch.autograd.grad(agent._loss(agent.batch), weights)
    drawn_BT = REAL[rows]
    logp_BTA = agent.policy.generator.logits(drawn_BT).log_softmax(dim=2)
    is_token_BT = drawn_BT != 3
    nll = -logp_BTA.gather(2, drawn_BT.masked_fill(~is_token_BT, 0)[:, :, None]).squeeze(2)[is_token_BT].mean()
    for got, policy_part, real_part in zip(both, without, torch.autograd.grad(nll, weights), strict=True):
        torch.testing.assert_close(got, policy_part + 0.7 * real_part, rtol=1e-4, atol=1e-6)
        assert float(real_part.abs().max()) > 0
    assert agent.logger.name_to_value["agent/mle_loss"] == pytest.approx(float(nll.detach()), rel=1e-5)


def test_a_weight_of_0_changes_no_number() -> None:
    """With real sequences at hand or not; nothing is drawn and nothing logged."""

    def run(real: Tensor | None, **options: Any) -> tuple[SeqGAN, Tensor]:
        agent = make_agent(vec_env("adapter", 4, shaping="deferred", **SMALL), **options)
        agent.real = real
        agent.learn(60)
        return agent, torch.cat([p.detach().flatten() for p in agent.policy.parameters()])

    (_, plain), (zero, same), (_, other) = run(None), run(REAL, mle_coef=0.0), run(REAL, mle_coef=0.1)
    assert torch.equal(plain, same)
    assert not torch.equal(plain, other)
    assert "agent/mle_loss" not in zero.logger.name_to_value
    assert zero.real_rng.bit_generator.state == make_agent(zero.get_env()).real_rng.bit_generator.state


@pytest.mark.parametrize(
    ("real", "words"),
    [
        (None, r"mle_coef 0.1 needs real sequences, token ids of shape \(N, 4\); got None. Set `agent.real`"),
        (REAL[:, :3], r"got \(4, 3\)"),
        (REAL[:0], r"got \(0, 4\)"),
    ],
)
def test_likelihood_without_real_sequences_is_refused_before_playing(real: Tensor | None, words: str) -> None:
    agent = make_agent(vec_env("adapter", 4, shaping="none", **SMALL), mle_coef=0.1)
    agent.real = real
    with pytest.raises(ValueError, match=words):
        agent.learn(100)
    assert agent.num_timesteps == 0


def test_real_sequences_are_not_saved_and_their_order_goes_on(tmp_path: Any) -> None:
    env = vec_env("adapter", 4, shaping="none", **SMALL)
    agent = make_agent(env, mle_coef=0.1)
    agent.real = REAL
    agent.learn(30)
    agent.save(tmp_path / "agent")
    again = SeqGAN.load(tmp_path / "agent", env=env, device="cpu")
    assert (again.real, again.mle_coef) == (None, 0.1)
    assert again.real_rng.bit_generator.state == agent.real_rng.bit_generator.state
    with pytest.raises(ValueError, match="needs real sequences"):
        again.learn(30)


def test_under_a_reward_that_says_nothing_it_is_maximum_likelihood() -> None:
    """A constant reward has a null gradient: only the likelihood moves the policy, and all 1s become sure."""
    env = vec_env("adapter", 16, shaping="none", **SMALL)
    env.env_method("set_reward", ConstantReward(0.3))
    agent = make_agent(env, baseline="leave_one_out", learning_rate=0.05, mle_coef=1.0)
    agent.real = torch.tensor([[1, 1, 1, 1]])
    agent.learn(16 * 4 * 40)
    with torch.no_grad():
        assert float(agent.policy.generator.log_prob(agent.real).exp().min()) > 0.95


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("shaping", ["none", "deferred"])
@pytest.mark.parametrize("variable", [False, True], ids=["fixed", "variable"])
def test_it_learns_a_task_with_a_known_optimum(shaping: str, variable: bool) -> None:
    """From J = 0.5 of a random policy to 0.85 of the best of 256 or 341 random rewards, with the defaults. Without
    rollouts the default baseline must not be Q of the step before, R(Y) too: only the first token would learn."""
    options: dict[str, Any] = {"vocab_size": 4, "sequence_length": 4, "variable_length": variable, "num_rollouts": 4}
    task = exact_task(**options)
    agent = make_agent(vec_env("adapter", 64, shaping=shaping, **options), learning_rate=0.02)
    before = float(evaluate(agent, task).value)
    agent.learn(64 * 4 * 60)
    after = float(evaluate(agent, task).value)
    assert before < 0.65
    assert after > 0.85 * task.optimal_value


def test_the_kl_penalty_keeps_the_policy_near_its_start() -> None:
    """Exact KL(π || π_start) of the sequences: with the penalty a tenth of that without, and reward is still gained."""
    options: dict[str, Any] = {"vocab_size": 4, "sequence_length": 4, "shaping": "none"}
    task, kl, gained = exact_task(**options), {}, {}
    for kl_coef in (0.0, 5.0):
        agent = make_agent(vec_env("adapter", 64, **options), learning_rate=0.02, kl_coef=kl_coef)
        start = copy.deepcopy(agent.policy.generator)
        before = float(evaluate(agent, task).value)
        agent.learn(64 * 4 * 40)
        evaluation = evaluate(agent, task, start)
        assert evaluation.kl is not None
        kl[kl_coef], gained[kl_coef] = float(evaluation.kl), float(evaluation.value) - before
        if kl_coef:
            assert "agent/kl_to_start" in agent.logger.name_to_value
    assert kl[5.0] < kl[0.0] / 10
    assert gained[5.0] > 0.05


def test_the_entropy_bonus_raises_entropy() -> None:
    """Under a constant reward nothing else moves the policy: it becomes uniform over what may be played."""
    options: dict[str, Any] = {"vocab_size": 4, "sequence_length": 4, "shaping": "none"}
    env, task = vec_env("adapter", 32, **options), exact_task(**options)
    env.env_method("set_reward", ConstantReward(0.3))
    agent = make_agent(
        env, learning_rate=0.02, ent_coef=0.1, policy_kwargs=GENERATOR | {"forbidden": (2,)}, baseline="leave_one_out"
    )
    before = float(evaluate(agent, task).entropy)
    agent.learn(32 * 4 * 80)
    logged = agent.logger.name_to_value["agent/entropy"]
    assert before < 4 * np.log(4)
    assert logged == pytest.approx(np.log(3), abs=0.01)  # nats per token, the forbidden one at 0 log 0


def test_the_learned_baseline_fits_the_values() -> None:
    """The critic's error falls well below the variance of what it predicts."""
    options: dict[str, Any] = {"vocab_size": 3, "sequence_length": 3, "shaping": "deferred", "num_rollouts": 8}
    agent = make_agent(
        vec_env("adapter", 64, **options), learning_rate=lambda _: 0.02, baseline="learned", vf_coef=1.0, ent_coef=1.0
    )
    agent.learn(64 * 3 * 150)
    batch = agent.batch
    assert batch is not None
    with torch.no_grad():
        value_BT = agent.policy.sequence_values(batch.tokens_BT)
    means_T = batch.q_BT.mean(dim=0)
    assert float((value_BT.mean(dim=0) - means_T).abs().max()) < 0.1


def test_with_a_perfect_reward_it_moves_below_the_temperature_curve() -> None:
    """Pilot, Q4, at V=50: from an MLE of 8 units, 56 updates with the log-ratio to the oracle as reward. NLL_oracle at
    equal NLL_test falls by 0.3 nats a token, standard error 0.02; what temperature does is 0 by definition."""
    oracle, rng = Oracle.from_seed(0, vocab_size=50, sequence_length=20), np.random.default_rng(0)
    data_BT = oracle.sample(8000, rng)
    sizes = {"embedding_dim": 8, "hidden_dim": 8}
    with torch_seeded(np.random.default_rng(1)):
        mle = LSTMGenerator(50, 20, **sizes)
    config = LikelihoodConfig(max_epochs=12, patience=2, decays=1, learning_rate=0.03)
    for _ in LikelihoodTrainer(mle, data_BT[:4000], data_BT[4000:5000], config, rng).epochs():
        pass
    evaluator = Evaluator(data_BT[5000:], oracle=oracle, n_samples=3000)
    curve = TemperatureCurve.measure(mle, evaluator, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1))
    env = make_sb3_env(
        "SeqGAN/Oracle-v0", 512, oracle=oracle, vocab_size=50, reward=OracleLogRatio(oracle, mle), shaping="none"
    )
    agent = make_agent(env, learning_rate=2e-3, policy_kwargs={"generator_options": sizes})
    agent.policy.generator.load_state_dict(mle.state_dict())
    agent.learn(512 * 20 * 56, log_interval=None)
    scores = evaluator.scores(agent.policy.generator)
    gap = curve.gap(scores)
    assert gap.value is not None
    assert gap.standard_error is not None
    assert gap.value < -0.15
    assert gap.value < -5 * gap.standard_error
    assert scores.entropy > 1.0  # before the collapse that a longer run meets


@pytest.mark.parametrize("shaping", ["none", "deferred"])
def test_with_bleu_as_reward_it_is_pg_bleu(shaping: str, small_text: str) -> None:
    """Yu et al.'s baseline: the same agent, paid with BLEU against the training text. What is paid is that BLEU, and
    it rises from that of random words to more than that of held-out text."""
    env = make_sb3_env(
        "SeqGAN/Corpus-v0", 64, corpus=small_text, reward=ConstantReward(), num_rollouts=2, shaping=shaping
    )
    task = env.get_attr("task")[0]
    train_NT, valid_NT = (torch.tensor(task.corpus.splits[name].tokens_NT) for name in ("train", "valid"))
    reward = BLEUReward(train_NT, eos_id=task.eos_id)
    env.env_method("set_reward", reward)
    agent, watch = make_agent(env, learning_rate=0.02), Watch()
    agent.learn(64 * 6 * 30, callback=watch)
    for batch in watch.batches[::10]:
        paid_B = reward(batch.tokens_BT, batch.is_action_BT.sum(dim=1))
        torch.testing.assert_close(batch.return_B, paid_B, rtol=0, atol=1e-6)
    first, last = (float(watch.batches[i].return_B.mean()) for i in (0, -1))
    held_out = float(reward(valid_NT, (valid_NT != agent.policy.num_actions).sum(dim=1)).mean())
    assert held_out > 3 * first
    assert last > held_out


@pytest.mark.parametrize("variable_length", [False, True])
def test_differences_of_scores_leave_the_exact_gradient(variable_length: bool) -> None:
    """Over all sequences, each as often as it is played: Σ_Y π(Y) Σ_t (R(Y) - R(Y_{1:t-1})) ∇ log π(y_t | Y_{1:t-1}) is
    ∇J by autograd, whatever the reward says of prefixes."""
    options: dict[str, Any] = {"vocab_size": 3, "sequence_length": 4, "variable_length": variable_length}
    env = vec_env("adapter", 2, shaping="none", **options)
    agent = make_agent(env, score_differences=True, baseline="leave_one_out")
    assert agent.env is not None
    table_N = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    agent.env.env_method(
        "set_reward", FunctionReward(lambda tokens_BT, _: table_N[(tokens_BT * 7 ** torch.arange(4)).sum(dim=1) % 5000])
    )
    tree = exact_task(**options).tree
    tokens_NT, lengths_N = tree.sequences()
    is_action_NT = torch.arange(4) < lengths_N[:, None]
    zero_NT = torch.zeros(tokens_NT.shape)
    paid = agent._paid_by_differences(SequenceBatch(tokens_NT, is_action_NT, zero_NT, zero_NT))
    assert agent.num_prefixes_scored == int((lengths_N - 1).sum())
    reward_N = table_N[(tokens_NT * 7 ** torch.arange(4)).sum(dim=1) % 5000]
    torch.testing.assert_close(paid.return_B, reward_N)
    generator = agent.policy.generator
    logp_NT = generator.log_prob(tokens_NT)
    probability_N = logp_NT.sum(dim=1).exp()
    weights = list(generator.parameters())
    expected = torch.autograd.grad(probability_N @ reward_N, weights, retain_graph=True)
    found = torch.autograd.grad((probability_N.detach()[:, None] * paid.q_BT * logp_NT).sum(), weights)
    for got, gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-6)
    agent.baseline = "rollout"  # then a token's advantage is its own difference, but for the first
    paid = agent._paid_by_differences(SequenceBatch(tokens_NT, is_action_NT, zero_NT, zero_NT))
    advantage_NT = advantages(paid.q_BT, is_action_NT, "rollout")
    assert paid.has_rollouts
    torch.testing.assert_close(advantage_NT[:, 1:], paid.reward_BT[:, 1:])


def test_a_penalty_that_rollouts_do_not_hold_is_refused_with_the_fix() -> None:
    """Action values would leave it out; without rollouts it is in the reward-to-go."""
    for shaping, is_refused in (("deferred", True), ("rollout", True), ("none", False)):
        env = make_sb3_env("SeqGAN/Exact-v0", 4, vocab_size=3, sequence_length=3, shaping=shaping, num_rollouts=2)
        model = SeqGAN("GeneratorPolicy", env, seed=0, device="cpu")
        env.env_method("set_penalty", lambda tokens_BT, lengths_B, actions_B: np.ones(len(actions_B)))
        if is_refused:
            with pytest.raises(ValueError, match="do not hold the environment's penalty; use kl_coef"):
                model.learn(12)
        else:
            model.learn(12)
