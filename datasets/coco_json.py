"""What the converters into COCO format share: collecting, checking, splitting, writing, telling.

A converter reads its own format and hands images and objects to a :class:`Collector`; what is
wrong with one of them becomes a line with the place where it stands.
"""

import argparse
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from det_transfer.errors import UserError, machine_fault, nearest, raise_all
from det_transfer.run_folder import replacing

__all__ = [
    "IMAGE_SUFFIXES",
    "Collector",
    "add_arguments",
    "check_names",
    "finish",
    "image_size",
    "raise_problems",
    "read_names",
    "write_json",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# Pixels that a box may stand out of its image by rounding; it is cut. More is a mistake.
_ROUNDING = 1.0
_MOST_LINES = 20
_EXIF_ORIENTATION = 0x0112


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of an image that stands upright, from its header.

    Detectron2 turns an image by its EXIF orientation when it reads it; orientations 5 to 8 swap
    width and height.

    Raises:
        ValueError: the file is missing or no image
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            return image.size[::-1] if turned else image.size
    except FileNotFoundError:
        raise ValueError("the image does not exist") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"the image cannot be read: {error}") from None


class Collector:
    """Gathers images and objects of one split and what is wrong with them.

    Args:
        classes: names in the order of their ids; None: the names that are found, sorted
    """

    def __init__(self, classes: Sequence[str] | None = None):
        self.classes = None if classes is None else list(classes)
        self.problems: list[tuple[str, str]] = []  # (place, what is wrong): bad input
        self.notes: dict[str, list[str]] = {}  # what was done -> the places: no mistake
        self._images: dict[str, tuple[int, int]] = {}
        self._objects: list[dict[str, Any]] = []

    def problem(self, place: object, what: str) -> None:
        """Something is wrong at `place`, and is left out if the user says so."""
        self.problems.append((str(place), what))

    def note(self, what: str, place: object) -> None:
        """Something that the summary should tell, though it is no mistake."""
        self.notes.setdefault(what, []).append(str(place))

    def image(self, place: object, file_name: str, size: tuple[int, int]) -> bool:
        """Take in an image; the same again with the same size is the same image.

        Args:
            size: width and height in pixels
        """
        known = self._images.setdefault(file_name, size)
        if known != size:
            self.problem(place, f"{file_name} is {_by(size)} here and {_by(known)} before")
        elif min(size) <= 0:
            self.problem(place, f"{file_name} has the size {_by(size)}")
            del self._images[file_name]
        else:
            return True
        return False

    def object(
        self,
        place: object,
        file_name: str,
        name: str,
        corners: Sequence[float],
        *,
        polygon: Sequence[float] | None = None,
        crowd: bool = False,
    ) -> None:
        """Take in an object of an image that is known.

        Args:
            corners: x0, y0, x1, y1 in pixels, 0 at the left or upper edge of the image
            polygon: x, y, x, y, ... in pixels
            crowd: not trained on, and detections of it count neither way in evaluation
        """
        if self.classes is not None and name not in self.classes:
            near = nearest(name, self.classes)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            return self.problem(place, f"the class {name!r} is not among the classes{hint}")
        width, height = self._images[file_name]
        problem, box = _inside(corners, width, height)
        if problem:
            return self.problem(place, problem)
        if list(corners) != box:
            self.note("boxes cut at the edge of their image by a pixel or less", place)
        x0, y0, x1, y1 = box
        entry = {
            "file_name": file_name,
            "name": name,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": int(crowd),
        }
        if polygon is not None:
            limits = (width, height)
            points = [min(max(v, 0.0), limits[i % 2]) for i, v in enumerate(polygon)]
            entry |= {"segmentation": [points], "area": _area(points)}
        self._objects.append(entry)

    def content(self) -> dict[str, Any]:
        """All of it in COCO format; ids count from 1, images in order of their names."""
        names = self.classes or sorted({entry["name"] for entry in self._objects})
        files = sorted(self._images)
        image_ids = {file: k for k, file in enumerate(files, start=1)}
        objects = sorted(self._objects, key=lambda entry: image_ids[entry["file_name"]])
        return {
            "images": [
                {"id": image_ids[f], "file_name": f, "width": w, "height": h}
                for f, (w, h) in ((file, self._images[file]) for file in files)
            ],
            "annotations": [
                {
                    "id": k,
                    "image_id": image_ids[entry.pop("file_name")],
                    "category_id": names.index(entry.pop("name")) + 1,
                    **entry,
                }
                for k, entry in enumerate([dict(entry) for entry in objects], start=1)
            ],
            "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
        }


def _inside(corners: Sequence[float], width: int, height: int) -> tuple[str, list[float]]:
    """What is wrong with a box, or "" and the box cut to its image."""
    shown = ", ".join(f"{value:g}" for value in corners)
    if not all(math.isfinite(value) for value in corners):
        return f"the box ({shown}) is not finite", []
    x0, y0, x1, y1 = corners
    if x1 <= x0 or y1 <= y0:
        return f"the box ({shown}) has no area: x1 > x0 and y1 > y0 must hold", []
    outside = max(-x0, -y0, x1 - width, y1 - height)
    box = [max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)]
    if outside > _ROUNDING or box[2] <= box[0] or box[3] <= box[1]:
        return f"the box ({shown}) is outside of its image of {width} x {height} px", []
    return "", box


def _area(points: Sequence[float]) -> float:
    """Area of a polygon, by the shoelace formula."""
    xs, ys = points[0::2], points[1::2]
    turns = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x * b - a * y for x, y, a, b in turns)) / 2


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"


# The command line --------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """The options of every converter."""
    parser.add_argument("--out", type=Path, default=Path(out), help=f"json to write ({out})")
    parser.add_argument(
        "--classes", type=Path, help="text file with a class name a line, in the order of their ids"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out what is wrong and count it"
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        help="write <out>_train.json and <out>_val.json, with this share of the images in val; an "
        "image stays where it is when others come",
    )


def read_names(path: Path | None) -> list[str] | None:
    """Class names, a line each. Raises: UserError: no file, no name, or one twice."""
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {path} cannot be read: {error}") from error
    names = [name for name in names if name]
    check_names(names, f"--classes {path}")
    return names


def check_names(names: Sequence[str], source: str) -> None:
    """Raises: UserError where there is no class name, or one twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        raise UserError(f"{source}: " + (f"{twice[0]!r} is there twice" if twice else "no names"))


def finish(collector: Collector, args: argparse.Namespace, images: str) -> None:
    """Write what was collected and tell what it is; or say all that is wrong.

    Args:
        args: with the options of :func:`add_arguments`
        images: the folder that file names are relative to, for the line to go on with
    Raises:
        UserError: something is wrong and `args.skip_bad` was not given, or nothing is left
    """
    if not 0 <= args.val_fraction < 1:
        raise UserError(f"--val-fraction {args.val_fraction}: it is 0 or more and less than 1")
    if not args.skip_bad:
        raise_problems(collector.problems)
    content = collector.content()
    if not content["images"]:
        raise UserError("no image is left to write")
    if not content["categories"]:
        raise UserError("there are no classes: no object was found; name them with --classes")
    written = dict(_split(content, args.out, args.val_fraction))
    for path, part in written.items():
        write_json(path, part)
        print(f"{path}: {_counts(part)}")
    for line in _summary(content, collector):
        print(line)
    entries = [[path.stem, str(path), images] for path in written]
    print(f'next: tools/train_net.py ... DATASETS.CUSTOM "{entries}"')


def raise_problems(problems: Sequence[tuple[str, str]]) -> None:
    """Raises: UserError: a line for each (place, what is wrong), up to twenty."""
    lines = [f"{place}: {what}" for place, what in problems[:_MOST_LINES]]
    if len(problems) > _MOST_LINES:
        lines.append(f"and {len(problems) - _MOST_LINES} more")
    if lines:
        lines.append("nothing was written; mend these, or leave them out with --skip-bad")
    raise_all(["\n".join(lines)] if lines else [])


def _split(content: dict[str, Any], out: Path, fraction: float) -> list[tuple[Path, dict]]:
    """(path, content) of each file: all in one, or train and val."""
    if not fraction:
        return [(out, content)]
    in_val = {image["id"] for image in content["images"] if _draw(image["file_name"]) < fraction}
    return [
        (
            out.with_name(f"{out.stem}_{split}.json"),
            {
                **content,
                "images": [i for i in content["images"] if (i["id"] in in_val) == chosen],
                "annotations": [
                    a for a in content["annotations"] if (a["image_id"] in in_val) == chosen
                ],
            },
        )
        for split, chosen in (("train", False), ("val", True))
    ]


def _draw(file_name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.blake2b(file_name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write compact json, whole or not at all. Raises: UserError: it may not be written there."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    except OSError as error:
        if machine_fault(error):
            raise
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _counts(content: dict[str, Any]) -> str:
    with_objects = {annotation["image_id"] for annotation in content["annotations"]}
    empty = len(content["images"]) - len(with_objects)
    return (
        f"{len(content['images'])} images ({empty} without objects), "
        f"{len(content['annotations'])} objects, {len(content['categories'])} classes"
    )


def _summary(content: dict[str, Any], collector: Collector) -> list[str]:
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    by_class = ", ".join(f"{c['name']} {counts[c['id']]}" for c in content["categories"])
    lines = [f"objects by class: {by_class or 'none'}"]
    lines += [
        f"{what}: {len(places)}, the first {places[0]}" for what, places in collector.notes.items()
    ]
    if collector.problems:
        place, what = collector.problems[0]
        lines.append(f"left out as bad: {len(collector.problems)}, the first {place}: {what}")
    return lines
