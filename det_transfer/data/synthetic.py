"""A batch of made-up training data, to measure a detector without a dataset."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

__all__ = ["OBJECTS", "synthetic_batch"]

# Annotated objects an image. Source: COCO train2017 has 7.3 (860,001 in 117,266 images).
OBJECTS = 7


def synthetic_batch(
    cfg: CfgNode, images: int, size: int, seed: int = 0, *, objects: int = OBJECTS
) -> list[dict[str, Any]]:
    """Training samples as a Detectron2 mapper gives them: noise with boxes, and masks if asked for.

    Args:
        cfg: gives the classes, whether there are masks and in which form
        images: how many
        size: side of the square images in pixels
        objects: in each image
    """
    generator = torch.Generator().manual_seed(seed)
    return [_sample(cfg, size, objects, generator) for _ in range(images)]


def _sample(cfg: CfgNode, size: int, objects: int, generator: torch.Generator) -> dict[str, Any]:
    corners = torch.rand(objects, 2, generator=generator) * 0.6 * size
    sides = (0.1 + 0.3 * torch.rand(objects, 2, generator=generator)) * size
    boxes = torch.cat([corners, corners + sides], dim=1)
    classes = torch.randint(_classes(cfg), (objects,), generator=generator)
    instances = Instances((size, size), gt_boxes=Boxes(boxes), gt_classes=classes)
    if cfg.MODEL.MASK_ON:
        polygons = [[_rectangle(box)] for box in boxes.tolist()]
        if cfg.INPUT.MASK_FORMAT == "bitmask":
            instances.gt_masks = BitMasks.from_polygon_masks(polygons, size, size)
        else:
            instances.gt_masks = PolygonMasks(polygons)
    image = torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": size, "width": size}


def _classes(cfg: CfgNode) -> int:
    if "RetinaNet" in cfg.MODEL.META_ARCHITECTURE:
        return cfg.MODEL.RETINANET.NUM_CLASSES
    return cfg.MODEL.ROI_HEADS.NUM_CLASSES


def _rectangle(box: list[float]) -> np.ndarray:
    x0, y0, x1, y1 = box
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1])
