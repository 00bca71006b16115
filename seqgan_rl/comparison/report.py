"""The report of a comparison: one page that needs no network, and the same as PNG, SVG, CSV and Markdown.

``report.html`` holds its figures, style, script and data; its content policy allows no request and no other script.
All text from runs is escaped, and characters that do not print are shown by their code.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from seqgan_rl.comparison.figures import Drawing, figures, png, svg
from seqgan_rl.comparison.panels import INK
from seqgan_rl.comparison.records import METRICS, UNITS, Axis, Comparison, Job, Sample, Task
from seqgan_rl.comparison.table_text import (
    aggregate_table,
    compared_at,
    count_text,
    markdown,
    number_text,
    paired_table,
    points_csv,
    rows_csv,
)
from seqgan_rl.comparison.tables import (
    COVERAGE,
    LEVEL,
    START,
    AgentRow,
    Aggregate,
    Mean,
    Summary,
    TaskTable,
    summarise,
)
from seqgan_rl.core.files import folder_written_whole, make_folder, write_bytes, write_text
from seqgan_rl.evaluation.report import ScoreTable

SAMPLE_TOKENS = 50_000
"""Tokens in the sample browser at the most, about: some 0.6 MB."""
LEAST_TOKENS = 100
"""Of a job in it, however many jobs there are."""
WORD_LENGTH = 100
"""Letters of a word in it."""
CLIPPED = 0.98
"""Share of the action values of a task that the colours tell apart; those beyond have the colour of its ends."""

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_RANGE_WIDTH = 144.0
"""Of the small intervals in a table, with room for a dot at each end."""


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write ``report.html`` and the folder ``report`` (figures, tables.csv, points.csv, report.md), finished or not.

    Args:
        comparison: with jobs in any state; those that failed or are missing stand at the top.
        folder: where both are put, made if absent. What an earlier report left there is replaced.

    Returns:
        The page.

    Raises:
        OSError: a file cannot be written; the earlier page or folder is then as it was.
    """
    folder = Path(folder)
    make_folder(folder)
    summary, drawings = summarise(comparison), figures(comparison)
    drawn = {drawing.name: svg(drawing) for drawing in drawings}
    page = _page(comparison, summary, drawings, drawn)
    with folder_written_whole(folder / "report") as files:
        make_folder(files / "figures")
        for drawing in drawings:
            write_text(files / "figures" / f"{drawing.name}.svg", drawn[drawing.name])
            write_bytes(files / "figures" / f"{drawing.name}.png", png(drawing))
        write_text(files / "tables.csv", _encodable(rows_csv(summary)))
        write_text(files / "points.csv", _encodable(points_csv(comparison)))
        write_text(files / "report.md", _encodable(_markdown(comparison, summary, drawings)))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def printable(text: str) -> str:
    """Text with what does not print, or changes the direction of what follows, shown: "␀", "␊", "⟨U+202E⟩".

    >>> printable("a\\x00b\\u202e")
    'a␀b⟨U+202E⟩'
    """

    def shown(match: re.Match[str]) -> str:
        code = ord(match[0])
        return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"

    return _UNPRINTABLE.sub(shown, text)


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A figure in the page; its width in points."""

    name: str
    title: str
    caption: str
    svg: Markup
    width: int


@dataclass(frozen=True, kw_only=True)
class _View:
    """A table of a task in the page."""

    id: str
    title: str
    caption: str
    table: TaskTable
    metrics: tuple[str, ...]
    """Those of which means are shown."""
    ranges: tuple[Mapping[str, float | None] | None, ...]
    """Of each row, in the coordinates of a small drawing."""
    has_reference: bool
    paired: ScoreTable
    paired_note: str


def _page(comparison: Comparison, summary: Summary, drawings: Sequence[Drawing], drawn: Mapping[str, str]) -> str:
    environment = Environment(
        loader=PackageLoader("seqgan_rl.comparison"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= _FILTERS
    loader = environment.loader
    assert loader is not None
    style, script = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    shown = {drawing.name: _figure(drawing, drawn[drawing.name]) for drawing in drawings}
    of_task = {
        task.name: [d.name for d in drawings if d.title.startswith(f"{task.name}: ")] for task in comparison.tasks
    }
    over_tasks = shown.keys() - {name for names in of_task.values() for name in names}
    samples = _samples(comparison, summary)
    page = environment.get_template("report.html").render(
        comparison=comparison,
        version=_version(),
        style=Markup(style),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts=_facts(comparison),
        problems=_problems(comparison, summary),
        tasks=[
            _task(comparison, summary, i, {name: shown[name] for name in of_task[task.name]})
            for i, task in enumerate(comparison.tasks)
        ],
        aggregates=[_aggregate(found) for found in summary.aggregates],
        figures=[figure for name, figure in shown.items() if name in over_tasks],
        samples=samples,
        sample_data=Markup(_embedded(samples)),
        settings=_flat(comparison.settings),
        level=f"{LEVEL:.0%}",
        coverage=COVERAGE,
    )
    return page.lstrip()


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after each "_"."""
    return Markup(str(escape(printable(name))).replace("_", "_<wbr>"))


def _shown(value: float) -> str:
    return number_text(value).replace("-", "\N{MINUS SIGN}").replace("inf", "∞")


def _key(value: float) -> str:
    """What a column sorts by: as JavaScript reads numbers, or nothing."""
    if math.isnan(value):
        return ""
    return repr(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _half(mean: Mean) -> float | None:
    half = mean.interval[1] - mean.value
    return half if math.isfinite(half) else None


_FILTERS: dict[str, Callable[..., Any]] = {
    "breakable": _breakable,
    "count": count_text,
    "number": _shown,
    "key": _key,
    "half": _half,
    "label": lambda metric: METRICS[metric].label,
    "first_order": lambda metric: "descending" if METRICS[metric].higher_is_better else "ascending",
}
"""How the template writes numbers and names."""


def _facts(comparison: Comparison) -> dict[str, str]:
    agents = dict.fromkeys(job.agent for job in comparison.jobs)
    seeds = sorted({job.seed for job in comparison.jobs})
    done = sum(job.state == "done" for job in comparison.jobs)
    facts = {
        "Tasks": str(len(comparison.tasks)),
        "Agents": str(len(agents)),
        "Seeds": f"{len(seeds)}: {', '.join(map(str, seeds))}" if len(seeds) <= 12 else str(len(seeds)),
        "Jobs finished": f"{done} of {len(comparison.jobs)}",
        "Budget": _amounts(comparison, "tokens"),
        "Second budget": _amounts(comparison, "evaluations"),
        "Machine": comparison.machine,
    }
    return {name: value for name, value in facts.items() if value}


def _amounts(comparison: Comparison, axis: Axis) -> str:
    """At how much of this the tasks compare; which of them, where they differ."""
    tasks: dict[int, list[str]] = {}
    for task in comparison.tasks:
        tasks.setdefault(int(comparison.amount(task, axis)), []).append(task.name)
    return "; ".join(
        f"{amount:,} {UNITS[axis]}" + (f" ({', '.join(names)})" if len(tasks) > 1 else "")
        for amount, names in tasks.items()
    )


def _problems(comparison: Comparison, summary: Summary) -> dict[str, Any]:
    """Jobs that are not in the tables, and those that a guard stopped."""
    failed = [job for job in summary.unfinished if job.state == "failed"]
    unfinished = [job for job in summary.unfinished if job.state != "failed"]
    counts = {"failed": len(failed), "not finished": len(unfinished)}
    named = [f"{count} {name}" for name, count in counts.items() if count]
    return {
        "title": f"Of {len(comparison.jobs)} jobs: {' and '.join(named)}"
        if named
        else "Not every agent has every seed",
        "failed": failed,
        "unfinished": unfinished,
        "stopped": [job for job in summary.stopped if job.state == "done"],
        "never": [
            f"{task.name}: {agent} was never asked for seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}, "
            "which other agents have."
            for task in comparison.tasks
            for agent in comparison.agents(task.name)
            if (seeds := _never_asked(comparison, task.name, agent))
        ],
    }


def _never_asked(comparison: Comparison, task: str, agent: str) -> list[int]:
    asked = {job.seed for job in comparison.jobs if job.task == task}
    return sorted(asked - {job.seed for job in comparison.jobs if (job.task, job.agent) == (task, agent)})


def _task(comparison: Comparison, summary: Summary, i: int, own: Mapping[str, _Figure]) -> dict[str, Any]:
    """What the page says about a task."""
    task = comparison.tasks[i]
    tables = [table for table in summary.tables if table.task.name == task.name]
    jobs = [job for job in comparison.jobs if job.task == task.name]
    shared = _shared(jobs)
    own = {name: _in_section(figure, task) for name, figure in own.items()}
    curves = {
        label: figure
        for axis, label in UNITS.items()
        for name, figure in own.items()
        if name.startswith("learning-") and name.endswith(f"-{axis}")
    }
    return {
        "id": f"task-{i + 1}",
        "name": task.name,
        "label": task.label,
        "sentence": " ".join(map(_sentence, tables)),
        "views": [_view(table, f"task-{i + 1}-{table.axis}") for table in tables],
        "curves": curves,
        "figures": [figure for figure in own.values() if figure not in curves.values()],
        "shared": shared,
        "runs": _runs(jobs, shared),
    }


def _sentence(table: TaskTable) -> str:
    """Who is marked in a table."""
    judged = [row for row in table.rows if row.verdict is not None]
    marked = [row.agent for row in judged if row.verdict is not None and row.verdict.is_improvement]
    where = f"at {table.amount:,} {UNITS[table.axis]}"
    if not marked:
        return f"{where[0].upper()}{where[1:]}, none of {len(judged)} agents is shown to be better than MLE."
    number = f"{len(marked)} of {len(judged)} agents {'is' if len(marked) == 1 else 'are'}"
    return f"{where[0].upper()}{where[1:]}, {number} shown to be better than MLE: {', '.join(marked)}."


def _view(table: TaskTable, id: str) -> _View:
    paired = paired_table(table)
    ranges = _ranges(table.rows)
    at = "At the budget of" if table.axis == "tokens" else "At"
    return _View(
        id=id,
        title=f"{at} {table.amount:,} {UNITS[table.axis]}{' each' * (table.axis != 'tokens')}",
        caption=table.notes[0],
        table=table,
        metrics=tuple(metric for metric in table.task.metrics if any(metric in row.means for row in table.rows)),
        ranges=ranges,
        has_reference=any(found is not None and found["reference"] is not None for found in ranges),
        paired=paired,
        paired_note=paired.notes[0],
    )


def _ranges(rows: Sequence[AgentRow]) -> tuple[Mapping[str, float | None] | None, ...]:
    """Each row's interval in the coordinates of one small drawing, and the start's score as a reference."""
    found = [row.iqm for row in rows]
    reference = next((row.iqm.value for row in rows if row.agent == START and row.iqm is not None), None)
    ends = [end for estimate in found if estimate is not None for end in (*estimate.interval, estimate.value)]
    low, high = min(ends, default=0.0), max(ends, default=0.0)

    def place(value: float) -> float:
        return round(5 + (_RANGE_WIDTH - 10) * ((value - low) / (high - low) if high > low else 0.5), 1)

    return tuple(
        None
        if estimate is None
        else {
            "low": place(estimate.interval[0]),
            "high": place(estimate.interval[1]),
            "value": place(estimate.value),
            "reference": None if reference is None else place(reference),
        }
        for estimate in found
    )


def _aggregate(found: Aggregate) -> dict[str, Any]:
    return {
        "title": f"{found.kind.capitalize()}, {compared_at(found.axis)}",
        "caption": f"{', '.join(found.tasks)}: normalised scores, probabilities of improvement, {LEVEL:.0%} intervals",
        "is_first": found.axis == "tokens",
        "text": aggregate_table(found),
    }


def _figure(drawing: Drawing, text: str) -> _Figure:
    """A figure in the page's ink, and without what only a file needs."""
    size = re.search(r'viewBox="0 0 ([\d.]+) ', text)
    assert size is not None
    text = re.sub(r' (d|x|y)="[^"]*"', lambda place: re.sub(r"(\.\d)\d+|\s*\n", r"\1", place[0]), text)
    text = re.sub(r">\s+<", "><", re.sub(r'<g id="[^"]*"', "<g", text)).replace(INK, "currentColor")
    text = text.replace("<svg ", '<svg aria-hidden="true" ', 1)  # the group around it has the title as its label
    width = round(float(size[1]))
    return _Figure(name=drawing.name, title=drawing.title, caption=drawing.caption, svg=Markup(text), width=width)


def _in_section(figure: _Figure, task: Task) -> _Figure:
    """A figure without what its task's section has said already."""
    title = figure.title.removeprefix(f"{task.name}: ")
    caption = figure.caption.removeprefix(f"{task.label}. ")
    return replace(figure, title=title[:1].upper() + title[1:], caption=caption)


def _samples(comparison: Comparison, summary: Summary) -> list[dict[str, Any]]:
    """What the sample browser shows: by task, agents with the best first, and seeds."""
    share = max(LEAST_TOKENS, SAMPLE_TOKENS // max(1, sum(bool(job.samples) for job in comparison.jobs)))
    tasks = []
    for task in comparison.tasks:
        ranked = next(t for t in summary.tables if (t.task.name, t.axis) == (task.name, "tokens")).rows
        jobs = {row.agent: [job for job in comparison.of(task.name, row.agent) if job.samples] for row in ranked}
        jobs = {agent: found for agent, found in jobs.items() if found}
        if jobs:
            best = [agent for agent in jobs if agent != START][:2]
            tasks.append(
                {
                    "name": task.name,
                    "label": f"{task.name}: {printable(task.label)}",
                    "scale": _scale([job for found in jobs.values() for job in found]),
                    "shown": [*map(printable, best), START],
                    "agents": [
                        {"name": printable(agent), "seeds": [_of_seed(job, share) for job in found]}
                        for agent, found in jobs.items()
                    ],
                }
            )
    return tasks


def _of_seed(job: Job, share: int) -> dict[str, Any]:
    """Samples of a job until there are as many tokens as its share; at least one, cut to that."""
    kept, used = list[Sample](), 0
    for sample in job.samples:
        used += len(sample.words)
        if kept and used > share:
            break
        kept.append(sample)
    samples = [
        {
            "words": [_word(word) for word in sample.words[:share]],
            "values": [_finite(value) for value in sample.values[:share]],
            "length": len(sample.words),
        }
        for sample in kept
    ]
    return {"seed": job.seed, "total": len(job.samples), "samples": samples}


def _word(word: str) -> str:
    cut = word if len(word) <= WORD_LENGTH else f"{word[:WORD_LENGTH]}… ({len(word):,} letters)"
    return printable(cut) or "(empty)"


def _finite(value: float | None) -> float | None:
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


def _scale(jobs: Sequence[Job]) -> dict[str, float]:
    """Values that have the colours of the middle, their mean, and of both ends, equally far from it."""
    values = [value for job in jobs for sample in job.samples for value in sample.values]
    finite = np.array([value for value in values if value is not None and math.isfinite(value)] or [0.0])
    middle = float(finite.mean())
    reach = float(np.quantile(np.abs(finite - middle), CLIPPED))
    return {"low": middle - reach, "middle": middle, "high": middle + reach}


def _embedded(value: object) -> str:
    """JSON that can stand in a script element: ASCII, and no letter of it begins markup."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _runs(jobs: Sequence[Job], shared: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each job with its hashes, what it used, and the settings that not all jobs of its task share."""
    runs = []
    for job in jobs:
        end = job.points[-1] if job.points else None
        about = {
            "folder": job.folder,
            "state": job.state,
            "attempts": str(job.attempts),
            "error": job.error,
            "stopped": job.stopped,
            "used": f"{end.tokens:,} tokens, {end.evaluations:,} evaluations, {end.seconds:,.0f} seconds"
            if end
            else "",
        }
        hashes = {f"hash of {name}": value for name, value in job.hashes.items()}
        own = {name: value for name, value in _flat(job.settings).items() if shared.get(name) != value}
        runs.append({"job": job, "lines": {name: text for name, text in about.items() if text} | hashes | own})
    return runs


def _shared(jobs: Sequence[Job]) -> dict[str, str]:
    """Settings that are the same in all jobs that have any."""
    found = [_flat(job.settings) for job in jobs if job.settings]
    first = found[0] if found else {}
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in found)}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as lines: {"agent": {"lr": 0.1}} is {"agent.lr": "0.1"}."""
    lines: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            lines |= _flat(value, f"{prefix}{name}.")
        else:
            lines[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return lines


def _markdown(comparison: Comparison, summary: Summary, drawings: Sequence[Drawing]) -> str:
    parts = [markdown(summary), "## How it was made\n"]
    parts += [f"- {name}: {printable(value)}" for name, value in _facts(comparison).items()]
    parts += [f"\n```\n{printable(comparison.command)}\n```\n"] if comparison.command else [""]
    parts += ["## Figures\n"]
    for drawing in drawings:
        parts += [f"![{drawing.title}](figures/{drawing.name}.png)\n", f"**{drawing.title}.** {drawing.caption}\n"]
    return "\n".join(parts)


def _version() -> str:
    try:
        return version_of("seqgan_rl")
    except PackageNotFoundError:  # run from a copy of the source
        return ""


def _encodable(text: str) -> str:
    """Text that can be UTF-8: a lone half of a surrogate pair becomes "?"."""
    return text.encode("utf-8", "replace").decode()
