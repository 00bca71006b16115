"""The long checks (``make soak``): how long they may take, what they print, and how growth is measured.

``SOAK_MINUTES`` is the whole budget; each check takes a share of it. Progress goes to the terminal as it comes; a check
that calls ``record_property("summary", ...)`` has that line in the table at the end.
"""

import gc
import math
import os
import time
import tracemalloc
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
STARTED = time.monotonic()
BOUND = 16.0
"""MB an hour that a process's memory may grow by, beyond what its standard error allows for."""
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def private_mb() -> float:
    """Memory of this process that no file stands behind, MB: library pages come and go as the machine likes."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * _PAGE_MB


@dataclass
class Growth:
    """Private memory over work done; the first part is warm-up.

    The slope is that of a least-squares line through the means of ``BLOCKS`` blocks of samples: what the allocator does
    in between correlates neighbouring samples, whose own scatter would promise too much.
    """

    BLOCKS = 16
    _numbers: "array[float]" = field(default_factory=lambda: array("d"))  # small: it grows with what it measures

    def sample(self, work: float) -> float:
        """One more, at most four a second; returns MB."""
        now, mb = time.monotonic() - STARTED, private_mb()
        if not self._numbers or now - self._numbers[-3] >= 0.25:
            self._numbers.extend((now, work, mb))
        return mb

    @property
    def samples(self) -> NDArray[np.float64]:
        """Seconds, work done, MB; (N, 3)."""
        return np.array(self._numbers).reshape(-1, 3)

    def slope(self, warm_up: float = 0.25) -> tuple[float, float]:
        """MB an hour and its standard error; from the samples after the given share of the time."""
        sample_N3 = self.samples
        first, last = sample_N3[0, 0], sample_N3[-1, 0]
        sample_N3 = sample_N3[sample_N3[:, 0] >= first + warm_up * (last - first)]
        assert len(sample_N3) >= 2 * self.BLOCKS, "too few samples for a slope; give more time"
        block_K3 = np.array([block.mean(axis=0) for block in np.array_split(sample_N3, self.BLOCKS)])
        hours_K, mb_K = block_K3[:, 0] / 3600, block_K3[:, 2]
        centred_K = hours_K - hours_K.mean()
        slope = (centred_K @ mb_K) / (centred_K @ centred_K)
        residual_K = mb_K - mb_K.mean() - slope * centred_K
        error = math.sqrt(residual_K @ residual_K / (self.BLOCKS - 2) / (centred_K @ centred_K))
        return float(slope), error

    def check(self, unit: str, per: int, replay: Callable[[], Any], bound: float = BOUND) -> str:
        """A line for the summary. AssertionError where memory grows by more than ``bound`` MB an hour + 3 standard
        errors, with where the memory that some more work keeps was allocated."""
        slope, error = self.slope()
        (first_s, first_work, _), (last_s, last_work, last_mb) = self.samples[0], self.samples[-1]
        rate = (last_work - first_work) / (last_s - first_s)
        line = (
            f"memory {last_mb:.0f} MB, slope {slope:+.2f} ± {error:.2f} MB/h "
            f"({slope / 3600 / rate * per:+.3f} MB per {per:,} {unit} at {rate:,.0f}/s), "
            f"{24 * slope:+.0f} ± {24 * error:.0f} MB in 24 h"
        )
        if slope > bound * max(1.0, 60 / MINUTES) + 3 * error:  # what settles in minutes is steep in a short soak
            raise AssertionError(f"{line}; allocated and kept by a little more work:\n{where_memory_goes(replay)}")
        return line


def where_memory_goes(work: Callable[[], Any], repeats: int = 8) -> str:
    """The lines of code whose allocations are still there after some work, by tracemalloc."""
    tracemalloc.start(6)
    work()
    gc.collect()
    before = tracemalloc.take_snapshot()
    for _ in range(repeats):
        work()
    gc.collect()
    after = tracemalloc.take_snapshot()
    tracemalloc.stop()
    return "\n".join(str(difference) for difference in after.compare_to(before, "lineno")[:12])


@pytest.fixture
def growth() -> Growth:
    """A new series of memory samples."""
    return Growth()


class Clock:
    """What a check knows of its time: its share of the budget, and lines of progress."""

    def __init__(self, name: str, show: Callable[[str], None]) -> None:
        self.name, self.show = name, show
        self.began, self._shown = time.monotonic(), -math.inf
        self.seconds = 60 * MINUTES

    def take(self, share: float) -> None:
        """Run for this share of the budget."""
        self.seconds = share * 60 * MINUTES
        self.tell(f"{self.seconds:.0f} s")

    @property
    def spent(self) -> float:
        """Share of this check's time that is over."""
        return (time.monotonic() - self.began) / self.seconds

    @property
    def has_time(self) -> bool:
        """Whether to go on."""
        return self.spent < 1

    def tell(self, text: str, every: float = 0) -> None:
        """One line of progress, at most every so many seconds."""
        now = time.monotonic()
        if now - self._shown >= every:
            self._shown = now
            minutes, seconds = divmod(int(now - STARTED), 60)
            self.show(f"[{minutes:02d}:{seconds:02d}] {self.name}: {100 * min(1, self.spent):3.0f} %  {text}")


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Clock:
    """Time of this check; lines of progress go past pytest's capturing, and through pytest-xdist, to the terminal."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            os.write(2, f"{line}\n".encode())

    return Clock(request.node.name.removeprefix("test_"), show)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line a check."""
    terminalreporter.section(f"soak, {MINUTES:g} minutes")
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call":
                summary = dict(report.user_properties).get("summary", "")
                name = report.nodeid.rpartition("::")[2].removeprefix("test_")
                terminalreporter.write_line(f"{outcome}  {report.duration:5.0f} s  {name}: {summary}")
