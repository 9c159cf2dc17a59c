"""COCO- and LVIS-format json files as Detectron2 dataset dicts, one reader for both.

Detectron2 has a reader for each; its LVIS one knows only the names of the official category lists,
so that a dataset of one's own in LVIS format cannot be read with it.
"""

import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from ...documents import read_json
from ...errors import raise_all
from ...segmentations import is_run_length, usable_polygons
from ..checks import AnnotationCheck, check_annotations, format_problems
from ..checks.annotations import image_file, reference_findings
from ..records import Content, content_of_file

__all__ = ["JsonDataset"]

logger = logging.getLogger(__name__)

# What evaluation and the heads ask of an image or an annotation beyond Detectron2's own keys.
_LVIS_IMAGE_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


class JsonDataset:
    """A json in COCO or LVIS format and its image folder, read once when first needed.

    Args:
        masks: masks are to be trained; objects without one are left out
        cache_dir: see :func:`~det_transfer.data.records.content_of_file`

    Attributes:
        classes (list[str]): names in the order of the contiguous ids 0..K-1
        contiguous_ids (dict[int, int]): category id of the json -> contiguous id
        style (str): ``"lvis"`` where the json says which classes an image was verified for
            (``neg_category_ids``), else ``"coco"``
        check (AnnotationCheck): what is wrong with the annotations and the names of the files
    """

    def __init__(
        self,
        name: str,
        json_file: str,
        image_root: str,
        *,
        masks: bool = False,
        cache_dir: str = "",
    ):
        self.name = name
        self.masks = masks
        self.json_file = str(json_file)
        self.image_root = str(image_root)
        self.cache_dir = cache_dir

    @cached_property
    def content(self) -> Content:
        """Raises: UserError where the file is missing or in neither format."""
        key = ("json", self.image_root, os.path.abspath(self.image_root), f"masks {self.masks}")
        return content_of_file(self.json_file, self._read, cache_dir=self.cache_dir, key=key)

    @property
    def check(self) -> AnnotationCheck:
        return self.content.facts["check"]

    @property
    def style(self) -> str:
        return self.content.facts["style"]

    @property
    def classes(self) -> list[str]:
        return self.content.facts["classes"]

    @property
    def contiguous_ids(self) -> dict[int, int]:
        return self.content.facts["contiguous_ids"]

    def __call__(self) -> list[dict[str, Any]]:
        """Dataset dicts, one an image, in the order of image ids.

        Images and annotations that :attr:`check` says to skip are left out.
        """
        skip = self.check
        if skip.skip_images or skip.skip_annotations:
            logger.warning(
                "dataset %s: skipped %d images and %d annotations",
                self.name,
                len(skip.skip_images),
                len(skip.skip_annotations),
            )
        return list(self.content.records)

    def _read(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        content = read_annotations(self.json_file, what=f"dataset {self.name}")
        categories = sorted(content["categories"], key=lambda category: category["id"])
        facts = {
            "check": check_annotations(content, self.image_root, masks=self.masks),
            "style": annotation_style(content),
            "classes": [str(category["name"]) for category in categories],
            "contiguous_ids": {c["id"]: index for index, c in enumerate(categories)},
        }
        return _dicts(content, facts, self.image_root), facts


def _dicts(content: dict[str, Any], facts: dict[str, Any], root: str) -> list[dict[str, Any]]:
    skip: AnnotationCheck = facts["check"]
    annotations: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        if annotation["id"] not in skip.skip_annotations and not annotation.get("ignore", 0):
            annotations.setdefault(annotation["image_id"], []).append(annotation)
    images = sorted(content["images"], key=lambda image: image["id"])
    return [
        {
            "file_name": str(Path(root) / image_file(image)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            **{key: image[key] for key in _LVIS_IMAGE_KEYS if key in image},
            "annotations": [
                _annotation(annotation, facts["contiguous_ids"], image["height"], image["width"])
                for annotation in annotations.get(image["id"], ())
            ],
        }
        for image in images
        if image["id"] not in skip.skip_images
    ]


def _annotation(
    annotation: dict[str, Any], contiguous_ids: dict[int, int], height: int, width: int
) -> dict[str, Any]:
    result = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous_ids[annotation["category_id"]],
        "iscrowd": annotation.get("iscrowd", 0),
    }
    segmentation = _usable(annotation.get("segmentation"), height, width)
    if segmentation:
        result["segmentation"] = segmentation
    return result


def read_annotations(json_file: str, what: str = "annotations") -> dict[str, Any]:
    """The content of a COCO- or LVIS-format json.

    Raises:
        UserError: the file is missing, no json, or in neither format
    """
    content = read_json(json_file, f"{what}:")
    problems = list(format_problems(content)) or reference_findings(content)
    raise_all(f"{what}: {json_file}: {problem}" for problem in problems)
    return content


def annotation_style(content: dict[str, Any]) -> str:
    """``"lvis"`` where images say which classes they were verified for, else ``"coco"``."""
    images = content["images"]
    return "lvis" if images and "neg_category_ids" in images[0] else "coco"


def _usable(segmentation: Any, height: int, width: int) -> Any:
    """Run-length codes, compressed as Detectron2 wants them; of polygons those that can be drawn.

    A code that :func:`check_annotations` finds bad is left as it is: a crowd's, which nobody reads,
    or one of a dataset that is trained without masks.
    """
    if isinstance(segmentation, list):
        return usable_polygons(segmentation, height, width)
    if isinstance(segmentation, dict) and is_run_length(segmentation, (height, width)):
        plain = isinstance(segmentation["counts"], list)
        return mask_util.frPyObjects(segmentation, height, width) if plain else segmentation
    return segmentation
