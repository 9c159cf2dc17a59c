"""From a dataset dict to what the model is fed: Detectron2's mapper with large-scale jitter."""

import math
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    SizeMismatchError,
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.file_io import PathManager
from PIL import Image
from PIL.Image import DecompressionBombError

from ..errors import UserError
from .bitmasks import draw_bitmasks

__all__ = ["BROKEN", "TransferDatasetMapper", "large_scale_jitter"]

# What a broken image or mask raises: Pillow's errors, Detectron2's and pycocotools'.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    AssertionError,
    RuntimeError,
    SizeMismatchError,
    DecompressionBombError,
)


class TransferDatasetMapper(DatasetMapper):
    """Detectron2's :class:`DatasetMapper`; ``INPUT.LSJ`` replaces its resizing and cropping.

    A training sample says under "resized" by what factor its image was resized.
    """

    @configurable
    def __init__(self, is_train: bool, **kwargs):
        super().__init__(is_train, **kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        arguments = super().from_config(cfg, is_train)
        if is_train and cfg.INPUT.LSJ.ENABLED:
            lsj = cfg.INPUT.LSJ
            arguments["augmentations"] = large_scale_jitter(
                lsj.SIZE, lsj.MIN_SCALE, lsj.MAX_SCALE, flip=cfg.INPUT.RANDOM_FLIP
            )
            # A crop moves the edges of what it cuts; boxes are made tight where masks allow.
            arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        paste = cfg.INPUT.COPY_PASTE
        if is_train and paste.ENABLED and not paste.BOXES:
            arguments["use_instance_mask"] = arguments["recompute_boxes"] = True
            arguments["instance_mask_format"] = "bitmask"
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """A sample as Detectron2's mapper makes it.

        Raises:
            SyntaxError: a PNG is damaged. Detectron2 asks Pillow for the EXIF data first and hides
                the error of that; what then is read has black for all that follows the damage
        """
        with PathManager.open(dataset_dict["file_name"], "rb") as file, Image.open(file) as image:
            if image.format == "PNG":
                image.verify()  # checksums alone, nothing is decoded
        return super().__call__(dataset_dict)

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: Any
    ) -> None:
        dataset_dict["resized"] = _resized(transforms)
        if all(a.get("iscrowd", 0) for a in dataset_dict["annotations"]):
            # Detectron2's would look for masks to make the boxes tight.
            del dataset_dict["annotations"]
            dataset_dict["instances"] = annotations_to_instances([], image_shape)
            return
        if self.use_instance_mask:
            _check_masks(dataset_dict)
        if self._draws_bitmasks(dataset_dict["annotations"]):
            annotations = dataset_dict.pop("annotations")
            dataset_dict["instances"] = self._instances(annotations, transforms, image_shape)
            return
        super()._transform_annotations(dataset_dict, transforms, image_shape)

    def _draws_bitmasks(self, annotations: list[dict[str, Any]]) -> bool:
        drawn = self.use_instance_mask and self.instance_mask_format == "bitmask"
        return drawn and not self.use_keypoint

    def _instances(
        self, annotations: list[dict[str, Any]], transforms: T.TransformList, image_shape: Any
    ) -> Instances:
        """What Detectron2's mapper makes of them, masks drawn faster."""
        objects = [
            transform_instance_annotations(annotation, transforms, image_shape)
            for annotation in annotations
            if not annotation.get("iscrowd", 0)
        ]
        drawn = draw_bitmasks([object_.pop("segmentation") for object_ in objects], *image_shape)
        masks, boxes, kept = drawn
        instances = annotations_to_instances([objects[index] for index in kept], image_shape)
        instances.gt_masks = BitMasks(masks)
        if self.recompute_boxes:
            instances.gt_boxes = Boxes(boxes)
            return instances
        return filter_empty_instances(instances, by_mask=False)


def _check_masks(dataset_dict: dict[str, Any]) -> None:
    """Datasets that somebody else registered are looked at here, image by image."""
    objects = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
    lacking = sum(not a.get("segmentation") for a in objects)
    if lacking:
        raise UserError(
            f"{dataset_dict['file_name']}: {lacking} of {len(objects)} objects have no mask; add "
            "masks, or train without: MODEL.MASK_ON False, INPUT.COPY_PASTE.BOXES True"
        )


def _resized(transforms: T.TransformList) -> float:
    """Pixels of the result to a pixel of the original, along a side."""
    resizes = [t for t in transforms.transforms if isinstance(t, T.ResizeTransform)]
    return math.prod(math.sqrt(t.new_h * t.new_w / (t.h * t.w)) for t in resizes)


class _ResizeScale(T.ResizeScale):
    """Detectron2's, which makes a very long and thin image 0 pixels high."""

    def _get_resize(self, image: np.ndarray, scale: float) -> T.Transform:
        resize = super()._get_resize(image, scale)
        resize.new_h, resize.new_w = max(resize.new_h, 1), max(resize.new_w, 1)
        return resize


def large_scale_jitter(
    size: int, min_scale: float, max_scale: float, *, flip: str = "horizontal"
) -> list[T.Augmentation]:
    """Scale by U(min_scale, max_scale) of `size`, crop or pad to `size` x `size` pixels.

    Args:
        flip: "horizontal", "vertical" or "none", as Detectron2's INPUT.RANDOM_FLIP

    Source: Ghiasi et al. 2021, section 3; Detectron2's configs/common/data/coco_panoptic_separated
    and new_baselines use the same transforms. Padding is 128, as theirs.
    """
    jitter = [
        _ResizeScale(
            min_scale=min_scale, max_scale=max_scale, target_height=size, target_width=size
        ),
        T.FixedSizeCrop(crop_size=(size, size)),
    ]
    if flip == "none":
        return jitter
    return [T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"), *jitter]
