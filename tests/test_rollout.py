"""Monte-Carlo rollout: the estimates are those of Q, position by position, and of nothing else."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.exact import ExactTask, SequenceTree, TableReward, Tables, table_reward
from seqgan_rl.models.decoding import RolloutPolicy, State
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.sampling import SamplingOptions
from seqgan_rl.rewards.base import FunctionReward, Reward
from seqgan_rl.rewards.controls import ConstantReward, RandomReward, ShuffledReward
from seqgan_rl.rollout import action_values, prefix_values

torch.set_num_threads(1)

SIZES = [(3, 4, False), (3, 4, True), (5, 3, False), (2, 5, True)]
SIZE_IDS = ["V3T4", "V3T4eos", "V5T3", "V2T5eos"]


class TablePolicy:
    """Independent random logits after every prefix; its state is the number of the prefix. No LSTM is involved."""

    def __init__(self, tree: SequenceTree, seed: int) -> None:
        self.tree, self.num_actions, self.eos_id = tree, tree.num_actions, tree.eos_id
        rng = np.random.default_rng(seed)
        V = tree.vocab_size
        self.first_of_depth = [(V**t - 1) // (V - 1) for t in range(tree.sequence_length + 1)]
        self.logits = torch.from_numpy(rng.normal(size=(self.first_of_depth[-1], tree.num_actions)).astype(np.float32))

    def initial_state(self, batch_size: int) -> State:
        return (torch.full((batch_size,), -1),)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        V = self.tree.vocab_size
        # children of prefix number k (breadth-first) are V k + 1 ... V k + V; the root, 0, is what PAD leads to
        number_B = torch.where(state[0] < 0, 0, state[0] * V + 1 + tokens_B.clamp_max(V - 1))
        return self.logits[number_B.clamp_max(len(self.logits) - 1)], (number_B,)


def make_policy(kind: str, tree: SequenceTree) -> RolloutPolicy:
    if kind == "table":
        return TablePolicy(tree, seed=4)
    with torch_seeded(np.random.default_rng(8)):
        return LSTMGenerator(tree.num_actions, tree.sequence_length, tree.has_eos, hidden_dim=5, init_std=1.0)


def some_sequences(tree: SequenceTree, B: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """B different finished sequences, of all lengths."""
    tokens_NT, lengths_N = tree.sequences()
    rows_B = torch.from_numpy(np.random.default_rng(seed).permutation(tree.num_sequences)[: B - 1])
    rows_B = torch.cat([torch.zeros(1, dtype=torch.int64), rows_B])  # number 0 is the shortest
    return tokens_NT[rows_B], lengths_N[rows_B]


def uniforms(*shape: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def one_prefix_at_a_time(
    policy: RolloutPolicy, reward: Reward, tokens_BT: Tensor, lengths_B: Tensor, uniforms_BTNT: Tensor, pad_id: int
) -> Tensor:
    """Values of all prefixes through the other entrance, `prefix_values`, as an environment's steps would ask."""
    T = tokens_BT.shape[1]
    columns = []
    for t in range(1, T + 1):
        so_far_B = lengths_B.clamp_max(t)
        prefixes_BT = tokens_BT.masked_fill(torch.arange(T) >= so_far_B[:, None], pad_id)
        block_BNT = uniforms_BTNT[:, min(t, T - 1) - 1]
        values_B = prefix_values(policy, reward, prefixes_BT, so_far_B, block_BNT, is_finished_B=lengths_B <= t)
        columns.append(torch.where(t <= lengths_B, values_B, 0.0))
    return torch.stack(columns, dim=1)


# ---------------------------------------------------------------- against exact Q


@pytest.mark.parametrize("size", SIZES, ids=SIZE_IDS)
@pytest.mark.parametrize("kind", ["lstm", "table"])
@pytest.mark.parametrize("entrance", ["action_values", "prefix_values"])
def test_estimates_agree_with_exact_q_per_sequence_and_position(
    size: tuple[int, int, bool], kind: str, entrance: str
) -> None:
    """Two-sided z-tests with the exact variance, Bonferroni over (sequence, position): false alarm 1e-6 a case.

    Where the variance is zero (the last token) the value must be R(Y) itself. Standard errors are at most 0.0092, so a
    bias of 0.1 in any one value is caught with probability 0.9999.
    """
    tree, N, B = SequenceTree(*size), 3000, 12
    policy, reward_N = make_policy(kind, tree), table_reward(tree, seed=2)
    tables = tree.policy_log_probs(policy)
    tokens_BT, lengths_B = some_sequences(tree, B)
    exact_BT = tree.q_of_sequences(ExactTask(tree, reward_N).evaluate(tables).q, tokens_BT, lengths_B).detach()
    square_BT = tree.q_of_sequences(ExactTask(tree, reward_N**2).evaluate(tables).q, tokens_BT, lengths_B).detach()
    deviation_BT = (square_BT - exact_BT**2).clamp_min(0).sqrt()
    reward, uniforms_BTNT = TableReward(tree, reward_N), uniforms(B, tree.sequence_length - 1, N, tree.sequence_length)
    if entrance == "action_values":
        q_BT = action_values(policy, reward, tokens_BT, lengths_B, uniforms_BTNT)
    else:
        q_BT = one_prefix_at_a_time(policy, reward, tokens_BT, lengths_B, uniforms_BTNT, tree.pad_id)
    assert q_BT.dtype == torch.float32
    is_estimate_BT = torch.arange(tree.sequence_length) < lengths_B[:, None] - 1
    torch.testing.assert_close(q_BT[~is_estimate_BT].double(), exact_BT[~is_estimate_BT], rtol=0, atol=1e-6)
    error_BT = deviation_BT / N**0.5
    assert 0 < error_BT[is_estimate_BT].max() < 0.0092
    z_BT = ((q_BT - exact_BT) / error_BT)[is_estimate_BT]
    assert z_BT.abs().max() < stats.norm.isf(1e-6 / (2 * len(z_BT)))
    # and none of the classic mistakes would pass: the value of the prefix without y_t, or of another row
    shifted_BT = torch.cat([exact_BT[:, :1] * 0, exact_BT[:, :-1]], dim=1)
    for wrong_BT in (shifted_BT, exact_BT.roll(1, dims=0)):
        assert (((q_BT - wrong_BT) / error_BT)[is_estimate_BT]).abs().max() > 10


def test_sampling_options_reshape_the_rollout_policy() -> None:
    """The same z-test when completions are drawn at temperature 0.5 without token 1: false alarm 1e-6."""
    tree, N = SequenceTree(3, 4, True), 3000
    policy, reward_N, options = (
        make_policy("lstm", tree),
        table_reward(tree, 2),
        SamplingOptions(temperature=0.5, forbidden=(1,)),
    )
    tokens_BT, lengths_B = some_sequences(tree, 8)
    tables = tree.policy_log_probs(policy, options)
    exact_BT, square_BT = (
        tree.q_of_sequences(ExactTask(tree, reward_N**power).evaluate(tables).q, tokens_BT, lengths_B).detach()
        for power in (1, 2)
    )
    q_BT = action_values(
        policy, TableReward(tree, reward_N), tokens_BT, lengths_B, uniforms(8, 3, N, 4), options=options
    )
    z_BT = (q_BT - exact_BT) / ((square_BT - exact_BT**2).clamp_min(1e-12) / N).sqrt()
    is_estimate_BT = torch.arange(4) < lengths_B[:, None] - 1
    assert z_BT[is_estimate_BT].abs().max() < stats.norm.isf(1e-6 / (2 * int(is_estimate_BT.sum())))


# ---------------------------------------------------------------- against plain loops


def action_values_slowly(
    tree: SequenceTree, tables: Tables, reward_N: Tensor, tokens_BT: Tensor, lengths_B: Tensor, uniforms_BTNT: Tensor
) -> Tensor:
    """The reference, Eq. (4) word for word: every sequence, position and rollout by itself, one token at a time."""
    B, T = tokens_BT.shape
    N = uniforms_BTNT.shape[2]
    number_of = {tuple(row): n for n, row in enumerate(tree.sequences()[0].tolist())}
    q_BT = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        sequence = tokens_BT[b, : lengths_B[b]].tolist()
        for t in range(1, len(sequence) + 1):
            if t == len(sequence):
                q_BT[b, t - 1] = reward_N[number_of[tuple(tokens_BT[b].tolist())]]
                continue
            total = 0.0
            for n in range(N):
                finished = sequence[:t]
                while len(finished) < T and tree.eos_id not in finished:
                    row = 0
                    for word in finished:
                        row = row * tree.vocab_size + word
                    probabilities = tables[len(finished)][row].exp().tolist()
                    u, running = float(uniforms_BTNT[b, t - 1, n, len(finished)]), 0.0
                    for token, probability in enumerate(probabilities):  # noqa: B007 - the last one, if rounding falls short
                        running += probability
                        if running > u:
                            break
                    finished.append(token)
                total += float(reward_N[number_of[tuple(finished + [tree.pad_id] * (T - len(finished)))]])
            q_BT[b, t - 1] = total / N
    return q_BT


@pytest.mark.parametrize("size", SIZES, ids=SIZE_IDS)
@pytest.mark.parametrize("kind", ["lstm", "table"])
@pytest.mark.parametrize("N", [1, 7])
def test_both_entrances_equal_the_plain_loops_from_equal_uniforms(
    size: tuple[int, int, bool], kind: str, N: int
) -> None:
    tree, B = SequenceTree(*size), 10
    policy, reward_N, T = make_policy(kind, tree), table_reward(tree, seed=2), size[1]
    tokens_BT, lengths_B = some_sequences(tree, B, seed=3)
    uniforms_BTNT = uniforms(B, T - 1, N, T)
    slow_BT = action_values_slowly(tree, tree.policy_log_probs(policy), reward_N, tokens_BT, lengths_B, uniforms_BTNT)
    reward = TableReward(tree, reward_N)
    all_BT = action_values(policy, reward, tokens_BT, lengths_B, uniforms_BTNT)
    torch.testing.assert_close(all_BT.double(), slow_BT, rtol=0, atol=1e-6)
    step_BT = one_prefix_at_a_time(policy, reward, tokens_BT, lengths_B, uniforms_BTNT, tree.pad_id)
    torch.testing.assert_close(step_BT, all_BT, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- which token a value belongs to


@pytest.mark.parametrize("t", [0, 1, 2, 3])
def test_column_t_uses_the_prefix_that_includes_token_t(t: int) -> None:
    """A reward that reads position t alone is exact at column t and after, whatever the rollouts do, and not before."""
    tree = SequenceTree(5, 4)
    policy, tokens_BT = make_policy("lstm", tree), tree.sequences()[0][::13]
    B = len(tokens_BT)
    lengths_B = torch.full((B,), 4)
    reward = FunctionReward(lambda tokens_RT, lengths_R: 10.0 * tokens_RT[:, t])
    blocks = [action_values(policy, reward, tokens_BT, lengths_B, uniforms(B, 3, 5, 4, seed=seed)) for seed in (0, 1)]
    for q_BT in blocks:
        assert torch.equal(q_BT[:, t:], (10.0 * tokens_BT[:, t, None]).expand(B, 4 - t))
    if t > 0:
        assert not torch.equal(blocks[0][:, t - 1], blocks[1][:, t - 1])
        assert not torch.equal(blocks[0][:, t - 1], 10.0 * tokens_BT[:, t])


def test_the_last_column_is_the_reward_and_after_the_end_comes_zero() -> None:
    tree = SequenceTree(3, 4, True)
    tokens_NT, lengths_N = tree.sequences()
    reward = TableReward(tree, table_reward(tree, 0) + 1)
    q_NT = action_values(make_policy("lstm", tree), reward, tokens_NT, lengths_N, uniforms(len(tokens_NT), 3, 2, 4))
    assert torch.equal(q_NT.gather(1, lengths_N[:, None] - 1).squeeze(1), reward(tokens_NT, lengths_N))
    is_after_NT = torch.arange(4) >= lengths_N[:, None]
    assert (q_NT[is_after_NT] == 0).all()
    assert (q_NT[~is_after_NT] >= 1).all()
    assert is_after_NT.any()


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("entrance", [0, 1], ids=["action_values", "prefix_values"])
@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
def test_permuting_the_batch_permutes_the_values_and_a_row_changes_itself_alone(entrance: int, has_eos: bool) -> None:
    tree, B = SequenceTree(3, 4, has_eos), 14
    policy, reward = make_policy("lstm", tree), TableReward(tree, table_reward(tree, 0))
    tokens_BT, lengths_B = some_sequences(tree, B)
    uniforms_BTNT = uniforms(B, 3, 6, 4)

    def values(tokens_BT: Tensor, lengths_B: Tensor, uniforms_BTNT: Tensor) -> Tensor:
        if entrance == 0:
            return action_values(policy, reward, tokens_BT, lengths_B, uniforms_BTNT)
        return one_prefix_at_a_time(policy, reward, tokens_BT, lengths_B, uniforms_BTNT, tree.pad_id)

    q_BT = values(tokens_BT, lengths_B, uniforms_BTNT)
    order_B = torch.from_numpy(np.random.default_rng(9).permutation(B))
    permuted_BT = values(tokens_BT[order_B], lengths_B[order_B], uniforms_BTNT[order_B])
    torch.testing.assert_close(permuted_BT, q_BT[order_B], rtol=0, atol=1e-6)

    other_BT, other_lengths_B = some_sequences(tree, B, seed=77)
    for b in (0, 5, B - 1):
        tokens, lengths, u = tokens_BT.clone(), lengths_B.clone(), uniforms_BTNT.clone()
        source = next(i for i in range(B) if not torch.equal(other_BT[i], tokens_BT[b]))
        tokens[b], lengths[b], u[b] = other_BT[source], other_lengths_B[source], uniforms(3, 6, 4, seed=50)
        changed_BT = values(tokens, lengths, u)
        others = torch.arange(B) != b
        torch.testing.assert_close(changed_BT[others], q_BT[others], rtol=0, atol=1e-6)
        assert not torch.equal(changed_BT[b], q_BT[b])


def test_prefix_values_of_rows_at_different_depths_equal_each_row_alone() -> None:
    """What a vector environment asks: finished and unfinished rows of all lengths, unordered; the tail is not read."""
    tree, T, N = SequenceTree(3, 5, True), 5, 4
    policy, reward = make_policy("lstm", tree), TableReward(tree, table_reward(tree, 0))
    prefixes_BT = torch.full((7, T), tree.pad_id)
    lengths_B, finished_B = torch.tensor([2, 0, 5, 1, 3, 4, 1]), torch.tensor([0, 0, 1, 1, 0, 0, 0]).bool()
    for b, words in enumerate([[0, 1], [], [2, 2, 0, 1, 2], [tree.num_actions - 1], [1, 0, 2], [2, 1, 0, 0], [2]]):
        prefixes_BT[b, : len(words)] = torch.tensor(words, dtype=torch.int64)
    uniforms_BNT = uniforms(7, N, T)
    together_B = prefix_values(policy, reward, prefixes_BT, lengths_B, uniforms_BNT, is_finished_B=finished_B)
    for b in range(7):
        one = slice(b, b + 1)
        alone_1 = prefix_values(
            policy, reward, prefixes_BT[one], lengths_B[one], uniforms_BNT[one], is_finished_B=finished_B[one]
        )
        torch.testing.assert_close(together_B[one], alone_1, rtol=0, atol=1e-6)
    noisy_BT = torch.where((torch.arange(T) < lengths_B[:, None]) | finished_B[:, None], prefixes_BT, 2)
    again_B = prefix_values(policy, reward, noisy_BT, lengths_B, uniforms_BNT, is_finished_B=finished_B)
    torch.testing.assert_close(again_B, together_B, rtol=0, atol=1e-6)


def test_prompt_tokens_are_not_scored_and_change_no_other_value() -> None:
    tree, B = SequenceTree(3, 4, True), 12
    policy, reward = make_policy("lstm", tree), TableReward(tree, table_reward(tree, 0) + 1)
    tokens_BT, lengths_B = some_sequences(tree, B)
    uniforms_BTNT = uniforms(B, 3, 3, 4)
    start_B = torch.minimum(torch.arange(B) % 4, lengths_B - 1)
    q_BT = action_values(policy, reward, tokens_BT, lengths_B, uniforms_BTNT)
    prompted_BT = action_values(policy, reward, tokens_BT, lengths_B, uniforms_BTNT, start_B=start_B)
    is_prompt_BT = torch.arange(4) < start_B[:, None]
    assert is_prompt_BT.any()
    assert (prompted_BT[is_prompt_BT] == 0).all()
    torch.testing.assert_close(prompted_BT[~is_prompt_BT], q_BT[~is_prompt_BT], rtol=0, atol=1e-6)


def test_sequences_of_one_token_need_no_rollout() -> None:
    tree = SequenceTree(4, 1)
    reward_N = table_reward(tree, 0)
    tokens_NT, lengths_N = tree.sequences()
    q_NT = action_values(
        make_policy("lstm", tree), TableReward(tree, reward_N), tokens_NT, lengths_N, uniforms(4, 0, 3, 1)
    )
    assert torch.equal(q_NT[:, 0], reward_N.float())


# ---------------------------------------------------------------- rewards that need no sequences, and the controls


@pytest.mark.parametrize("entrance", [0, 1], ids=["action_values", "prefix_values"])
def test_a_constant_reward_is_that_constant_and_makes_no_completion(entrance: int) -> None:
    tree = SequenceTree(3, 4, True)
    tokens_BT, lengths_B = some_sequences(tree, 9)

    class Untouchable(TablePolicy):
        def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
            raise AssertionError("a completion was made")

    policy, reward, uniforms_BTNT = Untouchable(tree, 0), ConstantReward(0.3), uniforms(9, 3, 4, 4)
    if entrance == 0:
        q_BT = action_values(policy, reward, tokens_BT, lengths_B, uniforms_BTNT)
    else:
        q_BT = one_prefix_at_a_time(policy, reward, tokens_BT, lengths_B, uniforms_BTNT, tree.pad_id)
    expected_BT = torch.where(torch.arange(4) < lengths_B[:, None], 0.3, 0.0)
    assert torch.equal(q_BT, expected_BT)


def test_a_random_reward_is_as_noisy_for_a_mean_of_rollouts_as_for_the_end() -> None:
    """U[0, 1) at every position, not a mean of N draws. Kolmogorov-Smirnov, false alarm 1e-6 a column."""
    tree, B = SequenceTree(3, 4), 2000
    tokens_BT = tree.sequences()[0].repeat(25, 1)[:B]
    q_BT = action_values(
        make_policy("table", tree),
        RandomReward(np.random.default_rng(0)),
        tokens_BT,
        torch.full((B,), 4),
        uniforms(1, 3, 16, 4).expand(B, 3, 16, 4),
    )
    for t in range(4):
        assert stats.kstest(q_BT[:, t].numpy(), "uniform").pvalue > 1e-6
    assert np.abs(np.corrcoef(q_BT.T.numpy()) - np.eye(4)).max() < 4.9 / B**0.5 * 1.1


def test_shuffled_values_are_whole_profiles_of_other_rows() -> None:
    """Fixed length: the rows of the table of action values, each once, in another order."""
    tree, B = SequenceTree(3, 4), 20
    policy, inner = make_policy("lstm", tree), TableReward(tree, table_reward(tree, 0))
    tokens_BT, lengths_B = some_sequences(tree, B)
    uniforms_BTNT = uniforms(B, 3, 3, 4)
    q_BT = action_values(policy, inner, tokens_BT, lengths_B, uniforms_BTNT)
    shuffled = ShuffledReward(inner, np.random.default_rng(0))
    got_BT = action_values(policy, shuffled, tokens_BT, lengths_B, uniforms_BTNT)
    order_B = np.random.default_rng(0).permutation(B)
    assert torch.equal(got_BT, q_BT[torch.from_numpy(order_B)])
    assert not torch.equal(got_BT, q_BT)


def test_shuffled_values_of_sequences_that_end_apart_hold_no_hole() -> None:
    """Variable length: where the giver ended earlier, its reward stands; a zero there would punish long ones."""
    tree, B = SequenceTree(3, 4, True), 40
    inner = TableReward(tree, table_reward(tree, 0) + 1)  # rewards in [1, 2): a zero cannot be a value
    tokens_BT, lengths_B = some_sequences(tree, B)
    shuffled = ShuffledReward(inner, np.random.default_rng(0))
    q_BT = action_values(make_policy("lstm", tree), shuffled, tokens_BT, lengths_B, uniforms(B, 3, 3, 4))
    is_token_BT = torch.arange(4) < lengths_B[:, None]
    assert (q_BT[is_token_BT] >= 1).all()
    assert (q_BT[~is_token_BT] == 0).all()


def test_estimates_carry_no_gradient_and_move_no_global_random_state() -> None:
    tree = SequenceTree(3, 4, True)
    tokens_BT, lengths_B = some_sequences(tree, 6)
    before = torch.random.get_rng_state()
    reward: Callable = FunctionReward(lambda tokens_RT, lengths_R: torch.ones(len(tokens_RT), requires_grad=True) * 2)
    q_BT = action_values(make_policy("lstm", tree), reward, tokens_BT, lengths_B, uniforms(6, 3, 2, 4))  # type: ignore[arg-type]
    assert not q_BT.requires_grad
    assert torch.equal(torch.random.get_rng_state(), before)
