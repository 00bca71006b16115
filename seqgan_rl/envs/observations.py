"""What an agent sees of a prefix: the observation spaces and their encodings.

Letters: B sequences, T tokens each, A actions; PAD is A.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.envs.task import SequenceTask

OBSERVATIONS = ("tokens", "tokens_float32", "onehot", "dict", "last_token")


def check_observation(kind: str) -> None:
    """ValueError unless this is the name of an observation."""
    if kind not in OBSERVATIONS:
        hint = did_you_mean(str(kind), list(OBSERVATIONS))
        raise ValueError(f"observation must be one of {', '.join(OBSERVATIONS)}; got {kind!r}{hint}")


def observation_space(kind: str, task: SequenceTask) -> spaces.Space[Any]:
    """The space of one observation.

    "tokens": the prefix padded with PAD, ``Box(0, A, (T,), int64)``; "tokens_float32": the same as float32;
    "onehot": ``Box(0, 1, (T * A,), float32)``, PAD is all zeros; "dict": ``{"tokens", "action_mask"}``;
    "last_token": ``Discrete(A + 1)``, PAD before the first.
    """
    check_observation(kind)
    A, T = task.num_actions, task.sequence_length
    tokens = spaces.Box(0, A, (T,), np.int64)
    if kind == "tokens_float32":
        return spaces.Box(0, A, (T,), np.float32)
    if kind == "onehot":
        return spaces.Box(0, 1, (T * A,), np.float32)
    if kind == "dict":
        return spaces.Dict({"action_mask": spaces.Box(0, 1, (A,), np.int8), "tokens": tokens})
    if kind == "last_token":
        return spaces.Discrete(A + 1)
    return tokens


def encode(
    kind: str,
    task: SequenceTask,
    tokens_BT: NDArray[np.int64],
    lengths_B: NDArray[np.int64],
    masks: Callable[[], NDArray[np.bool_]],
) -> Any:
    """Observations of a batch, always new arrays; ``masks()`` gives the allowed actions (B, A) where they are seen."""
    B, T = tokens_BT.shape
    if kind == "tokens_float32":
        return tokens_BT.astype(np.float32)
    if kind == "onehot":
        onehot_BTA = np.zeros((B, T, task.num_actions + 1), dtype=np.float32)
        np.put_along_axis(onehot_BTA, tokens_BT[:, :, None], 1, axis=2)
        return onehot_BTA[:, :, :-1].reshape(B, -1)
    if kind == "dict":
        return {"action_mask": masks().astype(np.int8), "tokens": tokens_BT.copy()}
    if kind == "last_token":
        return np.where(lengths_B > 0, tokens_BT[np.arange(B), lengths_B - 1], task.pad_id)
    return tokens_BT.copy()


def pick_row(observations: Any, row: int) -> Any:
    """One row of a batch of observations, as new arrays."""
    if isinstance(observations, dict):
        return {name: pick_row(part, row) for name, part in observations.items()}
    value = observations[row]
    return value.copy() if isinstance(value, np.ndarray) else value
