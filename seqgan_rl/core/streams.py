"""Named random streams: all randomness of a run comes from one seed, and no part can disturb another's numbers.

Evaluating more often must not change what is trained, so "evaluation" and "generator" draw from streams of their own.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream ``name`` of the run with this ``seed``: independent of all other names and seeds."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


class RandomStreams:
    """The named streams of one run, made when first asked for; their states can be saved and restored.

    >>> streams = RandomStreams(0)
    >>> before = streams.state_dict()
    >>> first = streams["data"].random()
    >>> streams.load_state_dict(before)
    >>> streams["data"].random() == first
    True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, np.random.Generator] = {}

    def __getitem__(self, name: str) -> np.random.Generator:
        if name not in self._streams:
            self._streams[name] = stream(self.seed, name)
        return self._streams[name]

    def state_dict(self) -> dict[str, Any]:
        """Seed and state of every stream used so far, JSON-able."""
        return {
            "seed": self.seed,
            "streams": {name: rng.bit_generator.state for name, rng in sorted(self._streams.items())},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken. A stream that was not used then starts afresh."""
        self.seed = state["seed"]
        known = state["streams"]
        for name in set(self._streams) | set(known):
            rng = stream(self.seed, name)
            if name in known:
                rng.bit_generator.state = known[name]
            # keep the identity of generators already handed out
            self._streams.setdefault(name, rng).bit_generator.state = rng.bit_generator.state


@contextmanager
def torch_seeded(rng: np.random.Generator) -> Iterator[None]:
    """Inside, torch's global generator is seeded from ``rng``; afterwards it is as it was before.

    For code that only knows the global generator (``nn.Dropout``, ``nn.init``).
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(int(rng.integers(2**63)))
        yield
