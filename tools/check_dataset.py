#!/usr/bin/env python3
"""List everything in a dataset that would hurt, worst first, before anything is trained on it.

    python tools/check_dataset.py train.json images
    python tools/check_dataset.py train.json images --against val.json images --picture check.png
    python tools/check_dataset.py train.json images --no-images

Every image is decoded, compared with the json, and looked for in the other set. Exit codes: 0
training would run, 2 it would stop or the json cannot be used.
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
from det_transfer.errors import UserError
from det_transfer.report.dataset import DatasetFacts, draw_dataset
from det_transfer.run_folder import write_json


class Checked:
    """One set: its content and what is wrong with it."""

    def __init__(self, json_file: Path, images: Path, args: argparse.Namespace):
        if not images.is_dir():
            raise UserError(f"the image folder {images} does not exist")
        self.content: dict[str, Any] = read_annotations(str(json_file), what=str(json_file))
        masks = any(a.get("segmentation") for a in self.content["annotations"])
        self.check = check_annotations(self.content, images, masks=masks)
        self.findings: list[Finding] = self.check.findings
        self.images: ImageCheck | None = None
        if not args.no_images:
            total = len(self.content["images"])
            self.images = check_images(
                self.content,
                images,
                args.workers,
                lambda seen: tqdm(seen, total=total, unit="image", disable=None),
            )
            self.findings = [*self.findings, *self.images.findings]

    def stops_training(self, most_skipped: float) -> bool:
        """Whether something is fatal, or too much would be skipped."""
        if self.images:
            self.check.skip_images |= self.images.skip_images
        fatal = any(f.severity is Severity.FATAL for f in self.findings)
        return fatal or self.check.skipped_share > most_skipped


def main(args: argparse.Namespace) -> None:
    checked = Checked(args.json_file, args.images, args)
    findings = list(checked.findings)
    if args.against:
        other = Checked(*map(Path, args.against), args)
        if checked.images and other.images:
            findings += shared_pictures(other.images, checked.images)
    stops = checked.stops_training(args.max_skipped)
    facts = DatasetFacts.of(checked.content)
    print(facts.table())
    print(format_findings(findings) or "nothing was found that would hurt")
    if args.json:
        entries = [finding.as_dict() for finding in worst_first(findings)]
        write_json(args.json, {"stops": stops, "findings": entries, **facts.as_dict()})
    if args.picture:
        draw_dataset(facts, args.picture)
    if stops:
        raise UserError(
            f"training would stop: mend what is fatal, and what is skipped down to "
            f"{args.max_skipped:.1%} of images and annotations"
        )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json_file", type=Path, help="COCO or LVIS format")
    parser.add_argument("images", type=Path, help="the folder that its file names are relative to")
    parser.add_argument(
        "--against", nargs=2, metavar=("JSON", "IMAGES"), help="another set: are pictures in both?"
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
