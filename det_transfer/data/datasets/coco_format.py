"""COCO- and LVIS-format json files as Detectron2 dataset dicts, one reader for both.

Detectron2 has a reader for each; its LVIS one knows only the names of the official category lists,
so that a dataset of one's own in LVIS format cannot be read with it.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from ...errors import UserError, raise_all
from ..checks import format_problems

__all__ = ["JsonDataset"]

# What evaluation and the heads ask of an image or an annotation beyond Detectron2's own keys.
_LVIS_IMAGE_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


class JsonDataset:
    """A json in COCO or LVIS format and its image folder, read once when first needed.

    Attributes:
        classes (list[str]): names in the order of the contiguous ids 0..K-1
        contiguous_ids (dict[int, int]): category id of the json -> contiguous id
        style (str): ``"lvis"`` where the json says which classes an image was verified for
            (``neg_category_ids``), else ``"coco"``
    """

    def __init__(self, name: str, json_file: str, image_root: str):
        self.name = name
        self.json_file = str(json_file)
        self.image_root = str(image_root)

    @cached_property
    def _content(self) -> dict[str, Any]:
        """The parsed file. Raises: UserError where it is missing or in neither format."""
        return read_annotations(self.json_file, what=f"dataset {self.name}")

    @cached_property
    def categories(self) -> list[dict[str, Any]]:
        return sorted(self._content["categories"], key=lambda category: category["id"])

    @cached_property
    def style(self) -> str:
        return annotation_style(self._content)

    @property
    def classes(self) -> list[str]:
        return [str(category["name"]) for category in self.categories]

    @cached_property
    def contiguous_ids(self) -> dict[int, int]:
        return {category["id"]: index for index, category in enumerate(self.categories)}

    def __call__(self) -> list[dict[str, Any]]:
        """Dataset dicts, one an image, in the order of image ids; the file is let go after."""
        annotations: dict[int, list[dict]] = {}
        for annotation in self._content["annotations"]:
            annotations.setdefault(annotation["image_id"], []).append(annotation)
        images = sorted(self._content["images"], key=lambda image: image["id"])
        dicts = [self._dict(image, annotations.get(image["id"], ())) for image in images]
        # What else is asked of the file was taken from it; an LVIS json is a gigabyte as objects.
        _ = self.categories, self.style, self.contiguous_ids
        del self._content
        return dicts

    def _dict(self, image: dict, annotations) -> dict[str, Any]:
        return {
            "file_name": str(Path(self.image_root) / image_file(image)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            **{key: image[key] for key in _LVIS_IMAGE_KEYS if key in image},
            "annotations": list(self._annotations(annotations)),
        }

    def _annotations(self, annotations) -> Iterator[dict[str, Any]]:
        for annotation in annotations:
            if annotation.get("ignore", 0):
                continue
            result = {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": self.contiguous_ids[annotation["category_id"]],
                "iscrowd": annotation.get("iscrowd", 0),
            }
            segmentation = _usable(annotation.get("segmentation"))
            if segmentation:
                result["segmentation"] = segmentation
            yield result


def read_annotations(json_file: str, what: str = "annotations") -> dict[str, Any]:
    """The content of a COCO- or LVIS-format json.

    Raises:
        UserError: the file is missing, no json, or in neither format
    """
    path = Path(json_file)
    if not path.is_file():
        raise UserError(f"{what}: the file {path} does not exist")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{what}: {path} is not json: {error}") from error
    raise_all(f"{what}: {path}: {problem}" for problem in format_problems(content))
    return content


def annotation_style(content: dict[str, Any]) -> str:
    """``"lvis"`` where images say which classes they were verified for, else ``"coco"``."""
    images = content["images"]
    return "lvis" if images and "neg_category_ids" in images[0] else "coco"


def image_file(image: dict[str, Any]) -> str:
    """The path of an image below its folder; LVIS v1 gives it only as the tail of a URL."""
    if "file_name" in image:
        return image["file_name"]
    # http://images.cocodataset.org/train2017/000000391895.jpg -> train2017/000000391895.jpg
    return "/".join(image["coco_url"].split("/")[-2:])


def _usable(segmentation: Any) -> Any:
    """Run-length codes as they are; of polygons those with at least three points."""
    if isinstance(segmentation, list):
        return [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
    return segmentation
