"""A hundred thousand damaged files and more: no loader breaks a promise (see ``tests/fuzz/fuzzer.py``)."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.test_fuzz import fuzz

if TYPE_CHECKING:
    from tests.soak.conftest import Clock

INPUTS = 100_000
"""At the least."""
BATCH = 25_000
SHARE = 0.15


def test_fuzz(tmp_path: Path, clock: "Clock", record_property: Callable[[str, object], None]) -> None:
    """Other inputs in every batch, the same ones in every soak; a failure names the seed that shows it again."""
    clock.take(SHARE)
    done, seed = 0, 1
    while done < INPUTS or clock.has_time:
        said = fuzz(tmp_path, "--inputs", str(BATCH), "--seed", str(seed), timeout=1800)
        total = re.search(r"(\d+) inputs in all, 0 broken promises", said)
        assert total is not None, said
        done, seed = done + int(total[1]), seed + 1
        clock.tell(f"{done:,} inputs")
    record_property("summary", f"{done:,} damaged files, 0 broken promises")


COVERED = ("checkpoint", "generator", "discriminator", "oracle", "corpus", "words", "settings", "run")


@pytest.mark.parametrize("target", COVERED)
def test_fuzz_by_coverage(tmp_path: Path, target: str, record_property: Callable[[str, object], None]) -> None:
    """libFuzzer keeps the inputs that reach new lines and damages those further."""
    pytest.importorskip("atheris", reason="libFuzzer's bindings are for Linux on x86-64")
    said = fuzz(tmp_path, "--coverage", "--inputs", "2000", "--only", target, timeout=600)
    assert "Done 2000 runs" in said, said
    record_property("summary", "2,000 inputs, chosen by coverage")
