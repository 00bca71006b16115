"""Drawing tokens from a policy: the incremental contract, samplers over it, and completing many prefixes at once.

Letters: B sequences, T tokens each, R rows in flight, A actions.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.models.kernels import rows_per_block
from seqgan_rl.models.sampling import PLAIN, SamplingOptions, check_forbidden, pick_from_logits

State = tuple[Tensor, ...]
"""What a generator remembers of its prefixes: tensors whose first dimension is the row."""


def select(state: State, rows: Tensor | slice) -> State:
    """The state of some rows, in the order asked for (an index tensor may repeat rows)."""
    return tuple(part[rows] for part in state)


def concatenate(states: list[State]) -> State:
    """One state holding the rows of several."""
    return tuple(torch.cat(parts) for parts in zip(*states, strict=True))


class RolloutPolicy(Protocol):
    """Anything that can finish prefixes: what :mod:`seqgan_rl.rollout` asks of a policy."""

    num_actions: int
    eos_id: int | None

    def initial_state(self, batch_size: int) -> State:
        """State before the first token of ``batch_size`` sequences."""
        ...

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row (PAD first); return next-token logits (B, A) and the new state."""
        ...


class Decoder:
    """Draws next tokens of many rows for one call: a policy with its sampling options, frozen as they are now.

    This one serves any :class:`RolloutPolicy`; generators may return a faster one from ``decoder``.
    """

    def __init__(self, policy: RolloutPolicy, options: SamplingOptions = PLAIN) -> None:
        check_forbidden(options.forbidden, policy.num_actions)
        self.policy, self.options = policy, options
        self.num_actions, self.eos_id = policy.num_actions, policy.eos_id

    @property
    def pad_id(self) -> int:
        """PAD, also what is read before the first token."""
        return self.num_actions

    def initial_state(self, batch_size: int) -> State:
        """State before the first token."""
        return self.policy.initial_state(batch_size)

    def absorb(self, tokens_R: Tensor, state: State) -> State:
        """The state after reading one token a row, when its next-token distribution is not needed."""
        return self.policy.step(tokens_R, state)[1]

    def next(
        self, tokens_R: Tensor, state: State, uniforms_D: Tensor, rows_D: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read one token a row and draw the next by inverse CDF, one uniform in [0, 1) a draw.

        Args:
            tokens_R, state: the last token and the state of each row.
            uniforms_D: one a draw, (D,).
            rows_D: from which row's distribution each is drawn, int64 ascending, (D,); None: one from each row.

        Returns:
            picks_D, int64 (D,), and the state of the R rows.
        """
        picks, states = [], []
        for rows, draws, rows_in_block in blocks_of_draws(len(tokens_R), rows_per_block(self.num_actions), rows_D):
            logits_RA, new_state = self.policy.step(tokens_R[rows], select(state, rows))
            picks.append(pick_from_logits(logits_RA, uniforms_D[draws], rows_in_block, options=self.options))
            states.append(new_state)
        return torch.cat(picks), concatenate(states)


def blocks_of_draws(num_rows: int, size: int, rows_D: Tensor | None) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """Rows in blocks of ``size``, with the draws that are from each block, and their rows counted within it."""
    if num_rows <= size:
        yield slice(None), slice(None), rows_D
        return
    for start in range(0, num_rows, size):
        rows = slice(start, start + size)
        if rows_D is None:
            yield rows, rows, None
            continue
        first, last = torch.searchsorted(rows_D, torch.tensor([start, start + size], device=rows_D.device)).tolist()
        yield rows, slice(first, last), rows_D[first:last] - start


def decoder_of(policy: RolloutPolicy, options: SamplingOptions = PLAIN) -> Decoder:
    """The fastest decoder for this policy: its own if it has one, else the general one."""
    make = getattr(policy, "decoder", None)
    return make(options) if make is not None else Decoder(policy, options)


@torch.no_grad()
def complete(
    decoder: Decoder, tokens_BT: Tensor, source_R: Tensor, start_R: Tensor, uniforms_RT: Tensor
) -> tuple[Tensor, Tensor]:
    """Finish row r from the first ``start_R[r]`` tokens of sequence ``source_R[r]``, all rows advancing together.

    Each sequence is read once; the states at its prefixes are shared by all rows that start there.

    Args:
        decoder: draws the tokens.
        tokens_BT: known tokens, int64, (B, T); only the prefixes asked for are read.
        source_R: which sequence each row continues, int64, (R,).
        start_R: length of the kept prefix, int64 in [0, T), **sorted ascending**, (R,). The prefix holds no EOS.
        uniforms_RT: numbers in [0, 1); the token at position t of row r is drawn with ``uniforms_RT[r, t]``.

    Returns:
        tokens_RT (int64, PAD after EOS) and lengths_R (int64, EOS counted).
    """
    T, R, device = tokens_BT.shape[1], len(source_R), tokens_BT.device
    full_RT = torch.full((R, T), decoder.pad_id, dtype=torch.int64, device=device)
    lengths_R = torch.full((R,), T, dtype=torch.int64, device=device)
    if R == 0:
        return full_RT, lengths_R
    with evaluation_mode(decoder.policy):
        _fill(decoder, tokens_BT, source_R, start_R, uniforms_RT, full_RT, lengths_R)
    return full_RT, lengths_R


def _fill(
    decoder: Decoder,
    tokens_BT: Tensor,
    source_R: Tensor,
    start_R: Tensor,
    uniforms_RT: Tensor,
    full_RT: Tensor,
    lengths_R: Tensor,
) -> None:
    """The work of :func:`complete`, into ``full_RT`` and ``lengths_R``."""
    (B, T), device = tokens_BT.shape, tokens_BT.device
    joins_T1 = torch.searchsorted(start_R, torch.arange(T + 1, device=device)).tolist()  # rows that start before t
    last_start = int(start_R[-1])
    kept_RT = torch.arange(T, device=device) < start_R[:, None]
    torch.where(kept_RT, tokens_BT[source_R], full_RT, out=full_RT)

    track_state, track_last_B = decoder.initial_state(B), tokens_BT.new_full((B,), decoder.pad_id)
    active_R = torch.empty(0, dtype=torch.int64, device=device)  # rows in flight
    state, last_R = select(track_state, slice(0, 0)), track_last_B[:0]
    for t in range(T):
        if 0 < t <= last_start:
            track_state, track_last_B = decoder.absorb(track_last_B, track_state), tokens_BT[:, t - 1]
        if len(active_R):
            last_R, state = decoder.next(last_R, state, uniforms_RT[active_R, t])
        joining_R = torch.arange(joins_T1[t], joins_T1[t + 1], device=device)
        if len(joining_R):  # rows that continue the same prefix share its first distribution
            source_P, rows_R = source_R[joining_R].unique_consecutive(return_inverse=True)
            first_R, state_P = decoder.next(
                track_last_B[source_P], select(track_state, source_P), uniforms_RT[joining_R, t], rows_R
            )
            last_R = torch.cat([last_R, first_R])
            state = concatenate([state, select(state_P, rows_R)])
            active_R = torch.cat([active_R, joining_R])
        if len(active_R) == 0:
            continue
        full_RT[active_R, t] = last_R
        if decoder.eos_id is not None:
            ended_R = last_R == decoder.eos_id
            lengths_R[active_R[ended_R]] = t + 1
            going_R = (~ended_R).nonzero().squeeze(1)
            active_R, last_R, state = active_R[going_R], last_R[going_R], select(state, going_R)


class UniformPolicy:
    """Every action equally likely: the simplest rollout policy."""

    def __init__(self, num_actions: int, has_eos: bool) -> None:
        self.num_actions = num_actions
        self.eos_id = num_actions - 1 if has_eos else None

    def initial_state(self, batch_size: int) -> State:
        """Nothing to remember."""
        return ()

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Equal logits, (B, A)."""
        return torch.zeros(len(tokens_B), self.num_actions, device=tokens_B.device), state
