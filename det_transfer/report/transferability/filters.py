"""The first layer's filters of the bases as pictures: what was learned beside where it began."""

import base64
import io
import zipfile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...run_folder import filters_file
from ..html import Picture
from .reading import Experiment

__all__ = ["filter_pictures", "grid", "smoothness"]

_WIDTH = 400  # pixels that a grid has at least, so that single weights are seen


def filter_pictures(experiment: Experiment) -> tuple[list[Picture], list[str]]:
    """A picture for each base that has its filters, and sentences about those that have none."""
    pictures, missing = [], []
    for run in experiment.finished:
        if run.treatment != "base":
            continue
        path = filters_file(experiment.folder / run.name)
        if not path.is_file():
            missing.append(f"{run.name} has no {path.name}: its filters are not shown")
            continue
        try:
            trained, initial = _read(path)
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            missing.append(
                f"{run.name}/{path.name} cannot be read ({error}): its filters are not shown"
            )
            continue
        n, _, height, width = trained.shape
        note = (
            f"{n} filters of {height} x {width}; likeness of neighbouring weights: trained "
            f"{_rounded(trained)}, initial {_rounded(initial)}"
        )
        shown = [_encoded(trained, "trained"), _encoded(initial, "initial")]
        pictures.append(Picture(run.name, shown, note))
    return pictures, missing


def _read(path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with np.load(path, allow_pickle=False) as content:
        found = [np.asarray(content[name], np.float32) for name in ("trained", "initial")]
    for weights in found:
        if weights.ndim != 4 or weights.shape[1] != 3 or not weights.size:
            raise ValueError(f"of shape {weights.shape}, not (N, 3, h, w)")
        if not np.isfinite(weights).all():
            raise ValueError("weights that are not numbers")
    return found[0], found[1]


def _rounded(weights: NDArray) -> str:
    return f"{round(smoothness(weights), 2) + 0.0:.2f}"  # no minus before zero


def smoothness(weights: NDArray) -> float:
    """Correlation of weights that are neighbours: 0 of noise, towards 1 of edges and blobs.

    Args:
        weights: (N, 3, h, w)
    """
    centred = weights - weights.mean(axis=(2, 3), keepdims=True)
    power = float((centred**2).mean())
    if weights.shape[2] < 2 or weights.shape[3] < 2 or not power:
        return 0.0
    # Taking the mean of h w weights away makes noise of them anti-correlated by 1 / (h w - 1).
    area = weights.shape[2] * weights.shape[3]
    across = float((centred[..., 1:] * centred[..., :-1]).mean())
    down = float((centred[..., 1:, :] * centred[..., :-1, :]).mean())
    return (across + down) / 2 / power + 1 / (area - 1)


def grid(weights: NDArray) -> NDArray[np.uint8]:
    """Filters side by side, each from its own darkest to its own brightest weight.

    Args:
        weights: (N, 3, h, w)

    Returns:
        (H, W, 4) RGBA, one pixel a weight, clear between filters; about twice as wide as high
    """
    n, _, height, width = weights.shape
    low = weights.min(axis=(1, 2, 3), keepdims=True)
    span = weights.max(axis=(1, 2, 3), keepdims=True) - low
    level = np.where(span > 0, (weights - low) / np.where(span > 0, span, 1), 0.5)
    columns = min(n, int(np.ceil(np.sqrt(2 * n))))
    rows = -(-n // columns)
    # Clear on the right too: another grid stands there.
    shown = np.zeros((rows * (height + 1) - 1, columns * (width + 1) + width // 2, 4), np.uint8)
    for k, picture in enumerate((255 * level).round().astype(np.uint8)):
        top, left = (k // columns) * (height + 1), (k % columns) * (width + 1)
        place = shown[top : top + height, left : left + width]
        place[..., :3] = picture.transpose(1, 2, 0)
        place[..., 3] = 255
    return shown


def _encoded(weights: NDArray, words: str) -> tuple[str, str, int, int]:
    small = grid(weights)
    scale = max(1, -(-_WIDTH // small.shape[1]))
    picture = Image.fromarray(small.repeat(scale, axis=0).repeat(scale, axis=1))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/png;base64,{data}", words, picture.width, picture.height
