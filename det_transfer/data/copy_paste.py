"""Copy-Paste: objects of one image pasted onto another, as a pure function on arrays.

Source: Ghiasi et al. 2021 (Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation), section 3; the numbers are those of the authors' code (tensorflow/tpu
models/official/detection/dataloader/maskrcnn_parser_with_copy_paste.py). Theirs asks of all objects
at once whether any was hidden, so that one is enough for small ones elsewhere to be dropped; here
each object is asked for itself.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.functional import gaussian_blur

from ..errors import UserError

__all__ = ["EDGE_MOVED", "FEW_PIXELS", "Scene", "box_masks", "choose", "paste", "tight_box"]

# Pixels of the original image. Source: copy_paste_box_update_threshold, and
# copy_paste_occluded_obj_threshold.
EDGE_MOVED = 10.0
FEW_PIXELS = 300.0


@dataclass(frozen=True)
class Scene:
    """An image and its objects.

    Attributes:
        image: (H, W, C) uint8
        masks: (N, H, W) bool
        boxes: (N, 4) float, x0, y0, x1, y1 in pixels of `image`
        classes: (N,) int
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    boxes: NDArray[np.floating]
    classes: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, kept) -> "Scene":
        """The same image with some of the objects."""
        return replace(
            self, masks=self.masks[kept], boxes=self.boxes[kept], classes=self.classes[kept]
        )


def choose(
    count: int, share: float, rng: np.random.Generator, *, at_most: int | None = None
) -> NDArray[np.integer]:
    """Which of `count` objects are pasted.

    Args:
        share: in [0, 1): says how many. With a uniform one, each number from 0 to `count` (which
            is too) is as likely as another
        at_most: no more than so many
    """
    number = int(share * (count + 1))
    number = number if at_most is None else min(number, at_most)
    return np.sort(rng.permutation(count)[:number])


def paste(
    target: Scene, source: Scene, *, scale: float = 1.0, blend: float = 0.0, boxes: bool = False
) -> Scene:
    """Paste all objects of `source` onto `target`, which keeps what can still be seen of its own.

    Inputs are not changed. Objects of the target lose what lies under the paste. An edge of a box
    that thereby moves by more than 10 px follows its mask, the others stay. An object is dropped
    if nothing of it is left, or if an edge moved and at most 300 px are left.

    Args:
        source: an image of the same size
        scale: pixels of `target.image` to a pixel of the image that it was made from, in which the
            10 and the 300 count
        blend: standard deviation in pixels of the blur by which the pasted edge fades, in the image
            alone; 0 is a hard edge
        boxes: the masks are of :func:`box_masks`. Then an edge moves from where that of the mask
            was: it is that of the box rounded outwards, which is no movement

    Returns:
        the target's objects that are left, then those of the source

    Raises:
        UserError: the images are not of one size
    """
    if target.image.shape != source.image.shape:
        raise UserError(
            f"INPUT.COPY_PASTE.ENABLED: images of {target.image.shape} and {source.image.shape} "
            "(height, width, channels) differ; have the mapper make all of one size, as "
            "INPUT.LSJ.ENABLED does"
        )
    alpha = source.masks.any(axis=0)
    box = tight_box(alpha)
    if box is None:
        return target
    x0, y0, x1, y1 = box.astype(int)
    window = slice(y0, y1), slice(x0, x1)  # all that is looked at lies in it
    kept, left = _what_is_left(target, alpha, window, scale, rounded=boxes)
    masks = np.empty((len(kept) + len(source), *alpha.shape), dtype=bool)  # copied but once
    np.take(target.masks, kept, axis=0, out=masks[: len(kept)], mode="clip")
    masks[(slice(len(kept)), *window)] &= ~alpha[window]
    masks[len(kept) :] = source.masks
    return Scene(
        image=_composed(target.image, source.image, alpha, window, blend),
        masks=masks,
        boxes=np.concatenate([left, source.boxes.astype(left.dtype)]),
        classes=np.concatenate([target.classes[kept], source.classes.astype(target.classes.dtype)]),
    )


def _composed(
    target: NDArray, source: NDArray, alpha: NDArray, window: tuple[slice, slice], blend: float
) -> NDArray:
    if blend <= 0:
        image = target.copy(order="K")
        np.copyto(image[window], source[window], where=alpha[window][..., None])
        return image
    # In float: a blurred boolean is a boolean again, a dilation instead of a blend.
    hard = torch.from_numpy(alpha[None].astype(np.float32))
    soft = gaussian_blur(hard, 2 * math.ceil(3 * blend) + 1, blend).numpy()[0, ..., None]
    mixed = target * (1 - soft) + source * soft
    return np.rint(mixed).astype(target.dtype)


def _what_is_left(
    target: Scene, alpha: NDArray, window: tuple[slice, slice], scale: float, *, rounded: bool
) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """Indices of the objects that stay, and their boxes."""
    hidden = alpha[window]
    touched = (target.masks[(slice(None), *window)] & hidden).any(axis=(1, 2))
    boxes = target.boxes.copy()
    kept = np.ones(len(target), dtype=bool)
    for n in np.flatnonzero(touched):
        mask = target.masks[n].copy()
        mask[window] &= ~hidden
        tight = tight_box(mask)
        if tight is None:
            kept[n] = False
            continue
        before = tight_box(target.masks[n]) if rounded else target.boxes[n]
        moved = np.abs(tight - before) > EDGE_MOVED * scale
        boxes[n, moved] = tight[moved]
        kept[n] = not moved.any() or np.count_nonzero(mask) > FEW_PIXELS * scale**2
    return np.flatnonzero(kept), boxes[kept]


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.floating] | None:
    """x0, y0, x1, y1 around the pixels of a mask (H, W), outer edges; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def box_masks(boxes: NDArray[np.floating], height: int, width: int) -> NDArray[np.bool_]:
    """Filled rectangles (N, H, W), for data without masks: whole pixels that boxes touch."""
    masks = np.zeros((len(boxes), height, width), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        columns = slice(max(int(np.floor(x0)), 0), max(int(np.ceil(x1)), 0))
        mask[max(int(np.floor(y0)), 0) : max(int(np.ceil(y1)), 0), columns] = True
    return masks
