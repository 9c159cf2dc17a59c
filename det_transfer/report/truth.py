"""The ground truth of a test set and what a run found in it, as columns."""

import functools
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import run_folder
from ..documents import read_json
from ..errors import UserError
from ..run_lengths import RunLengths
from ..segmentations import mask_code

__all__ = ["Found", "Truth", "read_found", "read_truth"]

_FIELDS = ("image_id", "category_id", "score", "box")


@dataclass(frozen=True)
class Truth:
    """N objects in I images, of K categories. Images and categories stand in order of their ids.

    Attributes:
        image_ids: (I,) int64, ascending
        category_ids: (K,) int64, ascending
        names, frequencies: of the categories; frequency "r", "c", "f" or None
        files: of the images, below the image folder
        sizes: (I, 2) height and width in pixels
        images, categories: (N,) int64 indices
        boxes: (N, 4) float64, x, y, width, height in pixels
        areas: (N,) float64, as the json says
        crowds: (N,) bool
        masks: N segmentations as in the json, where they were asked for
        verified: (V,) sorted codes image * K + category in which a category counts in an image
            (LVIS); None: all do
        partial: the same, where not all objects are annotated (LVIS)
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    names: Sequence[str]
    frequencies: Sequence[str | None]
    files: Sequence[str]
    sizes: NDArray[np.int64]
    images: NDArray[np.int64]
    categories: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]
    masks: Sequence[Any] | None = None
    verified: NDArray[np.int64] | None = None
    partial: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def codes(self, images: NDArray, categories: NDArray) -> NDArray[np.int64]:
        """One number for an image and a category."""
        return images * len(self.category_ids) + categories


@dataclass(frozen=True)
class Found:
    """D detections of one run, indices into a :class:`Truth`.

    Attributes:
        images, categories: (D,) int64
        scores: (D,) float64
        boxes: (D, 4) float64, x, y, width, height in pixels
        masks: D run-length codes, or None
    """

    images: NDArray[np.int64]
    categories: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    masks: Sequence[dict] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray) -> "Found":
        """The detections at these indices."""
        masks = None if self.masks is None else [self.masks[row] for row in rows.tolist()]
        columns = (self.images, self.categories, self.scores, self.boxes)
        return Found(*(column[rows] for column in columns), masks)


def read_truth(json_file: str | Path, protocol: str = "coco", *, masks: bool = False) -> Truth:
    """Read a json in COCO or LVIS format.

    Args:
        protocol: "lvis" reads what is verified in which image, and knows no crowds
        masks: keep segmentations, which take most of the memory

    Raises:
        UserError: the file is missing or is no such json
    """
    hook = functools.partial(_lean, masks=masks)
    try:
        content = read_json(json_file, "annotation file", hook=hook)
        return _columns(content, protocol, masks)
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"annotation file {json_file} cannot be read: {type(error).__name__}: {error}"
        ) from error


def _lean(entry: dict, masks: bool) -> dict | tuple:
    """An annotation without what is not needed, while the file is read: LVIS has a million."""
    if "bbox" not in entry or "image_id" not in entry:
        return entry
    kept = entry.get("segmentation") if masks else None
    area = entry.get("area", entry["bbox"][2] * entry["bbox"][3])
    crowd = bool(entry.get("iscrowd", 0))
    return (entry["image_id"], entry["category_id"], tuple(entry["bbox"]), area, crowd, kept)


def _columns(content: dict[str, Any], protocol: str, masks: bool) -> Truth:
    images = sorted(content["images"], key=lambda image: image["id"])
    categories = sorted(content["categories"], key=lambda category: category["id"])
    rows = [row for row in content["annotations"] if isinstance(row, tuple)]
    image_ids = np.array([image["id"] for image in images], np.int64)
    category_ids = np.array([category["id"] for category in categories], np.int64)
    # In the order of the file, which decides between equals.
    where = np.searchsorted(image_ids, np.array([row[0] for row in rows], np.int64))
    what = np.searchsorted(category_ids, np.array([row[1] for row in rows], np.int64))
    crowds = np.array([row[4] for row in rows], bool)
    lvis = protocol == "lvis"
    truth = Truth(
        image_ids=image_ids,
        category_ids=category_ids,
        names=[str(category["name"]) for category in categories],
        frequencies=[category.get("frequency") for category in categories],
        files=[_file(image) for image in images],
        sizes=np.array([(i["height"], i["width"]) for i in images], np.int64).reshape(-1, 2),
        images=where,
        categories=what,
        boxes=np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
        areas=np.array([row[3] for row in rows], np.float64),
        crowds=np.zeros(len(rows), bool) if lvis else crowds,
        masks=[row[5] for row in rows] if masks else None,
    )
    if not lvis:
        return truth
    negative = _listed(truth, images, "neg_category_ids")
    present = truth.codes(where, what)
    partial = _listed(truth, images, "not_exhaustive_category_ids")
    lists = {"verified": np.union1d(present, negative), "partial": np.unique(partial)}
    return Truth(**{**vars(truth), **lists})


def _file(image: dict[str, Any]) -> str:
    return image.get("file_name") or "/".join(image.get("coco_url", "").split("/")[-2:])


def _listed(truth: Truth, images: Sequence[dict], key: str) -> NDArray[np.int64]:
    """Codes of the images' lists of category ids."""
    lists = [image.get(key) or () for image in images]
    where = np.repeat(np.arange(len(images)), [len(ids) for ids in lists])
    ids = np.array([i for one in lists for i in one], np.int64)
    known = np.isin(ids, truth.category_ids)
    return truth.codes(where[known], np.searchsorted(truth.category_ids, ids[known]))


def read_found(run: str | Path, dataset: str, truth: Truth, *, masks: bool = False) -> Found:
    """Read what a run has found in the images of `truth`.

    Raises:
        UserError: there are no predictions, no masks where they are asked for, or they are of
            other images or categories
    """
    folder = run_folder.eval_folder(run, dataset) / "predictions"
    parts = run_folder.prediction_parts(folder)
    if not parts:
        raise UserError(f"{folder} has no predictions; tools/train_net.py --eval-only makes them")
    try:
        columns, rles = _columns_of(parts, masks)
    except (zipfile.BadZipFile, LookupError, ValueError, TypeError, OSError, EOFError) as error:
        raise UserError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    images, categories, scores, boxes = (np.concatenate(columns[k]) for k in _FIELDS)
    strange = ~np.isin(images, truth.image_ids), ~np.isin(categories, truth.category_ids)
    for what, wrong, ids in zip(("image", "category"), strange, (images, categories), strict=True):
        if wrong.any():
            raise UserError(
                f"{folder} has detections of {what} {ids[wrong][0]}, which the annotation file "
                "does not have: the run was evaluated on other data"
            )
    if masks and len(rles) != len(scores):
        raise UserError(f"{folder} has no masks; compare boxes with --task bbox")
    found = Found(
        np.searchsorted(truth.image_ids, images),
        np.searchsorted(truth.category_ids, categories),
        scores.astype(np.float64),
        boxes.astype(np.float64),
        rles if masks else None,
    )
    if len(parts) > 1:  # two processes may have seen one image
        found = _first_part(found, columns["image_id"])
    return found


def _columns_of(parts: Sequence[Path], masks: bool) -> tuple[dict[str, list], RunLengths]:
    """The chunks of all parts by field, and the masks where they are asked for."""
    columns: dict[str, list] = {key: [] for key in _FIELDS}
    rles: list[RunLengths] = []
    for part in parts:
        for chunk in run_folder.read_predictions(part):
            for key in _FIELDS:
                columns[key].append(chunk[key])
            if masks and "rles" in chunk:
                rles.append(chunk["rles"])
    return columns, RunLengths.joined(rles)


def _first_part(found: Found, chunks: Sequence[NDArray]) -> Found:
    """Of an image in several chunks, the detections of the first."""
    chunk_of = np.repeat(np.arange(len(chunks)), [len(chunk) for chunk in chunks])
    first = np.full(int(found.images.max(initial=-1)) + 1, len(chunks))
    np.minimum.at(first, found.images, chunk_of)
    return found.take(np.flatnonzero(chunk_of == first[found.images]))


def mask_codes(truth: Truth) -> list[dict]:
    """The segmentations of the objects as compressed run-length codes."""
    sizes = truth.sizes[truth.images].tolist()
    return [mask_code(s, *size) for s, size in zip(truth.masks, sizes, strict=True)]
