"""AP by class against how much of the class there was to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["GROUPS", "ClassRow", "bins", "group_of", "smoothed"]

GROUPS = {"r": "rare", "c": "common", "f": "frequent"}
_WIDTH = 0.25  # decades: the width of the smoothing kernel


@dataclass(frozen=True)
class ClassRow:
    """Attributes:
    value: AP, or a difference in AP; None where the class has no object in the test set
    images, objects: in the training data; None where it is not known
    """

    name: str
    value: float | None
    images: int | None
    objects: int | None
    frequency: str | None
    n_gt: int


def group_of(row: ClassRow) -> str | None:
    """LVIS' letter: the json's, else by training images.

    Source: Gupta et al. 2019: to 10 images rare, to 100 common.
    """
    if row.frequency:
        return row.frequency
    if row.images is None:
        return None
    return "r" if row.images <= 10 else "c" if row.images <= 100 else "f"


def bins(rows: Sequence[ClassRow]) -> list[tuple[str, int, float, float]]:
    """By group: its name, classes with a value, mean and median value."""
    found = []
    for letter, name in GROUPS.items():
        values = [r.value for r in rows if group_of(r) == letter and r.value is not None]
        if values:
            found.append((name, len(values), float(np.mean(values)), float(np.median(values))))
    return found


def smoothed(counts: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A line through values over counts: at each place a mean, weighted by nearness in log count.

    Source: Nadaraya 1964, Watson 1964; a Gaussian kernel of a quarter of a decade.
    """
    x, y = np.log10(np.asarray(counts, float)), np.asarray(values, float)
    if len(x) < 2 or x.min() == x.max():
        return np.empty(0), np.empty(0)
    places = np.linspace(x.min(), x.max(), 60)
    weights = np.exp(-0.5 * ((places[:, None] - x) / _WIDTH) ** 2)
    # Where no class is near, the nearest few still have some weight, but not enough for a line.
    known = weights.sum(axis=1) > 0.05
    means = weights @ y / np.maximum(weights.sum(axis=1), 1e-300)
    return 10 ** places[known], means[known]
