#!/usr/bin/env python
"""Convert the csv of labelling tools into one COCO-format json.

    python datasets/csv_to_coco.py labels.csv --images images --out train.json

A row is an object: filename,width,height,class,xmin,ymin,xmax,ymax, in any order of columns, others
are passed over. Width and height may be left out where --images is given. A row with neither class
nor box is an image without objects. Strict: whatever is wrong is listed with its line, and nothing
is written.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from coco_json import Collector, add_arguments, finish, image_size, read_names

from det_transfer.engine.launch import run
from det_transfer.errors import UserError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
REQUIRED = ("filename", "class", *CORNERS)
HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


def rows(path: Path) -> Iterator[tuple[int, dict[str, str], int]]:
    """(line, column -> text, fields beyond the header's) of each row; column names in lower case.

    Raises:
        UserError: the file cannot be read, or its first line is not the header
    """
    try:
        # Some tools write a byte-order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in REQUIRED if name not in header]
            if missing:
                raise UserError(
                    f"{path}, line 1: no column {', '.join(missing)}; the header should be "
                    f"{HEADER} (it is {first.strip()[:80]!r})"
                )
            for values in reader:
                if any(value.strip() for value in values):
                    row = dict(zip(header, map(str.strip, values), strict=False))
                    yield reader.line_num, row, len(values) - len(header)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_row(
    collector: Collector, images: Path | None, place: str, row: dict[str, str], extra: int
) -> None:
    """Hand a row to the collector. Raises: ValueError: what is wrong with it."""
    if extra:
        raise ValueError(
            f"has {abs(extra)} fields {'more' if extra > 0 else 'fewer'} than the header (a name "
            "with a comma needs quotes)"
        )
    file_name = row["filename"]
    if not file_name:
        raise ValueError("filename is empty")
    if not collector.image(place, file_name, _size(row, images)):
        return
    given = [name for name in ("class", *CORNERS) if row[name]]
    if not given:
        return
    if len(given) < 1 + len(CORNERS):
        empty = [name for name in ("class", *CORNERS) if not row[name]]
        raise ValueError(f"{', '.join(empty)} is empty")
    corners = [_number(row, name) for name in CORNERS]
    collector.object(place, file_name, row["class"], corners)


def _size(row: dict[str, str], images: Path | None) -> tuple[int, int]:
    if images is not None and not (images / row["filename"]).is_file():
        raise ValueError(f"the image {row['filename']} is not in {images}")
    if row.get("width") and row.get("height"):
        return int(_number(row, "width")), int(_number(row, "height"))
    if images is None:
        raise ValueError("width or height is missing; say --images FOLDER to look it up")
    return image_size(images / row["filename"])


def _number(row: dict[str, str], name: str) -> float:
    try:
        return float(row[name])
    except ValueError:
        raise ValueError(f"{name} is {row[name]!r}, no number") from None


def main(args: argparse.Namespace) -> None:
    if args.images and not args.images.is_dir():
        raise UserError(f"--images {args.images} is no folder")
    collector = Collector(read_names(args.classes))
    for line, row, extra in rows(args.file):
        place = f"{args.file}, line {line}"
        try:
            read_row(collector, args.images, place, row, extra)
        except ValueError as error:
            collector.problem(place, str(error))
    finish(collector, args, str(args.images or "IMAGES"))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help=f"csv with the header {HEADER}")
    parser.add_argument("--images", type=Path, help="folder of the images, to check and to measure")
    add_arguments(parser, "annotations.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
