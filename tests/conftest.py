"""Fixtures and settings for all tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# The same examples every time, so that `make test` never fails by chance; look further with
# `pytest --hypothesis-profile=explore`.
settings.register_profile("seqgan_rl", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2_000)
settings.load_profile("seqgan_rl")

pytest.register_assert_rewrite("tests.envs.player")

DATA = Path(os.environ.get("SEQGAN_RL_DATA", Path(__file__).parents[2] / "shared" / "data"))


SOAK = Path(__file__).parent / "soak"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--soak``: collect ``tests/soak``, the checks that take an hour (``make soak``)."""
    parser.addoption("--soak", action="store_true", help="collect tests/soak")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``tests/soak`` is left out unless asked for."""
    return True if collection_path == SOAK and not config.getoption("soak") else None


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Default weights that tests fit are kept apart from the user's, and fitted anew in every session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGAN_RL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text file of 80 lines of 1 to 6 words: with ``min_count=2`` 7 words and UNK, EOS, T=6."""
    rng, lines = np.random.default_rng(0), []
    for i in range(80):
        lines.append(" ".join([*rng.choice(list("abcdefg"), size=1 + i % 5), *([f"rare{i}"] if i % 9 == 0 else [])]))
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(scope="session")
def benchmark_data() -> Callable[[str], Path]:
    """``benchmark_data("text/image_coco_train.txt")``: path of a public benchmark file; the test skips where absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.is_file():
            pytest.skip(f"benchmark file {path} is absent; set SEQGAN_RL_DATA to the folder that holds {name}")
        return path

    return find
