"""The figures of a comparison: learning curves, quality against coverage, profiles, over-optimisation, diagnostics.

Drawn without pyplot. An agent has one colour, dash and marker in all of them (colours of Okabe and Ito; 24 agents
differ). Text, axes and the MLE are drawn in `INK`, on nothing: a page may put ``currentColor`` in the place of
that one colour, and the SVGs can be read on light and on dark. Their text stays text; all ids begin with the figure's
name.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seqgan_rl.comparison.records import METRICS, Axis, Comparison, Floats, Job, Task
from seqgan_rl.comparison.tables import LEVEL, START, Aggregate, aggregate
from seqgan_rl.core.files import make_folder, write_bytes
from seqgan_rl.evaluation import figures as shared
from seqgan_rl.evaluation.figures import COLOURS, MARKERS
from seqgan_rl.evaluation.intervals import half_width, standard_error

if TYPE_CHECKING:  # importing matplotlib costs a second: only who draws pays
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
"""Text, axes, grid and the MLE; no other thing has this colour."""
DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
HORIZONTAL: dict[Axis, str] = {
    "tokens": "generated tokens",
    "evaluations": "reward evaluations",
    "seconds": "seconds of training",
}
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
TITLE_WIDTH = 46
"""Letters in a line of a panel's title."""
FAR = 10.0
"""A value is cut off a panel from so many interquartile ranges beside the median."""
GRID = 40
"""Places at which curves over seconds and reward evaluations are drawn."""


class Drawing(NamedTuple):
    """A figure that has something to show."""

    name: str
    """Of its files, and what its SVG's ids begin with: letters, digits and hyphens."""
    title: str
    caption: str
    draw: Callable[[], "Figure"]


class Style(NamedTuple):
    """How an agent is drawn."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


class _Band(NamedTuple):
    """A score over an axis: mean over seeds, and the band around it, (K,) each."""

    x_K: Floats
    mean_K: Floats
    low_K: Floats
    high_K: Floats
    is_flat: bool
    """One point of an agent that does not move along this axis."""


def figures(comparison: Comparison) -> list[Drawing]:
    """All figures of a comparison, drawn when asked for; those that have nothing to show are left out."""
    drawings = []
    for task in comparison.tasks:
        jobs = {agent: found for agent in comparison.agents(task.name) if (found := comparison.of(task.name, agent))}
        if jobs:
            styles = _styles(comparison)
            drawings += _learning_curves(task, jobs, styles)
            drawings += _quality_coverage(task, jobs, styles)
            drawings += _over_optimisation(task, jobs, styles)
            drawings += _regret_and_kl(task, jobs, styles)
            drawings += _diagnostics(task, jobs, styles)
    return _over_tasks(comparison) + drawings


def svg(drawing: Drawing) -> str:
    """The SVG element of a figure, to stand in an HTML page or a file; the same text for the same numbers."""
    return _svg(drawing.draw(), drawing.name)


def png(drawing: Drawing) -> bytes:
    """A figure as PNG, on white."""
    return _saved(drawing.draw(), "png", drawing.name)


def write_figures(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write every figure as PNG and SVG into a folder, which is made if absent; OSError where that cannot be done."""
    folder, paths = Path(folder), list[Path]()
    make_folder(folder)
    for drawing in figures(comparison):
        figure = drawing.draw()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out, and need not be again for each file
        files = {"png": _saved(figure, "png", drawing.name), "svg": _svg(figure, drawing.name).encode()}
        for kind, data in files.items():
            paths.append(folder / f"{drawing.name}.{kind}")
            write_bytes(paths[-1], data)
    return paths


def _learning_curves(task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]) -> list[Drawing]:
    metrics = [metric for metric in task.metrics if _has(jobs, metric)]
    band = _band_kind(jobs)

    def over(axis: Axis) -> "Figure":
        figure, panels = _panels(len(metrics))
        for axes, metric in zip(panels, metrics, strict=True):
            by_agent = {agent: _along(found, axis, metric, band) for agent, found in jobs.items()}
            cut = _curves(axes, by_agent, styles, axis=axis, metric=metric)
            _dress(axes, title=_directed(metric) + cut, xlabel=HORIZONTAL[axis])
            _count_along(axes)
        return _finish(figure)

    if not metrics:
        return []
    return [
        Drawing(
            _name("learning", task.name, axis),
            f"{task.name}: learning curves over {HORIZONTAL[axis]}",
            f"{task.label}. Mean over seeds ({_seeds(jobs)}), linear between evaluations; a job that ended earlier "
            f"keeps its last score. {_BANDS[band]} An agent that does not move along this axis is a level line.",
            lambda axis=axis: over(axis),  # type: ignore[misc]
        )
        for axis in HORIZONTAL
        if any(getattr(point, axis) > 0 for found in jobs.values() for job in found for point in job.points)
    ]


def _quality_coverage(task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]) -> list[Drawing]:
    pair = next((pair for pair in PAIRS if any(_finals(found, *pair) for found in jobs.values())), None)
    if pair is None:
        return []
    coverage, quality = pair

    def draw() -> "Figure":
        figure, (axes,) = _panels(1)
        drawn = list[tuple[float, float]]()
        for agent, found in jobs.items():
            style, finals = styles[agent], _finals(found, coverage, quality)
            curve = _mean_sweep(found, coverage, quality)
            for points, dash, marker in ((curve, style.dash, ""), (finals, "none", style.marker)):
                if points:
                    axes.plot(*zip(*points, strict=True), color=style.colour, linestyle=dash, marker=marker, **_THIN)
            if curve or finals:  # one entry of the legend for both
                axes.plot(
                    *([], []),
                    color=style.colour,
                    linestyle=style.dash if curve else "none",
                    marker=style.marker,
                    label=_plain(agent),
                    **_THIN,
                )
            drawn += [*curve, *finals]
        cuts = [
            _bound(axes.set_xlim, [x for x, _ in drawn], coverage),
            _bound(axes.set_ylim, [y for _, y in drawn], quality),
        ]
        _dress(axes, title=max(cuts).strip(), xlabel=f"{_directed(coverage)}: coverage")
        axes.set_ylabel(f"{_directed(quality)}: quality", fontsize=9)
        return _finish(figure)

    return [
        Drawing(
            _name("quality-coverage", task.name),
            f"{task.name}: quality against coverage",
            f"{task.label}. Markers are the seeds' last scores ({_seeds(jobs)}); lines go through the temperatures of "
            "the final policies, mean over seeds. Read entropy and distinct tokens too: a collapse can hide here.",
            draw,
        )
    ]


def _over_optimisation(task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]) -> list[Drawing]:
    """The reward that is trained on against what it stands for."""
    moving = {agent: found for agent, found in jobs.items() if _mean_path(found, "reward", task.primary)}
    truths = [m for m in dict.fromkeys((task.primary, "nll_oracle")) if m != "reward" and _has(moving, m)]
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
    pairs = [("kl", metric) for metric in ("regret", "regularised_regret") if _has(jobs, metric)]
    moving = {agent: found for agent, found in jobs.items() if any(_mean_path(found, *pair) for pair in pairs)}
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


def _diagnostics(task: Task, jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]) -> list[Drawing]:
    band = _band_kind(jobs)
    bands = {key: {agent: _recorded(found, key, band) for agent, found in jobs.items()} for key in DIAGNOSTICS}
    bands = {key: {agent: part for agent, part in by.items() if part is not None} for key, by in bands.items()}
    shown = {key: by_agent for key, by_agent in bands.items() if by_agent}

    def draw() -> "Figure":
        figure, panels = _panels(len(shown))
        for axes, (key, by_agent) in zip(panels, shown.items(), strict=True):
            cut = _curves(axes, by_agent, styles, axis="tokens", metric="")
            _dress(axes, title=DIAGNOSTICS[key] + cut, xlabel=HORIZONTAL["tokens"])
            _count_along(axes)
        return _finish(figure)

    if not shown:
        return []
    return [
        Drawing(
            _name("diagnostics", task.name),
            f"{task.name}: diagnostics",
            f"{task.label}. As recorded in every round; mean over seeds ({_seeds(jobs)}). {_BANDS[band]} Nothing here "
            "is a score.",
            draw,
        )
    ]


def _over_tasks(comparison: Comparison) -> list[Drawing]:
    """Performance profiles and probabilities of improvement, a panel a kind of task."""
    kinds = dict.fromkeys(task.kind for task in comparison.tasks)
    found = [part for part in (aggregate(comparison, kind, "tokens") for kind in kinds) if part.rows]
    compared = [(part, other) for part in found for other in dict.fromkeys(o for row in part.rows for o in row.over)]
    styles, drawings = _styles(comparison), list[Drawing]()
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
    figure, panels = _panels(len(found))
    for axes, part in zip(panels, found, strict=True):
        for row in part.rows:
            style, profile = styles[row.agent], row.profile
            axes.fill_between(
                *(profile.thresholds_K, profile.low_K, profile.high_K), color=style.colour, alpha=0.12, linewidth=0
            )
            _line(axes, profile.thresholds_K, profile.share_K, style, row.agent)
        _dress(axes, title=f"{part.kind}: {', '.join(map(_plain, part.tasks))}", xlabel="normalised score, above")
        axes.set_ylabel("share of runs", fontsize=9)
    return _finish(figure)


def _improvement(compared: Sequence[tuple[Aggregate, str]], styles: Mapping[str, Style]) -> "Figure":
    most = max(len(part.rows) for part, _ in compared)
    others = len({other for _, other in compared})
    figure, panels = _panels(len(compared), height=1.0 + 0.2 * most, columns=others)
    for axes, (part, other) in zip(panels, compared, strict=True):
        rows = [row for row in part.rows if other in row.over][::-1]  # the best on top
        for y, row in enumerate(rows):
            estimate, style = row.over[other], styles[row.agent]
            axes.plot(estimate.interval, (y, y), color=style.colour, linewidth=2, solid_capstyle="butt")
            axes.plot(estimate.value, y, style.marker, color=style.colour, markersize=6)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=DASHES[1])
        axes.set_xlim(-0.03, 1.03)
        _dress(axes, title=f"{part.kind}: against {_plain(other)}", xlabel=f"P(better than {_plain(other)})")
        axes.set_yticks(range(len(rows)), [_plain(row.agent) for row in rows], fontsize=8)
        axes.set_ylim(-0.6, len(rows) - 0.4)
    return _finish(figure)


def _paths(
    pairs: Sequence[tuple[str, str]], jobs: Mapping[str, Sequence[Job]], styles: Mapping[str, Style]
) -> "Figure":
    figure, panels = _panels(len(pairs))
    for axes, (across, up) in zip(panels, pairs, strict=True):
        drawn = list[tuple[float, float]]()
        for agent, found in jobs.items():
            path = _mean_path(found, across, up)
            if path:
                x_K, y_K = np.array(path).T
                _line(axes, x_K, y_K, styles[agent], agent, end=True)
                axes.plot(*path[0], "o", color=styles[agent].colour, markersize=4, fillstyle="none")
                drawn += path
        cut = _bound(axes.set_ylim, [y for _, y in drawn], up)
        _dress(axes, title=_directed(up) + cut, xlabel=METRICS[across].label)
    return _finish(figure)


def _curves(
    axes: "Axes", bands: Mapping[str, _Band | None], styles: Mapping[str, Style], *, axis: Axis, metric: str
) -> str:
    """Means and bands of agents in one panel, logarithmic over reward evaluations; returns what :func:`_bound` says."""
    reached = [band.x_K[-1] for band in bands.values() if band is not None and not band.is_flat]
    first = min((band.x_K[0] for band in bands.values() if band is not None and not band.is_flat), default=0.0)
    values = list[float]()
    for agent, band in bands.items():
        if band is None:
            continue
        style, x_K = styles[agent], band.x_K
        if band.is_flat:
            x_K = np.array([first, max(reached, default=first + 1.0)])
        axes.fill_between(x_K, band.low_K, band.high_K, color=style.colour, alpha=0.12, linewidth=0)
        _line(axes, x_K, band.mean_K, style, agent)
        values += band.mean_K.tolist()
    if axis == "evaluations" and reached:
        axes.set_xscale("log")
    return _bound(axes.set_ylim, values, metric)


def _line(axes: "Axes", x_K: Floats, y_K: Floats, style: Style, agent: str, *, end: bool = False) -> None:
    """A line with a few markers, or with one at its end."""
    axes.plot(
        x_K,
        y_K,
        color=style.colour,
        linestyle=style.dash,
        linewidth=1.4,
        marker=style.marker,
        markersize=5 if end else 3.5,
        markevery=[len(x_K) - 1] if end else max(1, len(x_K) // 5),
        label=_plain(agent),
    )


def _along(jobs: Sequence[Job], axis: Axis, metric: str, band: str) -> _Band | None:
    """A metric over an axis; None where no seed has a finite one."""
    with_it = [job for job in jobs if any(math.isfinite(point.scores.get(metric, math.nan)) for point in job.points)]
    used = [[float(getattr(point, axis)) for point in job.points if metric in point.scores] for job in with_it]
    places = sorted({place for of_job in used for place in of_job})
    if not places:
        return None
    if all(len(set(of_job)) == 1 for of_job in used):
        last_R1 = np.array([[job.score_at(axis, math.inf, metric)] for job in with_it])
        if not np.isfinite(last_R1).any():  # lost along the way, as the gap is in a collapse
            return None
        return _banded(np.array(places[-1:]), last_R1, band, is_flat=True)
    if axis == "evaluations":
        x_K = np.geomspace(next(place for place in places if place > 0), places[-1], GRID)
    else:
        x_K = np.array(places) if len(places) <= GRID else np.linspace(places[0], places[-1], GRID)
    return _banded(x_K, np.array([[job.score_at(axis, x, metric) for x in x_K] for job in with_it]), band)


def _recorded(jobs: Sequence[Job], key: str, band: str) -> _Band | None:
    """A diagnostic over tokens; None where no seed has one."""
    rows = [[(row["tokens"], row[key]) for row in job.diagnostics if "tokens" in row and key in row] for job in jobs]
    rows = [[(x, y) for x, y in part if math.isfinite(y)] for part in rows]
    series = [np.array(part, dtype=float).T for part in rows if part]
    if not series:
        return None
    x_K = np.unique(np.concatenate([x for x, _ in series]))
    if len(x_K) > GRID:
        x_K = np.linspace(x_K[0], x_K[-1], GRID)
    return _banded(x_K, np.array([np.interp(x_K, x, y) for x, y in series]), band, is_flat=len(x_K) == 1)


_THIN: dict[str, Any] = {"linewidth": 1.2, "markersize": 5, "markeredgewidth": 0}
_BANDS = {
    "t": f"Bands: pointwise {LEVEL:.0%} t-intervals of the mean.",
    "range": "Bands: from the worst to the best seed.",
    "none": "One seed has no band.",
}


def _band_kind(jobs: Mapping[str, Sequence[Job]]) -> str:
    """One kind of band in a figure; t-intervals of two seeds would fill it."""
    seeds = [len(found) for found in jobs.values()]
    if max(seeds) == 1:
        return "none"
    return "t" if min(seeds) >= 3 else "range"


def _banded(x_K: Floats, scores_RK: Floats, band: str, *, is_flat: bool = False) -> _Band:
    scores_RK = np.where(np.isfinite(scores_RK), scores_RK, np.nan)
    mean_K = scores_RK.mean(axis=0)
    low_K, high_K = scores_RK.min(axis=0), scores_RK.max(axis=0)
    if band == "t":
        error_K = np.array([standard_error(scores_R) for scores_R in scores_RK.T])
        half_K = half_width(1.0, LEVEL, len(scores_RK) - 1) * error_K if len(scores_RK) > 1 else 0 * mean_K
        low_K, high_K = mean_K - half_K, mean_K + half_K
    if is_flat:
        x_K, mean_K, low_K, high_K = (np.resize(part, 2) for part in (x_K, mean_K, low_K, high_K))
    return _Band(x_K, mean_K, low_K, high_K, is_flat)


def _mean_path(jobs: Sequence[Job], across: str, up: str) -> list[tuple[float, float]]:
    """Two scores along training, mean over the seeds that have both; empty where they do not move."""
    pairs = [[_pair(point.scores, across, up) for point in job.points] for job in jobs]
    used = [[point.tokens for point in job.points] for job in jobs]
    known = [
        (np.array([t for t, p in zip(tokens, part, strict=True) if p]), np.array([p for p in part if p]))
        for tokens, part in zip(used, pairs, strict=True)
        if any(part)
    ]
    if not known:
        return []
    x_K = np.unique(np.concatenate([tokens for tokens, _ in known]))
    paths = [[np.interp(x_K, tokens, values[:, i]) for i in range(2)] for tokens, values in known]
    mean_2K = np.mean(paths, axis=0)
    return [(float(x), float(y)) for x, y in mean_2K.T] if len(x_K) > 1 else []


def _finals(jobs: Sequence[Job], across: str, up: str) -> list[tuple[float, float]]:
    """The last pair of each seed."""
    found = [[pair for point in job.points if (pair := _pair(point.scores, across, up))] for job in jobs]
    return [pairs[-1] for pairs in found if pairs]


def _mean_sweep(jobs: Sequence[Job], across: str, up: str) -> list[tuple[float, float]]:
    """Pairs at the temperatures at which every swept seed has one, mean over seeds."""
    swept = [{row["temperature"]: pair for row in job.sweep if (pair := _pair(row, across, up))} for job in jobs]
    swept = [by_temperature for by_temperature in swept if by_temperature]
    shared = sorted(set.intersection(*map(set, swept))) if swept else []
    means = [np.mean([by_temperature[t] for by_temperature in swept], axis=0) for t in shared]
    return [(float(x), float(y)) for x, y in means]


def _pair(scores: Mapping[str, float], across: str, up: str) -> tuple[float, float] | None:
    x, y = scores.get(across, math.nan), scores.get(up, math.nan)
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def _has(jobs: Mapping[str, Sequence[Job]], metric: str) -> bool:
    return any(
        math.isfinite(point.scores.get(metric, math.nan))
        for found in jobs.values()
        for job in found
        for point in job.points
    )


def _styles(comparison: Comparison) -> dict[str, Style]:
    """The MLE in ink; the others in colours by turns, and a new dash each turn."""
    agents = dict.fromkeys(job.agent for job in comparison.jobs)
    others = [agent for agent in agents if agent != START]
    colours = COLOURS[:-1]  # without black, which is ink
    styles = {
        agent: Style(
            colours[i % len(colours)], DASHES[i // len(colours) % len(DASHES)], MARKERS[1:][i % len(MARKERS[1:])]
        )
        for i, agent in enumerate(others)
    }
    return styles | {START: Style(INK, DASHES[1], "o")}


def _bound(set_limits: Callable[[float, float], object], values: Iterable[float], metric: str = "") -> str:
    """Limits that leave out values far worse than the others, which they would squeeze into a line; says so if it did.

    Of a ``metric`` with a direction the better side is never cut.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if not finite.size:
        return ""
    low, middle, high = np.quantile(finite, [0.25, 0.5, 0.75])
    is_near = (abs(finite - middle) <= FAR * (high - low)) | (high == low)
    if metric in METRICS and METRICS[metric].has_direction:
        is_near |= (finite > middle) == METRICS[metric].higher_is_better
    near = finite[is_near]
    if len(near) == len(finite):
        return ""
    room = 0.08 * (near.max() - near.min())
    set_limits(near.min() - room, near.max() + room)
    return " [far-off values are cut]"


def _panels(number: int, height: float = 2.6, columns: int = 3) -> tuple["Figure", list["Axes"]]:
    columns = min(number, columns)
    rows = math.ceil(number / columns)
    width = 3.6 * columns if number > 1 else 5.6
    height = height if number > 1 else max(height, 4.0)
    figure = shared._figure(width, height * rows + 0.6)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(number)]


def _dress(axes: "Axes", *, title: str, xlabel: str) -> None:
    shared._dress(axes, title=textwrap.fill(title, TITLE_WIDTH), xlabel=xlabel)


def _count_along(axes: "Axes") -> None:
    """Few ticks below, written short: 50k, 2M."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    is_log = axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    if is_log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 30 * low else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))


def _short(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"


def _finish(figure: "Figure") -> "Figure":
    """One legend below the panels, everything but data in ink, and no background."""
    from matplotlib.text import Text

    if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        shared._legend(figure)
    figure.patch.set_facecolor("none")
    for axes in figure.axes:
        axes.patch.set_facecolor("none")
        axes.tick_params(which="both", colors=INK)
        axes.grid(color=INK, alpha=0.15, linewidth=0.5)
        for spine in axes.spines.values():
            spine.set_color(INK)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_color(INK)
    return figure


def _saved(figure: "Figure", kind: str, salt: str) -> bytes:
    import matplotlib

    data = io.BytesIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if kind == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(data, format=kind, metadata=metadata, facecolor="white" if kind == "png" else "none")
    return data.getvalue()


def _svg(figure: "Figure", name: str) -> str:
    """The element alone. Ids, and what refers to them, begin with the name; style rules are for this figure only."""
    text = _saved(figure, "svg", name).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<[^>]*?\sid=")', rf"\g<1>{name}-", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text)  # 1/100 of a point
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = text.replace("*{stroke-linejoin", f"#{name} *{{stroke-linejoin")
    return text.replace("<svg ", f'<svg id="{name}" font-family="sans-serif" ', 1)


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


def _plain(text: str) -> str:
    """Text as it is, where matplotlib would read formulas."""
    return text.replace("$", r"\$")
