"""Named random streams: all randomness of a run comes from one seed, and no part can disturb another's numbers.

Evaluating more often must not change what is trained, so "evaluation" and "generator" draw from streams of their own.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream ``name`` of the run with this ``seed``: independent of all other names and seeds."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


@contextmanager
def torch_seeded(rng: np.random.Generator) -> Iterator[None]:
    """Inside, torch's global generator is seeded from ``rng``; afterwards it is as it was before.

    For code that only knows the global generator (``nn.Dropout``, ``nn.init``).
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(int(rng.integers(2**63)))
        yield
