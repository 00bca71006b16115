"""The policy gradient of Eqs. (6)-(8) against exact enumeration: right in expectation, with every baseline."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from seqgan_rl import GeneratorPolicy, SeqGAN, make_sb3_env
from seqgan_rl.agents.policy_gradient import BASELINES, advantages, normalised, reward_to_go
from seqgan_rl.agents.seqgan import SequenceBatch
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.exact import ExactTask, SequenceTree, TableReward, table_reward
from seqgan_rl.rollout import action_values
from seqgan_rl.sequences.padding import lengths_from_tokens

torch.set_num_threads(1)

SIZES = {"fixed": (3, 4, False), "variable": (3, 4, True)}


def make_task(size: str) -> ExactTask:
    """Rewards away from zero mean, so that a missing baseline shows."""
    tree = SequenceTree(*SIZES[size])
    return ExactTask(tree, table_reward(tree, 5) + 0.5)


def make_agent(tree: SequenceTree, num_envs: int = 2, algorithm: type[SeqGAN] = SeqGAN, **options: Any) -> Any:
    """A small agent whose conditionals differ from prefix to prefix."""
    env = make_sb3_env(
        "SeqGAN/Exact-v0",
        num_envs,
        monitor=False,
        vocab_size=tree.vocab_size,
        sequence_length=tree.sequence_length,
        variable_length=tree.has_eos,
        shaping="none",
    )
    generator_options = {"embedding_dim": 2, "hidden_dim": 2, "init_std": 1.0}
    with torch_seeded(np.random.default_rng(1)):
        agent = algorithm(
            GeneratorPolicy, env, policy_kwargs={"generator_options": generator_options}, device="cpu", **options
        )
        torch.nn.init.normal_(agent.policy.value_head.weight)
    from stable_baselines3.common.logger import Logger

    agent.set_logger(Logger(None, []))
    return agent


def gradient(agent: SeqGAN, loss: Tensor) -> Tensor:
    """Gradient by the generator's weights, one vector."""
    grads = torch.autograd.grad(loss, list(agent.policy.generator.parameters()), allow_unused=True, retain_graph=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for g, p in zip(grads, agent.policy.generator.parameters(), strict=True)
        ]
    )


def exact_gradients(agent: SeqGAN, task: ExactTask) -> tuple[Tensor, Tensor]:
    """∇J by autograd through the enumerated expectation, and its parts by position, (T, parameters)."""
    tree = task.tree
    log_probs = tree.policy_log_probs(agent.policy.generator)
    evaluation = task.evaluate(log_probs)
    whole = gradient(agent, evaluation.value)
    tokens_NT, lengths_N = tree.sequences()
    p_N = evaluation.sequence_log_probs_N.detach().exp()
    q_NT = tree.q_of_sequences([q.detach() for q in evaluation.q], tokens_NT, lengths_N)
    log_probs = tree.policy_log_probs(agent.policy.generator)
    logp_NT = tree.q_of_sequences(log_probs, tokens_NT, lengths_N)
    parts = [gradient(agent, (p_N * q_NT[:, t] * logp_NT[:, t]).sum()) for t in range(tree.sequence_length)]
    return whole, torch.stack(parts)


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize("size", SIZES)
def test_the_policy_gradient_with_exact_q_is_the_gradient_of_exact_j(size: str) -> None:
    """Eq. (8) through the agent's own loss: Σ_Y p(Y) Σ_t Q ∇log π, float64, against autograd of J = Σ_Y p(Y) R(Y)."""
    task = make_task(size)
    agent = make_agent(task.tree, weights="q", normalize=False, loss="sum")
    agent.policy.double()
    evaluation = task.evaluate(task.policy_log_probs(agent.policy.generator))
    whole, parts = exact_gradients(agent, task)
    tokens_NT, lengths_N = task.tree.sequences()
    p_N1 = evaluation.sequence_log_probs_N.detach().exp()[:, None]
    q_NT = task.tree.q_of_sequences([q.detach() for q in evaluation.q], tokens_NT, lengths_N)
    is_action_NT = torch.arange(4) < lengths_N[:, None]
    loss = agent._loss(SequenceBatch(tokens_NT, is_action_NT, p_N1 * q_NT, q_NT))
    got = -gradient(agent, loss)
    assert whole.abs().max() > 0.01
    assert (got - whole).abs().max() <= 1e-9
    assert (parts.sum(dim=0) - whole).abs().max() <= 1e-9


@pytest.mark.parametrize("size", SIZES)
def test_any_baseline_of_the_state_leaves_the_exact_gradient(size: str) -> None:
    """ "learned" with the agent's arbitrary value head; the weights multiplied by p(Y) by hand."""
    task = make_task(size)
    agent = make_agent(task.tree)
    agent.policy.double()
    evaluation = task.evaluate(task.policy_log_probs(agent.policy.generator))
    tokens_NT, lengths_N = task.tree.sequences()
    p_N1 = evaluation.sequence_log_probs_N.detach().exp()[:, None]
    q_NT = task.tree.q_of_sequences([q.detach() for q in evaluation.q], tokens_NT, lengths_N)
    is_action_NT = torch.arange(4) < lengths_N[:, None]
    value_NT = agent.policy.sequence_values(tokens_NT).detach()
    assert value_NT[is_action_NT].std() > 0.05
    weight_NT = p_N1 * advantages(q_NT, is_action_NT, "learned", value_NT)
    loss, _ = agent.policy.weighted_nll(tokens_NT, weight_NT)
    assert (-gradient(agent, loss) - exact_gradients(agent, task)[0]).abs().max() <= 1e-9


# ---------------------------------------------------------------- Monte Carlo


@pytest.mark.parametrize("size", SIZES)
def test_the_sampled_gradient_is_unbiased_with_every_baseline(size: str) -> None:
    """Sampled sequences, action values with N=2 rollouts of the policy itself, the agent's loss on 400 batches of 12.

    Two-sided z-test of each of the 57-67 weights against the exact gradient, Bonferroni over weights and baselines:
    false alarm 1e-6. Credit shifted by one position must be found by the same test.
    """
    task = make_task(size)
    tree, n, K, N = task.tree, 12, 400, 2
    T, rng = tree.sequence_length, np.random.default_rng(0)
    agent = make_agent(tree, normalize=False, vf_coef=0.0)
    generator = agent.policy.generator
    whole, parts = exact_gradients(agent, task)
    tokens_BT = generator.sample(n * K, rng=rng)
    lengths_B = torch.from_numpy(lengths_from_tokens(tokens_BT.numpy(), tree.pad_id))
    uniforms_BTNT = torch.from_numpy(rng.random((n * K, T - 1, N, T), dtype=np.float32))
    q_BT = action_values(generator, TableReward(tree, task.reward_N), tokens_BT, lengths_B, uniforms_BTNT)
    is_action_BT = torch.arange(T) < lengths_B[:, None]

    def worst_z(weights: str, baseline: str, expected: Tensor, q_BT: Tensor) -> float:
        agent.weights, agent.baseline = weights, baseline
        found = torch.stack(
            [
                -gradient(agent, agent._loss(SequenceBatch(tokens_BT[b], is_action_BT[b], q_BT[b], q_BT[b])))
                for b in torch.arange(n * K).split(n)
            ]
        ).double()
        error = (found.mean(dim=0) - expected) / (found.std(dim=0) / math.sqrt(K) + 1e-12)
        return float(error[found.std(dim=0) > 0].abs().max())

    limit = float(stats.norm.isf(1e-6 / (2 * 6 * 67)))
    assert worst_z("q", "none", whole, q_BT) < limit
    for baseline in ("rollout", "leave_one_out", "learned"):
        assert worst_z("advantage", baseline, whole, q_BT) < limit, baseline
    # position_mean scales the part of position t by 1 - E[1/n_t], n_t - 1 ~ Binomial(n - 1, P(position t is reached))
    reach_T = torch.stack([p.detach().exp().sum() for p in tree.prefix_log_probs(tree.policy_log_probs(generator))])
    scale_T = 1 - (1 - (1 - reach_T) ** n) / (n * reach_T)
    assert worst_z("advantage", "position_mean", (scale_T[:, None] * parts).sum(dim=0), q_BT) < limit
    shifted_BT = torch.where(is_action_BT, q_BT.roll(1, dims=1), 0.0)
    assert worst_z("advantage", "leave_one_out", whole, shifted_BT) > limit


# ---------------------------------------------------------------- baselines and normalisation


def some_batch(seed: int = 0, B: int = 7, T: int = 5) -> tuple[Tensor, Tensor]:
    """Action values and marks: prompts of different lengths, ends at different times, one longer than all others."""
    rng = np.random.default_rng(seed)
    start_B, end_B = rng.integers(0, 2, size=B), rng.integers(2, T, size=B)
    end_B[0] = T
    is_action_BT = torch.from_numpy((np.arange(T) >= start_B[:, None]) & (np.arange(T) < end_B[:, None]))
    return torch.from_numpy(rng.random((B, T), dtype=np.float32)), is_action_BT


def advantages_slowly(q: Tensor, is_action: Tensor, baseline: str, value: Tensor) -> Tensor:
    """The definitions of the docstring in plain loops."""
    B, T = q.shape
    out = torch.zeros(B, T)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    for b in range(B):
        for t in range(T):
            if not is_action[b, t]:
                continue
            others = [float(q[c, t]) for c in range(B) if c != b and is_action[c, t]]
            everywhere = [float(q[c, s]) for c in range(B) for s in range(T) if c != b and is_action[c, s]]
            leave_one_out = mean(others or everywhere)
            base = {
                "none": 0.0,
                "rollout": float(q[b, t - 1]) if t > 0 and is_action[b, t - 1] else leave_one_out,
                "position_mean": mean([*others, float(q[b, t])]),
                "leave_one_out": leave_one_out,
                "learned": float(value[b, t]),
            }[baseline]
            out[b, t] = float(q[b, t]) - base
    return out


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("seed", range(5))
def test_advantages_equal_the_plain_loops_and_are_zero_off_the_actions(baseline: str, seed: int) -> None:
    q_BT, is_action_BT = some_batch(seed)
    value_BT = torch.rand(q_BT.shape, generator=torch.Generator().manual_seed(seed))
    got_BT = advantages(q_BT, is_action_BT, baseline, value_BT)
    assert got_BT.dtype == torch.float32
    torch.testing.assert_close(got_BT, advantages_slowly(q_BT, is_action_BT, baseline, value_BT), rtol=0, atol=1e-6)
    assert (got_BT[~is_action_BT] == 0).all()
    noisy_BT = torch.where(is_action_BT, q_BT, 1e6)  # what stands at prompts and PAD is never read
    assert torch.equal(advantages(noisy_BT, is_action_BT, baseline, value_BT), got_BT)


@pytest.mark.parametrize("baseline", ["rollout", "position_mean", "leave_one_out"])
@pytest.mark.parametrize("value", [1.0, 0.3, 1 / 3, -7.1, 1e-4])
def test_a_constant_reward_gives_exactly_no_weight(baseline: str, value: float) -> None:
    """Not 1e-8 of rounding, which normalisation and Adam would blow up to a step; also where a sequence is alone."""
    _, is_action_BT = some_batch()
    q_BT = torch.where(is_action_BT, value, 0.0)
    weight_BT = normalised(advantages(q_BT, is_action_BT, baseline), is_action_BT)
    assert (weight_BT == 0).all()


def test_normalisation_divides_by_the_root_mean_square_of_the_actions() -> None:
    q_BT, is_action_BT = some_batch()
    advantage_BT = advantages(q_BT, is_action_BT, "leave_one_out")
    got_BT = normalised(advantage_BT, is_action_BT)
    assert float(got_BT[is_action_BT].square().mean()) == pytest.approx(1, abs=2e-3)
    ratio = got_BT[is_action_BT] / advantage_BT[is_action_BT]
    assert float(ratio.std()) < 1e-4
    nothing = torch.zeros(3, 4)
    assert (normalised(nothing, torch.ones(3, 4, dtype=torch.bool)) == 0).all()
    assert (normalised(nothing, torch.zeros(3, 4, dtype=torch.bool)) == 0).all()


def test_reward_to_go_sums_from_here_on() -> None:
    assert reward_to_go(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]])).tolist() == [[6, 5, 3], [5, 5, 5]]


def test_mean_and_sum_differ_by_the_number_of_sequences_only() -> None:
    """Eq. (7) is summed over t and averaged over sequences, never over t: the gradient scale of pitfall 3."""
    task = make_task(next(iter(SIZES)))
    tokens_BT, lengths_B = (part[:5] for part in task.tree.sequences())
    is_action_BT = torch.arange(4) < lengths_B[:, None]
    q_BT = torch.where(is_action_BT, 0.5, 0.0)
    losses = {}
    for reduction in ("mean", "sum"):
        agent = make_agent(task.tree, weights="q", normalize=False, loss=reduction)
        losses[reduction] = float(agent._loss(SequenceBatch(tokens_BT, is_action_BT, q_BT, q_BT)).detach())
        logp_BT = agent.policy.sequence_log_prob(tokens_BT).detach()
    assert losses["sum"] == pytest.approx(-0.5 * float(logp_BT.sum()), rel=1e-5)
    assert losses["mean"] == pytest.approx(losses["sum"] / 5, rel=1e-5)


def test_an_unknown_baseline_is_named() -> None:
    q_BT, is_action_BT = some_batch()
    with pytest.raises(
        ValueError, match="baseline must be one of none, rollout, position_mean, leave_one_out, learned"
    ):
        advantages(q_BT, is_action_BT, "mean")


# ---------------------------------------------------------------- where the gradient goes


def test_prompts_and_pad_carry_no_gradient() -> None:
    """Equal to the sum over action positions by hand; values that stand elsewhere change nothing."""
    tree = SequenceTree(3, 4, True)
    agent = make_agent(tree, weights="q", normalize=False, loss="sum")
    agent.policy.double()
    tokens_BT = torch.tensor([[0, 1, 2, 0], [2, 2, 3, 4], [1, 3, 4, 4]])
    is_action_BT = torch.tensor([[False, False, True, True], [False, True, True, False], [True, True, False, False]])
    q_BT = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = gradient(agent, agent._loss(SequenceBatch(tokens_BT, is_action_BT, q_BT, q_BT)))
    by_hand = -sum(
        q_BT[b, t]
        * tree.q_of_sequences(tree.policy_log_probs(agent.policy.generator), tokens_BT, torch.tensor([4, 3, 2]))[b, t]
        for b, t in is_action_BT.nonzero().tolist()
    )
    assert (got - gradient(agent, by_hand)).abs().max() < 1e-12  # type: ignore[arg-type]
    noisy_BT = torch.where(is_action_BT, q_BT, 99.0)
    again = gradient(agent, agent._loss(SequenceBatch(tokens_BT, is_action_BT, noisy_BT, q_BT)))
    assert torch.equal(got, again)


def test_the_critic_learns_without_touching_the_generator() -> None:
    tree = SequenceTree(3, 4, True)
    agent = make_agent(tree, baseline="learned", normalize=False)
    q_BT, tokens_BT = torch.rand(3, 4), torch.tensor([[0, 1, 2, 0], [2, 2, 3, 4], [1, 3, 4, 4]])
    batch = SequenceBatch(tokens_BT, tokens_BT < 4, q_BT, q_BT)
    with_critic = gradient(agent, agent._loss(batch))
    (head,) = torch.autograd.grad(agent._loss(batch), [agent.policy.value_head.weight])
    agent.vf_coef = 0.0
    assert torch.equal(gradient(agent, agent._loss(batch)), with_critic)
    assert head.abs().max() > 0
