"""The actor-critic of Bahdanau et al. on tasks that can be enumerated: its two gradients, its fixed point, learning."""

import copy
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from seqgan_rl import GeneratorPolicy, make_sb3_env
from seqgan_rl.agents.actor_critic import ActorCritic, td_targets
from seqgan_rl.agents.seqgan import SequenceBatch
from seqgan_rl.envs.exact import ExactTask, Tables
from seqgan_rl.rewards.base import FunctionReward
from tests.agents.test_policy_gradient import SIZES, gradient, make_agent, make_task

torch.set_num_threads(1)


class TableCritic(nn.Module):
    """A number for every prefix and action, V words: prefixes in the order of a tree of V branches."""

    def __init__(self, num_words: int, tables: Tables) -> None:
        super().__init__()
        self.num_words = num_words
        self.table = nn.Parameter(torch.cat(tables).clone())

    def logits(self, tokens_BT: Tensor) -> Tensor:
        node_B, columns = torch.zeros(len(tokens_BT), dtype=torch.int64), []
        for t in range(tokens_BT.shape[1]):
            columns.append(self.table[node_B.clamp_max(len(self.table) - 1)])
            node_B = node_B * self.num_words + 1 + tokens_BT[:, t].clamp_max(self.num_words - 1)
        return torch.stack(columns, dim=1)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def everything(task: ExactTask) -> SequenceBatch:
    """All sequences of a task, paid at their ends, float64."""
    tokens_NT, lengths_N = task.tree.sequences()
    is_action_NT = tokens_NT != task.tree.pad_id
    reward_NT = torch.zeros(tokens_NT.shape, dtype=torch.float64)
    reward_NT.scatter_(1, lengths_N[:, None] - 1, task.reward_N[:, None])
    return SequenceBatch(tokens_NT, is_action_NT, torch.zeros_like(reward_NT), reward_NT)


def exact_agent(size: str, **options: Any) -> tuple[ExactTask, Any]:
    task = make_task(size)
    agent = make_agent(task.tree, algorithm=ActorCritic, **options)
    agent.policy.double()
    return task, agent


# ---------------------------------------------------------------- the two gradients


@pytest.mark.parametrize("size", SIZES)
def test_with_the_exact_critic_the_actor_gradient_is_the_exact_policy_gradient(size: str) -> None:
    """Σ_Y p(Y) Σ_t Σ_a ∇π(a) Q(a) against autograd of J, float64; the critic gets nothing of it, and a constant added
    to the values of a prefix changes nothing."""
    task, agent = exact_agent(size)
    evaluation = task.evaluate(task.policy_log_probs(agent.policy.generator))
    exact, batch = gradient(agent, evaluation.value), everything(task)
    p_N = evaluation.sequence_log_probs_N.detach().exp()
    for shift in (0.0, 3.0):
        critic = TableCritic(3, [q_PA.detach() + shift for q_PA in evaluation.q])
        agent.critic = critic
        losses = torch.stack([agent._actor_loss(row(batch, n)) for n in range(len(p_N))])
        found = -gradient(agent, (p_N * losses).sum())
        assert exact.abs().max() > 0.01
        assert (found - exact).abs().max() <= 1e-9
        assert critic.table.grad is None


def row(batch: SequenceBatch, n: int) -> SequenceBatch:
    """One sequence."""
    parts = (batch.tokens_BT, batch.is_action_BT, batch.q_BT, batch.reward_BT)
    tokens_1T, is_action_1T, q_1T, reward_1T = (part[n : n + 1] for part in parts)
    return SequenceBatch(tokens_1T, is_action_1T, q_1T, reward_1T)


def test_forbidden_words_have_no_part_in_the_actor_gradient() -> None:
    _, agent = exact_agent("variable")
    agent.policy.sampling_options = type(agent.policy.sampling_options)(forbidden=(1,))
    probs_BTA = agent._probabilities(agent.policy.generator, torch.tensor([[0, 2, 3, 4]]))
    assert (probs_BTA[:, :, 1] == 0).all()
    assert probs_BTA.sum(dim=2).tolist()[0] == pytest.approx([1.0] * 4)
    batch = SequenceBatch(
        torch.tensor([[0, 2, 3, 4]]), torch.tensor([[1, 1, 1, 0]]).bool(), torch.zeros(1, 4), torch.ones(1, 4)
    )
    agent.critic.double()
    before = gradient(agent, agent._actor_loss(batch))
    with torch.no_grad():
        agent.critic.output_bias[1] += 100.0
    torch.testing.assert_close(gradient(agent, agent._actor_loss(batch)), before)
    assert before.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_exact_values_are_what_the_targets_give_back(size: str) -> None:
    """q_t of exact Q and the actor is exact Q of every action in every sequence: the fixed point; float64."""
    task, agent = exact_agent(size)
    evaluation = task.evaluate(task.policy_log_probs(agent.policy.generator))
    q, batch = [q_PA.detach() for q_PA in evaluation.q], everything(task)
    probs_NTA = agent._probabilities(agent.policy.generator, batch.tokens_BT).detach()
    target_NT = td_targets(batch.reward_BT, batch.is_action_BT, probs_NTA, TableCritic(3, q).logits(batch.tokens_BT))
    expected_NT = task.tree.q_of_sequences(q, batch.tokens_BT, batch.is_action_BT.sum(dim=1))
    torch.testing.assert_close(target_NT[batch.is_action_BT], expected_NT[batch.is_action_BT], rtol=0, atol=1e-9)
    agent.variance_penalty = 0.0
    agent.critic = agent.target_critic = TableCritic(3, q)
    assert float(agent._critic_loss(batch).detach()) < 1e-18


@pytest.mark.parametrize("size", SIZES)
def test_trained_on_all_sequences_the_critic_finds_exact_q(size: str) -> None:
    """From zero, by the agent's own updates with an actor that stays as it is: within 0.005 of enumeration for every
    prefix and action, where Q itself spreads by more than 0.1."""
    task, agent = exact_agent(size, critic_update_rate=0.2, variance_penalty=0.0, critic_warmup=10**6)
    evaluation = task.evaluate(task.policy_log_probs(agent.policy.generator))
    exact = torch.cat([q_PA.detach() for q_PA in evaluation.q])
    critic = TableCritic(3, [torch.zeros_like(q_PA.detach()) for q_PA in evaluation.q])
    agent.critic, agent.target_critic = critic, copy.deepcopy(critic)
    agent.batch, actor = everything(task), weights(agent.policy.generator)
    for rate, steps in ((0.05, 250), (0.005, 100)):
        agent.critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=rate, weight_decay=0.0)
        for _ in range(steps):
            agent.train()
    assert exact.std() > 0.1
    assert (critic.table.detach() - exact).abs().max() < 0.005
    assert torch.equal(weights(agent.policy.generator), actor)


@pytest.mark.parametrize("rate", [1.0, 0.5], ids=["actor", "delayed actor"])
def test_the_loss_of_the_critic_by_plain_loops(rate: float) -> None:
    """Squared error and λ Σ_a (Q(a) - mean Q)², a mean over the actions; a prompt and PAD have no part. The targets are
    of the delayed actor, where there is one."""
    _, agent = exact_agent("variable", variance_penalty=0.7, actor_update_rate=rate)
    agent.critic.double()
    agent.target_critic.double()
    tokens_BT = torch.tensor([[0, 1, 2, 0], [2, 2, 3, 4]])
    is_action_BT = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]]).bool()
    reward_BT = torch.tensor([[9.0, 0.1, 0.2, 0.7], [0.0, 0.3, 0.4, 9.0]]).double()
    with torch.no_grad():
        q, late = agent.critic.logits(tokens_BT), agent.target_critic.logits(tokens_BT) + 0.5
        agent.target_critic.output_bias += 0.5
        actor = agent.policy.generator
        if rate < 1:
            actor = agent.delayed_actor.double()
            actor.output_bias[0] += 1.0
        probs = actor.logits(tokens_BT).softmax(dim=2)
    total = 0.0
    for b, t in is_action_BT.nonzero().tolist():
        goes_on = t < 3 and bool(is_action_BT[b, t + 1])
        target = float(reward_BT[b, t]) + (float((probs[b, t + 1] * late[b, t + 1]).sum()) if goes_on else 0.0)
        values = q[b, t].tolist()
        mean = sum(values) / 4
        total += (values[int(tokens_BT[b, t])] - target) ** 2 + 0.7 * sum((value - mean) ** 2 for value in values)
    loss = agent._critic_loss(SequenceBatch(tokens_BT, is_action_BT, reward_BT, reward_BT))
    assert float(loss.detach()) == pytest.approx(total / 6, abs=1e-9)


# ---------------------------------------------------------------- as an agent


def vec_env(num_envs: int = 4, **options: Any) -> VecEnv:
    options = {"vocab_size": 4, "sequence_length": 4, "shaping": "none"} | options
    return make_sb3_env("SeqGAN/Exact-v0", num_envs, **options)


def new_agent(env: VecEnv, **options: Any) -> Any:
    sizes = {"generator_options": {"embedding_dim": 4, "hidden_dim": 8, "init_std": 0.5}}
    agent = ActorCritic(GeneratorPolicy, env, **{"policy_kwargs": sizes, "seed": 0, "device": "cpu", **options})
    agent.set_logger(Logger(None, []))
    return agent


def test_the_actor_waits_for_the_critic_and_the_copies_follow() -> None:
    """In the warm-up the actor stays; target critic and delayed actor are the running averages, γ = 0.25 and 0.5."""
    agent = new_agent(
        vec_env(), critic_warmup=2, critic_update_rate=0.25, actor_update_rate=0.5, critic_learning_rate=0.01
    )
    with torch.no_grad():  # as warm_start does
        agent.policy.generator.output_bias += 1.0
    actor, target = weights(agent.policy.generator), weights(agent.target_critic)
    assert agent.delayed_actor is not None
    late = actor
    for update in range(1, 5):
        critic = weights(agent.critic)
        agent.learn(1, reset_num_timesteps=False)
        assert agent._n_updates == update
        assert not torch.equal(weights(agent.critic), critic)
        target = target + 0.25 * (weights(agent.critic) - target)
        torch.testing.assert_close(weights(agent.target_critic), target, rtol=0, atol=1e-6)
        assert torch.equal(weights(agent.policy.generator), actor) is (update <= 2)
        late = late + 0.5 * (weights(agent.policy.generator) - late)
        torch.testing.assert_close(weights(agent.delayed_actor), late, rtol=0, atol=1e-6)


def test_the_delayed_actor_plays() -> None:
    agent = new_agent(vec_env(8), actor_update_rate=0.5)
    agent.learn(1)
    assert agent.delayed_actor is not None
    with torch.no_grad():
        agent.delayed_actor.output_bias[2] += 100.0
    actor = agent.policy.generator
    env = agent.env
    assert env is not None
    _, callback = agent._setup_learn(1)
    agent.collect_rollouts(env, callback, None, 1)
    assert agent.batch is not None
    assert (agent.batch.tokens_BT == 2).all()
    assert agent.policy.generator is actor
    obs = np.full((8, 4), 4)
    logp_BA = agent.policy.get_distribution(torch.from_numpy(obs)).distribution.logits
    torch.testing.assert_close(logp_BA, actor.logits(torch.from_numpy(obs))[:, 0].log_softmax(dim=1))


def test_score_differences_sum_to_the_reward() -> None:
    """R = 1 per word 1, less the length / 10, of prefixes too; a prompt's own score belongs to the first action."""
    agent = new_agent(vec_env(variable_length=True), score_differences=True)
    agent.baseline = "none"
    assert agent.env is not None
    count = FunctionReward(lambda tokens_BT, lengths_B: (tokens_BT == 1).sum(dim=1) - lengths_B / 10)
    agent.env.env_method("set_reward", count)
    tokens_BT = torch.tensor([[1, 0, 1, 4], [1, 1, 2, 1], [4, 5, 5, 5]])
    is_action_BT = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 0]]).bool()
    zero_BT = torch.zeros(3, 4)
    paid = agent._paid_by_differences(SequenceBatch(tokens_BT, is_action_BT, zero_BT, zero_BT))
    expected_BT = torch.tensor([[0.9, -0.1, 0.9, -0.1], [0, 0, 1.7, 0.9], [-0.1, 0, 0, 0]])
    torch.testing.assert_close(paid.reward_BT, expected_BT, rtol=0, atol=1e-6)
    to_go_BT = torch.tensor([[1.6, 0.7, 0.8, -0.1], [0, 0, 2.6, 0.9], [-0.1, 0, 0, 0]])
    torch.testing.assert_close(paid.q_BT, to_go_BT, rtol=0, atol=1e-6)
    assert not paid.has_rollouts, "what is to come is no baseline for the next step's"
    agent.learn(1)
    assert agent.batch is not None
    reward_B = count(agent.batch.tokens_BT, (agent.batch.tokens_BT != 5).sum(dim=1))
    torch.testing.assert_close(agent.batch.return_B, reward_B, rtol=0, atol=1e-5)


def test_a_penalty_that_score_differences_do_not_hold_is_refused() -> None:
    """The reward's own scores would leave it out; what the environment pays holds it."""
    for score_differences in (True, False):
        agent = new_agent(vec_env(), score_differences=score_differences)
        assert agent.env is not None
        agent.env.env_method("set_reward", FunctionReward(lambda tokens_BT, lengths_B: (tokens_BT == 1).sum(dim=1)))
        agent.env.env_method("set_penalty", lambda tokens_BT, lengths_B, actions_B: np.ones(len(actions_B)))
        if score_differences:
            with pytest.raises(ValueError, match="do not hold the environment's penalty; leave score_differences off"):
                agent.learn(1)
        else:
            agent.learn(1)


@pytest.mark.parametrize("options", [{}, {"actor_update_rate": 0.5}], ids=["plain", "delayed"])
def test_it_learns_a_task_with_a_known_optimum(options: dict[str, Any]) -> None:
    """From J of about 0.5 of a random policy towards the best of 341 random rewards."""
    task = gym.make("SeqGAN/Exact-v0", vocab_size=4, sequence_length=4, variable_length=True).unwrapped.exact_task  # type: ignore[attr-defined]
    agent = new_agent(vec_env(64, variable_length=True), learning_rate=0.02, critic_learning_rate=0.02, **options)
    agent.learn(64 * 4 * 30)
    with torch.no_grad():
        value = float(task.evaluate(task.policy_log_probs(agent.policy.generator)).value)
    assert value > 0.8 * task.optimal_value


def test_saved_and_loaded_the_next_update_is_the_same(tmp_path: Any) -> None:
    """Critic, its target, its optimiser and the delayed actor are all there, bit for bit."""
    env = vec_env(4)
    agent = new_agent(env, actor_update_rate=0.5, critic_warmup=1)
    agent.learn(50)
    agent.save(tmp_path / "agent")
    again = ActorCritic.load(tmp_path / "agent", env=env, device="cpu")
    again.set_logger(Logger(None, []))
    again.batch = agent.batch
    agent.train()
    again.train()
    for name in ("critic", "target_critic", "delayed_actor", "policy"):
        assert torch.equal(weights(getattr(agent, name)), weights(getattr(again, name))), name
    assert (again.critic_warmup, again.actor_update_rate) == (1, 0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"critic_update_rate": 0.0}, r"critic_update_rate must lie in \(0, 1\], got 0.0"),
        ({"actor_update_rate": 1.5}, r"actor_update_rate must lie in \(0, 1\], got 1.5"),
        ({"critic_learning_rate": 0.0}, "critic_learning_rate must be above 0, got 0.0"),
        ({"variance_penalty": math.inf}, "variance_penalty must be a finite number of at least 0, got inf"),
        ({"critic_warmup": -1}, "critic_warmup must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        new_agent(vec_env(), **options)
