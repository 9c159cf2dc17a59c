#!/usr/bin/env python
"""Convert COCO-format json files into LVIS v1 format, so that any dataset gets AP by frequency.

    python datasets/coco_to_lvis.py instances_train.json instances_val.json --out annotations

The first file is the one trained on: how many of its images show a class decides whether the class
is rare, common or frequent, in all files. Writes ``<name>_lvis.json`` for each file.

COCO is annotated exhaustively, so every class that an image does not show is verified to be absent.
What COCO marks as a crowd (or to be ignored), LVIS says with ``not_exhaustive_category_ids``: the
annotation is left out, and detections of the class there count neither way. Category ids become
1..K, as Detectron2's own LVIS reader expects.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from coco_json import write_json

from det_transfer.data.checks.annotations import frequency
from det_transfer.data.datasets.coco_format import annotation_style, read_annotations
from det_transfer.engine.launch import run
from det_transfer.errors import UserError


def convert(
    contents: list[dict[str, Any]], negatives: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """COCO-format contents in LVIS v1 format; the first one decides the frequencies.

    Args:
        negatives: most classes an image is verified not to show; None: all that it does not
        seed: of the choice where there are more
    """
    first = sorted(contents[0]["categories"], key=lambda category: category["id"])
    new_ids = {category["id"]: k for k, category in enumerate(first, start=1)}
    shown = [a for a in contents[0]["annotations"] if not is_crowd(a)]
    instances = Counter(a["category_id"] for a in shown)
    images = Counter(category for _, category in {(a["image_id"], a["category_id"]) for a in shown})
    categories = [
        _category(c, k, images[c["id"]], instances[c["id"]])
        for c, k in zip(first, new_ids.values(), strict=True)
    ]
    return [
        {
            "info": content.get("info", {}),
            "licenses": content.get("licenses", []),
            "categories": categories,
            "images": _images(content, new_ids, negatives, seed),
            "annotations": [
                _annotation(annotation, new_ids)
                for annotation in content["annotations"]
                if not is_crowd(annotation)
            ],
        }
        for content in contents
    ]


def is_crowd(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get("iscrowd") or annotation.get("ignore"))


def _category(category: dict[str, Any], new_id: int, images: int, instances: int) -> dict[str, Any]:
    name = str(category["name"])
    return {
        **category,
        "id": new_id,
        "name": name,
        "synset": name.replace(" ", "_"),  # LVIS names a WordNet synset here; COCO knows none
        "synonyms": [name],
        "def": name,
        "image_count": images,
        "instance_count": instances,
        "frequency": frequency(images),
    }


def _images(
    content: dict[str, Any], new_ids: dict[int, int], negatives: int | None, seed: int
) -> list[dict[str, Any]]:
    shown: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    crowds: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for annotation in content["annotations"]:
        kind = crowds if is_crowd(annotation) else shown
        kind[annotation["image_id"]].add(new_ids[annotation["category_id"]])
    result = []
    for image in content["images"]:
        own, crowd = shown[image["id"]], crowds[image["id"]]
        absent = sorted(set(new_ids.values()) - own - crowd)
        if negatives is not None and len(absent) > negatives:
            rng = np.random.default_rng([seed, len(result)])
            absent = sorted(rng.choice(absent, negatives, replace=False).tolist())
        result.append(
            {
                **image,
                "neg_category_ids": absent,
                "not_exhaustive_category_ids": sorted(crowd),
            }
        )
    return result


def _annotation(annotation: dict[str, Any], new_ids: dict[int, int]) -> dict[str, Any]:
    result = {k: v for k, v in annotation.items() if k not in ("iscrowd", "ignore")}
    result["category_id"] = new_ids[annotation["category_id"]]
    width, height = annotation["bbox"][2:]
    result.setdefault("area", width * height)
    if not result.get("segmentation"):  # boxes only
        result.pop("segmentation", None)
    return result


def read_all(files: list[Path]) -> list[dict[str, Any]]:
    """The COCO-format contents of the files.

    Raises:
        UserError: not COCO format, already LVIS format, or files whose categories disagree
    """
    contents = [_read(file) for file in files]
    for file, content in zip(files, contents, strict=True):
        if _names(content) != _names(contents[0]):
            differ = _names(content).items() ^ _names(contents[0]).items()
            raise UserError(
                f"{file} and {files[0]} have different categories, for one: {min(differ)}"
            )
    return contents


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_annotations(str(file))
        odd = [a["id"] for a in content["annotations"] if not _is_box(a["bbox"])]
    except (KeyError, TypeError) as error:  # the reader looks at the first entry of each list
        raise UserError(f"{file} is not COCO format: an entry is wrong: {error}") from error
    if odd:
        raise UserError(
            f"{file}: {len(odd)} annotations have no bbox of four numbers, for one id {odd[0]}"
        )
    if annotation_style(content) == "lvis":
        raise UserError(f"{file} is in LVIS format already (it has neg_category_ids)")
    return content


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(number, int | float) for number in value)
    )


def _names(content: dict[str, Any]) -> dict[int, str]:
    return {category["id"]: str(category["name"]) for category in content["categories"]}


def write_all(files: list[Path], contents: list[dict[str, Any]], out: Path | None, end: str):
    """Write each content as ``<name of its source><end>.json``, beside it or into `out`."""
    for file, content in zip(files, contents, strict=True):
        path = (out or file.parent) / f"{file.stem}{end}.json"
        write_json(path, content)
        print(
            f"{path}: {len(content['images'])} images, {len(content['annotations'])} annotations, "
            f"{len(content['categories'])} classes"
        )


def summary(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """What became of the data, in lines for a person."""
    categories = after[0]["categories"]
    counts = Counter(category["frequency"] for category in categories)
    crowds = sum(is_crowd(a) for content in before for a in content["annotations"])
    unseen = sum(not category["image_count"] for category in categories)
    boxes = sum("segmentation" not in a for content in after for a in content["annotations"])
    lines = [f"{counts['r']} rare, {counts['c']} common and {counts['f']} frequent classes"]
    if crowds:
        lines.append(
            f"left out: {crowds} crowd annotations; there their classes are not exhaustive"
        )
    if unseen:
        lines.append(f"{unseen} classes are in no train image; they are called rare")
    if boxes:
        lines.append(f"{boxes} annotations have no mask: only boxes can be trained and evaluated")
    if sorted(c["id"] for c in before[0]["categories"]) != [c["id"] for c in categories]:
        lines.append(f"category ids are 1..{len(categories)} now, in the old order")
    return lines


def main(args: argparse.Namespace) -> None:
    if args.negatives is not None and args.negatives < 0:
        raise UserError(f"--negatives {args.negatives}: 0 or more are possible")
    before = read_all(args.files)
    after = convert(before, args.negatives, args.seed)
    write_all(args.files, after, args.out, "_lvis")
    for line in summary(before, after):
        print(line)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="COCO-format json, train first")
    parser.add_argument("--out", type=Path, help="folder (default: beside each file)")
    parser.add_argument(
        "--negatives", type=int, help="most absent classes listed an image (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of negatives")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
