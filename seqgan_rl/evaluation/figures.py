"""Learning curves, and quality against coverage: drawn without pyplot, written whole as PNG and SVG.

Colours are Okabe and Ito's (told apart with every common colour blindness); models also differ in marker or dash.
"""

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqgan_rl.evaluation.curve import TemperatureCurve
from seqgan_rl.evaluation.report import Row, RowLike
from seqgan_rl.evaluation.scores import Scores

if TYPE_CHECKING:  # importing matplotlib costs a second: only who draws pays
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<"  # one more than colours, so that no pair repeats soon
DASHES = ("solid", "dashed", "dotted", "dashdot")
CURVE_COLOUR = "#777777"

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("NLL_oracle, nats per token", ("eval/nll_oracle",)),
    ("NLL_test, nats per token", ("eval/nll_test",)),
    ("entropy, nats per token", ("eval/entropy",)),
    ("distinct tokens", ("eval/distinct_tokens",)),
    ("discriminator", ("discriminator/auc", "discriminator/accuracy")),
    ("discriminator loss, nats", ("discriminator/loss",)),
    ("reward", ("agent/reward",)),
)
"""What :func:`learning_curves` draws: the label of a panel, and the metrics in it."""

LABELS = {
    "nll_oracle": "NLL_oracle, nats per token (quality, less is better)",
    "nll_test": "NLL_test, nats per token (coverage, less is better)",
    "entropy": "entropy, nats per token",
    "distinct_tokens": "distinct tokens",
    **{f"bleu_{n}": f"BLEU-{n} (quality, more is better)" for n in range(2, 6)},
    **{f"self_bleu_{n}": f"Self-BLEU-{n} (diversity, less is better)" for n in range(2, 6)},
}
"""What axes call a score."""

HORIZONTAL = {"round": "adversarial round", "tokens": "tokens", "step": "step"}
"""Keys that can be the horizontal axis, the preferred first."""

CLOSE_UP = ("MLE", "MLE continued", "MLE at equal coverage")
"""Rows that the close-up of :func:`quality_coverage` is cut around, besides the agent's."""


def learning_curves(records: Sequence[Mapping[str, Any]], path: str | Path) -> tuple[Path, Path]:
    """Draw a panel for each metric that the records hold, one line for each "agent".

    Args:
        records: rows of ``metrics.jsonl``: "round" (or "tokens", "step"), metrics by name as in `PANELS`, and "agent"
            where the records of several are mixed. Each record may hold only some metrics.
        path: where to write; ``.png`` and ``.svg`` are put in the suffix's place.

    Returns:
        The two files.
    """
    axis = next((key for key in HORIZONTAL if any(key in record for record in records)), None)
    measured = {key for record in records if axis in record for key, value in record.items() if _is_number(value)}
    panels = [(label, keys) for label, keys in PANELS if measured.intersection(keys)]
    if axis is None or not panels:
        raise ValueError(
            f"records must hold one of {', '.join(HORIZONTAL)} and one of "
            f"{', '.join(key for _, keys in PANELS for key in keys)}; got {len(records)} records without"
        )
    agents = list(dict.fromkeys(str(record.get("agent", "")) for record in records))
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(3.2 * columns, 2.5 * rows + 0.5)
    for i, (label, keys) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        present = [key for key in keys if key in measured]
        for a, agent in enumerate(agents):
            own = [record for record in records if axis in record and str(record.get("agent", "")) == agent]
            for k, key in enumerate(present):
                points = [(record[axis], record[key]) for record in own if _is_number(record.get(key))]
                if points:
                    axes.plot(
                        *zip(*points, strict=True),
                        color=COLOURS[a % len(COLOURS)],
                        linestyle=DASHES[(k if len(present) > 1 else a) % len(DASHES)],
                        marker="o" if len(points) <= 12 else "",
                        markersize=3,
                        linewidth=1.4,
                        label=agent if k == 0 else None,
                    )
        if len(present) > 1:
            label += ": " + ", ".join(f"{key.rsplit('/')[-1]} {DASHES[k]}" for k, key in enumerate(present))
        dress(axes, title=label, xlabel=HORIZONTAL[axis] if i >= len(panels) - columns else "")
    if len(agents) > 1:
        add_legend(figure)
    return write_figure(figure, path)


def quality_coverage(
    curve: TemperatureCurve, rows: Sequence[RowLike], path: str | Path, agent: str = "SeqGAN"
) -> tuple[Path, Path]:
    """Draw models as points (NLL_test, NLL_oracle) and the MLE's temperature curve; lower and further left is better.

    Bars are two standard errors; NLL_test has none, for all models are scored on the same sequences. Above all models,
    and a close-up of the MLE and the agent; below entropy and distinct tokens, for a collapse can hide from the pair. A
    row "uniform" is left out: it would squeeze all others.

    Args:
        curve: the MLE at several temperatures, scored with an oracle.
        rows: models as for :func:`~seqgan_rl.evaluation.report.score_table`.
        path: where to write; ``.png`` and ``.svg`` are put in the suffix's place.
        agent: the name of the row that the close-up is about.
    """
    if any(point.nll_oracle is None for point in curve.points):
        raise ValueError("curve must have nll_oracle at every temperature; this figure needs an oracle")
    shown = [row for row in map(lambda row: Row(*row), rows) if row.name != "uniform" and _finite(row)]
    near = [row for row in shown if row.name in (*CLOSE_UP, agent)]
    titles = ["all models", "close-up"] if near and len(shown) > 1 else ["all models"]
    panels = [(title, "nll_oracle") for title in titles] + [(LABELS[m], m) for m in ("entropy", "distinct_tokens")]
    figure = new_figure(10.4, 4.0 * math.ceil(len(panels) / 2) + 0.6)
    for i, (title, metric) in enumerate(panels):
        axes = figure.add_subplot(math.ceil(len(panels) / 2), 2, i + 1)
        _, nll_test, nll_oracle = curve.drawn
        drawn = nll_oracle if metric == "nll_oracle" else curve.drawn_metric(metric)
        axes.plot(nll_test, drawn, color=CURVE_COLOUR, linewidth=1.2, label="MLE temperature curve", zorder=1)
        for r, row in enumerate(shown):
            assert row.scores is not None
            error = row.scores.error(metric)
            axes.errorbar(
                row.scores.nll_test,
                row.scores.value(metric),
                yerr=2 * error if math.isfinite(error) else None,
                fmt=MARKERS[r % len(MARKERS)],
                color=COLOURS[r % len(COLOURS)],
                markersize=7,
                elinewidth=1,
                label=row.name,
                zorder=2,
            )
        if title == "close-up":
            _cut_around(axes, near)
        dress(axes, title=title, xlabel="NLL_test, nats per token (coverage)")
        if i == 0:
            axes.set_ylabel("NLL_oracle, nats per token (quality)", fontsize=9)
    add_legend(figure)
    figure.draw_without_rendering()  # settles the layout, which labels are placed by
    for axes in figure.axes[: len(titles)]:
        _label_temperatures(axes, curve)
    return write_figure(figure, path)


def sweep_curves(
    curves: Mapping[str, TemperatureCurve], path: str | Path, *, quality: str = "nll_oracle", coverage: str = "nll_test"
) -> tuple[Path, Path]:
    """Draw quality, entropy and distinct tokens against coverage, a line a model through its temperatures.

    Entropy and distinct tokens stand beside the pair because a collapse can hide from it. The marker of each line is
    largest at the temperature closest to 1.

    Args:
        curves: models at several temperatures, by name.
        path: where to write; ``.png`` and ``.svg`` are put in the suffix's place.
        quality, coverage: names of scores, such as "bleu_4" and "self_bleu_4". Points where one is infinite are left
            out; a ValueError if nothing is left.
    """
    finite = {
        name: [(t, p) for t, p in zip(curve.temperatures, curve.points, strict=True) if _has(p, quality, coverage)]
        for name, curve in curves.items()
    }
    if not any(finite.values()):
        raise ValueError(f"curves must hold finite {quality} and {coverage}, got none in {list(curves) or 'no curve'}")
    figure = new_figure(13.0, 4.6)
    for i, metric in enumerate((quality, "entropy", "distinct_tokens")):
        axes = figure.add_subplot(1, 3, i + 1)
        for c, (name, points) in enumerate(finite.items()):
            if not points:
                continue
            colour, marker = COLOURS[c % len(COLOURS)], MARKERS[c % len(MARKERS)]
            x, y = ([point.value(m) for _, point in points] for m in (coverage, metric))
            dash = DASHES[c % len(DASHES)]
            axes.plot(x, y, color=colour, marker=marker, linestyle=dash, markersize=3, linewidth=1, label=name)
            middle = int(np.argmin([abs(math.log(temperature)) for temperature, _ in points]))
            axes.plot(x[middle], y[middle], marker, color=colour, markersize=7)
        dress(axes, title=LABELS.get(metric, metric), xlabel=LABELS.get(coverage, coverage))
    add_legend(figure)
    return write_figure(figure, path)


def _has(scores: Scores, *metrics: str) -> bool:
    return all(math.isfinite(scores.value(metric)) for metric in metrics)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(row: Row) -> bool:
    scores = row.scores
    return scores is not None and scores.nll_oracle is not None and math.isfinite(scores.nll_oracle + scores.nll_test)


def _cut_around(axes: "Axes", rows: Sequence[Row]) -> None:
    """Limits that hold these rows with room to spare."""
    for set_limits, metric in ((axes.set_xlim, "nll_test"), (axes.set_ylim, "nll_oracle")):
        values = [float(getattr(row.scores, metric)) for row in rows]
        room = max(0.3 * (max(values) - min(values)), 0.02 * max(map(abs, values)), 1e-3)
        set_limits(min(values) - room, max(values) + room)


def _label_temperatures(axes: "Axes", curve: TemperatureCurve) -> None:
    """Mark the measured temperatures on the curve; write beside it 1 first, then round ones, and none over another."""
    line = [(p.nll_test, p.nll_oracle or 0.0, t) for p, t in zip(curve.points, curve.temperatures, strict=True)]
    visible, taken = axes.get_window_extent(), list[tuple[float, float]]()
    for x, y, t in sorted(line, key=lambda point: (point[2] != 1, round(point[2] * 10, 6) % 1 > 0)):
        px, py = axes.transData.transform((x, y))
        if not visible.contains(px, py):
            continue
        axes.plot(x, y, ".", color=CURVE_COLOUR, markersize=4, zorder=1)
        if all(math.hypot(px - qx, py - qy) > 34 for qx, qy in taken):
            taken.append((px, py))
            axes.annotate(
                f"T={t:g}", (x, y), (-5, -9), textcoords="offset points", ha="right", fontsize=7, color="#555555"
            )


def dress(axes: "Axes", *, title: str, xlabel: str) -> None:
    """Title, label, ticks and grid as in all our figures."""
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(xlabel, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, its sides in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def add_legend(figure: "Figure") -> float:
    """One legend under all panels, each name once, in as many columns as the figure is wide; returns its height in
    inches."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in entries}
    handles, labels = list(entries.values()), list(entries)
    for columns in (4, 3, 2, 1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
        box = legend.get_window_extent()
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    return float(box.height / figure.dpi)


def write_figure(figure: "Figure", path: str | Path) -> tuple[Path, Path]:
    """``path`` as .png and .svg; each appears whole or not at all, and the same figure gives the same SVG."""
    import matplotlib

    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "seqgan_rl"}):
        for kind, target in zip(("png", "svg"), _targets(stem), strict=True):
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=f".{kind}")
            os.close(handle)
            try:
                figure.savefig(name, format=kind, metadata={"Date": None} if kind == "svg" else None)
                os.replace(name, target)
            finally:
                Path(name).unlink(missing_ok=True)
    png, svg = _targets(stem)
    return png, svg


def _targets(stem: Path) -> Iterator[Path]:
    return (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg"))
