"""Random streams: one seed, named parts that cannot disturb each other."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqgan_rl.core.streams import stream, torch_seeded


@given(seed=st.integers(0, 2**64), name=st.text(max_size=20))
def test_one_seed_and_name_give_the_same_numbers_twice(seed, name):
    assert (stream(seed, name).random(4) == stream(seed, name).random(4)).all()


@given(seed=st.integers(0, 2**32))
def test_other_names_and_other_seeds_give_other_numbers(seed):
    numbers = [stream(s, name).random() for s in (seed, seed + 1) for name in ("data", "generator", "reward")]
    assert len(set(numbers)) == len(numbers)


def test_the_rule_from_seed_and_name_to_numbers_is_frozen():
    """A run resumed by a later version must go on with the same numbers."""
    assert stream(0, "data").integers(2**32, size=3).tolist() == FROZEN


FROZEN = np.random.Generator(np.random.PCG64(np.random.SeedSequence([0, 0xADF3F363]))).integers(2**32, size=3).tolist()
"""0xADF3F363 is the CRC-32 of "data"."""


def test_torch_seeded_gives_the_same_draws_and_leaves_the_global_generator_as_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with torch_seeded(stream(1, "init")):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), torch_seeded(stream(1, "init")):
        _ = torch.rand(3) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)
