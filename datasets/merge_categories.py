#!/usr/bin/env python
"""Merge the categories of COCO-format json files, by supercategory or by a mapping of one's own.

    python datasets/merge_categories.py instances_train.json instances_val.json --out annotations
    python datasets/merge_categories.py train.json --mapping mapping.json

Writes ``<name>_merged.json`` for each file. A mapping is a json object from every old name to a
new one: ``{"cat": "animal", "dog": "animal", "car": "car"}``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from coco_to_lvis import read_all, write_all

from det_transfer.documents import read_json
from det_transfer.engine.launch import run
from det_transfer.errors import UserError, nearest, raise_all


def merge(content: dict[str, Any], groups: dict[str, str]) -> dict[str, Any]:
    """A COCO-format content with merged categories, their ids 1..K in the order of the old ones.

    Args:
        groups: old name -> new name, for every category
    """
    old = sorted(content["categories"], key=lambda category: category["id"])
    names = list(dict.fromkeys(groups[str(category["name"])] for category in old))
    new_ids = {c["id"]: names.index(groups[str(c["name"])]) + 1 for c in old}
    return {
        **content,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
        "annotations": [
            {**annotation, "category_id": new_ids[annotation["category_id"]]}
            for annotation in content["annotations"]
        ],
    }


def by_supercategory(categories: list[dict[str, Any]]) -> dict[str, str]:
    """Old name -> supercategory. Raises: UserError where a category has none."""
    without = [str(c["name"]) for c in categories if not c.get("supercategory")]
    if without:
        raise UserError(
            f"{len(without)} categories have no supercategory, for one {without[0]}; "
            "say what to merge with --mapping"
        )
    return {str(category["name"]): category["supercategory"] for category in categories}


def by_mapping(categories: list[dict[str, Any]], file: Path) -> dict[str, str]:
    """Old name -> new name from a json file. Raises: UserError where it does not fit."""
    groups = read_json(file, "--mapping")
    if not isinstance(groups, dict) or not all(isinstance(v, str) for v in groups.values()):
        raise UserError(f"--mapping {file} is not a json object from old names to new ones")
    names = [str(category["name"]) for category in categories]
    raise_all(
        [f"--mapping {file} says nothing of {name!r}" for name in names if name not in groups]
        + [
            f"--mapping {file}: there is no category {name!r}{_hint(name, names)}"
            for name in groups
            if name not in names
        ]
    )
    return groups


def _hint(name: str, names: list[str]) -> str:
    near = nearest(name, names, most=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def main(args: argparse.Namespace) -> None:
    contents = read_all(args.files)
    categories = contents[0]["categories"]
    groups = by_mapping(categories, args.mapping) if args.mapping else by_supercategory(categories)
    write_all(args.files, [merge(content, groups) for content in contents], args.out, "_merged")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="COCO-format json")
    parser.add_argument("--mapping", type=Path, help="json object from old names to new ones")
    parser.add_argument("--out", type=Path, help="folder (default: beside each file)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
