#!/usr/bin/env python3
"""List everything in a dataset that would hurt, worst first, before anything is trained on it.

    python tools/check_dataset.py train.json images
    python tools/check_dataset.py train.json images --against val.json images --picture check.png
    python tools/check_dataset.py train.json images --no-images

Every image is decoded, compared with the json, and looked for in the other set, which is checked
too. Exit codes: 0 training would run, 2 it would stop or a json cannot be used.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from det_transfer.data.checks import (
    Finding,
    ImageCheck,
    Severity,
    check_annotations,
    check_images,
    format_findings,
    shared_pictures,
    worst_first,
)
from det_transfer.data.datasets.coco_format import read_annotations
from det_transfer.engine.launch import run
from det_transfer.errors import UserError, raise_all
from det_transfer.report.dataset import DatasetFacts, check_picture, draw_dataset
from det_transfer.run_folder import write_json


class Checked:
    """One set: its content and what is wrong with it."""

    def __init__(self, json_file: Path, images: Path, args: argparse.Namespace):
        self.name = str(json_file)
        if not images.is_dir():
            raise UserError(f"the image folder {images} does not exist")
        self.content: dict[str, Any] = read_annotations(str(json_file), what=str(json_file))
        masks = any(a.get("segmentation") for a in self.content["annotations"])
        self.check = check_annotations(self.content, images, masks=masks)
        self.findings: list[Finding] = self.check.findings
        self.images: ImageCheck | None = None
        self.facts = DatasetFacts.of(self.content)
        if not args.no_images:
            total = len(self.content["images"])
            self.images = check_images(
                self.content,
                images,
                args.workers,
                lambda seen: tqdm(seen, total=total, unit="image", disable=None),
            )
            self.check.skip_images |= self.images.skip_images
            self.findings = [*self.findings, *self.images.findings]

    def stops_training(self, most_skipped: float) -> bool:
        """Whether something is fatal, or too much would be skipped."""
        fatal = any(f.severity is Severity.FATAL for f in self.findings)
        return fatal or self.check.skipped_share > most_skipped

    def names(self) -> list[str]:
        """Of the classes, in the order in which training counts them."""
        ordered = sorted(self.content["categories"], key=lambda category: category["id"])
        return [str(category["name"]) for category in ordered]

    def text(self) -> str:
        said = format_findings(self.findings) or "nothing was found that would hurt"
        return f"{self.name}\n{self.facts.table()}\n{said}"

    def as_dict(self) -> dict[str, Any]:
        entries = [finding.as_dict() for finding in worst_first(self.findings)]
        return {"findings": entries, **self.facts.as_dict()}


def main(args: argparse.Namespace) -> None:
    if args.picture:
        check_picture(args.picture)  # not after an hour of decoding
    checked = Checked(args.json_file, args.images, args)
    other = Checked(*map(Path, args.against), args) if args.against else None
    sets = [checked] if other is None else [checked, other]
    if other and checked.images and other.images:
        checked.findings += shared_pictures(other.images, checked.images)
    problems = [
        f"{each.name}: training would stop: mend what is fatal, and what is skipped down to "
        f"{args.max_skipped:.1%} of images and annotations"
        for each in sets
        if each.stops_training(args.max_skipped)
    ]
    if other and other.names() != checked.names():
        problems.append(f"{checked.name} and {other.name} have different classes")
    print("\n\n".join(each.text() for each in sets))
    if args.json:
        against = {} if other is None else {"against": other.as_dict()}
        write_json(args.json, {"stops": bool(problems), **checked.as_dict(), **against})
    if args.picture:
        draw_dataset(checked.facts, args.picture)
    raise_all(problems)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json_file", type=Path, help="COCO or LVIS format")
    parser.add_argument("images", type=Path, help="the folder that its file names are relative to")
    parser.add_argument(
        "--against",
        nargs=2,
        metavar=("JSON", "IMAGES"),
        help="another set, checked too: are pictures in both?",
    )
    parser.add_argument("--no-images", action="store_true", help="look at the json alone")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (2)")
    parser.add_argument(
        "--max-skipped",
        type=float,
        default=0.01,
        help="as DATASETS.MAX_SKIPPED: the share that training may leave out (0.01)",
    )
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--picture", type=Path, help="draw the distributions into this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
