"""Monte-Carlo rollout: score an unfinished sequence by finishing it many times.

Implements Eqs. (2)-(4) of Yu et al., "SeqGAN" (AAAI 2017, arXiv:1609.05473v6, printed numbering):
Q(Y_{1:t-1}, y_t) is the mean reward of N completions of Y_{1:t} under the rollout policy, and R(Y) itself at the end.
Where a run has several processes (`core.distributed`), each completes and scores its share; all get all values.
Letters: B sequences, T tokens each, N rollouts, R rows = completions in flight.
"""

from typing import Any

import torch
from torch import Tensor

from seqgan_rl.core import distributed
from seqgan_rl.models.decoding import Decoder, RolloutPolicy, complete, decoder_of
from seqgan_rl.models.sampling import PLAIN, SamplingOptions
from seqgan_rl.rewards.base import Reward
from seqgan_rl.rewards.controls import ShuffledReward


def prefix_values(
    policy: RolloutPolicy,
    reward: Reward,
    prefixes_BT: Tensor,
    lengths_B: Tensor,
    uniforms_BNT: Tensor,
    *,
    is_finished_B: Tensor,
    options: SamplingOptions = PLAIN,
) -> Tensor:
    """Φ of one prefix a row: mean reward of N completions, or R(Y) where the sequence is finished. What a step needs.

    Args:
        policy: rollout policy G_beta.
        reward: R(Y).
        prefixes_BT: the first ``lengths_B[b]`` tokens of row b count, int64, (B, T).
        lengths_B: tokens so far, int64, (B,).
        uniforms_BNT: random numbers in [0, 1) of the completions, (B, N, T); the full block is always given.
        is_finished_B: whether the row has ended (EOS or T tokens), bool, (B,).
        options: how the rollout policy's distribution is reshaped.

    Returns:
        values_B: float32, (B,). The variance of an unfinished row's value falls as 1/N.
    """
    open_P = (~is_finished_B).nonzero().squeeze(1)
    open_P = open_P[lengths_B[open_P].argsort(stable=True)]
    done_F = is_finished_B.nonzero().squeeze(1)
    values_B = torch.empty(len(prefixes_BT), device=prefixes_BT.device)
    values_B[open_P], values_B[done_F] = _values(
        decoder_of(policy, options),
        reward,
        prefixes_BT,
        lengths_B,
        open_P,
        lengths_B[open_P],
        uniforms_BNT[open_P],
        done_F,
    )
    return reward.arrange(values_B)


def action_values(
    policy: RolloutPolicy,
    reward: Reward,
    tokens_BT: Tensor,
    lengths_B: Tensor,
    uniforms_BTNT: Tensor,
    *,
    options: SamplingOptions = PLAIN,
    start_B: Tensor | None = None,
) -> Tensor:
    """Q(Y_{1:t-1}, y_t) for every token of finished sequences, Eq. (4), all completions advancing together.

    Args:
        policy, reward, options: as in :func:`prefix_values`.
        tokens_BT: finished sequences, int64, (B, T), PAD after EOS.
        lengths_B: their lengths, EOS counted, int64, (B,).
        uniforms_BTNT: random numbers in [0, 1), (B, T-1, N, T): block t-1 serves the completions of Y_{1:t}.
        start_B: tokens given as a prompt, (B,): positions before are not scored. None: no prompt.

    Returns:
        q_BT: float32, (B, T); column t-1 is the value of y_t; 0 after the end and at prompt tokens.
    """
    B, T = tokens_BT.shape
    device = tokens_BT.device
    first_B = torch.zeros_like(lengths_B) if start_B is None else start_B
    decoder, everyone_B = decoder_of(policy, options), torch.arange(B, device=device)
    counts_T, is_open_P = None, None
    # prefixes Y_{1:t} that are unfinished and longer than the prompt, ordered by t; column t-1 holds the value of y_t
    t_T1 = torch.arange(1, T, device=device)[:, None]
    is_open_TB = (t_T1 < lengths_B) & (t_T1 > first_B)
    if decoder.is_static:  # all prefixes are completed, for the device is not asked which are open until that is done
        column_P, b_P = torch.arange((T - 1) * B, device=device) // max(B, 1), everyone_B.repeat(T - 1)
        counts_T = (0, *(B,) * (T - 1))
        is_open_P = None if decoder.eos_id is None and start_B is None else is_open_TB.flatten()
    else:
        column_P, b_P = is_open_TB.nonzero().unbind(1)
    q_BT = torch.zeros(B, T, device=device)
    q_BT[b_P, column_P], q_BT[everyone_B, lengths_B - 1] = _values(
        decoder,
        reward,
        tokens_BT,
        lengths_B,
        b_P,
        column_P + 1,
        uniforms_BTNT[b_P, column_P],
        everyone_B,
        counts_T,
        is_open_P,
    )
    column_T = torch.arange(T, device=device)
    is_over_BT = column_T >= lengths_B[:, None]
    # R(Y) stands on after the end, so that a profile handed to a longer sequence (the control `shuffled`) has no hole
    q_BT = torch.where(is_over_BT, q_BT.gather(1, lengths_B[:, None] - 1), q_BT)
    is_scored_BT = (column_T >= first_B[:, None]) & ~is_over_BT
    return torch.where(is_scored_BT, reward.arrange(q_BT), 0.0)


def _values(
    decoder: Decoder,
    reward: Reward,
    tokens_BT: Tensor,
    lengths_B: Tensor,
    source_P: Tensor,
    start_P: Tensor,
    uniforms_PNT: Tensor,
    done_F: Tensor,
    counts_T: tuple[int, ...] | None = None,
    is_open_P: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean rewards of N completions of the first ``start_P`` tokens of rows ``source_P`` (sorted by start; ``counts_T``
    of :func:`complete`), Eq. (3), and rewards of the finished rows ``done_F``, all scored in one call: (P,), (F,).

    Where ``is_open_P`` is given, only those prefixes are scored (a reward may keep count of what it sees); the others
    are worth 0.
    """
    P, N, _ = uniforms_PNT.shape
    if N < 1:
        raise ValueError("num_rollouts must be at least 1, got 0 blocks of uniforms")
    if not reward.reads_sequences:
        ones = torch.ones(P + len(done_F), dtype=torch.int64, device=tokens_BT.device)
        return reward.score(ones[:, None], ones).split([P, len(done_F)])
    ranks = distributed.ranks()
    mine = slice(None) if ranks is None else ranks.share
    if ranks is not None and counts_T is not None:
        counts_T = ranks.counts(counts_T)
    own_P, first_P = source_P[mine].contiguous(), start_P[mine].contiguous()
    full_RT, ends_R = complete(decoder, tokens_BT, own_P, first_P, uniforms_PNT[mine], counts_T)
    if ranks is not None and _remembers(reward):  # every rank scores all, so that all remember the same
        full_PNT, ends_PN = (part_R.unflatten(0, (-1, N)) for part_R in (full_RT, ends_R))
        full_RT, ends_R = (ranks.gather(mine_P, P).flatten(0, 1) for mine_P in (full_PNT, ends_PN))
        ranks, mine = None, slice(None)
    open_O = None if is_open_P is None else is_open_P[mine].nonzero().squeeze(1)
    if open_O is not None:
        rows_R = (open_O[:, None] * N + torch.arange(N, device=open_O.device)).flatten()
        full_RT, ends_R = full_RT[rows_R], ends_R[rows_R]
    num_open, rows_F = len(full_RT), done_F[mine]
    full_RT, ends_R = torch.cat([full_RT, tokens_BT[rows_F]]), torch.cat([ends_R, lengths_B[rows_F]])
    # a share may be empty, which a reward need not take
    scores = reward.score(full_RT, ends_R) if len(full_RT) else torch.empty(0, device=full_RT.device)
    decoder.check()
    of_P, of_F = scores[:num_open].view(-1, N).mean(dim=1), scores[num_open:]
    if open_O is not None:
        of_P = of_P.new_zeros(len(source_P[mine])).index_copy(0, open_O, of_P)
    return (of_P, of_F) if ranks is None else (ranks.gather(of_P, P), ranks.gather(of_F, len(done_F)))


def _remembers(reward: Reward) -> bool:
    """Whether scoring may change a reward: it has a state to be saved. (Shuffling changes its own in ``arrange``.)"""
    while isinstance(reward, ShuffledReward):
        reward = reward.inner

    def holds_something(state: Any) -> bool:
        if isinstance(state, dict):
            return any(holds_something(value) for value in state.values())
        return any(map(holds_something, state)) if isinstance(state, list | tuple) else True

    return holds_something(reward.state_dict())
