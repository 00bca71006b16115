"""Fixtures and settings for all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time, so that `make test` never fails by chance; look further with
# `pytest --hypothesis-profile=explore`.
settings.register_profile("seqgan_rl", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2_000)
settings.load_profile("seqgan_rl")

DATA = Path(os.environ.get("SEQGAN_RL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def benchmark_data() -> Callable[[str], Path]:
    """``benchmark_data("text/image_coco_train.txt")``: path of a public benchmark file; the test skips where absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.is_file():
            pytest.skip(f"benchmark file {path} is absent; set SEQGAN_RL_DATA to the folder that holds {name}")
        return path

    return find
