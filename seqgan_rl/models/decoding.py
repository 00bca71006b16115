"""Drawing tokens from a policy: the incremental contract, samplers over it, and completing many prefixes at once.

Letters: B sequences, T tokens each, P prefixes, N completions of each, R rows in flight, A actions.
"""

from typing import Protocol, Self

import torch
from torch import Tensor

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.models.graphs import GraphCache
from seqgan_rl.models.kernels import rows_per_block
from seqgan_rl.models.sampling import (
    PLAIN,
    SamplingOptions,
    check_forbidden,
    pick_from_logits,
    require_distributions,
)

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

    is_static = False
    """Whether completions take a course that is known in advance and read nothing back to the host, as a GPU wants it:
    rows that have ended are stepped on (they read EOS and PAD) and masked afterwards. For a decoder whose draws depend
    on its ``tensors`` alone; it collects ``is_valid`` where others raise at once."""
    tensors: tuple[Tensor, ...] = ()
    """All that the draws of a static decoder depend on."""
    is_valid: Tensor | None = None
    """Of a static decoder: whether every distribution drawn from so far was one, bool, ()."""

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

    def next(self, tokens_R: Tensor, state: State, uniforms: Tensor) -> tuple[Tensor, State]:
        """Read one token a row and draw the next by inverse CDF, one uniform in [0, 1) a draw.

        Args:
            tokens_R, state: the last token and the state of each row.
            uniforms: one draw a row, (R,), or N draws from each row's distribution, (R, N).

        Returns:
            picks, int64, shaped as the uniforms, and the state of the R rows.
        """
        picks, states = [], []
        size = rows_per_block(self.num_actions)
        for start in range(0, max(len(tokens_R), 1), size):
            rows = slice(start, start + size)
            logits_RA, new_state = self.policy.step(tokens_R[rows], select(state, rows))
            picks.append(pick_from_logits(logits_RA, uniforms[rows], options=self.options))
            states.append(new_state)
        return torch.cat(picks), concatenate(states)

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        """The same decoder over other ``tensors`` of the same shapes. Only static decoders have it."""
        raise NotImplementedError(f"{type(self).__name__} is not static")

    def check(self) -> None:
        """FloatingPointError if a static decoder has drawn from something that is no distribution. Waits for the GPU;
        call it when everything else has been handed over."""
        if self.is_valid is not None:
            require_distributions(self.is_valid)


def decoder_of(policy: RolloutPolicy, options: SamplingOptions = PLAIN) -> Decoder:
    """The fastest decoder for this policy: its own if it has one, else the general one."""
    make = getattr(policy, "decoder", None)
    return make(options) if make is not None else Decoder(policy, options)


_graphs = GraphCache()


@torch.no_grad()
def complete(
    decoder: Decoder,
    tokens_BT: Tensor,
    source_P: Tensor,
    start_P: Tensor,
    uniforms_PNT: Tensor,
    counts_T: tuple[int, ...] | None = None,
) -> tuple[Tensor, Tensor]:
    """Finish the first ``start_P[p]`` tokens of sequence ``source_P[p]`` N times, all rows advancing together.

    Each sequence is read once; the states at its prefixes are shared by all rows that start there. A static decoder
    takes :func:`complete_static`, on a GPU as a CUDA graph from the second time that the sizes occur; its caller must
    ``decoder.check()`` at the end.

    Args:
        decoder: draws the tokens.
        tokens_BT: known tokens, int64, (B, T); only the prefixes asked for are read.
        source_P: which sequence each prefix is of, int64, (P,).
        start_P: length of the kept prefix, int64 in [0, T), **sorted ascending**, (P,). The prefix holds no EOS, unless
            the decoder is static: then what ended is returned as it was.
        uniforms_PNT: numbers in [0, 1); ``uniforms_PNT[p, n, t]`` draws the token at position t of completion n.
        counts_T: how many of the prefixes have length t, where that is known without asking the device.

    Returns:
        tokens_RT (int64, PAD after EOS) and lengths_R (int64, EOS counted); row p * N + n is completion n of prefix p.
    """
    (P, N, T), device = uniforms_PNT.shape, tokens_BT.device
    if P * N == 0:
        return tokens_BT.new_empty(0, T), tokens_BT.new_empty(0)
    with evaluation_mode(decoder.policy):
        if not decoder.is_static:
            full_RT = torch.full((P * N, T), decoder.pad_id, dtype=torch.int64, device=device)
            lengths_R = torch.full((P * N,), T, dtype=torch.int64, device=device)
            _fill(decoder, tokens_BT, source_P, start_P, uniforms_PNT, full_RT, lengths_R)
            return full_RT, lengths_R
        counts = counts_T or tuple(torch.bincount(start_P, minlength=T).tolist())

        def completed(*inputs: Tensor) -> tuple[Tensor, ...]:
            return complete_static(decoder.with_tensors(inputs[:-3]), inputs[-3], inputs[-2], counts, inputs[-1])

        key = (type(decoder), decoder.num_actions, decoder.eos_id, counts)
        inputs = (*decoder.tensors, tokens_BT, source_P, uniforms_PNT)
        full_RT, lengths_R, is_valid = _graphs.run(key, completed, inputs)
        decoder.is_valid = is_valid if decoder.is_valid is None else decoder.is_valid & is_valid
        return full_RT, lengths_R


def _fill(
    decoder: Decoder,
    tokens_BT: Tensor,
    source_P: Tensor,
    start_P: Tensor,
    uniforms_PNT: Tensor,
    full_RT: Tensor,
    lengths_R: Tensor,
) -> None:
    """The work of :func:`complete`, into ``full_RT`` and ``lengths_R``; rows that have ended are taken out."""
    (P, N, T), device = uniforms_PNT.shape, tokens_BT.device
    uniforms_RT = uniforms_PNT.reshape(P * N, T)
    joins_T1 = torch.searchsorted(start_P, torch.arange(T + 1, device=device)).tolist()  # prefixes shorter than t
    last_start = int(start_P[-1])
    kept_PT = torch.arange(T, device=device) < start_P[:, None]
    known_PT = torch.where(kept_PT, tokens_BT[source_P], decoder.pad_id)
    full_RT.view(P, N, T).copy_(known_PT[:, None])

    track_state, track_last_B = decoder.initial_state(len(tokens_BT)), tokens_BT[:, 0].new_full((), decoder.pad_id)
    track_last_B = track_last_B.expand(len(tokens_BT))
    active_R = torch.empty(0, dtype=torch.int64, device=device)  # rows in flight
    state, last_R = select(track_state, slice(0, 0)), track_last_B[:0]
    for t in range(T):
        if 0 < t <= last_start:
            track_state, track_last_B = decoder.absorb(track_last_B, track_state), tokens_BT[:, t - 1]
        if len(active_R):
            last_R, state = decoder.next(last_R, state, uniforms_RT[active_R, t])
        first, after = joins_T1[t], joins_T1[t + 1]
        if first < after:  # the completions of a prefix share its first distribution
            source_J = source_P[first:after]
            first_JN, state_J = decoder.next(
                track_last_B[source_J], select(track_state, source_J), uniforms_PNT[first:after, :, t]
            )
            last_R = torch.cat([last_R, first_JN.flatten()])
            rows_R = torch.arange(first * N, after * N, device=device)
            state = concatenate([state, select(state_J, rows_R // N - first)])
            active_R = torch.cat([active_R, rows_R])
        if len(active_R) == 0:
            continue
        full_RT[active_R, t] = last_R
        if decoder.eos_id is not None:
            ended_R = last_R == decoder.eos_id
            lengths_R[active_R[ended_R]] = t + 1
            going_R = (~ended_R).nonzero().squeeze(1)
            active_R, last_R, state = active_R[going_R], last_R[going_R], select(state, going_R)


def complete_static(
    decoder: Decoder, tokens_BT: Tensor, source_P: Tensor, counts_T: tuple[int, ...], uniforms_PNT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`complete` with a course that is known in advance: the shapes follow from the arguments' shapes and
    ``counts_T`` alone, and nothing is read back to the host, so that a CUDA graph can hold it.

    Returns:
        tokens_RT and lengths_R of :func:`complete`, and whether all drawn from were distributions, bool, ().
    """
    (P, N, T), B, device = uniforms_PNT.shape, len(tokens_BT), tokens_BT.device
    full_RT = torch.empty(P * N, T, dtype=torch.int64, device=device)
    full_PNT, uniforms_TR = full_RT.view(P, N, T), uniforms_PNT.permute(2, 0, 1).reshape(T, P * N)
    last_start = max(t for t in range(T) if counts_T[t])
    track_state, track_last_B = decoder.initial_state(B), tokens_BT.new_full((B,), decoder.pad_id)
    state, last_R = select(track_state, slice(0, 0)), track_last_B[:0]
    joined = 0  # prefixes in flight
    for t in range(T):
        if 0 < t <= last_start:
            track_state, track_last_B = decoder.absorb(track_last_B, track_state), tokens_BT[:, t - 1]
        if joined:
            last_R, state = decoder.next(last_R, state, uniforms_TR[t, : joined * N])
        if counts_T[t]:
            joining = slice(joined, joined + counts_T[t])
            first_JN, state_J = decoder.next(
                track_last_B[source_P[joining]],
                select(track_state, source_P[joining]),
                uniforms_TR[t].view(P, N)[joining],
            )
            last_R = torch.cat([last_R, first_JN.flatten()])
            state = concatenate([state, tuple(part.repeat_interleave(N, dim=0) for part in state_J)])
            joined += counts_T[t]
        full_RT[: joined * N, t] = last_R
        full_PNT[joined:, :, t] = tokens_BT[source_P[joined:], t, None]
    lengths_R = torch.full_like(full_RT[:, 0], T)
    if decoder.eos_id is not None:
        is_eos_RT = full_RT == decoder.eos_id
        is_after_RT = is_eos_RT.cumsum(dim=1) - is_eos_RT.long() > 0
        full_RT = full_RT.masked_fill(is_after_RT, decoder.pad_id)
        lengths_R = (~is_after_RT).sum(dim=1)
    assert decoder.is_valid is not None, "static decoders collect it"
    return full_RT, lengths_R, decoder.is_valid


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
