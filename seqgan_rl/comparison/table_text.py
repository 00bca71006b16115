"""The numbers of a comparison written out: Markdown, CSV, and tables for the terminal.

Nothing is computed here: :mod:`seqgan_rl.comparison.tables` has the numbers.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from seqgan_rl.comparison.records import UNITS, Axis, Comparison
from seqgan_rl.comparison.statistics import Estimate, PairedComparison
from seqgan_rl.comparison.tables import COVERAGE, LEVEL, MARK, RESAMPLES, AgentRow, Aggregate, Mean, Summary, TaskTable
from seqgan_rl.evaluation.report import ScoreTable

JOBS = "Jobs that failed, are not finished or were stopped"
"""Heads the table of them."""


def score_table(table: TaskTable, *, brief: bool = False) -> ScoreTable:
    """Scores, costs and verdicts of a task as text; ``brief`` leaves out the means of other metrics, for terminals."""
    task, rows = table.task, table.rows
    others = [] if brief else [metric for metric in task.metrics if metric != task.primary]
    columns = {
        "agent": [row.agent for row in rows],
        "seeds": [f"{len(row.done)} of {len(row.done + row.failed + row.missing)}" for row in rows],
        "not in it": [_not_in_it(row) for row in rows],
        f"{task.primary}, IQM": [_estimate(row.iqm) for row in rows],
        f"{task.primary}, mean": [_mean(row.means.get(task.primary), len(row.done)) for row in rows],
        **{metric: [_mean(row.means.get(metric), len(row.done)) for row in rows] for metric in others},
        "tokens": [count_text(row.tokens) for row in rows],
        "evaluations": [count_text(row.evaluations) for row in rows],
        "seconds": [count_text(row.seconds) for row in rows],
        "verdict": [_verdict_cell(row) for row in rows],
    }
    kept = {name: cells for name, cells in columns.items() if name in ("agent", "seeds") or any(cells)}
    return ScoreTable(tuple(kept), _cells(kept), table.notes)


def paired_table(table: TaskTable) -> ScoreTable:
    """Paired tests of a task as text: a column for the start and each control, and the verdicts' reasons below."""
    tested = [row for row in table.rows if row.comparisons]
    others = dict.fromkeys(found.other for row in tested for found in row.comparisons)
    found = [{found.other: found for found in row.comparisons} for row in tested]
    columns = {
        "agent": [row.agent for row in tested],
        "shared seeds": [str(row.comparisons[0].runs) for row in tested],
        **{f"to {other}": [_difference(by_other.get(other)) for by_other in found] for other in others},
    }
    notes = (
        f"difference in {table.task.primary} to the agent of the column, above 0 is better: mean over the seeds that "
        f"all of a row's agents have, {LEVEL:.0%} t-interval, and p of the paired t-test, Holm-corrected over the row",
        *(f"{row.agent}: {row.verdict.reason}" for row in table.rows if row.verdict is not None),
    )
    return ScoreTable(tuple(columns), _cells(columns), notes)


def aggregate_table(found: Aggregate) -> ScoreTable:
    """Aggregates over the tasks of a kind as text."""
    others = dict.fromkeys(other for row in found.rows for other in row.over)
    columns = {
        "agent": [row.agent for row in found.rows],
        "seeds": [str(len(row.seeds)) for row in found.rows],
        "normalised score, IQM": [_estimate(row.iqm) for row in found.rows],
        **{f"P(better than {other})": [_estimate(row.over.get(other)) for row in found.rows] for other in others},
    }
    notes = (
        f"IQM over seeds and {_tasks(found.tasks)} and probability that a run is better than one of the other agent, "
        f"with {LEVEL:.0%} stratified bootstrap intervals ({RESAMPLES:,} resamples); {COVERAGE}",
        *found.notes,
    )
    return ScoreTable(tuple(columns), _cells(columns), notes)


def job_table(summary: Summary) -> ScoreTable:
    """Jobs that are not in the tables, and those that a guard stopped, as text; no rows where all went well."""
    jobs = [*summary.unfinished, *(job for job in summary.stopped if job.state == "done")]
    columns = {
        "task": [job.task for job in jobs],
        "agent": [job.agent for job in jobs],
        "seed": [str(job.seed) for job in jobs],
        "state": ["stopped" if job.state == "done" else job.state for job in jobs],
        "attempts": [str(job.attempts) for job in jobs],
        "why": [" ".join((job.error or job.stopped).split()) for job in jobs],
    }
    return ScoreTable(tuple(columns), _cells(columns), ())


def markdown(summary: Summary) -> str:
    """All tables, with what their numbers are."""
    parts = [f"# Comparison: {summary.name}\n"]
    for table in summary.tables:
        parts += [f"## {_heading(table)}\n", score_table(table).markdown(), paired_table(table).markdown()]
    for found in summary.aggregates:
        parts += [f"## All {found.kind} tasks, {compared_at(found.axis)}\n", aggregate_table(found).markdown()]
    jobs = job_table(summary)
    if jobs.cells:
        parts += [f"## {JOBS}\n", jobs.markdown()]
    return "\n".join(parts)


def terminal(summary: Summary) -> Group:
    """The tables of tasks without the means of other metrics, and unfinished jobs, for ``rich`` to print."""
    parts: list[Any] = []
    for table in summary.tables:
        shown = score_table(table, brief=True)
        parts += [Text(_heading(table), style="bold"), ScoreTable(shown.header, shown.cells, shown.notes[:1])]
        verdicts = [(row.agent, row.verdict) for row in table.rows if row.verdict is not None]
        parts += [Text(f"{agent}: {verdict.reason}\n") for agent, verdict in verdicts if verdict.is_improvement]
    jobs = job_table(summary)
    if jobs.cells:
        parts += [Text(JOBS, style="bold"), jobs]
    return Group(*parts)


def rows_csv(summary: Summary) -> str:
    """A line for each row of each table; numbers in full precision, seeds as "0 1 2", empty where there is none."""
    metrics = dict.fromkeys(metric for table in summary.tables for metric in table.task.metrics)
    others = dict.fromkeys(found.other for table in summary.tables for row in table.rows for found in row.comparisons)
    lines = []
    for table in summary.tables:
        for rank, row in enumerate(table.rows, start=1):
            tests = {found.other: found for found in row.comparisons}
            line: dict[str, Any] = {
                **{"task": table.task.name, "kind": table.task.kind, "axis": table.axis, "amount": table.amount},
                **{"rank": rank, "agent": row.agent, "role": row.role},
                **{name: " ".join(map(str, getattr(row, name))) for name in ("done", "failed", "missing", "unscored")},
                "primary": table.task.primary,
                "iqm": None if row.iqm is None else row.iqm.value,
                "iqm_low": None if row.iqm is None else row.iqm.interval[0],
                "iqm_high": None if row.iqm is None else row.iqm.interval[1],
                **{name: getattr(row, name) for name in ("tokens", "evaluations", "seconds")},
                "is_better_than_mle": None if row.verdict is None else row.verdict.is_improvement,
                "verdict": None if row.verdict is None else row.verdict.reason,
            }
            for metric in metrics:
                mean = row.means.get(metric)
                line[f"{metric}_mean"] = None if mean is None else mean.value
                line[f"{metric}_low"], line[f"{metric}_high"] = (None, None) if mean is None else mean.interval
            for other in others:
                test = tests.get(other)
                line[f"difference_to_{other}"] = None if test is None else test.difference
                line[f"p_holm_{other}"] = None if test is None else test.p_holm
            lines.append(line)
    return _csv(lines)


def points_csv(comparison: Comparison) -> str:
    """A line for each score of each evaluation of each job, whatever its state; one line for a job without any."""
    lines = []
    for job in comparison.jobs:
        of_job = {name: getattr(job, name) for name in ("task", "agent", "seed", "state", "attempts")}
        used = ("tokens", "evaluations", "seconds")
        scores = [
            {**{name: getattr(point, name) for name in used}, "metric": metric, "score": score}
            for point in job.points
            for metric, score in point.scores.items()
        ]
        nothing: dict[str, Any] = dict.fromkeys((*used, "metric", "score"))
        end = {"stopped": job.stopped, "error": job.error, "folder": job.folder}
        lines += [{**of_job, **score, **end} for score in scores or [nothing]]
    return _csv(lines)


def _heading(table: TaskTable) -> str:
    return f"{table.task.name}, {compared_at(table.axis)} ({table.amount:,})"


def compared_at(axis: Axis) -> str:
    """Where a table compares, for a heading."""
    return "at the budget of tokens" if axis == "tokens" else f"at equal {UNITS[axis]}"


def _tasks(names: Sequence[str]) -> str:
    return f"{len(names)} task{'s' * (len(names) != 1)} ({', '.join(names)})"


def _verdict_cell(row: AgentRow) -> str:
    if row.verdict is None:
        return row.role
    return MARK if row.verdict.is_improvement else "not shown"


def _not_in_it(row: AgentRow) -> str:
    kinds = {"failed": row.failed, "missing": row.missing, "no score": row.unscored}
    return "; ".join(f"{kind}: {' '.join(map(str, seeds))}" for kind, seeds in kinds.items() if seeds)


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return ""
    low, high = found.interval
    return f"{number_text(found.value)} [{number_text(low)}, {number_text(high)}]"


def _mean(mean: Mean | None, done: int) -> str:
    """With the number of seeds where not all that are done have the score."""
    if mean is None:
        return ""
    half = mean.interval[1] - mean.value
    text = number_text(mean.value) + (f" ±{number_text(half)}" if math.isfinite(half) else "")
    return text if mean.runs == done else f"{text} ({mean.runs} of {done})"


def _difference(test: PairedComparison | None) -> str:
    if test is None:
        return ""
    if math.isnan(test.p_holm):
        return f"{test.difference:+.3g}"
    low, high = test.interval
    return f"{test.difference:+.3g} [{low:+.3g}, {high:+.3g}], p = {test.p_holm:.2g}"


def number_text(value: float) -> str:
    """In a few characters, however large or small."""
    if abs(value) >= 1000 and math.isfinite(value):
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def count_text(value: float) -> str:
    """A whole number with commas; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:,.0f}"


def _cells(columns: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(zip(*columns.values(), strict=True))


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
