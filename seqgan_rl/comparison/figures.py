"""The figures of a comparison: learning curves, quality against coverage, profiles, over-optimisation, diagnostics.

What each shows and says; :mod:`seqgan_rl.comparison.series` has its numbers, :mod:`seqgan_rl.comparison.panels` draws.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seqgan_rl.comparison.panels import (
    DASHES,
    INK,
    Style,
    bound,
    count_along,
    draw_bands,
    draw_line,
    dress,
    finish,
    new_panels,
    plain,
    saved,
    styles_of,
    svg_of,
)
from seqgan_rl.comparison.records import METRICS, UNITS, Axis, Comparison, Job, Task
from seqgan_rl.comparison.series import BANDS, along, band_kind, has_score, last_pairs, mean_path, mean_sweep, recorded
from seqgan_rl.comparison.tables import LEVEL, Aggregate, aggregate
from seqgan_rl.core.files import make_folder, write_bytes

if TYPE_CHECKING:  # importing matplotlib costs a second: only who draws pays
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIAGNOSTICS = {
    "discriminator/auc": "discriminator: AUC on held-out sequences",
    "discriminator/accuracy": "discriminator: accuracy",
    "discriminator/loss": "discriminator: loss, nats",
    "discriminator/held_out_loss": "discriminator: held-out loss, nats",
    "discriminator/held_out_calibration": "discriminator: calibration error",
    "agent/reward": "mean reward of a batch",
    "agent/entropy": "policy entropy, nats per token",
    "agent/entropy_sampled": "-mean log G of own actions, nats per token",
    "agent/kl_to_start": "KL to the start, nats per token",
    "agent/weight_spread": "spread of the weights",
    "agent/gradient_norm": "gradient norm",
}
"""What :func:`figures` shows of :attr:`Job.diagnostics`, where it was recorded."""
PAIRS = (("nll_test", "nll_oracle"), ("self_bleu_4", "bleu_4"))
"""Coverage and quality, the preferred pair first."""
BESIDE = ("entropy", "distinct_tokens")
"""What stands beside the pair wherever it was measured: a collapse can hide from the pair."""


class Drawing(NamedTuple):
    """A figure that has something to show."""

    name: str
    """Of its files, and what its SVG's ids begin with: letters, digits and hyphens."""
    title: str
    caption: str
    draw: Callable[[], "Figure"]


def figures(comparison: Comparison) -> list[Drawing]:
    """All figures of a comparison, drawn when asked for; those that have nothing to show are left out."""
    drawings = []
    for task in comparison.tasks:
        jobs = {agent: found for agent in comparison.agents(task.name) if (found := comparison.of(task.name, agent))}
        if jobs:
            styles, budget = styles_of(comparison), comparison.amount(task, "tokens")
            drawings += _learning_curves(task, jobs, styles, budget)
            drawings += _quality_coverage(task, jobs, styles)
            drawings += _over_optimisation(task, jobs, styles)
            drawings += _regret_and_kl(task, jobs, styles)
            drawings += _diagnostics(task, jobs, styles, budget)
    return _over_tasks(comparison) + drawings


def svg(drawing: Drawing) -> str:
    """The SVG element of a figure, to stand in an HTML page or a file; the same text for the same numbers."""
    return svg_of(drawing.draw(), drawing.name)


def png(drawing: Drawing) -> bytes:
    """A figure as PNG, on white."""
    return saved(drawing.draw(), "png", drawing.name)


def write_figures(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write every figure as PNG and SVG into a folder, which is made if absent; OSError where that cannot be done."""
    folder, paths = Path(folder), list[Path]()
    make_folder(folder)
    for drawing in figures(comparison):
        figure = drawing.draw()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out, and need not be again for each file
        files = {"png": saved(figure, "png", drawing.name), "svg": svg_of(figure, drawing.name).encode()}
        for kind, data in files.items():
            paths.append(folder / f"{drawing.name}.{kind}")
            write_bytes(paths[-1], data)
    return paths


def _learning_curves(
    task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style], budget: float
) -> list[Drawing]:
    metrics = [metric for metric in task.metrics if has_score(jobs, metric)]
    band, ends = band_kind(jobs), f"Up to the budget of {budget:,.0f}; the second table has those that go on. "

    def over(axis: Axis) -> "Figure":
        most = budget if axis == "tokens" else math.inf  # agents without rollouts go on for the second table
        figure, panels = new_panels(len(metrics))
        for axes, metric in zip(panels, metrics, strict=True):
            by_agent = {agent: along(found, axis, metric, band, most) for agent, found in jobs.items()}
            cut = draw_bands(axes, by_agent, styles, axis=axis, metric=metric)
            dress(axes, title=_directed(metric) + cut, xlabel=UNITS[axis])
            count_along(axes)
        return finish(figure)

    if not metrics:
        return []
    return [
        Drawing(
            _name("learning", task.name, axis),
            f"{task.name}: learning curves over {UNITS[axis]}",
            f"{task.label}. Mean over seeds ({_seeds(jobs)}), linear between evaluations; a job that ended earlier "
            f"keeps its last score. {ends if axis == 'tokens' else ''}{BANDS[band]} An agent that does not move along "
            "this axis is a level line.",
            lambda axis=axis: over(axis),  # type: ignore[misc]
        )
        for axis in UNITS
        if any(getattr(point, axis) > 0 for found in jobs.values() for job in found for point in job.points)
    ]


def _quality_coverage(task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]) -> list[Drawing]:
    pair = next((pair for pair in PAIRS if any(last_pairs(found, *pair) for found in jobs.values())), None)
    if pair is None:
        return []
    coverage, quality = pair
    beside = [m for m in BESIDE if any(last_pairs(found, coverage, m) for found in jobs.values())]

    def draw() -> "Figure":
        figure, panels = new_panels(1 + len(beside))
        for axes, metric in zip(panels, (quality, *beside), strict=True):
            cut = _against_coverage(axes, jobs, styles, coverage, metric)
            dress(axes, title=cut.strip(), xlabel=f"{_directed(coverage)}: coverage")
            axes.set_ylabel(_directed(metric) + (": quality" if metric == quality else ""), fontsize=9)
        return finish(figure)

    return [
        Drawing(
            _name("quality-coverage", task.name),
            f"{task.name}: quality against coverage",
            f"{task.label}. Markers are the seeds' last scores ({_seeds(jobs)}); lines go through the temperatures of "
            "the final policies, mean over seeds. Read entropy and distinct tokens too, where a collapse shows.",
            draw,
        )
    ]


def _against_coverage(
    axes: "Axes", jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style], coverage: str, metric: str
) -> str:
    """The seeds' last scores and the curve through the temperatures; returns what :func:`bound` says."""
    drawn = list[tuple[float, float]]()
    for agent, found in jobs.items():
        style, finals = styles[agent], last_pairs(found, coverage, metric)
        curve = mean_sweep(found, coverage, metric)
        for points, dash, marker in ((curve, style.dash, ""), (finals, "none", style.marker)):
            if points:
                axes.plot(*zip(*points, strict=True), color=style.colour, linestyle=dash, marker=marker, **_THIN)
        if curve or finals:  # one entry of the legend for both
            axes.plot(
                *([], []),
                color=style.colour,
                linestyle=style.dash if curve else "none",
                marker=style.marker,
                label=plain(agent),
                **_THIN,
            )
        drawn += [*curve, *finals]
    cuts = [
        bound(axes.set_xlim, [x for x, _ in drawn], coverage),
        bound(axes.set_ylim, [y for _, y in drawn], metric),
    ]
    return max(cuts)


def _over_optimisation(task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]) -> list[Drawing]:
    """The reward that is trained on against what it stands for."""
    moving = {agent: found for agent, found in jobs.items() if mean_path(found, "reward", task.primary)}
    truths = [m for m in dict.fromkeys((task.primary, "nll_oracle")) if m != "reward" and has_score(moving, m)]
    if task.kind != "adversarial" or not truths or not moving:
        return []
    return [
        Drawing(
            _name("over-optimisation", task.name),
            f"{task.name}: the discriminator's reward against the true score",
            f"{task.label}. Each line is an agent's training, mean over seeds ({_seeds(moving)}), from the open circle "
            "to the marker. Where a line goes right while the true score gets worse, the agent exploits its reward. "
            "Each agent's discriminator is its own: rewards are read along a line, not between lines.",
            lambda: _paths([("reward", metric) for metric in truths], moving, styles),
        )
    ]


def _regret_and_kl(task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]) -> list[Drawing]:
    pairs = [("kl", metric) for metric in ("regret", "regularised_regret") if has_score(jobs, metric)]
    moving = {agent: found for agent, found in jobs.items() if any(mean_path(found, *pair) for pair in pairs)}
    if task.kind != "exact" or not moving:
        return []
    return [
        Drawing(
            _name("regret-kl", task.name),
            f"{task.name}: exact regret against exact KL",
            f"{task.label}. Each line is an agent's training, mean over seeds ({_seeds(moving)}), from the open circle "
            "to the marker: at equal KL to the reference, lower is better.",
            lambda: _paths(pairs, moving, styles),
        )
    ]


def _diagnostics(
    task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style], budget: float
) -> list[Drawing]:
    band = band_kind(jobs)
    bands = {key: {agent: recorded(found, key, band, budget) for agent, found in jobs.items()} for key in DIAGNOSTICS}
    bands = {key: {agent: part for agent, part in by.items() if part is not None} for key, by in bands.items()}
    shown = {key: by_agent for key, by_agent in bands.items() if by_agent}

    def draw() -> "Figure":
        figure, panels = new_panels(len(shown))
        for axes, (key, by_agent) in zip(panels, shown.items(), strict=True):
            cut = draw_bands(axes, by_agent, styles, axis="tokens", metric="")
            dress(axes, title=DIAGNOSTICS[key] + cut, xlabel=UNITS["tokens"])
            count_along(axes)
        return finish(figure)

    if not shown:
        return []
    return [
        Drawing(
            _name("diagnostics", task.name),
            f"{task.name}: diagnostics",
            f"{task.label}. As recorded in every round up to the budget; mean over seeds ({_seeds(jobs)}). "
            f"{BANDS[band]} Nothing here is a score.",
            draw,
        )
    ]


def _over_tasks(comparison: Comparison) -> list[Drawing]:
    """Performance profiles and probabilities of improvement, a panel a kind of task."""
    kinds = dict.fromkeys(task.kind for task in comparison.tasks)
    found = [part for part in (aggregate(comparison, kind, "tokens") for kind in kinds) if part.rows]
    compared = [(part, other) for part in found for other in dict.fromkeys(o for row in part.rows for o in row.over)]
    styles, drawings = styles_of(comparison), list[Drawing]()
    rules = " ".join(f"{part.notes[i]}." for part in found for i in range(len(part.tasks)))
    if found:
        drawings.append(
            Drawing(
                "profiles",
                "Performance profiles",
                f"Share of runs (seeds of every task of a kind) whose score at the budget is above each threshold, "
                f"with pointwise {LEVEL:.0%} stratified bootstrap bands; higher is better. {rules}",
                lambda: _profiles(found, styles),
            )
        )
    if compared:
        drawings.append(
            Drawing(
                "improvement",
                "Probability of improvement",
                "Probability that a run of the agent is better than one of the other, at the budget, averaged over "
                f"tasks of a kind, with {LEVEL:.0%} stratified bootstrap intervals; ties count half. An interval at "
                "one end without width says that all runs lie on one side, not that the probability is certain.",
                lambda: _improvement(compared, styles),
            )
        )
    return drawings


def _profiles(found: Sequence[Aggregate], styles: Mapping[str, Style]) -> "Figure":
    figure, panels = new_panels(len(found))
    for axes, part in zip(panels, found, strict=True):
        for row in part.rows:
            style, profile = styles[row.agent], row.profile
            axes.fill_between(
                *(profile.thresholds_K, profile.low_K, profile.high_K), color=style.colour, alpha=0.12, linewidth=0
            )
            draw_line(axes, profile.thresholds_K, profile.share_K, style, row.agent)
        dress(axes, title=f"{part.kind}: {', '.join(map(plain, part.tasks))}", xlabel="normalised score, above")
        axes.set_ylabel("share of runs", fontsize=9)
    return finish(figure)


def _improvement(compared: Sequence[tuple[Aggregate, str]], styles: Mapping[str, Style]) -> "Figure":
    most = max(len(part.rows) for part, _ in compared)
    others = len({other for _, other in compared})
    figure, panels = new_panels(len(compared), height=1.0 + 0.2 * most, columns=others)
    for axes, (part, other) in zip(panels, compared, strict=True):
        rows = [row for row in part.rows if other in row.over][::-1]  # the best on top
        for y, row in enumerate(rows):
            estimate, style = row.over[other], styles[row.agent]
            axes.plot(estimate.interval, (y, y), color=style.colour, linewidth=2, solid_capstyle="butt")
            axes.plot(estimate.value, y, style.marker, color=style.colour, markersize=6)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=DASHES[1])
        axes.set_xlim(-0.03, 1.03)
        dress(axes, title=f"{part.kind}: against {plain(other)}", xlabel=f"P(better than {plain(other)})")
        axes.set_yticks(range(len(rows)), [plain(row.agent) for row in rows], fontsize=8)
        axes.set_ylim(-0.6, len(rows) - 0.4)
    return finish(figure)


def _paths(
    pairs: Sequence[tuple[str, str]], jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]
) -> "Figure":
    figure, panels = new_panels(len(pairs))
    for axes, (across, up) in zip(panels, pairs, strict=True):
        drawn = list[tuple[float, float]]()
        for agent, found in jobs.items():
            path = mean_path(found, across, up)
            if path:
                x_K, y_K = np.array(path).T
                draw_line(axes, x_K, y_K, styles[agent], agent, end=True)
                axes.plot(*path[0], "o", color=styles[agent].colour, markersize=4, fillstyle="none")
                drawn += path
        cut = bound(axes.set_ylim, [y for _, y in drawn], up)
        dress(axes, title=_directed(up) + cut, xlabel=METRICS[across].label)
    return finish(figure)


_THIN: dict[str, Any] = {"linewidth": 1.2, "markersize": 5, "markeredgewidth": 0}


def _directed(metric: str) -> str:
    found = METRICS[metric]
    return (
        f"{found.label} ({'more' if found.higher_is_better else 'less'} is better)"
        if found.has_direction
        else found.label
    )


def _seeds(jobs: Mapping[str, Sequence[Job]]) -> str:
    numbers = sorted({len(found) for found in jobs.values()})
    return f"{numbers[0]} to {numbers[-1]} seeds" if len(numbers) > 1 else f"{numbers[0]} seed{'s' * (numbers[0] > 1)}"


def _name(*parts: str) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts)
