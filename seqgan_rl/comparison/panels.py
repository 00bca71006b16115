"""How figures of a comparison are drawn: agents' styles, panels, lines and bands, and a figure as PNG and SVG.

Drawn without pyplot. An agent has one colour, dash and marker in all of them (colours of Okabe and Ito; 24 agents
differ). Text, axes and the MLE are drawn in `INK`, on nothing: a page may put ``currentColor`` in the place of
that one colour, and the SVGs can be read on light and on dark. Their text stays text; all ids begin with the figure's
name.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from seqgan_rl.comparison.records import METRICS, Axis, Comparison, Floats
from seqgan_rl.comparison.series import Band
from seqgan_rl.comparison.tables import START
from seqgan_rl.evaluation import figures as shared
from seqgan_rl.evaluation.figures import COLOURS, MARKERS

if TYPE_CHECKING:  # importing matplotlib costs a second: only who draws pays
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
"""Text, axes, grid and the MLE; no other thing has this colour."""
DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
TITLE_WIDTH = 46
"""Letters in a line of a panel's title."""
LEGEND_HEIGHT = 0.6
"""Room that a figure has for its legend, in inches; it grows by what a legend needs beyond that."""
FAR = 10.0
"""A value is cut off a panel from so many interquartile ranges beside the median."""


class Style(NamedTuple):
    """How an agent is drawn."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


def styles_of(comparison: Comparison) -> dict[str, Style]:
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


def new_panels(number: int, height: float = 2.6, columns: int = 3) -> tuple["Figure", list["Axes"]]:
    """A figure of so many panels, row by row; ``height`` is a panel's, in inches."""
    columns = min(number, columns)
    rows = math.ceil(number / columns)
    width = 3.6 * columns if number > 1 else 5.6
    height = height if number > 1 else max(height, 4.0)
    figure = shared.new_figure(width, height * rows + LEGEND_HEIGHT)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(number)]


def dress(axes: "Axes", *, title: str, xlabel: str) -> None:
    """Title, label, ticks and grid of a panel."""
    shared.dress(axes, title=textwrap.fill(title, TITLE_WIDTH), xlabel=xlabel)


def draw_bands(
    axes: "Axes", bands: Mapping[str, Band | None], styles: Mapping[str, Style], *, axis: Axis, metric: str
) -> str:
    """Means and bands of agents in one panel, logarithmic over reward evaluations; returns what :func:`bound` says."""
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
        draw_line(axes, x_K, band.mean_K, style, agent)
        values += band.mean_K.tolist()
    if axis == "evaluations" and reached:
        axes.set_xscale("log")
    return bound(axes.set_ylim, values, metric)


def draw_line(axes: "Axes", x_K: Floats, y_K: Floats, style: Style, agent: str, *, end: bool = False) -> None:
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
        label=plain(agent),
    )


def bound(set_limits: Callable[[float, float], object], values: Iterable[float], metric: str = "") -> str:
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


def count_along(axes: "Axes") -> None:
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


def finish(figure: "Figure") -> "Figure":
    """One legend below the panels, everything but data in ink, and no background."""
    from matplotlib.text import Text

    if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + max(0.0, shared.add_legend(figure) - LEGEND_HEIGHT))
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


def saved(figure: "Figure", kind: Literal["png", "svg"], salt: str) -> bytes:
    """A figure's file, PNG on white and SVG on nothing; an SVG's ids are decided by the salt."""
    import matplotlib

    data = io.BytesIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if kind == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(data, format=kind, metadata=metadata, facecolor="white" if kind == "png" else "none")
    return data.getvalue()


def svg_of(figure: "Figure", name: str) -> str:
    """The element alone. Ids, and what refers to them, begin with the name; style rules are for this figure only."""
    text = saved(figure, "svg", name).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<[^>]*?\sid=")', rf"\g<1>{name}-", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text)  # 1/100 of a point
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = text.replace("*{stroke-linejoin", f"#{name} *{{stroke-linejoin")
    return text.replace("<svg ", f'<svg id="{name}" font-family="sans-serif" ', 1)


def plain(text: str) -> str:
    """Text as it is, where matplotlib would read formulas."""
    return text.replace("$", r"\$")
