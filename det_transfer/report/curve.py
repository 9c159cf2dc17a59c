"""Curves as a small SVG that reads on a white and on a dark page."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UserError

__all__ = ["loss_curve", "same_drawing", "transfer_curve"]

_STYLE = {
    "svg.hashsalt": "det_transfer",  # otherwise ids are drawn at random
    "svg.fonttype": "none",  # text as text: small, and found by a search
    "figure.facecolor": "white",  # not transparent: a dark page would swallow the text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}

_COLOURS = 10  # of matplotlib's default cycle
_DASHES = ("-", "--", ":")  # of the groups after so many, and so on

# Matplotlib makes names of all digits of floats: the last one is another processor's.
_HASHED = re.compile(rb"(?<=[\"#])[a-z][0-9a-f]{10}(?=[\")])")


def loss_curve(runs: Sequence[Mapping[str, Any]], image_format: str = "svg") -> bytes:
    """Draw the losses of runs: a line for each run, a colour or dash for each group.

    Args:
        runs: the rows of a json of results (``det_transfer.report.collect``)

    Returns:
        the image; the same runs and the same matplotlib give the same bytes

    Raises:
        UserError: matplotlib is not installed
    """
    labels = list(dict.fromkeys(run["group"] for run in runs))

    def paint(axes: Any) -> None:
        from matplotlib.ticker import LogLocator, ScalarFormatter

        for run in runs:
            loss = run["loss"]
            again, colour = divmod(labels.index(run["group"]), _COLOURS)
            style = {"color": f"C{colour}", "linestyle": _DASHES[again % len(_DASHES)]}
            axes.plot(loss["iteration"], loss["total_loss"], linewidth=1.2, **style)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter("")
        axes.set_xlabel("iteration")
        axes.set_ylabel("total loss (logarithmic)")
        lines = {run["group"]: line for run, line in zip(runs, axes.lines, strict=True)}
        _legend(axes, lines)

    return _drawn(paint, image_format)


def transfer_curve(content: Mapping[str, Any]) -> bytes:
    """Draw the mean differences to the base over n: a line for each treatment and kind of split.

    Args:
        content: a json of a transferability experiment (``det_transfer.report.transferability``)
    """

    def paint(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        lines = {}
        axes.axhline(0, color="0.4", linewidth=0.8, linestyle=":")
        curves: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in content["differences"]:
            if row["subtrahend"] == "base" and row["minuend"] != "random":
                curves.setdefault((row["minuend"], row["kind"]), []).append(row)
        treatments = list(dict.fromkeys(treatment for treatment, _ in curves))
        kinds = list(dict.fromkeys(kind for _, kind in curves))
        for (treatment, kind), rows in curves.items():
            style = {
                "color": f"C{treatments.index(treatment)}",
                "linestyle": _DASHES[kinds.index(kind) % len(_DASHES)],
            }
            means = [row["mean"] for row in rows]
            (lines[f"{treatment}, {kind}"],) = axes.plot(
                [row["n"] for row in rows], means, marker="o", markersize=3, linewidth=1.2, **style
            )
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("n, layers copied")
        axes.set_ylabel("top-1 minus that of the base")
        _legend(axes, lines)

    return _drawn(paint, "svg")


def _legend(axes: Any, lines: Mapping[str, Any]) -> None:
    axes.legend(lines.values(), lines, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _drawn(paint: Callable[[Any], None], image_format: str) -> bytes:
    """The image of what `paint` draws into its axes."""
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("curves need matplotlib: pip install matplotlib") from error
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        paint(axes)
        buffer = io.BytesIO()
        metadata = {"Date": None} if image_format == "svg" else None
        figure.savefig(buffer, format=image_format, metadata=metadata, dpi=150)
    return buffer.getvalue()


def same_drawing(one: bytes, other: bytes) -> bool:
    """Whether two SVGs are the same; those of two versions of matplotlib cannot be compared."""
    return _HASHED.sub(b"", one) == _HASHED.sub(b"", other) or _drawn_by(one) != _drawn_by(other)


def _drawn_by(svg: bytes) -> bytes:
    """The line with matplotlib's version."""
    return next((line for line in svg.splitlines() if b"Matplotlib v" in line), b"")
