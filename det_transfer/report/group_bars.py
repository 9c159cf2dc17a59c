"""What groups of runs reached and what it took, as one small SVG: the picture of a README."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError

__all__ = ["group_bars"]

_STYLE = {
    "svg.hashsalt": "det_transfer",  # otherwise ids are drawn at random
    "svg.fonttype": "none",  # text as text: small, and found by a search
    "figure.facecolor": "white",  # not transparent: a dark page would swallow the text
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.left": False,
    "legend.frameon": False,
}
_NAMES = {"AP": "all classes", "APr": "rare", "APc": "common", "APf": "frequent"}


def group_bars(content: Mapping[str, Any], metrics: Sequence[str], task: str = "bbox") -> bytes:
    """Draw metrics of groups of runs beside their minutes of training; ends of bars are means.

    Args:
        content: a json of results (``det_transfer.report.collect``)
        metrics: keys of the results, in 0 to 100, e.g. ["AP", "APr"]
        task: "bbox" or "segm"

    Returns:
        an SVG; the same numbers and the same matplotlib give the same bytes

    Raises:
        UserError: a group has no such results
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    groups = content["groups"]
    reached = [[_mean(group, task, metric) for metric in metrics] for group in groups]
    minutes = [group["training_s"]["mean"] / 60 for group in groups]
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 1])
        width = 0.8 / len(groups)
        for number, (group, values) in enumerate(zip(groups, reached, strict=True)):
            places = [k + (number - (len(groups) - 1) / 2) * width for k in range(len(metrics))]
            drawn = left.bar(places, values, 0.9 * width, label=group["label"])
            left.bar_label(drawn, fmt="%.0f", fontsize=9)
        left.set_xticks(range(len(metrics)), [_NAMES.get(metric, metric) for metric in metrics])
        left.set_yticks([])
        left.set_title("AP (0 to 100)", loc="left")
        left.legend()
        colours = [f"C{number}" for number in range(len(groups))]
        right.bar_label(right.bar(range(len(groups)), minutes, color=colours), fmt="%.1f")
        right.set_xticks([])
        right.set_yticks([])
        right.set_title("minutes of training", loc="left")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _mean(group: Mapping[str, Any], task: str, metric: str) -> float:
    for results in group["results"].values():
        if metric in results.get(task, {}):
            return results[task][metric]["mean"]
    raise UserError(f"the group {group['label']!r} has no {task}/{metric}")
