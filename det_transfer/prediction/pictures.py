"""What was found in a frame, drawn: annotated pictures and videos."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode, Instances
from PIL import Image

from .. import run_folder
from ..errors import UserError
from ..report.drawing import Shape, annotated
from .sources import Frame

__all__ = ["Pictures"]

# Pixels of the long side of what is drawn: names can be read, and photographs are not copied at
# their full size.
_SHORTEST, _LONGEST = 640, 1600
_NAMED = 3  # likeliest classes of a picture that its caption says


class Pictures:
    """Draws into a folder, a file a source; a context, at whose end the last video is whole."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._video: _Video | None = None

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(self, *exc: object) -> None:
        self._end_video(whole=exc[0] is None)

    def add(self, frame: Frame, found: Mapping[str, Instances]) -> None:
        """Draw one frame; with several tasks each has a hue, and its name in what is written."""
        drawn = _annotated(frame, found)
        target = self._folder / frame.source.drawn
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


def _annotated(frame: Frame, found: Mapping[str, Instances]) -> Image.Image:
    longest = max(frame.picture.size)
    scale = min(max(longest, _SHORTEST), _LONGEST) / longest
    shapes, words = [], []
    for number, (task, instances) in enumerate(found.items()):
        if instances.has("pred_boxes"):
            family = number if len(found) > 1 else None
            shapes += _shapes(instances, f"{task}: " if len(found) > 1 else "", family)
        else:
            words.append(f"{task}: {', '.join(_names(instances)[:_NAMED])}")
    frame_number = f" {frame.number}" if frame.fps else ""
    title = "; ".join([f"{frame.source.name}{frame_number}: {len(shapes)}", *words])
    return annotated(frame.picture, title, shapes, scale)


def _shapes(instances: Instances, task: str, family: int | None) -> list[Shape]:
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    has_masks = instances.has("pred_masks")
    masks = instances.pred_masks.numpy() if has_masks else [None] * len(instances)
    named = [task + name for name in _names(instances)]
    columns = instances.pred_classes.tolist(), named, boxes.tolist(), masks
    return [Shape(*row, family=family) for row in zip(*columns, strict=True)]


def _names(instances: Instances) -> list[str]:
    pairs = zip(instances.pred_class_names, instances.scores.tolist(), strict=True)
    return [f"{name} {score:.2f}" for name, score in pairs]
