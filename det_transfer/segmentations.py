"""Which masks of a COCO- or LVIS-format json can be drawn, and their codes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

__all__ = ["are_numbers", "is_run_length", "mask_code", "usable_polygons"]

_NUMBERS = {int, float}  # not bool, which json tells apart


def are_numbers(values: Any, farthest: float) -> bool:
    """Whether it is a list of finite numbers from -`farthest` to `farthest`."""
    return (
        isinstance(values, list | tuple)
        and len(values) > 0
        and _NUMBERS.issuperset(map(type, values))
        and -farthest <= min(values)
        and max(values) <= farthest
        and math.isfinite(sum(values))  # a NaN that min and max have passed over
    )


def usable_polygons(segmentation: Sequence[Any], height: int, width: int) -> list[Sequence[float]]:
    """Polygons of an even number of finite values, three points at least, near their image.

    Near is twice its longer side. Drawing a mask takes memory with the length of its outline: one
    NaN, or a point a thousand million pixels away, takes all that the machine has (pycocotools).
    """
    farthest = 2 * max(height, width)
    return [p for p in segmentation if are_numbers(p, farthest) and len(p) % 2 == 0 and len(p) >= 6]


def is_run_length(code: dict[str, Any], size: tuple[int, int]) -> bool:
    """Compressed counts are text; plain ones are the lengths of the runs, all pixels together."""
    counts = code.get("counts")
    if code.get("size") != list(size):
        return False
    if isinstance(counts, list):
        return {int}.issuperset(map(type, counts)) and (
            min(counts, default=-1) >= 0 and sum(counts) == size[0] * size[1]
        )
    return isinstance(counts, str) and bool(counts)


def mask_code(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """The compressed run-length code of a mask; of one that cannot be drawn an empty one's."""
    if isinstance(segmentation, list):
        polygons = usable_polygons(segmentation, height, width)
        if polygons:
            return mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    elif isinstance(segmentation, dict) and is_run_length(segmentation, (height, width)):
        plain = isinstance(segmentation["counts"], list)
        return mask_util.frPyObjects(segmentation, height, width) if plain else segmentation
    return mask_util.encode(np.zeros((height, width), np.uint8, order="F"))
