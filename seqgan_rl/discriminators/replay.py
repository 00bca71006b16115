"""Older negatives: a uniform sample of all generated sequences that a discriminator was trained on before.

Keeps the discriminator from forgetting what the generator has left behind (Shrivastava et al. 2017 keep a history of
generated images). Letters: N sequences, T tokens each, C places.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Reservoir:
    """At most ``capacity`` of the sequences offered, each with the same probability (Vitter 1985, Algorithm R)."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.num_offered = capacity, 0
        self.tokens_CT: Tensor | None = None

    def __len__(self) -> int:
        """How many sequences are kept."""
        return 0 if self.tokens_CT is None else len(self.tokens_CT)

    def offer(self, tokens_NT: Tensor, rng: np.random.Generator) -> None:
        """Keep some of these, int64 (N, T), in place of some that are kept."""
        tokens_NT = tokens_NT.cpu()
        free = min(self.capacity - len(self), len(tokens_NT))
        earlier_CT = tokens_NT[:0] if self.tokens_CT is None else self.tokens_CT
        kept = torch.cat([earlier_CT, tokens_NT[:free]])
        numbers_N = self.num_offered + 1 + np.arange(free, len(tokens_NT))
        place_N = rng.integers(numbers_N)  # the n-th offered takes one of n places, if that exists
        for place, tokens_T in zip(place_N, tokens_NT[free:], strict=True):
            if place < self.capacity:
                kept[place] = tokens_T
        self.tokens_CT, self.num_offered = kept, self.num_offered + len(tokens_NT)

    def draw(self, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` of the sequences kept, with replacement, int64 (n, T)."""
        assert self.tokens_CT is not None
        return self.tokens_CT[torch.from_numpy(rng.integers(len(self), size=n))]

    def state_dict(self) -> dict[str, Any]:
        """What is kept, and how many were offered; the array is a copy."""
        return {
            "tokens": None if self.tokens_CT is None else self.tokens_CT.numpy().copy(),
            "offered": self.num_offered,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken. ValueError for a reservoir of another capacity, of which what is
        kept here would be no uniform sample."""
        tokens, offered = state["tokens"], state["offered"]
        num_kept = 0 if tokens is None else len(tokens)
        if num_kept != min(self.capacity, offered):
            raise ValueError(
                f"the state holds {num_kept} of {offered} sequences offered, which is not what a reservoir of "
                f"{self.capacity} places keeps; make replay_size what it was"
            )
        self.tokens_CT = None if tokens is None else torch.tensor(np.asarray(tokens))
        self.num_offered = offered
