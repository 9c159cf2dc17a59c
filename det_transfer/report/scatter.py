"""Points of several networks side by side, coloured by class: pictures of t-SNE."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

__all__ = ["scatter"]


def scatter(
    panels: Sequence[tuple[str, NDArray[np.floating], NDArray[np.integer]]], side: float = 2.4
) -> bytes:
    """Draw panels in a row, as a PNG.

    Args:
        panels: title, points (N, 2) and labels (N,) of each
        side: of a panel, in inches at 100 dots an inch

    Raises:
        UserError: matplotlib is not installed
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(side * len(panels), side + 0.3), dpi=100, layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axes, (title, points, labels) in zip(all_axes, panels, strict=True):
        hues = labels / max(int(labels.max(initial=0)), 1)
        axes.scatter(*points.T, c=colormaps["turbo"](hues), s=3, linewidths=0)
        axes.set_title(title, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
