"""RLOO and GRPO: gradients against enumeration, the terms of their losses against the formulas, and learning."""

import copy
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from seqgan_rl import GeneratorPolicy, LSTMGenerator, SeqGAN, make_sb3_env
from seqgan_rl.agents.grpo import GRPO
from seqgan_rl.agents.policy_gradient import clipped_surrogate, group_relative, k3, leave_one_out, prompt_groups
from seqgan_rl.agents.rloo import RLOO
from seqgan_rl.agents.seqgan import SequenceBatch
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.exact import ExactTask
from seqgan_rl.rewards import ConstantReward
from seqgan_rl.sequences.padding import lengths_from_tokens
from tests.agents.test_policy_gradient import SIZES, gradient, make_agent, make_task

torch.set_num_threads(1)


def sampled_batches(agent: SeqGAN, task: ExactTask, n: int, K: int) -> list[SequenceBatch]:
    """K batches of n sequences of the policy, paid at their ends."""
    tree = task.tree
    tokens_RT = agent.policy.generator.sample(n * K, rng=np.random.default_rng(0))
    lengths_R = torch.from_numpy(lengths_from_tokens(tokens_RT.numpy(), tree.pad_id))
    reward_R = task.reward_N[tree.numbers(tokens_RT, lengths_R)].float()
    is_action_RT = tokens_RT != tree.pad_id
    reward_RT = torch.zeros(tokens_RT.shape).scatter(1, lengths_R[:, None] - 1, reward_R[:, None])
    q_RT = torch.where(is_action_RT, reward_R[:, None], 0.0)
    return [SequenceBatch(tokens_RT[b], is_action_RT[b], q_RT[b], reward_RT[b]) for b in torch.arange(n * K).split(n)]


def start_network(agent: SeqGAN) -> LSTMGenerator:
    """A reference that is clearly another distribution."""
    with torch_seeded(np.random.default_rng(7)):
        return LSTMGenerator(**{**agent.policy.generator.config, "init_std": 1.0}).requires_grad_(False)


def worst_z(found_KP: Tensor, expected_P: Tensor) -> float:
    """The largest |z| of the means of K estimates, over all parameters."""
    error_P = found_KP.mean(dim=0) - expected_P
    z_P = error_P / (found_KP.std(dim=0) / math.sqrt(len(found_KP)) + 1e-12)
    return float(z_P[found_KP.std(dim=0) > 0].abs().max())


# ---------------------------------------------------------------- gradients in expectation


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_rloo_is_unbiased_for_its_regularised_objective(size: str, beta: float) -> None:
    """400 batches of 2 against ∇(E[R(Y)] - β KL(π || π_ref)) by autograd through the enumeration. z-test of every
    weight, Bonferroni: false alarm 1e-6. A baseline with the sequence itself in it (half the gradient) is caught."""
    task = make_task(size)
    agent = make_agent(task.tree, algorithm=RLOO, beta=beta)
    agent.reference = start_network(agent)
    reference = [table.detach() for table in task.policy_log_probs(agent.reference)]
    evaluation = task.evaluate(task.policy_log_probs(agent.policy.generator), reference)
    assert evaluation.kl is not None
    exact = gradient(agent, evaluation.value - beta * evaluation.kl)
    found = torch.stack(
        [-gradient(agent, agent._loss(batch)) for batch in sampled_batches(agent, task, 2, 400)]
    ).double()
    limit = float(stats.norm.isf(1e-6 / (2 * found.shape[1])))
    assert worst_z(found, exact) < limit
    assert worst_z(found, exact / 2) > limit
    if beta:
        without = gradient(agent, task.evaluate(task.policy_log_probs(agent.policy.generator)).value)
        assert worst_z(found, without) > limit


@pytest.mark.parametrize("size", SIZES)
def test_the_first_step_of_an_unscaled_grpo_is_the_policy_gradient(size: str) -> None:
    """scale_by_std and scale_by_length off: (1 - 1/n) ∇J / T with n sequences a batch, since the mean holds the
    sequence itself; with scale_by_length the sequences of variable length are weighed otherwise."""
    task, n = make_task(size), 2
    agent = make_agent(task.tree, algorithm=GRPO, beta=0.0, scale_by_std=False, scale_by_length=False)
    exact = gradient(agent, task.evaluate(task.policy_log_probs(agent.policy.generator)).value)

    def found() -> Tensor:
        rows = []
        for batch in sampled_batches(agent, task, n, 400):
            old_logp_BT = agent.policy.sequence_log_prob(batch.tokens_BT).detach()
            rows.append(-gradient(agent, agent._surrogate_loss(batch, old_logp_BT, old_logp_BT)))
        return torch.stack(rows).double()

    limit = float(stats.norm.isf(1e-6 / (2 * len(exact))))
    assert worst_z(found(), (1 - 1 / n) * exact / 4) < limit
    agent.scale_by_length = True
    assert (worst_z(found(), (1 - 1 / n) * exact / 4) > limit) is task.tree.has_eos


def test_k3_estimates_kl_and_its_gradient_is_that_of_the_other_divergence() -> None:
    """Σ_a π(a) k3(a) = KL(π || π_ref); Σ_a π(a) ∇k3(a), π drawn from, = ∇ KL(π_ref || π). Float64."""
    rng = torch.Generator().manual_seed(0)
    logits_A = torch.randn(7, generator=rng, dtype=torch.float64, requires_grad=True)
    reference_A = torch.randn(7, generator=rng, dtype=torch.float64).log_softmax(dim=0)
    logp_A = logits_A.log_softmax(dim=0)
    p_A = logp_A.detach().exp()
    assert float((p_A * k3(logp_A.detach(), reference_A)).sum()) == pytest.approx(
        float((p_A * (p_A.log() - reference_A)).sum()), abs=1e-12
    )
    (found,) = torch.autograd.grad((p_A * k3(logp_A, reference_A)).sum(), logits_A, retain_graph=True)
    (expected,) = torch.autograd.grad((reference_A.exp() * (reference_A - logp_A)).sum(), logits_A)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- formulas


def test_advantages_by_hand() -> None:
    """Two prompts, of three and two sequences: R - mean of the others; (R - mean) / (population sd + 1e-4)."""
    reward_B = torch.tensor([1.0, 5.0, 2.0, 7.0, 6.0])
    group_B = torch.tensor([0, 1, 0, 1, 0])
    torch.testing.assert_close(leave_one_out(reward_B, group_B), torch.tensor([-3.0, -2.0, -1.5, 2.0, 4.5]))
    plain_B = torch.tensor([-2.0, -1.0, -1.0, 1.0, 3.0])
    torch.testing.assert_close(group_relative(reward_B, group_B, scale_by_std=False), plain_B)
    sd_B = torch.tensor([math.sqrt(14 / 3), 1.0])[group_B]
    torch.testing.assert_close(group_relative(reward_B, group_B, scale_by_std=True), plain_B / (sd_B + 1e-4))


@pytest.mark.parametrize("value", [1.0, 0.3, 1 / 3, -7.1])
def test_a_constant_reward_gives_exactly_no_advantage(value: float) -> None:
    reward_B, group_B = torch.full((7,), value), torch.tensor([0, 0, 1, 1, 1, 0, 0])
    assert (leave_one_out(reward_B, group_B) == 0).all()
    assert (group_relative(reward_B, group_B, scale_by_std=True) == 0).all()


def test_a_group_of_one_has_no_others() -> None:
    with pytest.raises(ValueError, match="leave-one-out needs at least 2 sequences of every prompt; raise batch_size"):
        leave_one_out(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1]))
    assert group_relative(torch.tensor([1.0]), torch.tensor([0]), scale_by_std=True).tolist() == [0.0]


def test_groups_are_those_of_one_prompt() -> None:
    """PAD = 3. What was said after the prompt, and when it ended, does not count."""
    tokens_BT = torch.tensor([[0, 1, 2, 3], [0, 1, 1, 2], [1, 0, 2, 3], [0, 2, 3, 3], [0, 0, 0, 0]])
    is_action_BT = torch.tensor([[0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 1, 1]]).bool()
    group = prompt_groups(tokens_BT, is_action_BT, 3).tolist()
    assert group[0] == group[1]
    assert group[3] == group[4]
    assert len({group[0], group[2], group[3]}) == 3
    assert prompt_groups(tokens_BT, tokens_BT != 3, 3).tolist() == [0] * 5


def test_the_clip_stops_what_went_far_enough() -> None:
    """min(ρA, clip(ρ)A) and where its gradient is 0, by cases: ε = 0.2."""
    ratio = torch.tensor([1.1, 1.3, 1.3, 0.7, 0.7, 0.9])
    advantage = torch.tensor([2.0, 2.0, -2.0, 2.0, -2.0, -2.0])
    logp = ratio.log().requires_grad_(True)
    value = clipped_surrogate(logp, torch.zeros(6), advantage, 0.2)
    torch.testing.assert_close(value.detach(), torch.tensor([2.2, 2.4, -2.6, 1.4, -1.6, -1.8]))
    (slope,) = torch.autograd.grad(value.sum(), logp)
    torch.testing.assert_close(slope, torch.tensor([2.2, 0.0, -2.6, 1.4, 0.0, -1.8]))


@pytest.mark.parametrize("scale_by_length", [True, False])
def test_the_loss_of_grpo_equals_the_plain_loops(scale_by_length: bool) -> None:
    """Prompts and ends of different lengths; old and reference probabilities are others than the policy's."""
    tree = make_task("variable").tree
    agent = make_agent(tree, algorithm=GRPO, beta=0.5, scale_by_length=scale_by_length)
    tokens_BT = torch.tensor([[0, 1, 2, 0], [0, 2, 3, 4], [1, 3, 4, 4], [1, 1, 1, 1]])
    is_action_BT = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    reward_BT = torch.tensor([[0, 0, 0, 1.0], [0, 0, 3.0, 0], [0, 0.2, 0, 0], [0, 0, 0.5, 0.1]])
    batch = SequenceBatch(tokens_BT, is_action_BT, reward_BT, reward_BT)
    noise = torch.Generator().manual_seed(0)
    logp = agent.policy.sequence_log_prob(tokens_BT).detach()
    old, reference = (logp + 0.3 * torch.randn(4, 4, generator=noise) for _ in range(2))
    returns, total = [1.0, 3.0, 0.2, 0.6], 0.0
    for b, group in enumerate([[0, 1], [0, 1], [2, 3], [2, 3]]):
        rewards = [returns[c] for c in group]
        mean = sum(rewards) / 2
        advantage = (returns[b] - mean) / (math.sqrt(sum((r - mean) ** 2 for r in rewards) / 2) + 1e-4)
        terms = []
        for t in is_action_BT[b].nonzero().flatten().tolist():
            ratio = math.exp(logp[b, t] - old[b, t])
            other = math.exp(reference[b, t] - logp[b, t])
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            terms.append(surrogate - 0.5 * (other - math.log(other) - 1))
        total += sum(terms) / (len(terms) if scale_by_length else 4) / 4
    loss = agent._surrogate_loss(batch, old, reference)
    assert float(loss.detach()) == pytest.approx(-total, abs=1e-5)


def test_grpo_reads_nothing_of_a_prompt_that_the_agent_may_not_say() -> None:
    """Word 0 is forbidden and stands in the prompts: log-probability -inf, and yet a finite gradient."""
    tree = make_task("variable").tree
    policy_kwargs = {"forbidden": (0,)}
    env = make_sb3_env(
        "SeqGAN/Exact-v0", 2, vocab_size=3, sequence_length=4, variable_length=True, shaping="none", monitor=False
    )
    agent = new_agent(GRPO, env, policy_kwargs=policy_kwargs)
    tokens_BT = torch.tensor([[0, 1, 2, 1], [0, 2, 3, tree.pad_id]])
    is_action_BT = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0]]).bool()
    batch = SequenceBatch(tokens_BT, is_action_BT, is_action_BT.float(), torch.rand(2, 4))
    assert torch.isneginf(agent.policy.sequence_log_prob(tokens_BT)[:, 0]).all()
    old_logp_BT = agent._log_prob(agent.policy.generator, batch).detach()
    slope = gradient(agent, agent._surrogate_loss(batch, old_logp_BT, old_logp_BT - 0.1))
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


# ---------------------------------------------------------------- as agents


def vec_env(num_envs: int, **options: Any) -> VecEnv:
    options = {"vocab_size": 4, "sequence_length": 4, "shaping": "none"} | options
    return make_sb3_env("SeqGAN/Exact-v0", num_envs, **options)


def new_agent(algorithm: type[SeqGAN], env: VecEnv, **options: Any) -> Any:
    sizes = {"generator_options": {"embedding_dim": 4, "hidden_dim": 8, "init_std": 1.0}}
    agent = algorithm(GeneratorPolicy, env, **{"policy_kwargs": sizes, "seed": 0, "device": "cpu", **options})
    agent.set_logger(Logger(None, []))
    return agent


@pytest.mark.parametrize("variable", [False, True], ids=["fixed", "variable"])
@pytest.mark.parametrize("algorithm", [RLOO, GRPO])
def test_they_learn_and_beta_keeps_them_near_their_start(algorithm: type[SeqGAN], variable: bool) -> None:
    """From J of about 0.5 of a random policy towards the best of 256 or 341 random rewards; exact KL to the start."""
    task = gym.make("SeqGAN/Exact-v0", vocab_size=4, sequence_length=4, variable_length=variable).unwrapped.exact_task  # type: ignore[attr-defined]
    value, kl = {}, {}
    for beta in (0.0, 2.0):
        agent = new_agent(algorithm, vec_env(64, variable_length=variable), learning_rate=0.02, beta=beta)
        start = copy.deepcopy(agent.policy.generator)
        agent.learn(64 * 4 * (40 if algorithm is RLOO else 25))
        with torch.no_grad():
            found = task.evaluate(task.policy_log_probs(agent.policy.generator), task.policy_log_probs(start))
        value[beta], kl[beta] = float(found.value), float(found.kl)
    assert value[0.0] > 0.8 * task.optimal_value
    assert kl[2.0] < kl[0.0] / 5


@pytest.mark.parametrize("algorithm", [RLOO, GRPO])
def test_a_constant_reward_leaves_the_weights_as_they_are(algorithm: type[SeqGAN]) -> None:
    """0.3 is no float. The KL to the start is 0 and so is its gradient, up to the rounding of nothing at all."""
    env = vec_env(8, variable_length=True)
    env.env_method("set_reward", ConstantReward(0.3))
    agent = new_agent(algorithm, env, learning_rate=0.1, beta=0.0)
    before = copy.deepcopy(agent.policy.state_dict())
    agent.learn(100)
    assert agent._n_updates >= 3
    assert all(torch.equal(weight, before[name]) for name, weight in agent.policy.state_dict().items())


def test_grpo_takes_several_steps_a_batch_and_the_first_is_not_clipped() -> None:
    agent = new_agent(GRPO, vec_env(16), n_epochs=3, learning_rate=0.05)
    fractions: list[float] = []
    descend = agent._descend

    def watched(loss: Tensor) -> None:
        fractions.append(agent.logger.name_to_value["agent/clip_fraction"])
        descend(loss)

    agent._descend = watched
    agent.learn(2 * 16 * 4)
    assert agent._n_updates == 6
    assert fractions[0] == fractions[3] == 0.0
    assert max(fractions) > 0


def test_grpo_records_the_mean_over_its_inner_steps() -> None:
    """Of every figure of a step, that of the batch as a whole aside; the steps differ."""
    agent = new_agent(GRPO, vec_env(16), n_epochs=3, learning_rate=0.05, beta=0.5)
    steps: list[dict[str, float]] = []
    descend = agent._descend

    def watched(loss: Tensor) -> None:
        descend(loss)
        steps.append(dict(agent.logger.name_to_value))

    agent._descend = watched
    agent.learn(16 * 4, log_interval=None)
    recorded = agent.logger.name_to_value
    for name in ("loss", "gradient_norm", "was_clipped", "entropy_sampled", "kl_to_start", "clip_fraction"):
        values = [step[f"agent/{name}"] for step in steps]
        assert recorded[f"agent/{name}"] == pytest.approx(np.mean(values), abs=1e-9), name
        assert len(set(values)) == 3 or name == "was_clipped", name
    assert recorded["agent/updates"] == 3


@pytest.mark.parametrize("algorithm", [RLOO, GRPO])
def test_saved_and_loaded_they_go_on(algorithm: type[SeqGAN], tmp_path: Any) -> None:
    env = vec_env(4)
    agent = new_agent(algorithm, env, batch_size=8, beta=0.7)
    agent.learn(40)
    agent.save(tmp_path / "agent")
    again: Any = algorithm.load(tmp_path / "agent", env=env, device="cpu")
    assert (again.beta, again.batch_size) == (0.7, 8)
    for one, other in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    again.learn(40, reset_num_timesteps=False)
    assert again._n_updates > agent._n_updates


@pytest.mark.parametrize(
    ("algorithm", "options", "words"),
    [
        (RLOO, {"beta": -1.0}, "beta must be a finite number of at least 0, got -1.0"),
        (GRPO, {"beta": -1.0}, "beta must be a finite number of at least 0, got -1.0"),
        (GRPO, {"n_epochs": 0}, "n_epochs must be at least 1, got 0"),
        (GRPO, {"clip_range": 1.0}, r"clip_range must lie in \(0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_named(algorithm: type[SeqGAN], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        new_agent(algorithm, vec_env(2), **options)
