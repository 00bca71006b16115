"""What many jobs are doing, on standard error: a live table on a terminal, else one line for each change of state.

What a running job has reached is read from the end of its ``run/metrics.jsonl``, and how far that is of all from its
``job.json``; of jobs that have neither only the time is shown.
"""

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from seqgan_rl.comparison.launchers import Status, Work, cleaned, read_tail
from seqgan_rl.comparison.records import METRICS, State
from seqgan_rl.core.reading import read_file

_REFRESH_SECONDS = 1.0
_SHOWN_FAILURES = 5
_ROWS = 20
"""Of the end of the metrics that are looked at for a rate and a score."""
_MAX_JOB_BYTES = 2**20
_COLUMNS: tuple[Literal["left", "right"], ...] = ("left",) * 3 + ("right",) * 4 + ("left",)
_LEFT_OUT = (6, 4, 7, 1, 2)
"""Columns that a narrow terminal does without: speed, elapsed time, score, attempt, stage, in this order."""
_STYLES: dict[State, str] = {"done": "green", "failed": "red", "running": "cyan", "waiting": "dim"}


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What a running job has reached, as far as it tells."""

    stage: str = ""
    """Such as "ppo round 12 of 60"."""
    share: float | None = None
    """In [0, 1], of the rounds, tokens or reward evaluations of its agent, whichever is furthest from its end."""
    speed: float | None = None
    """Tokens a second."""
    score: str = ""
    """The last evaluation's, such as "nll_oracle 2.274"."""


class Display:
    """Shows the works of one command while it runs; a context manager. A terminal that has gone stops nothing.

    Args:
        works: all of them.
        statuses: by name; looked at again for every picture.
        enabled: False shows nothing.
        console: None: standard error.
    """

    def __init__(
        self,
        works: Sequence[Work],
        statuses: Mapping[str, Status],
        *,
        enabled: bool = True,
        console: Console | None = None,
    ) -> None:
        self.works, self.statuses, self.enabled = works, statuses, enabled
        self.console = console or Console(stderr=True)
        self._live: Live | None = None
        self._since: dict[str, float] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._began, self._drawn = time.monotonic(), -math.inf
        self._ended_before = self._ended()

    def __enter__(self) -> "Display":
        if self.enabled and self.console.is_terminal:
            self._live = Live(self._picture(), console=self.console, auto_refresh=False)
            with contextlib.suppress(OSError):
                self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.update(self._picture())
                self._live.stop()
            elif self.enabled:
                self._print(self._counts())

    def changed(self, work: Work, status: Status) -> None:
        """A work's status has changed."""
        if status.state == "running":
            self._since[work.name] = time.monotonic()
        self._first.pop(work.name, None)
        if self._live is not None:
            self._drawn = -math.inf
        elif self.enabled:
            number = str(self._ended()).rjust(len(str(len(self.works))))
            state = "again" if status.state == "waiting" else status.state
            seconds = f" ({_duration(status.seconds)})" if status.state == "done" else ""
            reason = f": {status.error}" if status.error and status.state != "running" else ""
            self._print(Text(f"[{number}/{len(self.works)}] {state:7} {cleaned(work.name)}{seconds}{reason}"))

    def tick(self) -> None:
        """Draw anew if it is time."""
        if self._live is not None and time.monotonic() - self._drawn >= _REFRESH_SECONDS:
            with contextlib.suppress(OSError):
                self._live.update(self._picture(), refresh=True)
            self._drawn = time.monotonic()

    def say(self, text: str) -> None:
        """A line for people."""
        if self.enabled:
            self._print(Text(text))

    def _print(self, text: Text) -> None:
        with contextlib.suppress(OSError):
            self.console.print(text, soft_wrap=True)

    def _ended(self) -> int:
        return sum(self.statuses[work.name].state in ("done", "failed") for work in self.works)

    def _counts(self) -> Text:
        count = Counter(self.statuses[work.name].state for work in self.works)
        parts = [Text(f"{count[state]} {state}", style=_STYLES[state]) for state in _STYLES if count[state]]
        text = Text(f"{len(self.works)} jobs: ", no_wrap=True, overflow="ellipsis")
        return text.append_text(Text(", ").join(parts))

    def _picture(self) -> RenderableType:
        """Running jobs, failed ones and the counts: as many rows as the terminal has."""
        running = [work for work in self.works if self.statuses[work.name].state == "running"]
        failed = [work for work in self.works if self.statuses[work.name].state == "failed"]
        below = [_line(f"failed  {cleaned(w.name)}: {self.statuses[w.name].error}") for w in failed[-_SHOWN_FAILURES:]]
        if len(failed) > _SHOWN_FAILURES:
            below.insert(0, _line(f"failed  {len(failed) - _SHOWN_FAILURES} more"))
        room = max(1, self.console.size.height - len(below) - 4)
        if len(running) > room:
            below.insert(0, _line(f"and {len(running) - room} more running"))
        rows, shares = [], 0.0  # done by running jobs since they were first seen
        for work in running[:room]:
            glance = glance_at(work.folder)
            rows.append(self._cells(work, glance))
            if glance.share is not None:
                shares += glance.share - self._first[work.name][1]
        return Group(_table(rows, self.console.width), *below, self._counts(), self._bar(shares))

    def _cells(self, work: Work, glance: Glance) -> tuple[str, ...]:
        now, left, attempts = time.monotonic(), "", self.statuses[work.name].attempts
        if glance.share is not None:
            began, first = self._first.setdefault(work.name, (now, glance.share))
            left = _left(now - began, glance.share - first, 1 - glance.share)
        return (
            cleaned(work.name),
            f"attempt {attempts}" if attempts > 1 else "",
            glance.stage,
            "" if glance.share is None else f"{glance.share:.0%}",
            _duration(now - self._since.get(work.name, now)),
            left,
            "" if glance.speed is None else f"{glance.speed:,.0f} tokens/s",
            glance.score,
        )

    def _bar(self, shares: float) -> RenderableType:
        """All jobs as one; ``shares`` of jobs have been done by those that run."""
        elapsed, ended = time.monotonic() - self._began, self._ended()
        gained = ended - self._ended_before + shares
        bar = Table.grid(padding=(0, 1, 0, 0))
        left = _left(elapsed, gained, len(self.works) - self._ended_before - gained)
        bar.add_row(
            ProgressBar(total=len(self.works), completed=ended + shares, width=min(40, self.console.width // 3)),
            _line(f"{ended}/{len(self.works)}  {_duration(elapsed)}  {left}"),
        )
        return bar


def _table(rows: Sequence[Sequence[str]], width: int) -> Table:
    """The columns of running jobs that fit."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    kept = [i for i, found in enumerate(widths) if found > 2]
    for column in _LEFT_OUT:
        if column in kept and sum(widths[i] for i in kept) > width + 2:
            kept.remove(column)
    table = Table.grid(padding=(0, 2, 0, 0))
    for i in kept:
        table.add_column(justify=_COLUMNS[i], no_wrap=True, overflow="ellipsis", min_width=widths[i] - 2 if i else None)
    for row in rows:
        table.add_row(*(Text(row[i]) for i in kept))
    return table


def glance_at(folder: Path) -> Glance:
    """What the job in a folder has reached; empty where it says nothing, or nothing that can be read."""
    rows = list(_rows(folder / "run" / "metrics.jsonl"))[-_ROWS:]
    if not rows:
        return Glance()
    last = rows[-1]
    unit = next((name for name in ("round", "epoch", "minibatch") if _number(last, name) is not None), "")
    step, agent = _number(last, unit), cleaned(str(last.get("agent", "")), 40)
    to_come = _to_come(folder / "job.json")
    shares = {name: done / to_come[name] for name in to_come if (done := _number(last, name)) is not None}
    share = min(shares.values(), default=None)  # a job goes on until all are reached
    of = f" of {to_come['round']:,.0f}" if share is not None and share == shares.get("round") else ""
    return Glance(
        stage=agent if step is None else f"{agent} {unit} {step:,.0f}{of}",
        share=None if share is None else min(max(share, 0.0), 1.0),
        speed=_speed([row for row in rows if row.get("agent") == last.get("agent")]),
        score=next((text for row in reversed(rows) if (text := _score(row))), ""),
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The last rows of a log; one that is being written, or damaged, is passed over."""
    for line in read_tail(path).split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else None


def _to_come(path: Path) -> dict[str, float]:
    """Rounds, tokens and reward evaluations of a whole job, by the names they have in its metrics."""
    try:
        job = json.loads(read_file(path, _MAX_JOB_BYTES))
        config = job.get("config")
    except (OSError, ValueError, RecursionError, AttributeError):
        return {}
    settings = config if isinstance(config, dict) else job
    names = {"rounds": "round", "tokens": "tokens", "scored": "evaluations", "evaluations": "evaluations"}
    found = {names[name]: _number(settings, name) for name in names if name in settings}
    return {name: whole for name, whole in found.items() if whole}


def _speed(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens a second over the rows of one agent, between two of them since it was last continued."""
    points = [(_number(row, "time/seconds"), _number(row, "tokens")) for row in rows]
    known = [(seconds, tokens) for seconds, tokens in points if seconds is not None and tokens is not None]
    start = max((i for i in range(1, len(known)) if known[i][0] < known[i - 1][0]), default=0)
    (began, first), (now, last) = (known[start], known[-1]) if known else ((0.0, 0.0), (0.0, 0.0))
    return (last - first) / (now - began) if now > began and last > first else None


def _score(row: Mapping[str, Any]) -> str:
    name = next((name for name in METRICS if _number(row, f"eval/{name}") is not None), None)
    return "" if name is None else f"{name} {_number(row, f'eval/{name}'):.3f}"


def _left(seconds: float, gained: float, missing: float) -> str:
    """Time that the missing part takes if the gained one took so long."""
    return f"{_duration(seconds * missing / gained)} left" if gained > 1e-6 and missing > 0 else ""


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(min(seconds, 1e9))))


def _line(text: str) -> Text:
    return Text(text, style="red" if text.startswith("failed") else "", no_wrap=True, overflow="ellipsis")
