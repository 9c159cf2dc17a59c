"""Polygons to masks, as Detectron2 draws them bit for bit, in a fifth of its time.

A run-length code goes by columns, and Detectron2 turns each whole decoded mask round to rows, then
looks at all of its pixels for its box and again for whether it is empty. Here the code itself says
the box, and only what lies in it is turned.
"""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from numpy.typing import NDArray
from torch import Tensor

from .copy_paste import tight_box

__all__ = ["draw_bitmasks"]


def draw_bitmasks(
    segmentations: Sequence[list[NDArray] | NDArray], height: int, width: int
) -> tuple[Tensor, Tensor, list[int]]:
    """Draw masks, those apart that come out empty.

    Args:
        segmentations: of each object its polygons, (x0, y0, x1, y1, ...) each, or its mask
            (height, width)

    Returns:
        masks (N, height, width) bool, the boxes around them (N, 4) float32, and the indices of
        their segmentations
    """
    drawn = [_drawn(segmentation, height, width) for segmentation in segmentations]
    kept = [index for index, (_, box) in enumerate(drawn) if box is not None]
    masks = np.zeros((len(kept), height, width), dtype=bool)  # of which no page is written yet
    boxes = np.zeros((len(kept), 4), dtype=np.float32)
    for n, index in enumerate(kept):
        mask, boxes[n] = drawn[index]
        x0, y0, x1, y1 = boxes[n].astype(int)
        masks[n, y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return torch.from_numpy(masks), torch.from_numpy(boxes), kept


def _drawn(
    segmentation: list[NDArray] | NDArray, height: int, width: int
) -> tuple[NDArray, NDArray | None]:
    if isinstance(segmentation, np.ndarray):
        return segmentation, tight_box(segmentation)
    if not segmentation:  # all that there was is cropped away
        return np.zeros((0, 0)), None
    code = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    x, y, columns, rows = mask_util.toBbox(code)
    box = np.array([x, y, x + columns, y + rows]) if columns and rows else None
    return mask_util.decode(code), box
