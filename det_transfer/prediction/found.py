"""What a detector found, written frame by frame: json, annotated pictures, annotated videos."""

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from detectron2.structures import BoxMode, Instances
from PIL import Image

from .. import run_folder
from ..errors import UserError
from ..evaluation import Detections
from ..evaluation.evaluator import encode_masks
from ..evaluation.files import result_rows
from ..report.drawing import Shape, annotated
from .sources import Frame

__all__ = ["Found", "category_ids", "writing"]

_PREDICTIONS = "predictions.json"
_IMAGES = "images.json"
_PICTURES = "pictures"
# Pixels of the long side of what is drawn: names can be read, and photographs are not copied at
# their full size.
_SHORTEST, _LONGEST = 640, 1600


def category_ids(run: str | Path, classes: Sequence[str]) -> list[int]:
    """The ids that a run's evaluation gave its classes; 1, 2, ... where there was none."""
    for table in sorted((Path(run) / run_folder.EVAL).glob("*/per_category.csv")):
        with table.open(newline="", encoding="utf-8") as file:
            by_name = {row["name"]: int(row["id"]) for row in csv.DictReader(file)}
        if by_name.keys() == set(classes):
            return [by_name[name] for name in classes]
    return list(range(1, len(classes) + 1))


@contextlib.contextmanager
def writing(
    folder: str | Path,
    *,
    classes: Sequence[str],
    categories: Sequence[int],
    images: Mapping[str, int] | None = None,
    pictures: bool = True,
) -> Iterator["Found"]:
    """Write into `folder` what the block adds; the json files appear when it ends well.

    ``predictions.json`` has COCO's result format, as an evaluation writes it. ``images.json`` says
    which image and which class an id is: ``COCO("images.json").loadRes("predictions.json")``.

    Args:
        classes: names by class index; may be empty
        categories: the id of each class
        images: name -> id; None: 1, 2, ...
        pictures: whether to draw into ``pictures/``
    """
    folder = Path(folder)
    with run_folder.replacing(folder / _PREDICTIONS) as temporary:
        with temporary.open("w", encoding="utf-8") as rows:
            found = Found(folder if pictures else None, rows, categories, images or {})
            rows.write("[")
            with found:
                yield found
            rows.write("\n]\n")
        pairs = zip(categories, classes, strict=True)
        named = [{"id": number, "name": name} for number, name in pairs]
        content = {"info": {}, "images": found.images, "categories": named, "annotations": []}
        run_folder.write_json(folder / _IMAGES, content)


class Found:
    """Takes frames with what is in them, see :func:`writing`; no picture is kept.

    Attributes:
        images: a dict for each frame so far, as in a json of COCO
        detections (int): how many so far
    """

    def __init__(
        self,
        folder: Path | None,
        rows: TextIO,
        categories: Sequence[int],
        ids: Mapping[str, int],
    ):
        self._folder = folder
        self._rows = rows
        self._categories = np.array(categories, np.int64)
        self._ids = ids
        self._video: _Video | None = None
        self.images: list[dict[str, Any]] = []
        self.detections = 0

    def __enter__(self) -> "Found":
        return self

    def __exit__(self, *exc: Any) -> None:
        self._end_video(whole=exc[0] is None)

    def add(self, frame: Frame, found: Instances) -> None:
        """Write one frame.

        Args:
            found: in pixels of the frame, on the CPU, with ``pred_class_names``
        """
        name = frame.source.name
        entry = {"id": self._ids.get(name, len(self.images) + 1), "file_name": name}
        entry |= {"width": frame.picture.width, "height": frame.picture.height}
        self.images.append({**entry, "frame": frame.number} if frame.fps else entry)
        for row in result_rows(self._columns(entry["id"], found)):
            self._rows.write("," * (self.detections > 0) + "\n" + json.dumps(row))
            self.detections += 1
        if self._folder:
            self._draw(frame, found)

    def _columns(self, image_id: int, found: Instances) -> Detections:
        classes = found.pred_classes.numpy()
        boxes = found.pred_boxes.tensor.float()
        return Detections(
            np.full(len(found), image_id, np.int64),
            self._categories[classes] if len(self._categories) else classes + 1,
            found.scores.float().numpy(),
            BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).numpy(),
            encode_masks(found.pred_masks) if found.has("pred_masks") else None,
        )

    def _draw(self, frame: Frame, found: Instances) -> None:
        drawn = _annotated(frame, found)
        target = self._folder / _PICTURES / frame.source.drawn
        if not frame.fps:
            with run_folder.replacing(target) as temporary:
                drawn.save(temporary, format="JPEG", quality=90)
            return
        if self._video is None or self._video.target != target:
            self._end_video()
            self._video = _Video(target, frame.fps, drawn.size)
        self._video.add(drawn)

    def _end_video(self, whole: bool = True) -> None:
        if self._video:
            self._video.close(whole)
            self._video = None


class _Video:
    """An MP4, under another name until it is whole."""

    def __init__(self, target: Path, fps: float, size: tuple[int, int]):
        import cv2  # it was read by it

        self.target = target
        self._size = size[0] + size[0] % 2, size[1] + size[1] % 2  # MPEG-4 wants even sides
        # OpenCV tells the format from the ending.
        self._temporary = target.with_name(f".unfinished.{target.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        codec = cv2.VideoWriter_fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._temporary), codec, fps, self._size)
        if not self._writer.isOpened():
            raise UserError(f"{target}: this OpenCV cannot write MP4; --no-pictures leaves it out")

    def add(self, picture: Image.Image) -> None:
        page = Image.new("RGB", self._size)
        page.paste(picture)
        self._writer.write(np.ascontiguousarray(np.asarray(page)[:, :, ::-1]))

    def close(self, whole: bool) -> None:
        self._writer.release()
        if whole:
            self._temporary.replace(self.target)
        else:
            self._temporary.unlink(missing_ok=True)


def _annotated(frame: Frame, found: Instances) -> Image.Image:
    longest = max(frame.picture.size)
    scale = min(max(longest, _SHORTEST), _LONGEST) / longest
    boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    masks = found.pred_masks.numpy() if found.has("pred_masks") else [None] * len(found)
    named = [
        f"{n} {s:.2f}" for n, s in zip(found.pred_class_names, found.scores.tolist(), strict=True)
    ]
    shapes = list(map(Shape, found.pred_classes.tolist(), named, boxes, masks))
    number = f" {frame.number}" if frame.fps else ""
    title = f"{frame.source.name}{number}: {len(shapes)}"
    return annotated(frame.picture, title, shapes, scale)
