"""From a dataset dict to what the model is fed: Detectron2's mapper with large-scale jitter."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager
from PIL import Image

__all__ = ["TransferDatasetMapper", "large_scale_jitter"]


class TransferDatasetMapper(DatasetMapper):
    """Detectron2's :class:`DatasetMapper`; ``INPUT.LSJ`` replaces its resizing and cropping."""

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
        T.ResizeScale(
            min_scale=min_scale, max_scale=max_scale, target_height=size, target_width=size
        ),
        T.FixedSizeCrop(crop_size=(size, size)),
    ]
    if flip == "none":
        return jitter
    return [T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"), *jitter]
