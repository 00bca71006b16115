"""Exact tasks: every sequence is enumerated, so values, regret and KL of any policy are known instead of estimated.

Source: backward induction over the tree of prefixes, and the closed form of KL-regularised control,
π* ∝ π_ref exp(R/β) with value β log E_ref[exp(R/β)] (Todorov 2007; Rawlik et al. 2012).
Letters: N finished sequences, T tokens, V words, A actions (V, or V + 1 with EOS), P = V^t unfinished prefixes of
depth t, B given sequences, S states of an automaton.

A *table* of depth t has one row per prefix, (P, A); a list of T tables holds the whole tree, whether of
log-probabilities or of action values. All numbers are float64 on the CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.core.streams import stream
from seqgan_rl.models.decoding import RolloutPolicy, select
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.models.sampling import PLAIN, SamplingOptions
from seqgan_rl.rewards.base import Reward

MAX_SEQUENCES = 2_000_000
"""More finished sequences than this are not enumerated."""

Tables = list[Tensor]
"""One (V^t, A) float64 table per depth t = 0..T-1."""


class SequenceTree:
    """All sequences of a small task, as a tree of prefixes.

    Depth t holds the V^t prefixes of t words in base-V order; each has one child per action. A word leads one level
    down, EOS finishes, and at depth T-1 every action finishes. Finished sequences are numbered by the depth at which
    they finish, then by prefix, then by action.

    >>> tokens_NT, lengths_N = SequenceTree(2, 2, has_eos=True).sequences()
    >>> tokens_NT.tolist()
    [[2, 3], [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    >>> lengths_N.tolist()
    [1, 2, 2, 2, 2, 2, 2]
    """

    def __init__(self, vocab_size: int, sequence_length: int, has_eos: bool = False) -> None:
        V, T = vocab_size, sequence_length
        if V < 2:
            raise ValueError(f"vocab_size must be at least 2 words, got {V}")
        if T < 1:
            raise ValueError(f"sequence_length must be at least 1, got {T}")
        digits = T * math.log10(V)  # 6 are always few enough, with EOS too
        if digits < 8:
            first_of_depth = [(V**t - 1) // (V - 1) if has_eos else 0 for t in range(T)]
            self.num_sequences = first_of_depth[-1] + V ** (T - 1) * (V + has_eos)
        if digits >= 8 or self.num_sequences > MAX_SEQUENCES:
            smaller = {"sequence_length": int(6 / math.log10(V)), "vocab_size": int(10 ** (6 / T))}
            possible = [f"{name}={size}" for name, size in smaller.items() if size >= 2]
            raise ValueError(
                f"vocab_size={V}, sequence_length={T} make about 10^{digits:.1f} sequences, more than the "
                f"{MAX_SEQUENCES:,} that can be enumerated; try "
                f"{' or '.join(possible) or 'vocab_size=10, sequence_length=6'}, or the task SeqGAN/Oracle-v0"
            )
        self.vocab_size, self.sequence_length, self.has_eos = V, T, has_eos
        self.num_actions = V + has_eos
        self.eos_id = V if has_eos else None
        self.pad_id = self.num_actions
        self._first_of_depth = first_of_depth
        """Number of the first sequence that finishes at each depth."""

    def prefixes(self, depth: int) -> Tensor:
        """The unfinished prefixes of ``depth`` words in base-V order, int64, (V^depth, depth)."""
        place_values = self.vocab_size ** torch.arange(depth - 1, -1, -1)
        return torch.arange(self.vocab_size**depth)[:, None] // place_values % self.vocab_size

    def sequences(self) -> tuple[Tensor, Tensor]:
        """All finished sequences by number: tokens_NT (int64, PAD after EOS) and lengths_N (int64, EOS counted)."""
        A, T = self.num_actions, self.sequence_length
        tokens_NT = torch.full((self.num_sequences, T), self.pad_id)
        lengths_N = torch.full((self.num_sequences,), T)
        if self.has_eos:
            for t in range(T - 1):
                rows = slice(self._first_of_depth[t], self._first_of_depth[t + 1])
                tokens_NT[rows, :t], tokens_NT[rows, t], lengths_N[rows] = self.prefixes(t), self.num_actions - 1, t + 1
        deepest = slice(self._first_of_depth[-1], None)
        tokens_NT[deepest, : T - 1] = self.prefixes(T - 1).repeat_interleave(A, dim=0)
        tokens_NT[deepest, T - 1] = torch.arange(A).repeat(self.vocab_size ** (T - 1))
        return tokens_NT, lengths_N

    def numbers(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The numbers of finished sequences, int64, (B,): ``sequences()[0][numbers] == tokens_BT``."""
        V, A, T = self.vocab_size, self.num_actions, self.sequence_length
        if tokens_BT.shape[1:] != (T,):
            raise ValueError(f"tokens must have shape (B, {T}), got {tuple(tokens_BT.shape)}")
        position_T = torch.arange(T, device=tokens_BT.device)
        last_B = tokens_BT.gather(1, (lengths_B - 1).clamp(0, T - 1)[:, None]).squeeze(1)
        is_inner_BT = position_T < lengths_B[:, None] - 1
        is_bad_B = (lengths_B < 1) | (lengths_B > T) | (last_B < 0) | (last_B >= A) | ((lengths_B < T) & (last_B != V))
        is_bad_B |= (is_inner_BT & ((tokens_BT < 0) | (tokens_BT >= V))).any(dim=1)
        if is_bad_B.any():
            b = int(is_bad_B.nonzero()[0])
            raise ValueError(
                f"sequences must be finished: words in [0, {V}), then {'EOS or ' if self.has_eos else ''}{T} tokens in "
                f"all; got {tokens_BT[b].tolist()} of length {int(lengths_B[b])} at sequence {b}"
            )
        prefix_B = torch.zeros_like(lengths_B)
        for t in range(T - 1):
            prefix_B = torch.where(is_inner_BT[:, t], prefix_B * V + tokens_BT[:, t], prefix_B)
        first_B = torch.tensor(self._first_of_depth, device=tokens_BT.device)[lengths_B - 1]
        return first_B + torch.where(lengths_B == T, prefix_B * A + last_B, prefix_B)

    def policy_log_probs(self, policy: RolloutPolicy, options: SamplingOptions = PLAIN) -> Tables:
        """Tables of log π(a | prefix), nats, by stepping the policy through the tree, all prefixes of a depth at once.

        Differentiable where the policy is: autograd goes from an exact value down to the policy's weights.
        """
        if (policy.num_actions, policy.eos_id) != (self.num_actions, self.eos_id):
            raise ValueError(
                f"the policy has {policy.num_actions} actions and EOS {policy.eos_id}; "
                f"the task has {self.num_actions} and {self.eos_id}"
            )
        V, state = self.vocab_size, policy.initial_state(1)
        device = state[0].device if state else torch.device("cpu")
        tables, tokens_P = [], torch.tensor([self.pad_id], device=device)
        for t in range(self.sequence_length):
            logits_PA, state = policy.step(tokens_P, state)
            tables.append(options.apply(logits_PA).cpu().double().log_softmax(dim=-1))
            if t + 1 < self.sequence_length:
                state = select(state, torch.arange(len(tokens_P), device=device).repeat_interleave(V))
                tokens_P = torch.arange(V, device=device).repeat(len(tokens_P))
        return tables

    def uniform_log_probs(self) -> Tables:
        """Tables of the policy that takes every action with probability 1/A."""
        V, A = self.vocab_size, self.num_actions
        return [torch.full((V**t, A), -math.log(A), dtype=torch.float64) for t in range(self.sequence_length)]

    def prefix_log_probs(self, log_probs: Tables) -> list[Tensor]:
        """Log-probability of reaching each unfinished prefix, nats; one (V^t,) tensor per depth."""
        reach = [log_probs[0].new_zeros(1)]
        for logp_PA in log_probs[:-1]:
            reach.append((reach[-1][:, None] + logp_PA[:, : self.vocab_size]).flatten())
        return reach

    def sequence_log_probs(self, log_probs: Tables) -> Tensor:
        """Log-probability of every finished sequence, nats, (N,)."""
        joint = [
            reach_P[:, None] + logp_PA
            for reach_P, logp_PA in zip(self.prefix_log_probs(log_probs), log_probs, strict=True)
        ]
        ended = [joint_PA[:, self.vocab_size :].flatten() for joint_PA in joint[:-1]]  # by EOS; nothing without EOS
        return torch.cat([*ended, joint[-1].flatten()])

    def backup(self, reward_N: Tensor, value_of: Callable[[int, Tensor], Tensor]) -> tuple[Tables, list[Tensor]]:
        """Backward induction from the rewards of all finished sequences.

        Args:
            reward_N: R(Y) by number, (N,).
            value_of: from depth t and its action values (P, A) to the values of its prefixes, (P,).

        Returns:
            Action values, a (V^t, A) table per depth, and values of the prefixes, (V^t,) per depth.
        """
        if reward_N.shape != (self.num_sequences,):
            raise ValueError(f"reward_N must have shape ({self.num_sequences},), got {tuple(reward_N.shape)}")
        first = self._first_of_depth
        q_PA = reward_N[first[-1] :].view(-1, self.num_actions)
        q_tables, values = [q_PA], [value_of(self.sequence_length - 1, q_PA)]
        for t in range(self.sequence_length - 2, -1, -1):
            q_PA = values[-1].view(-1, self.vocab_size)  # a word: the value of the prefix it leads to
            if self.has_eos:
                q_PA = torch.cat([q_PA, reward_N[first[t] : first[t + 1], None]], dim=1)
            q_tables.append(q_PA)
            values.append(value_of(t, q_PA))
        return q_tables[::-1], values[::-1]

    def q_of_sequences(self, tables: Tables, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Table entries along given sequences, finished or not: column t-1 is of (Y_{1:t-1}, y_t), and 0 after the end.

        With action values this is what :func:`seqgan_rl.rollout.action_values` estimates. Float64, (B, T).
        """
        prefix_B, columns = torch.zeros_like(lengths_B), []
        for t, table_PA in enumerate(tables):
            is_token_B = t < lengths_B
            token_B = tokens_BT[:, t].masked_fill(~is_token_B, 0)
            columns.append(torch.where(is_token_B, table_PA[prefix_B, token_B], 0.0))
            goes_on_B = t + 1 < lengths_B
            prefix_B = torch.where(goes_on_B, prefix_B * self.vocab_size + token_B, 0)
        return torch.stack(columns, dim=1)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is true of one policy on one task. Tensors keep their graph: ``value.backward()`` is the exact gradient."""

    q: Tables
    """Q(prefix, a), one (V^t, A) table per depth."""
    v: list[Tensor]
    """V(prefix), (V^t,) per depth."""
    value: Tensor
    """J = E[R(Y)], scalar."""
    regret: Tensor
    """Optimal value minus J, >= 0, scalar."""
    sequence_log_probs_N: Tensor
    """Log-probability of every finished sequence, nats, (N,)."""
    entropy: Tensor
    """Of the distribution over sequences, nats per sequence, scalar."""
    kl: Tensor | None
    """KL(π || π_ref), nats per sequence, scalar; None when no reference was given."""


class ExactTask:
    """A tree and the reward of each of its sequences.

    Args:
        tree: the sequences.
        reward_N: R(Y) by number, finite, (N,); kept as float64.
    """

    def __init__(self, tree: SequenceTree, reward_N: Tensor) -> None:
        if reward_N.shape != (tree.num_sequences,):
            raise ValueError(f"reward_N must have shape ({tree.num_sequences},), got {tuple(reward_N.shape)}")
        if not reward_N.isfinite().all():
            raise ValueError(f"rewards must be finite; {int((~reward_N.isfinite()).sum())} of {len(reward_N)} are not")
        self.tree, self.reward_N = tree, reward_N.detach().cpu().double()
        self.optimal_value = float(self.reward_N.max())
        """The largest reward: what the best policy without regularisation gets."""

    @property
    def optimal_sequence(self) -> Tensor:
        """A sequence of the largest reward (the first by number), int64, (T,), PAD after EOS."""
        return self.tree.sequences()[0][int(self.reward_N.argmax())]

    def policy_log_probs(self, policy: RolloutPolicy, options: SamplingOptions = PLAIN) -> Tables:
        """See :meth:`SequenceTree.policy_log_probs`."""
        return self.tree.policy_log_probs(policy, options)

    def evaluate(self, log_probs: Tables, reference_log_probs: Tables | None = None) -> Evaluation:
        """Exact values, regret, entropy, and KL to a reference, of the policy with these tables."""
        q, v = self.tree.backup(self.reward_N, lambda t, q_PA: (log_probs[t].exp() * q_PA).sum(dim=1))
        logp_N = self.tree.sequence_log_probs(log_probs)
        kl = None
        if reference_log_probs is not None:
            kl = _expectation(logp_N, logp_N - self.tree.sequence_log_probs(reference_log_probs))
        return Evaluation(
            q=q,
            v=v,
            value=v[0][0],
            regret=self.optimal_value - v[0][0],
            sequence_log_probs_N=logp_N,
            entropy=-_expectation(logp_N, logp_N),
            kl=kl,
        )

    def regularised_optimum(self, reference_log_probs: Tables, beta: float) -> tuple[float, Tables]:
        """The best of E[R(Y)] - β KL(π || π_ref): its value β log E_ref[exp(R/β)] and π* ∝ π_ref exp(R/β) as tables."""
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be a finite number above 0, got {beta}")
        q, v = self.tree.backup(
            self.reward_N, lambda t, q_PA: beta * (reference_log_probs[t] + q_PA / beta).logsumexp(dim=1)
        )
        optimum = [
            logp_PA + (q_PA - v_P[:, None]) / beta for logp_PA, q_PA, v_P in zip(reference_log_probs, q, v, strict=True)
        ]
        return float(v[0]), optimum

    def regularised_regret(self, log_probs: Tables, reference_log_probs: Tables, beta: float) -> Tensor:
        """How far E[R(Y)] - β KL(π || π_ref) is below its optimum, >= 0, scalar; equals β KL(π || π*)."""
        evaluation = self.evaluate(log_probs, reference_log_probs)
        assert evaluation.kl is not None
        return self.regularised_optimum(reference_log_probs, beta)[0] - (evaluation.value - beta * evaluation.kl)


def _expectation(logp_N: Tensor, values_N: Tensor) -> Tensor:
    """Σ p x with 0 for impossible sequences, whatever x is there; no NaN in the gradient either."""
    is_possible_N = logp_N > -math.inf
    return (logp_N[is_possible_N].exp() * values_N[is_possible_N]).sum()


def table_reward(tree: SequenceTree, seed: int) -> Tensor:
    """R(Y) ~ U[0, 1), one draw a sequence, float64, (N,)."""
    return torch.from_numpy(stream(seed, "reward table").random(tree.num_sequences))


def oracle_reward(tree: SequenceTree, oracle: Oracle) -> Tensor:
    """Mean log-probability per token under an oracle, nats, float64, (N,). For trees without EOS, as oracles are."""
    return tree.sequence_log_probs(tree.policy_log_probs(oracle.generator)).detach() / tree.sequence_length


def grammar_reward(tree: SequenceTree, seed: int, num_states: int = 3) -> Tensor:
    """1 for the sequences of a seeded regular language, else 0; float64, (N,).

    The language is that of a random deterministic automaton in which each state forbids about half of the actions. One
    word of every state is always allowed and one of the first state is not, so the language is neither empty nor
    everything.
    """
    V, A, S, rng = tree.vocab_size, tree.num_actions, num_states, stream(seed, "grammar")
    next_SV = torch.from_numpy(rng.integers(S, size=(S, V)))
    is_allowed_SA = rng.random((S, A)) < 0.5
    kept_S = rng.integers(V, size=S)
    is_allowed_SA[np.arange(S), kept_S] = True
    is_allowed_SA[0, (kept_S[0] + rng.integers(1, V)) % V] = False
    log_allowed_SA = torch.from_numpy(is_allowed_SA).double().log()
    state_P, tables = torch.zeros(1, dtype=torch.int64), []
    for _ in range(tree.sequence_length):
        tables.append(log_allowed_SA[state_P])
        state_P = next_SV[state_P].flatten()
    return tree.sequence_log_probs(tables).exp()


class TableReward(Reward):
    """R(Y) looked up by the sequence's number; the reward of exact tasks."""

    def __init__(self, tree: SequenceTree, reward_N: Tensor) -> None:
        if reward_N.shape != (tree.num_sequences,):
            raise ValueError(f"reward_N must have shape ({tree.num_sequences},), got {tuple(reward_N.shape)}")
        self.tree, self.reward_N = tree, reward_N.detach().float()

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        return self.reward_N[self.tree.numbers(tokens_BT, lengths_B).to(self.reward_N.device)].to(tokens_BT.device)
