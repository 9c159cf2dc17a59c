"""Everything that the json and the names of the files tell: cheap, done before each training."""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...segmentations import are_numbers, is_run_length, usable_polygons
from .findings import Finding, Severity, findings_of

__all__ = [
    "AnnotationCheck",
    "check_annotations",
    "frequency",
    "image_file",
    "reference_findings",
]

# Pixels; what a box may reach out of its image by rounding.
_ROUNDING = 1.0
# Pixels; beyond it is no place in an image, and NumPy can still work with it.
_FARTHEST = 1e9


@dataclass
class AnnotationCheck:
    """What :func:`check_annotations` found.

    Attributes:
        images, annotations: how many there are
        findings: worst first
        skip_images: ids of the images that training leaves out
        skip_annotations: ids of the annotations that it leaves out beside those
        run_length: whether a mask that is no crowd's is a run-length code
        without_masks: whether masks are to be trained and no object has one; none is skipped for it
    """

    images: int
    annotations: int
    findings: list[Finding] = field(default_factory=list)
    skip_images: set[int] = field(default_factory=set)
    skip_annotations: set[int] = field(default_factory=set)
    run_length: bool = False
    without_masks: bool = False

    @property
    def skipped_share(self) -> float:
        """Share of the images or of the annotations that is skipped, the larger of them."""
        images = len(self.skip_images) / max(self.images, 1)
        return max(images, len(self.skip_annotations) / max(self.annotations, 1))

    @property
    def fatal(self) -> list[Finding]:
        return [f for f in self.findings if f.severity is Severity.FATAL]


def image_file(image: dict[str, Any]) -> str:
    """The path of an image below its folder; LVIS v1 gives it only as the tail of a URL."""
    if "file_name" in image:
        return image["file_name"]
    # http://images.cocodataset.org/train2017/000000391895.jpg -> train2017/000000391895.jpg
    return "/".join(image["coco_url"].split("/")[-2:])


def check_annotations(
    content: dict[str, Any],
    image_root: str | os.PathLike | None = None,
    *,
    masks: bool = False,
) -> AnnotationCheck:
    """Check a json in COCO or LVIS format, without opening an image.

    Args:
        content: without :func:`~det_transfer.data.checks.format_problems`
        image_root: the folder of the images, to see which are missing; None: not looked at
        masks: masks are to be trained: an object without a good one is skipped
    """
    result = AnnotationCheck(len(content["images"]), len(content["annotations"]))
    found = _references(content)
    if not found:  # what follows goes by ids
        found |= _classes(content)
        found |= _boxes(content, result)
        found |= _masks(content, result) if masks else {}
        found |= _files(content, image_root, result)
        if len(result.skip_images) == result.images:
            found["no image left"] = [""]
        elif not _objects_left(content, result):
            found["no object left"] = [""]
    result.findings = findings_of(found)
    return result


def _objects_left(content: dict[str, Any], result: AnnotationCheck) -> bool:
    return any(
        _is_trained(a)
        and a["id"] not in result.skip_annotations
        and a["image_id"] not in result.skip_images
        for a in content["annotations"]
    )


def _is_trained(annotation: dict[str, Any]) -> bool:
    """Crowds, and what is to be ignored, are left out of training by what they are."""
    return not (annotation.get("iscrowd") or annotation.get("ignore"))


def reference_findings(content: dict[str, Any]) -> list[Finding]:
    """Ids that are there twice and ids that are not there: nothing can be made of such a file."""
    return findings_of(_references(content))


def _references(content: dict[str, Any]) -> dict[str, list[str]]:
    """Ids that are there twice, and ids that are not there."""
    found = {}
    for name, kind in (
        ("images", "image id twice"),
        ("annotations", "annotation id twice"),
        ("categories", "category id twice"),
    ):
        counts = Counter(entry["id"] for entry in content[name])
        found[kind] = [f"id {n}" for n, count in counts.items() if count > 1]
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    annotations = content["annotations"]
    found["unknown image"] = [
        f"annotation {a['id']}: image_id {a['image_id']}"
        for a in annotations
        if a["image_id"] not in images
    ]
    found["unknown category"] = [
        f"annotation {a['id']}: category_id {a['category_id']}"
        for a in annotations
        if a["category_id"] not in categories
    ] + [
        f"image {image['id']}: {key} {n}"
        for image in content["images"]
        for key in ("neg_category_ids", "not_exhaustive_category_ids")
        for n in image.get(key, ())
        if n not in categories
    ]
    return {kind: places for kind, places in found.items() if places}


def _classes(content: dict[str, Any]) -> dict[str, list[str]]:
    names = Counter(str(category["name"]) for category in content["categories"])
    every = {a["category_id"] for a in content["annotations"]}
    real = {a["category_id"] for a in content["annotations"] if _is_trained(a)}
    categories = content["categories"]
    return {
        "class name twice": [name for name, count in names.items() if count > 1],
        "blank class name": [
            f"category {c['id']}: {c['name']!r}"
            for c in categories
            if not isinstance(c["name"], str) or not c["name"].strip()
        ],
        "class without images": [c["name"] for c in categories if c["id"] not in every],
        "class of crowds": [c["name"] for c in categories if c["id"] in every - real],
        "frequency": [
            f"{c['name']}: {c['frequency']} with {c.get('image_count', 'unknown')} images"
            for c in categories
            if "frequency" in c and not _is_frequency(c["frequency"], c.get("image_count"))
        ],
    }


def _is_frequency(letter: Any, image_count: Any) -> bool:
    if image_count is None:
        return letter in ("r", "c", "f")
    return type(image_count) is int and letter == frequency(image_count)


def frequency(train_images: int) -> str:
    """LVIS' letter for a class: rare, common or frequent.

    Source: Gupta et al., LVIS, CVPR 2019 (https://arxiv.org/abs/1908.03195): rare in 1-10 train
    images, common in 11-100, frequent in more.
    """
    return "r" if train_images <= 10 else "c" if train_images <= 100 else "f"


# Boxes -------------------------------------------------------------------------------------------


def _boxes(content: dict[str, Any], result: AnnotationCheck) -> dict[str, list[str]]:
    annotations = content["annotations"]
    boxes = _as_array(annotations)
    ids = np.array([a["id"] for a in annotations], np.int64)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    limits = np.array([sizes[a["image_id"]] for a in annotations], float).reshape(-1, 2)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    broken = ~np.isfinite(boxes).all(axis=1)
    flat = ~broken & (boxes[:, 2:] <= 0).any(axis=1)
    outside = ~broken & ~flat & ((high <= 0) | (low >= limits)).any(axis=1)
    reach = np.maximum(-low, high - limits).max(axis=1, initial=-np.inf)
    over = ~(broken | flat | outside) & (reach > _ROUNDING)
    result.skip_annotations |= set(ids[broken | flat | outside].tolist())
    return {
        kind: [f"annotation {ids[k]}: {annotations[k]['bbox']!s:.60}" for k in np.flatnonzero(mask)]
        for kind, mask in (
            ("box not of numbers", broken),
            ("box without area", flat),
            ("box outside", outside),
            ("box over the edge", over),
        )
    }


def _as_array(annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N, 4) float; a row of NaN for what is no box."""
    none = [math.nan] * 4
    boxes = [a["bbox"] for a in annotations]
    sound = [b if are_numbers(b, _FARTHEST) and len(b) == 4 else none for b in boxes]
    return np.array(sound, np.float64).reshape(-1, 4)


# Masks -------------------------------------------------------------------------------------------


def _masks(content: dict[str, Any], result: AnnotationCheck) -> dict[str, list[str]]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found: dict[str, list[str]] = defaultdict(list)
    trained = [a for a in content["annotations"] if _is_trained(a)]
    result.without_masks = bool(trained) and not any(a.get("segmentation") for a in trained)
    if result.without_masks:
        return {}
    for annotation in trained:
        segmentation = annotation.get("segmentation")
        result.run_length |= isinstance(segmentation, dict)
        kind = _mask_problem(segmentation, sizes[annotation["image_id"]])
        if kind:
            found[kind].append(f"annotation {annotation['id']} of image {annotation['image_id']}")
            if kind != "polygon dropped":
                result.skip_annotations.add(annotation["id"])
    return found


def _mask_problem(segmentation: Any, size: tuple[int, int]) -> str:
    if not segmentation:
        return "no mask"
    if isinstance(segmentation, dict):
        return "" if is_run_length(segmentation, size) else "bad run-length code"
    usable = usable_polygons(segmentation, *size) if isinstance(segmentation, list) else []
    if not usable:
        return "bad polygon"
    return "" if len(usable) == len(segmentation) else "polygon dropped"


# Files -------------------------------------------------------------------------------------------


def _files(
    content: dict[str, Any], image_root: str | os.PathLike | None, result: AnnotationCheck
) -> dict[str, list[str]]:
    files = {image["id"]: image_file(image) for image in content["images"]}
    counts = Counter(files.values())
    found = {"file twice": [name for name, count in counts.items() if count > 1]}
    if image_root is not None:
        missing = dict(_missing(Path(image_root), files.items()))
        result.skip_images |= set(missing)
        found["missing image"] = list(missing.values())
    return found


def _missing(root: Path, files: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Ids and paths of the files that are not there; each folder is listed once."""
    folders: dict[Path, set[str]] = {}
    for n, file in files:
        path = root / file
        if path.parent not in folders:
            exists = path.parent.is_dir()
            folders[path.parent] = set(os.listdir(path.parent)) if exists else set()
        here = folders[path.parent]
        if path.name not in here:
            alike = [name for name in here if name.lower() == path.name.lower()]
            yield n, f"{path}, but there is {alike[0]}" if alike else str(path)
