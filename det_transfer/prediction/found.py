"""What was found, written frame by frame: a json a task, and pictures of all tasks together."""

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from detectron2.structures import BoxMode, Instances

from .. import run_folder
from ..evaluation import Detections
from ..evaluation.evaluator import encode_masks
from ..evaluation.files import result_rows
from .pictures import Pictures
from .sources import Frame

__all__ = ["ONE", "Found", "Named", "category_ids", "named", "writing"]

ONE = ""  # the name of a task that stands alone: its files lie in the folder itself

_PREDICTIONS = "predictions.json"
_IMAGES = "images.json"
_PICTURES = "pictures"


class Named(NamedTuple):
    """What the class indices of a task mean.

    Attributes:
        classes: names by class index; may be empty
        categories: the id of each class
    """

    classes: Sequence[str]
    categories: Sequence[int]


def category_ids(run: str | Path, classes: Sequence[str]) -> list[int]:
    """The ids that a run's evaluation gave its classes; 1, 2, ... where there was none."""
    for table in sorted((Path(run) / run_folder.EVAL).glob("*/per_category.csv")):
        with table.open(newline="", encoding="utf-8") as file:
            by_name = {row["name"]: int(row["id"]) for row in csv.DictReader(file)}
        if by_name.keys() == set(classes):
            return [by_name[name] for name in classes]
    return list(range(1, len(classes) + 1))


def named(tasks: Mapping[str, Any]) -> dict[str, Named]:
    """What the classes of loaded tasks mean, by task.

    Args:
        tasks: name -> with ``classes``, and ``weights``: the checkpoint in its run folder
    """
    return {
        name: Named(task.classes, category_ids(task.weights.parent, task.classes))
        for name, task in tasks.items()
    }


@contextlib.contextmanager
def writing(
    folder: str | Path,
    tasks: Mapping[str, Named],
    *,
    images: Mapping[str, int] | None = None,
    pictures: bool = True,
) -> Iterator["Found"]:
    """Write into `folder` what the block adds; the json files appear when it ends well.

    ``<task>/predictions.json`` has COCO's result format, as an evaluation writes it.
    ``<task>/images.json`` says which image and which class an id is:
    ``COCO("images.json").loadRes("predictions.json")``. What has no boxes, the likeliest classes of
    a picture, has rows without.

    Args:
        tasks: name -> what its classes are called; :data:`ONE` for a task that stands alone
        images: name -> id; None: 1, 2, ...
        pictures: whether to draw into ``pictures/``
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        rows = {
            name: stack.enter_context(_rows(folder / name / _PREDICTIONS, task.categories))
            for name, task in tasks.items()
        }
        drawn = stack.enter_context(Pictures(folder / _PICTURES)) if pictures else None
        found = Found(rows, drawn, images or {})
        yield found
        for name, task in tasks.items():
            pairs = zip(task.categories, task.classes, strict=True)
            categories = [{"id": number, "name": word} for number, word in pairs]
            content = {"info": {}, "images": found.images, "categories": categories}
            run_folder.write_json(folder / name / _IMAGES, {**content, "annotations": []})


class Found:
    """Takes frames with what is in them, see :func:`writing`; no picture is kept.

    Attributes:
        images: a dict for each frame so far, as in a json of COCO
    """

    def __init__(
        self, rows: Mapping[str, "_Rows"], pictures: Pictures | None, ids: Mapping[str, int]
    ):
        self._rows, self._pictures, self._ids = rows, pictures, ids
        self.images: list[dict[str, Any]] = []

    def counted(self) -> dict[str, str]:
        """Task -> how much was found so far, in words: "12 detections"."""
        return {name: f"{rows.count} {rows.kind}" for name, rows in self._rows.items()}

    def add(self, frame: Frame, found: Mapping[str, Instances]) -> None:
        """Write one frame.

        Args:
            found: task -> in pixels of the frame, on the CPU, with ``pred_class_names``; without
                ``pred_boxes`` it is of the whole picture
        """
        name = frame.source.name
        entry = {"id": self._ids.get(name, len(self.images) + 1), "file_name": name}
        entry |= {"width": frame.picture.width, "height": frame.picture.height}
        self.images.append({**entry, "frame": frame.number} if frame.fps else entry)
        for task, instances in found.items():
            self._rows[task].add(entry["id"], instances)
        if self._pictures:
            self._pictures.add(frame, found)


@contextlib.contextmanager
def _rows(path: Path, categories: Sequence[int]) -> Iterator["_Rows"]:
    with run_folder.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        yield _Rows(file, categories)
        file.write("\n]\n")


class _Rows:
    """The rows of one task's json."""

    def __init__(self, file: TextIO, categories: Sequence[int]):
        self._file, self._categories = file, np.array(categories, np.int64)
        self.count, self.kind = 0, "detections"

    def add(self, image_id: int, found: Instances) -> None:
        boxes = found.has("pred_boxes")
        self.kind = "detections" if boxes else "likeliest classes"
        for row in result_rows(self._columns(image_id, found), boxes=boxes):
            self._file.write("," * (self.count > 0) + "\n" + json.dumps(row))
            self.count += 1

    def _columns(self, image_id: int, found: Instances) -> Detections:
        classes = found.pred_classes.numpy()
        boxes = np.empty((len(found), 4), np.float32)
        if found.has("pred_boxes"):
            corners = found.pred_boxes.tensor.float()
            boxes = BoxMode.convert(corners, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).numpy()
        return Detections(
            np.full(len(found), image_id, np.int64),
            self._categories[classes] if len(self._categories) else classes + 1,
            found.scores.float().numpy(),
            boxes,
            encode_masks(found.pred_masks) if found.has("pred_masks") else None,
        )
