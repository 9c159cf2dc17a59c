#!/usr/bin/env python
"""Convert a YOLO dataset (Ultralytics, Roboflow, Darknet) into COCO-format json files.

    python datasets/yolo_to_coco.py data.yaml --out annotations
    python datasets/yolo_to_coco.py images labels --classes classes.txt --out train.json

With a data.yaml every split that it names becomes <out>/<split>.json, with file names relative to
the dataset's folder. A row is `class cx cy w h` or, with masks, `class x y x y ...`, in shares of
the image as it is seen upright. An image with an empty label file, or without one, has no objects.
Strict: whatever is wrong is listed with its line, and nothing is written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coco_json import (
    IMAGE_SUFFIXES,
    Collector,
    add_arguments,
    check_names,
    finish,
    image_size,
    raise_problems,
    read_names,
)
from tqdm import tqdm

from det_transfer.documents import read_yaml
from det_transfer.engine.launch import run
from det_transfer.errors import UserError

SPLITS = ("train", "val", "test")
# By so much a share may be below 0 or above 1; labelling tools round, and boxes touch the border.
_ROUNDING = 0.01


def read_label(collector: Collector, label: Path, file_name: str, size: tuple[int, int]) -> None:
    """Hand the objects of one label file to the collector.

    Args:
        size: width and height of the image in pixels
    """
    try:
        lines = label.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        collector.problem(label, f"cannot be read: {error}")
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{label}, line {number}"
        try:
            name, corners, polygon = parse_row(line, collector.classes, size)
        except ValueError as error:
            collector.problem(place, str(error))
        else:
            collector.object(place, file_name, name, corners, polygon=polygon)


def parse_row(
    line: str, names: Sequence[str], size: tuple[int, int]
) -> tuple[str, list[float], list[float] | None]:
    """Class name, corners x0, y0, x1, y1 and polygon (or None) in pixels.

    Raises:
        ValueError: what is wrong with the row
    """
    try:
        first, *values = [float(word) for word in line.split()]
    except ValueError:
        raise ValueError(f"{line.strip()[:60]!r} is not a row of numbers") from None
    if first != int(first) or not 0 <= first < len(names):
        raise ValueError(f"the class {first:g} is none of 0 to {len(names) - 1}")
    name = names[int(first)]
    outside = next((v for v in values if not -_ROUNDING <= v <= 1 + _ROUNDING), None)
    if outside is not None:
        raise ValueError(f"{outside:g} is no share of the image, 0 to 1; is it in pixels?")
    pixels = [value * size[k % 2] for k, value in enumerate(values)]
    if len(values) == 4:
        cx, cy, w, h = pixels
        return name, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], None
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = pixels[0::2], pixels[1::2]
        return name, [min(xs), min(ys), max(xs), max(ys)], pixels
    if len(values) == 5:
        raise ValueError("has 6 numbers: a prediction with its score, or one too many")
    raise ValueError(
        f"has {len(values) + 1} numbers; a box has 5, a polygon 7 or more (class, then x y pairs)"
    )


def collect(
    images: Sequence[tuple[Path, Path]], root: Path, names: Sequence[str], what: str
) -> Collector:
    """Read the pairs of image and label file.

    Args:
        root: the folder that the images' names are relative to
        what: a word for the progress bar
    """
    collector = Collector(names)
    if images and not any(label.is_file() for _, label in images):
        raise UserError(
            f"{what}: none of the {len(images)} images has a label file; for {images[0][0]} it "
            f"would be {images[0][1]}"
        )
    owners: dict[Path, Path] = {}
    for image, label in images:
        if owners.setdefault(label, image) != image:
            collector.problem(label, f"belongs to two images: {owners[label]} and {image}")
    for image, label in tqdm(images, unit="image", desc=what, disable=None):
        try:
            size = image_size(image)
        except ValueError as error:
            collector.problem(image, str(error))
            continue
        file_name = image.relative_to(root).as_posix()
        collector.image(image, file_name, size)
        if label.is_file():
            read_label(collector, label, file_name, size)
        else:
            collector.note("images without a label file", image)
    return collector


def images_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def label_of(image: Path) -> Path:
    """Where Ultralytics looks for the labels: the last folder "images" becomes "labels"."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def orphans(collector: Collector, labels: Path, used: Sequence[Path]) -> None:
    """Note label files that belong to no image."""
    known = {path.resolve() for path in used}
    for path in sorted(labels.rglob("*.txt")):
        if path.resolve() not in known and path.name not in ("classes.txt", "obj.names"):
            collector.note("label files without an image, left out", path)


# data.yaml ---------------------------------------------------------------------------------------


class DataFile:
    """A data.yaml: class names, the dataset's folder, and the images of its splits.

    Raises:
        UserError: no yaml, no names, or a split that is not there
    """

    def __init__(self, path: Path):
        self.path = path
        content = read_yaml(path)
        if not isinstance(content, dict) or "names" not in content:
            raise UserError(f"{path} is no data.yaml: it has no names")
        if content.get("kpt_shape"):
            raise UserError(f"{path}: kpt_shape: labels with keypoints are not converted")
        self.names = _names(content["names"], str(path))
        self.root = path.parent / content.get("path", "")
        if not self.root.is_dir():
            self.root = path.parent
        self.root = self.root.resolve()
        self.splits = {name: content[name] for name in SPLITS if content.get(name)}
        if not self.splits:
            raise UserError(f"{path} names no images: one of {', '.join(SPLITS)}")

    def images(self, split: str) -> list[Path]:
        entries = self.splits[split]
        entries = entries if isinstance(entries, list) else [entries]
        found = [image for entry in entries for image in self._entry(split, str(entry))]
        outside = [image for image in found if not image.is_relative_to(self.root)]
        if outside:
            raise UserError(f"{self.path}: {outside[0]} is not below {self.root}; set path")
        return found

    def _entry(self, split: str, entry: str) -> list[Path]:
        # Roboflow writes ../train/images and means ./train/images.
        for path in (self.root / entry, self.root / entry.removeprefix("../")):
            if path.is_dir():
                return images_below(path.resolve())
            if path.is_file():
                lines = path.read_text(encoding="utf-8").split("\n")
                return [(self.root / line.strip()).resolve() for line in lines if line.strip()]
        raise UserError(f"{self.path}: {split}: {self.root / entry} does not exist")


def _names(value: Any, source: str) -> list[str]:
    if isinstance(value, dict):
        missing = [k for k in range(len(value)) if k not in value]
        if missing:
            raise UserError(f"{source}: names has no entry {missing[0]}")
        value = [value[k] for k in range(len(value))]
    if not isinstance(value, list):
        raise UserError(f"{source}: names is neither a list nor a mapping from numbers")
    names = [str(name) for name in value]
    check_names(names, f"{source}: names")
    return names


def convert_splits(args: argparse.Namespace) -> None:
    if args.val_fraction:
        raise UserError("--val-fraction is for IMAGES LABELS; a data.yaml has its own splits")
    data = DataFile(args.source)
    collectors = {}
    for split in data.splits:
        pairs = [(image, label_of(image)) for image in data.images(split)]
        collectors[split] = collect(pairs, data.root, data.names, split)
    if not args.skip_bad:  # all splits before any is written
        raise_problems([problem for c in collectors.values() for problem in c.problems])
    for split, collector in collectors.items():
        out = args.out / f"{split}.json"
        finish(collector, argparse.Namespace(**{**vars(args), "out": out}), str(data.root))


def convert_folders(args: argparse.Namespace) -> None:
    names = read_names(args.classes)
    if names is None:
        raise UserError("IMAGES LABELS needs --classes FILE, a class name a line")
    for folder in (args.source, args.labels):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder")
    images = images_below(args.source)
    labels = [args.labels / p.relative_to(args.source).with_suffix(".txt") for p in images]
    collector = collect(list(zip(images, labels, strict=True)), args.source, names, "images")
    orphans(collector, args.labels, labels)
    if args.out.suffix != ".json":
        args.out = args.out / "annotations.json"
    finish(collector, args, str(args.source))


def main(args: argparse.Namespace) -> None:
    if args.labels is None:
        convert_splits(args)
    else:
        convert_folders(args)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, metavar="DATA.YAML | IMAGES")
    parser.add_argument("labels", type=Path, nargs="?", help="folder of the label files")
    add_arguments(parser, "annotations")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
