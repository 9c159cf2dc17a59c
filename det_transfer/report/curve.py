"""Loss curves as a small SVG that reads on a white and on a dark page."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError

__all__ = ["loss_curve", "same_drawing"]

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
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, ScalarFormatter
    except ImportError as error:
        raise UserError("loss curves need matplotlib: pip install matplotlib") from error
    labels = list(dict.fromkeys(run["group"] for run in runs))
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
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
        axes.legend(
            lines.values(), lines, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
        )
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
