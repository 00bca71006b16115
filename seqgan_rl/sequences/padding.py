"""The one place that pads: lists of ids become a rectangle, and a rectangle gives its lengths back.

Ids: words are 0..V-1, EOS is V where sequences have it, PAD is the id after the last action. After EOS comes only
PAD. A sequence of exactly T words has no EOS: the horizon ends it.
Letters: N sequences, T tokens each, V vocabulary size.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLOCK = 2**14
"""Sequences that are padded at a time, so that no second copy of a large corpus is made."""

ENCODE_FIRST = "turn text into ids with `Vocabulary.encode` first"


def pad_sequences(
    sequences: Sequence[Sequence[int]], sequence_length: int, pad_id: int, eos_id: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad lists of word ids to one length.

    Args:
        sequences: N lists of at most T word ids, without EOS or PAD.
        sequence_length: T >= 1.
        pad_id: fills the tail.
        eos_id: when given, ends every list of fewer than T words.

    Returns:
        tokens_NT: int64, shape (N, T).
        lengths_N: tokens before the first PAD, EOS counted, int64, shape (N,).

    >>> tokens_NT, lengths_N = pad_sequences([[0, 1], [2, 0, 1]], sequence_length=3, pad_id=4, eos_id=3)
    >>> tokens_NT.tolist(), lengths_N.tolist()
    ([[0, 1, 3], [2, 0, 1]], [3, 3])
    """
    N, T = len(sequences), sequence_length
    words_N = np.fromiter((len(sequence) for sequence in sequences), dtype=np.int64, count=N)
    if N and words_N.max() > T:
        n = int(words_N.argmax())
        raise ValueError(
            f"sequences must have at most sequence_length={T} ids, got {words_N[n]} at sequence {n}; "
            "raise sequence_length or drop longer sequences first"
        )
    position_T = np.arange(T)
    tokens_NT = np.full((N, T), pad_id, dtype=np.int64)
    for start in range(0, N, _BLOCK):
        rows = slice(start, start + _BLOCK)
        is_word_NT = position_T < words_N[rows, None]
        ids = chain.from_iterable(sequences[rows])
        tokens_NT[rows][is_word_NT] = np.fromiter(ids, dtype=np.int64, count=int(words_N[rows].sum()))
    if eos_id is None:
        return tokens_NT, words_N
    tokens_NT[position_T == words_N[:, None]] = eos_id  # nothing where the line fills T
    return tokens_NT, np.minimum(words_N + 1, T)


def lengths_from_tokens(tokens_NT: NDArray[np.integer], pad_id: int) -> NDArray[np.int64]:
    """Tokens that are not PAD in each sequence, EOS counted; int64, shape (N,)."""
    return np.asarray((tokens_NT != pad_id).sum(axis=1), dtype=np.int64)


def check_tokens(tokens: ArrayLike, num_actions: int, *, eos_id: int | None = None) -> None:
    """Raise ValueError unless ``tokens`` (N, T) are integers in [0, num_actions], PAD = num_actions only at the tail.

    With ``eos_id``, sequences must also be finished: EOS is followed by PAD alone, and a sequence shorter than T ends
    in EOS.
    """
    tokens_NT = np.asarray(tokens)
    if tokens_NT.ndim != 2 or not np.issubdtype(tokens_NT.dtype, np.integer):
        raise ValueError(
            f"tokens must be integers of shape (N, T), got {tokens_NT.dtype} of shape {tokens_NT.shape}; "
            + ENCODE_FIRST
        )
    pad_id = num_actions
    is_pad_NT = tokens_NT == pad_id
    _refuse(
        (tokens_NT < 0) | (tokens_NT > pad_id),
        tokens_NT,
        f"token ids must lie in [0, {num_actions}), or be PAD={pad_id}",
        ENCODE_FIRST,
    )
    _refuse(
        is_pad_NT[:, :-1] & ~is_pad_NT[:, 1:],
        tokens_NT,
        f"PAD={pad_id} must stand only at the tail of a sequence",
        "pad with `pad_sequences`",
    )
    if eos_id is None:
        return
    is_eos_NT = tokens_NT == eos_id
    _refuse(
        is_eos_NT[:, :-1] & ~is_pad_NT[:, 1:],
        tokens_NT,
        f"only PAD={pad_id} may follow EOS={eos_id}",
        "cut sequences after their first EOS",
    )
    ends_open_NT = is_pad_NT.copy()
    ends_open_NT[:, 1:] &= ~is_pad_NT[:, :-1] & ~is_eos_NT[:, :-1]
    _refuse(
        ends_open_NT,
        tokens_NT,
        f"a sequence shorter than T={tokens_NT.shape[1]} must end in EOS={eos_id}",
        "pad with `pad_sequences(..., eos_id=...)`",
    )


def _refuse(is_bad: NDArray[np.bool_], tokens_NT: NDArray[np.integer], expected: str, advice: str) -> None:
    """Raise ValueError about the first place where ``is_bad``, if there is one."""
    if is_bad.any():
        n, t = (int(i) for i in np.argwhere(is_bad)[0])
        raise ValueError(f"{expected}, got {tokens_NT[n, t]} at sequence {n}, position {t}; {advice}")
