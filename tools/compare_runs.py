#!/usr/bin/env python3
"""Which side is better, and is that more than the choice of test images? AP with 95 % intervals.

    python tools/compare_runs.py val.json --dataset bccd_val \\
        --side "frozen=output/reuse_modes/bccd_frozen_s?" \\
        --side "finetune=output/reuse_modes/bccd_finetune_s?"

Each side is one run or several of other seeds, whose mean counts; all are compared with the first.
The test images are drawn again, with replacement, the same for both sides of a comparison. For
datasets in COCO format (the predictions in <run>/eval/<dataset>).

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import glob
import shlex
import sys
from typing import Any

from tabulate import tabulate

from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.evaluation.paired import Interval, match_run, paired_intervals
from det_transfer.run_folder import write_json


def main(args: argparse.Namespace) -> None:
    sides = dict(read_side(text) for text in args.side)
    if len(sides) < 2:
        raise UserError("--side: name at least two sides to compare")
    matched = {
        name: [match_run(folder, args.dataset, args.json, args.task) for folder in folders]
        for name, folders in sides.items()
    }
    base, *others = sides
    found = {
        other: paired_intervals(matched[other], matched[base], draws=args.draws) for other in others
    }
    rows = [
        [f"{other} - {base}", metric, str(interval), "decided" if interval.decided else "open"]
        for other, intervals in found.items()
        for metric, interval in intervals.items()
    ]
    print(tabulate(rows, [args.dataset, "", "difference (95 %)", ""]))
    if args.output:
        write_json(args.output, report(args, base, found))


def read_side(text: str) -> tuple[str, list[str]]:
    name, _, pattern = text.partition("=")
    folders = sorted(glob.glob(pattern))
    if not folders:
        raise UserError(f"--side {text!r}: write NAME=PATTERN; no folder is {pattern!r}")
    return name, folders


def report(
    args: argparse.Namespace, base: str, found: dict[str, dict[str, Interval]]
) -> dict[str, Any]:
    return {
        "title": args.title or f"Compared on {args.dataset}",
        "note": f"Differences to {base} in AP, with 95 % intervals over images "
        f"({args.draws} draws, the mean over seeds on each side).",
        "command": shlex.join(["python", "tools/compare_runs.py", *sys.argv[1:]]),
        "results": {
            f"{other} - {base}": {
                metric: {"median": i.difference, "min": i.low, "max": i.high}
                for metric, i in intervals.items()
            }
            for other, intervals in found.items()
        },
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", metavar="JSON", help="the test set, in COCO format")
    parser.add_argument("--dataset", required=True, help="its name in the runs' eval folders")
    parser.add_argument("--side", action="append", required=True, metavar="NAME=PATTERN")
    parser.add_argument("--task", choices=["bbox", "segm"], default="bbox")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--title", default="")
    parser.add_argument("--output", metavar="FILE", help="write the numbers as json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
