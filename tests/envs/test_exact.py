"""Exact tasks against brute force, and the theory that the library rests on, checked where everything is known."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.exact import (
    ExactTask,
    SequenceTree,
    TableReward,
    Tables,
    grammar_reward,
    oracle_reward,
    table_reward,
)
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.models.sampling import SamplingOptions

torch.set_num_threads(1)

SIZES = [(3, 4, False), (3, 4, True), (2, 5, True), (5, 3, False), (4, 1, False), (4, 1, True)]


def make_policy(tree: SequenceTree, seed: int = 0, hidden_dim: int = 5) -> LSTMGenerator:
    """A float64 policy whose conditionals differ from prefix to prefix."""
    with torch_seeded(np.random.default_rng(seed)):
        policy = LSTMGenerator(
            tree.num_actions, tree.sequence_length, tree.has_eos, embedding_dim=4, hidden_dim=hidden_dim, init_std=1.0
        )
    return policy.double()


def all_sequences_slowly(V: int, T: int, has_eos: bool) -> list[tuple[int, ...]]:
    """Finished sequences by filtering all strings of actions, unpadded."""
    eos = V if has_eos else None
    found = []
    for length in range(1, T + 1):
        for actions in itertools.product(range(V + has_eos), repeat=length):
            ends = actions[-1] == eos or length == T
            if ends and eos not in actions[:-1]:
                found.append(actions)
    return found


def probabilities_slowly(policy: LSTMGenerator, sequences: list[tuple[int, ...]]) -> list[float]:
    """Product of softmaxes along each sequence, one step at a time."""
    result = []
    for sequence in sequences:
        state, read, p = policy.initial_state(1), policy.pad_id, 1.0
        for token in sequence:
            logits, state = policy.step(torch.tensor([read]), state)
            p *= float(logits[0].softmax(0)[token].detach())
            read = token
        result.append(p)
    return result


def unpadded(tree: SequenceTree) -> list[tuple[int, ...]]:
    tokens_NT, lengths_N = tree.sequences()
    return [tuple(row[:n]) for row, n in zip(tokens_NT.tolist(), lengths_N.tolist(), strict=True)]


# ---------------------------------------------------------------- the tree


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_tree_holds_every_finished_sequence_once(size: tuple[int, int, bool]) -> None:
    tree, (V, T, has_eos) = SequenceTree(*size), size
    expected = all_sequences_slowly(*size)
    sequences = unpadded(tree)
    assert sorted(sequences) == sorted(expected)
    assert len(set(sequences)) == tree.num_sequences == len(sequences)
    tokens_NT, lengths_N = tree.sequences()
    assert tokens_NT.dtype == lengths_N.dtype == torch.int64
    assert (tokens_NT[torch.arange(T) >= lengths_N[:, None]] == V + has_eos).all()  # PAD
    for t in range(T):
        assert [tuple(prefix) for prefix in tree.prefixes(t).tolist()] == list(itertools.product(range(V), repeat=t))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_numbers_invert_the_enumeration(size: tuple[int, int, bool]) -> None:
    tree = SequenceTree(*size)
    tokens_NT, lengths_N = tree.sequences()
    order_N = torch.from_numpy(np.random.default_rng(0).permutation(tree.num_sequences))
    assert torch.equal(tree.numbers(tokens_NT[order_N], lengths_N[order_N]), order_N)


@pytest.mark.parametrize(
    ("row", "length"), [([0, 1, 4], 2), ([0, 3, 4], 3), ([3, 0, 0], 3), ([0, 0, 0], 0), ([0, -1, 0], 3), ([0, 0, 4], 3)]
)
def test_unfinished_or_impossible_sequences_have_no_number(row: list[int], length: int) -> None:
    """EOS = 3, PAD = 4: no EOS, PAD counted, words after EOS, nothing, a negative id, PAD as a word."""
    with pytest.raises(
        ValueError, match=r"sequences must be finished: words in \[0, 3\), then EOS or 3 tokens .* sequence 1"
    ):
        SequenceTree(3, 3, True).numbers(torch.tensor([[0, 0, 0], row]), torch.tensor([3, length]))


def test_a_tree_too_large_is_refused_with_what_to_try() -> None:
    SequenceTree(10, 6)
    for V, T in ((10, 7), (5000, 20), (2, 10**9), (10**9, 1)):
        with pytest.raises(
            ValueError, match=rf"vocab_size={V}, sequence_length={T} make about .* try .*=\d+, or the task"
        ):
            SequenceTree(V, T)
    with pytest.raises(ValueError, match="vocab_size must be at least 2 words, got 1"):
        SequenceTree(1, 3)
    with pytest.raises(ValueError, match="sequence_length must be at least 1, got 0"):
        SequenceTree(3, 0)


# ---------------------------------------------------------------- values against brute force


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_equal_brute_force(size: tuple[int, int, bool]) -> None:
    """J, Q, V, entropy and KL from sums over all sequences, each by its definition; 1e-10 in float64."""
    tree, (V, T, _) = SequenceTree(*size), size
    policy, reference, sequences = make_policy(tree), make_policy(tree, 1), unpadded(tree)
    reward_N = table_reward(tree, 3)
    task = ExactTask(tree, reward_N)
    evaluation = task.evaluate(task.policy_log_probs(policy), task.policy_log_probs(reference))
    p, r = np.array(probabilities_slowly(policy, sequences)), reward_N.numpy()
    p_reference = np.array(probabilities_slowly(reference, sequences))
    assert evaluation.sequence_log_probs_N.exp().tolist() == pytest.approx(p.tolist(), abs=1e-12)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert evaluation.value.item() == pytest.approx((p * r).sum(), abs=1e-12)
    assert evaluation.regret.item() == pytest.approx(r.max() - (p * r).sum(), abs=1e-12)
    assert evaluation.entropy.item() == pytest.approx(-(p * np.log(p)).sum(), abs=1e-10)
    assert evaluation.kl is not None
    assert evaluation.kl.item() == pytest.approx((p * np.log(p / p_reference)).sum(), abs=1e-10)
    assert tuple(x for x in task.optimal_sequence.tolist() if x != tree.pad_id) == sequences[int(r.argmax())]
    assert task.optimal_value == r.max()

    def conditional_mean(prefix: tuple[int, ...]) -> float:
        inside = np.array([sequence[: len(prefix)] == prefix for sequence in sequences])
        return float((p * r)[inside].sum() / p[inside].sum())

    for t in range(T):
        for row, prefix in enumerate(itertools.product(range(V), repeat=t)):
            assert evaluation.v[t][row].item() == pytest.approx(conditional_mean(prefix), abs=1e-10)
            for action in range(tree.num_actions):
                assert evaluation.q[t][row, action].item() == pytest.approx(
                    conditional_mean((*prefix, action)), abs=1e-10
                )

    tokens_NT, lengths_N = tree.sequences()
    q_NT = tree.q_of_sequences(evaluation.q, tokens_NT, lengths_N)
    for n, sequence in enumerate(sequences):
        expected = [conditional_mean(sequence[: t + 1]) for t in range(len(sequence))] + [0.0] * (T - len(sequence))
        assert q_NT[n].tolist() == pytest.approx(expected, abs=1e-10)


def test_tables_follow_the_policy_and_its_options() -> None:
    """Per-sequence log-probabilities equal the generator's own `log_prob`, also filtered."""
    tree = SequenceTree(4, 3, True)
    policy, (tokens_NT, _) = make_policy(tree), tree.sequences()
    for settings in ({}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.6}, {"forbidden": (1,)}):
        options = SamplingOptions(**settings)
        logp_N = tree.sequence_log_probs(tree.policy_log_probs(policy, options))
        expected_N = policy.log_prob(tokens_NT, **settings).sum(dim=1)
        torch.testing.assert_close(logp_N, expected_N, rtol=0, atol=1e-12)
        assert float(logp_N.detach().exp().sum()) == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="the policy has 5 actions and EOS 4; the task has 4 and None"):
        SequenceTree(4, 3).policy_log_probs(policy)


def test_the_uniform_policy_by_hand() -> None:
    """V = 2, T = 2, EOS: 1/3 for EOS alone, 1/9 for each of the six others; entropy ln 3 / 3 + 2/3 ln 9."""
    tree = SequenceTree(2, 2, True)
    evaluation = ExactTask(tree, torch.arange(7.0)).evaluate(tree.uniform_log_probs(), tree.uniform_log_probs())
    assert evaluation.sequence_log_probs_N.exp().tolist() == pytest.approx([1 / 3] + [1 / 9] * 6)
    assert float(evaluation.value) == pytest.approx(21 / 9)
    assert float(evaluation.entropy) == pytest.approx(math.log(3) / 3 + 2 / 3 * math.log(9))
    assert evaluation.kl is not None
    assert float(evaluation.kl) == 0


def test_impossible_sequences_leave_values_and_gradients_finite() -> None:
    tree = SequenceTree(3, 3)
    policy, task = make_policy(tree), ExactTask(SequenceTree(3, 3), table_reward(tree, 0))
    log_probs = task.policy_log_probs(policy, SamplingOptions(forbidden=(2,)))
    evaluation = task.evaluate(log_probs, tree.uniform_log_probs())
    assert evaluation.kl is not None
    (evaluation.value + evaluation.kl + evaluation.entropy).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in policy.parameters())
    outside = task.evaluate(tree.uniform_log_probs(), [logp_PA.detach() for logp_PA in log_probs])
    assert outside.kl is not None
    assert float(outside.kl) == math.inf


# ---------------------------------------------------------------- the KL-regularised optimum


@pytest.mark.parametrize("size", [(3, 4, False), (3, 3, True)], ids=str)
@pytest.mark.parametrize("beta", [0.05, 1.0, 20.0])
def test_the_regularised_optimum_is_the_tilted_reference(size: tuple[int, int, bool], beta: float) -> None:
    """Its distribution is π_ref exp(R/β) / Z over whole sequences, its value β ln Z, and no policy does better."""
    tree = SequenceTree(*size)
    task = ExactTask(tree, table_reward(tree, 1))
    reference = [logp_PA.detach() for logp_PA in task.policy_log_probs(make_policy(tree))]
    value, optimum = task.regularised_optimum(reference, beta)
    tilted_N = tree.sequence_log_probs(reference) + task.reward_N / beta
    torch.testing.assert_close(tree.sequence_log_probs(optimum), tilted_N - tilted_N.logsumexp(0), rtol=0, atol=1e-9)
    assert value == pytest.approx(beta * float(tilted_N.logsumexp(0)), abs=1e-10)
    for logp_PA in optimum:
        torch.testing.assert_close(logp_PA.logsumexp(dim=1), torch.zeros(len(logp_PA)).double(), rtol=0, atol=1e-9)
    assert float(task.regularised_regret(optimum, reference, beta)) == pytest.approx(0, abs=1e-9)
    for seed in range(1, 6):
        other = [logp_PA.detach() for logp_PA in task.policy_log_probs(make_policy(tree, seed))]
        regret = float(task.regularised_regret(other, reference, beta))
        kl = task.evaluate(other, optimum).kl
        assert kl is not None
        assert regret > 0
        assert regret == pytest.approx(beta * float(kl), abs=1e-9)
    with pytest.raises(ValueError, match="beta must be a finite number above 0, got 0"):
        task.regularised_optimum(reference, 0)


# ---------------------------------------------------------------- rewards


@pytest.mark.parametrize("make", [table_reward, grammar_reward])
@pytest.mark.parametrize("size", [*SIZES, (2, 1, False), (2, 1, True)], ids=str)
def test_seeded_rewards_are_seeded(make: Callable[[SequenceTree, int], Tensor], size: tuple[int, int, bool]) -> None:
    tree = SequenceTree(*size)
    values = [make(tree, seed) for seed in range(20)]
    assert all(reward_N.dtype == torch.float64 and reward_N.shape == (tree.num_sequences,) for reward_N in values)
    assert torch.equal(make(tree, 3), values[3])
    assert len({tuple(reward_N.tolist()) for reward_N in values}) > 1
    if make is table_reward:
        assert all(reward_N.min() >= 0 and reward_N.max() < 1 for reward_N in values)
    else:  # a language that is neither empty nor everything, for every seed
        assert all(set(reward_N.tolist()) == {0.0, 1.0} for reward_N in values)


def test_the_language_is_regular() -> None:
    """What may follow a prefix depends on at most 3 states: at most 3 different sets of allowed continuations."""
    tree = SequenceTree(3, 6)
    for seed in range(10):
        accepted_PS = grammar_reward(tree, seed).view(27, 27)  # prefixes of three words x what follows
        alive_PS = accepted_PS[accepted_PS.any(dim=1)]
        assert len(alive_PS.unique(dim=0)) <= 3


def test_the_oracle_reward_is_its_log_probability_per_token() -> None:
    tree, oracle = SequenceTree(4, 3), Oracle.from_seed(0, vocab_size=4, sequence_length=3)
    expected_N = oracle.log_prob(tree.sequences()[0]).double().mean(dim=1)
    torch.testing.assert_close(oracle_reward(tree, oracle), expected_N, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="the policy has 4 actions and EOS None; the task has 5 and 4"):
        oracle_reward(SequenceTree(4, 3, True), oracle)


def test_the_table_reward_looks_sequences_up() -> None:
    tree = SequenceTree(3, 4, True)
    reward_N = table_reward(tree, 0)
    tokens_NT, lengths_N = tree.sequences()
    order_N = torch.from_numpy(np.random.default_rng(0).permutation(tree.num_sequences))
    got_N = TableReward(tree, reward_N)(tokens_NT[order_N], lengths_N[order_N])
    assert got_N.dtype == torch.float32
    assert torch.equal(got_N, reward_N[order_N].float())


def test_wrong_rewards_are_refused() -> None:
    tree = SequenceTree(2, 2)
    for make in (ExactTask, TableReward):
        with pytest.raises(ValueError, match=r"reward_N must have shape \(4,\), got \(5,\)"):
            make(tree, torch.zeros(5))
    with pytest.raises(ValueError, match="rewards must be finite; 1 of 4 are not"):
        ExactTask(tree, torch.tensor([0.0, 1.0, math.nan, 0.0]))


# ---------------------------------------------------------------- theory: the policy gradient


@pytest.mark.parametrize("size", [(3, 4, False), (3, 4, True), (5, 3, False), (2, 5, True)], ids=str)
def test_the_policy_gradient_with_exact_q_is_the_gradient_of_exact_j(size: tuple[int, int, bool]) -> None:
    """Eq. 6-8: Σ over prefixes of their probability x Σ_a π(a) ∇ log π(a) Q equals autograd through the enumerated
    expectation, to 1e-6 (1e-12 here); so does the expectation over whole sequences of Σ_t ∇ log π(y_t) Q_t, by the
    generator's own `log_prob`. With Q of the prefix *without* y_t, that is V, it does not: it is zero."""
    tree = SequenceTree(*size)
    policy, task = make_policy(tree), ExactTask(tree, table_reward(tree, 2))
    parameters = list(policy.parameters())
    log_probs = task.policy_log_probs(policy)
    evaluation = task.evaluate(log_probs)
    exact = torch.autograd.grad(evaluation.value, parameters, retain_graph=True)

    reach = tree.prefix_log_probs(log_probs)
    surrogate = sum(
        (reach_P.detach().exp()[:, None] * logp_PA.detach().exp() * logp_PA * q_PA.detach()).sum()
        for reach_P, logp_PA, q_PA in zip(reach, log_probs, evaluation.q, strict=True)
    )
    assert isinstance(surrogate, Tensor)
    by_prefix = torch.autograd.grad(surrogate, parameters)

    tokens_NT, lengths_N = tree.sequences()
    p_N = evaluation.sequence_log_probs_N.detach().exp()
    q_NT = tree.q_of_sequences(evaluation.q, tokens_NT, lengths_N).detach()
    by_sequence = torch.autograd.grad((p_N * (policy.log_prob(tokens_NT) * q_NT).sum(dim=1)).sum(), parameters)

    v_tables = [v_P.detach()[:, None].expand_as(q_PA) for v_P, q_PA in zip(evaluation.v, evaluation.q, strict=True)]
    v_NT = tree.q_of_sequences(v_tables, tokens_NT, lengths_N)
    without_yt = torch.autograd.grad((p_N * (policy.log_prob(tokens_NT) * v_NT).sum(dim=1)).sum(), parameters)

    assert max(float(gradient.abs().max()) for gradient in exact) > 1e-3
    for expected, one, two, zero in zip(exact, by_prefix, by_sequence, without_yt, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(two, expected, rtol=1e-10, atol=1e-12)
        assert zero.abs().max() < 1e-12


def test_a_constant_reward_has_no_gradient_once_a_baseline_is_taken() -> None:
    """Q - V is zero everywhere, so the advantage's gradient is exactly zero, and J does not depend on the policy."""
    tree = SequenceTree(3, 4, True)
    policy, task = make_policy(tree), ExactTask(tree, torch.full((tree.num_sequences,), 2.0))
    evaluation = task.evaluate(task.policy_log_probs(policy))
    for v_P, q_PA in zip(evaluation.v, evaluation.q, strict=True):
        torch.testing.assert_close(q_PA, v_P[:, None].expand_as(q_PA), rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(evaluation.value, list(policy.parameters()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-12


def test_ascent_on_the_exact_regularised_objective_finds_its_optimum() -> None:
    """Autograd through the tables is enough to train by: regularised regret and KL to π* fall to nearly nothing."""
    tree, beta = SequenceTree(3, 3, True), 0.2
    policy, task = make_policy(tree, hidden_dim=24), ExactTask(tree, table_reward(tree, 5))
    reference = tree.uniform_log_probs()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.03)
    regrets = []
    for _ in range(250):
        regret = task.regularised_regret(task.policy_log_probs(policy), reference, beta)
        optimizer.zero_grad()
        regret.backward()
        optimizer.step()
        regrets.append(float(regret.detach()))
    assert regrets[0] > 0.1
    assert 0 <= regrets[-1] < 0.005
    kl = task.evaluate(task.policy_log_probs(policy), task.regularised_optimum(reference, beta)[1]).kl
    assert kl is not None
    assert float(kl.detach()) < 0.03


# ---------------------------------------------------------------- theory: what shaping changes and what it does not


def shaped_rewards(tree: SequenceTree, q: Tables, gamma: float) -> tuple[Tensor, Tensor]:
    """r_t = γ Φ_t - Φ_{t-1}, Φ_0 = 0, along every sequence, and the number of tokens of each; (N, T) and (N,)."""
    tokens_NT, lengths_N = tree.sequences()
    phi_NT = tree.q_of_sequences(q, tokens_NT, lengths_N)
    before_NT = torch.cat([torch.zeros(len(phi_NT), 1).double(), phi_NT[:, :-1]], dim=1)
    is_token_NT = torch.arange(tree.sequence_length) < lengths_N[:, None]
    return torch.where(is_token_NT, gamma * phi_NT - before_NT, 0.0), lengths_N


def returns(rewards_NT: Tensor, discount: float) -> Tensor:
    return (rewards_NT * discount ** torch.arange(rewards_NT.shape[1]).double()).sum(dim=1)


@pytest.mark.parametrize("size", [(3, 4, False), (3, 4, True)], ids=str)
def test_shaped_rewards_telescope_to_r_whatever_the_rollout_policy(size: tuple[int, int, bool]) -> None:
    """So each sequence's return, each policy's value up to rounding, and the optimal policy, are those of R; and the
    running sum of the shaped rewards is the raw Q of the paper."""
    tree = SequenceTree(*size)
    task = ExactTask(tree, table_reward(tree, 0))
    for seed in range(3):
        q = [q_PA.detach() for q_PA in task.evaluate(task.policy_log_probs(make_policy(tree, seed))).q]
        rewards_NT, lengths_N = shaped_rewards(tree, q, gamma=1.0)
        torch.testing.assert_close(returns(rewards_NT, 1.0), task.reward_N, rtol=0, atol=1e-12)
        is_token_NT = torch.arange(tree.sequence_length) < lengths_N[:, None]
        q_NT = tree.q_of_sequences(q, tree.sequences()[0], lengths_N)
        torch.testing.assert_close(torch.where(is_token_NT, rewards_NT.cumsum(1), 0.0), q_NT, rtol=0, atol=1e-12)
    # with another γ in environment and agent alike the return is γ^(L-1) γ Φ_L: for one length the same order as R
    if not tree.has_eos:
        rewards_NT, _ = shaped_rewards(tree, q, gamma=0.9)
        torch.testing.assert_close(
            returns(rewards_NT, 0.9), 0.9**tree.sequence_length * task.reward_N, rtol=0, atol=1e-12
        )


def best(tree: SequenceTree, score_N: Tensor) -> tuple[int, ...]:
    return unpadded(tree)[int(score_N.argmax())]


def test_summed_raw_q_changes_which_sequence_is_best() -> None:
    """A worked example, V = T = 2, uniform rollouts. R: 00 -> 1, 01 -> 0, 10 -> 0.9, 11 -> 0.9.

    Q after the first word is 0.5 for 0 and 0.9 for 1, so summed Q prefers 10 (1.8) to the best sequence 00 (1.5)."""
    tree = SequenceTree(2, 2)
    task = ExactTask(tree, torch.tensor([1.0, 0.0, 0.9, 0.9]).double())
    q = task.evaluate(tree.uniform_log_probs()).q
    summed_N = tree.q_of_sequences(q, *tree.sequences()).sum(dim=1)
    assert summed_N.tolist() == pytest.approx([1.5, 0.5, 1.8, 1.8])
    assert best(tree, summed_N) == (1, 0)
    assert best(tree, returns(shaped_rewards(tree, q, 1.0)[0], 1.0)) == best(tree, task.reward_N) == (0, 0)
    # the policy that maximises each is accordingly another one, with a regret of 0.1 under the true reward
    assert ExactTask(tree, summed_N).optimal_sequence.tolist() == [1, 0]
    assert task.optimal_sequence.tolist() == [0, 0]


def test_summed_raw_q_is_wrong_more_than_by_chance_on_random_tasks() -> None:
    """On 30 random reward tables (V = 3, T = 4) it picks another best sequence in most; the shaped return in none."""
    tree, changed = SequenceTree(3, 4), 0
    for seed in range(30):
        task = ExactTask(tree, table_reward(tree, seed))
        q = task.evaluate(tree.uniform_log_probs()).q
        changed += best(tree, tree.q_of_sequences(q, *tree.sequences()).sum(dim=1)) != best(tree, task.reward_N)
        assert best(tree, returns(shaped_rewards(tree, q, 1.0)[0], 1.0)) == best(tree, task.reward_N)
    assert changed > 15


def test_a_discount_other_than_the_environments_changes_what_is_best() -> None:
    """The trap of SB3's default 0.99. Environment γ = 1, agent 0.9, uniform rollouts: the return is R γ^(T-1) plus
    (1 - γ) x discounted early Φ, so a promising first word outweighs a slightly better end.

    R: 00 -> 1, 01 -> 0, 10 -> 0.98, 11 -> 0.98: Φ_1 = 0.5 and 0.98; 0.5 + 0.9 * 0.5 = 0.95 < 0.98.
    """
    tree = SequenceTree(2, 2)
    task = ExactTask(tree, torch.tensor([1.0, 0.0, 0.98, 0.98]).double())
    rewards_NT, _ = shaped_rewards(tree, task.evaluate(tree.uniform_log_probs()).q, gamma=1.0)
    assert returns(rewards_NT, 0.9)[[0, 2]].tolist() == pytest.approx([0.95, 0.98])
    assert best(tree, returns(rewards_NT, 1.0)) == (0, 0)
    assert best(tree, returns(rewards_NT, 0.9)) == (1, 0)


def test_a_discount_prefers_short_sequences_even_without_shaping() -> None:
    """Variable length, R at the end alone: EOS now (0.9) beats a whole sequence worth 1.0 at a discount of 0.9 only."""
    tree = SequenceTree(2, 3, True)
    reward_N = torch.zeros(tree.num_sequences).double()
    tokens_NT, lengths_N = tree.sequences()
    reward_N[0], reward_N[-1] = 0.9, 1.0  # EOS alone; the last one: three tokens
    assert lengths_N[[0, -1]].tolist() == [1, 3]
    assert best(tree, reward_N) == tuple(tokens_NT[-1].tolist())
    assert best(tree, reward_N * 0.9 ** (lengths_N - 1).double()) == (2,)
