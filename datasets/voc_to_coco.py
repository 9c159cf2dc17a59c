#!/usr/bin/env python
"""Convert Pascal VOC xml files (LabelImg, CVAT, Roboflow, VOC itself) into one COCO-format json.

    python datasets/voc_to_coco.py Annotations --images JPEGImages --out train.json
    python datasets/voc_to_coco.py VOC2007/Annotations --images VOC2007/JPEGImages --one-based \\
        --split-file VOC2007/ImageSets/Main/train.txt --out voc_train.json

Strict: whatever is wrong is listed with its place, and nothing is written. Objects marked
"difficult" become crowds by default: not trained on, and a detection of one counts neither way, as
in VOC's own protocol. (COCO's evaluation heeds iscrowd alone, not a key "ignore".)
"""

import argparse
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from coco_json import IMAGE_SUFFIXES, Collector, add_arguments, finish, image_size, read_names
from tqdm import tqdm

from det_transfer.engine.launch import run
from det_transfer.errors import UserError

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocReader:
    """Reads xml files into a collector.

    Args:
        images: the folder of the images, or None where all is taken from the xml
        one_based: pixels count from 1 and xmax, ymax belong to the box, as in VOC's own files;
            else coordinates count from 0 and xmax - xmin is the width, as labelling tools write
        difficult: "crowd", "keep" or "drop"
    """

    def __init__(
        self, collector: Collector, images: Path | None, *, one_based: bool, difficult: str
    ):
        self.collector, self.images = collector, images
        self.shift = 1.0 if one_based else 0.0
        self.difficult = difficult

    def read(self, path: Path) -> None:
        try:
            root = _parse(path)
            file_name = self._file_name(path, root)
            size = self._size(root, file_name)
        except ValueError as error:
            self.collector.problem(path, str(error))
            return
        if not self.collector.image(path, file_name, size):
            return
        for number, element in enumerate(root.findall("object"), start=1):
            place = f"{path}, object {number}"
            try:
                self._object(place, file_name, element)
            except ValueError as error:
                self.collector.problem(place, str(error))

    def _object(self, place: str, file_name: str, element: ET.Element) -> None:
        difficult = _text(element, "difficult") not in ("", "0")
        if difficult and self.difficult == "drop":
            self.collector.note("difficult objects left out", place)
            return
        name = _text(element, "name")
        if not name:
            raise ValueError("has no <name>")
        box = element.find("bndbox")
        if box is None:
            raise ValueError("has no <bndbox>")
        x0, y0, x1, y1 = (_number(box, tag) for tag in CORNERS)
        crowd = difficult and self.difficult == "crowd"
        if crowd:
            self.collector.note("difficult objects, written as crowds", place)
        corners = (x0 - self.shift, y0 - self.shift, x1, y1)
        self.collector.object(place, file_name, name, corners, crowd=crowd)

    def _file_name(self, path: Path, root: ET.Element) -> str:
        """The image that an xml is about, relative to the image folder."""
        said = _text(root, "filename")
        if self.images is None:
            if Path(said).suffix.lower() in IMAGE_SUFFIXES:
                return said
            raise ValueError(f"<filename> is {said!r}, no image's name; say --images FOLDER")
        # Some tools leave out the suffix, or keep the name that the image had before.
        names = [said, *(f"{path.stem}{suffix}" for suffix in _both_cases(IMAGE_SUFFIXES))]
        found = next((name for name in names if name and (self.images / name).is_file()), None)
        if found is None:
            raise ValueError(f"its image {said or path.stem} is not in {self.images}")
        if said and found != said:
            self.collector.note("images found by the name of their xml", path)
        return found

    def _size(self, root: ET.Element, file_name: str) -> tuple[int, int]:
        size = root.find("size")
        if size is not None:
            width, height = (int(_number(size, tag)) for tag in ("width", "height"))
            if width > 0 and height > 0:
                return width, height
        if self.images is None:
            raise ValueError("has no <size> of the image; say --images FOLDER to look it up")
        return image_size(self.images / file_name)


def _parse(path: Path) -> ET.Element:
    data = path.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("has a document type, which no annotation needs: not read")
    try:
        root = ET.fromstring(data)
    except ET.ParseError as error:
        raise ValueError(f"is no xml: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"is no VOC annotation: its root is <{root.tag}>")
    return root


def _text(element: ET.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _number(element: ET.Element, tag: str) -> float:
    text = _text(element, tag)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{tag}> is {text!r}, no number") from None


def _both_cases(suffixes: tuple[str, ...]) -> list[str]:
    return [*suffixes, *(suffix.upper() for suffix in suffixes)]


def xml_files(folder: Path, split_file: Path | None) -> list[Path]:
    """The xml files below a folder, or those that a split file of VOC names by their stems."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    found = sorted(folder.rglob("*.xml"))
    if not found:
        raise UserError(f"{folder} has no xml files")
    if split_file is None:
        return found
    try:
        lines = split_file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--split-file {split_file} cannot be read: {error.strerror}") from error
    by_stem = {path.stem: path for path in found}
    stems = [line.split()[0] for line in lines if line.strip()]
    missing = [stem for stem in stems if stem not in by_stem]
    if missing:
        raise UserError(
            f"--split-file {split_file}: {len(missing)} of {len(stems)} have no xml in {folder}, "
            f"for one {missing[0]}"
        )
    return [by_stem[stem] for stem in stems]


def main(args: argparse.Namespace) -> None:
    if args.images and not args.images.is_dir():
        raise UserError(f"--images {args.images} is no folder")
    collector = Collector(read_names(args.classes))
    reader = VocReader(collector, args.images, one_based=args.one_based, difficult=args.difficult)
    for path in tqdm(xml_files(args.annotations, args.split_file), unit="file", disable=None):
        reader.read(path)
    finish(collector, args, str(args.images or "IMAGES"))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("annotations", type=Path, help="folder of xml files")
    parser.add_argument("--images", type=Path, help="folder of the images, to check and to measure")
    parser.add_argument("--split-file", type=Path, help="names to take, as ImageSets/Main/*.txt")
    parser.add_argument(
        "--one-based", action="store_true", help="pixels count from 1, as in VOC's own files"
    )
    parser.add_argument(
        "--difficult",
        choices=("crowd", "keep", "drop"),
        default="crowd",
        help="objects marked difficult: crowds (default), like all others, or left out",
    )
    add_arguments(parser, "annotations.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
