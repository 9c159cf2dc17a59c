"""Small charts as SVG that takes its colours from the page, so that one file is right in the light,
in the dark and on paper.

matplotlib draws with colours that stand for names; in its output they become CSS variables of
``templates/page.css``. Charts are narrow, so that their words can be read on a phone.
"""

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

__all__ = ["Interval", "Line", "Point", "bars", "dots", "draw", "forest", "lines", "scatter"]

_INK, _GRID = "#010203", "#010204"
_SERIES = [f"#01030{k}" for k in range(8)]
_VARIABLES = {
    _INK: "var(--ink)",
    _GRID: "var(--line)",
    **{colour: f"var(--c{k})" for k, colour in enumerate(_SERIES)},
}
_STYLE = {
    "svg.hashsalt": "det_transfer",
    "svg.fonttype": "none",  # text as text: small, and the page's font
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.linewidth": 0.6,
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.6,
}
_WIDTH = 4.5  # inches of 72 units


@dataclass(frozen=True)
class Line:
    """Attributes:
    colour: 0 to 7; lines of one colour and name share a word in the legend; without a name none
    spans: (low, high) of each value, drawn as an upright stroke
    single: values that no line joins
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False
    spans: Sequence[tuple[float, float]] = ()
    single: bool = False


@dataclass(frozen=True)
class Point:
    name: str
    x: float
    y: float
    colour: int = 0
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Interval:
    name: str
    value: float
    low: float
    high: float
    colour: int = 0


def draw(paint: Callable[[Axes], None], title: str, height: float = 2.9) -> str:
    """An ``<svg>`` of what `paint` draws; `title` is what a screen reader says."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots()
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _for_the_page(buffer.getvalue(), title)


def _for_the_page(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Its own size would keep it from fitting the page, its own fonts from matching it.
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r' xmlns:xlink="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # Ids are unique in a drawing; on a page with several they need a name of their own.
    mark = hashlib.sha256(title.encode()).hexdigest()[:8]
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>i{mark}-", svg)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    if len(by_label) > 1:
        longest = max(map(len, by_label))
        columns = max(1, min(len(by_label), int(48 / (longest + 5))))
        axes.legend(
            by_label.values(),
            by_label,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=columns,
        )


def _logarithmic(axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def lines(
    series: Sequence[Line],
    title: str,
    *,
    x: str,
    y: str,
    log: bool = False,
    diagonal: bool = False,
    limits: tuple[float, float] | None = None,
    zero: bool = False,
    whole: bool = False,
) -> str:
    """Values over an axis; a single value is a dot.

    Args:
        log: a logarithmic y axis
        diagonal: also x = y, dotted
        limits: of y
        zero: also y = 0, dotted
        whole: x is a number of things
    """

    def paint(axes: Axes) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
        if zero:
            axes.axhline(0, color=_INK, linewidth=0.8, linestyle=":")
        for line in series:
            colour = _SERIES[line.colour % 8]
            marker = "o" if len(line.x) < 12 or line.single else None
            style = "" if line.single else "--" if line.dashed else "-"
            size, width = (2.2, 0) if line.single else (3.5, 0.9 if line.dashed else None)
            axes.plot(
                line.x, line.y, style, color=colour, label=line.name or None,
                marker=None if line.dashed else marker, markersize=size, linewidth=width,
            )  # fmt: skip
            for place, span in zip(line.x, line.spans, strict=False):
                axes.plot([place] * 2, span, color=colour, linewidth=0.9, label=None)
        if log:
            axes.set_yscale("log")
            _logarithmic(axes.yaxis)
        if limits:
            axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(8 if whole else 5, integer=whole))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(axes)

    return draw(paint, title)


def bars(
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    title: str,
    *,
    x: str,
    write: Callable[[float], str] = "{:.1f}".format,
    spans: Sequence[tuple[float, float]] = (),
) -> str:
    """Lying bars: a row for each name, in it a bar for each series.

    Args:
        write: a value as text
        spans: (low, high) of the values of a single series, drawn as a stroke
    """
    lines = max((name.count("\n") + 1 for name in names), default=1)
    row = max(0.24 * (0.55 + 0.45 * len(values)), 0.15 * lines + 0.05)
    height = 0.75 + row * len(names) + 0.2 * (len(values) > 1)

    def paint(axes: Axes) -> None:
        step = 0.8 / max(len(values), 1)
        places = np.arange(len(names))
        for k, (name, numbers) in enumerate(values.items()):
            shown = np.nan_to_num(np.array(numbers, float))
            at = places + (k - (len(values) - 1) / 2) * step
            axes.barh(at, shown, height=step * 0.92, color=_SERIES[k % 8], label=name)
            for span, place in zip(spans, at, strict=False):
                axes.plot(span, [place, place], color=_INK, linewidth=1.2)
            if len(names) * len(values) <= 24:
                ends = np.maximum(shown, [high for _, high in spans]) if spans else shown
                for value, end, place in zip(numbers, ends, at, strict=True):
                    text = write(value) if np.isfinite(value) else "-"
                    side = {"xytext": (3, 0)} if end >= 0 else {"xytext": (-3, 0), "ha": "right"}
                    axes.annotate(
                        text, (end, place), **side, textcoords="offset points", va="center",
                        fontsize=8.5,
                    )  # fmt: skip
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.14)
        axes.set_xlabel(x)
        _legend(axes)

    return draw(paint, title, height)


def scatter(
    points: Sequence[tuple[float, float]],
    title: str,
    *,
    x: str,
    y: str,
    smooth: tuple[Sequence[float], Sequence[float]] | None = None,
    colours: Sequence[int] = (),
    zero: bool = False,
) -> str:
    """Many points over a logarithmic x axis, with a line through them."""

    def paint(axes: Axes) -> None:
        where = np.array(points, float).reshape(-1, 2)
        paints = [_SERIES[c % 8] for c in colours] or _SERIES[0]
        size = 16 if len(where) < 200 else 5
        axes.scatter(where[:, 0], where[:, 1], s=size, c=paints, linewidths=0, alpha=0.65)
        if smooth is not None and len(smooth[0]) > 1:
            axes.plot(*smooth, color=_INK, linewidth=1.8)
        if zero:
            axes.axhline(0, color=_INK, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        _logarithmic(axes.xaxis)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    return draw(paint, title)


def dots(points: Sequence[Point], title: str, *, x: str, y: str, front: Sequence[int] = ()) -> str:
    """Named points with their ranges; `front` are indices that a line joins."""

    def paint(axes: Axes) -> None:
        if len(front) > 1:
            order = sorted(front, key=lambda k: points[k].x)
            axes.plot(
                [points[k].x for k in order], [points[k].y for k in order],
                color=_INK, linewidth=0.8, linestyle="--",
            )  # fmt: skip
        for point in points:
            colour = _SERIES[point.colour % 8]
            if point.y_range:
                axes.plot([point.x] * 2, point.y_range, color=colour, linewidth=1)
            if point.x_range:
                axes.plot(point.x_range, [point.y] * 2, color=colour, linewidth=1)
            axes.plot(point.x, point.y, "o", color=colour, markersize=6, label=point.name)
        axes.margins(0.15)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(axes)

    return draw(paint, title)


def forest(rows: Sequence[Interval], title: str, *, x: str) -> str:
    """A difference with its interval in each row, and the line of no difference."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(rows))
        for place, row in zip(places, rows, strict=True):
            colour = _SERIES[row.colour % 8]
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2.2)
            axes.plot(row.value, place, "o", color=colour, markersize=5)
        axes.axvline(0, color=_INK, linewidth=0.9)
        axes.set_yticks(places, [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x)

    return draw(paint, title, 0.75 + 0.27 * len(rows))
