#!/usr/bin/env python3
"""Which run is better, and is that more than the choice of test images? One page says it.

    python tools/compare_runs.py output/frozen_s1 output/frozen_s2 output/finetune_s1
    python tools/compare_runs.py output/reuse_modes/bccd_* --base frozen --output comparison.html
    python tools/compare_runs.py output/grid/* --factors MODEL.DECODER.NAME MODEL.REUSE.MODE
    python tools/compare_runs.py output/a* output/b* --side "a=a*" --side "b=b*" \\
        --output-json numbers.json

Runs that differ in their seed alone are one side; sides are named by the config keys in which they
differ. All are held to the first (or --base). The test images are drawn again, with replacement,
the same for both sides of a comparison. What cannot be compared is refused with the reason.
Needs neither torch nor Detectron2.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from det_transfer.errors import UserError, exit_code
from det_transfer.report.comparison import DRAWS, Comparison, compare, numbers_json
from det_transfer.report.comparison_page import comparison_page
from det_transfer.report.html import render
from det_transfer.report.runs import Run, read_run
from det_transfer.report.verdict import verdict
from det_transfer.run_folder import replacing, write_json


def main(args: argparse.Namespace) -> None:
    if args.draws < 1:
        raise UserError(f"--draws is {args.draws}: at least 1, better 200 or more")
    folders = dict.fromkeys(str(Path(run)) for run in args.runs)
    runs = [read_run(folder, json_file=args.json, images=args.images) for folder in folders]
    result = compare(
        runs,
        sides=args.side,
        base=args.base,
        dataset=args.dataset,
        task=args.task,
        draws=args.draws,
        watch=progress,
    )
    page = comparison_page(result, title=args.title, factors=args.factors)
    with replacing(args.output) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    if args.output_json:
        command = shlex.join(["python", "tools/compare_runs.py", *sys.argv[1:]])
        write_json(args.output_json, numbers_json(result, title=args.title, command=command))
    print(table(result))
    print(verdict(result))
    print(f"wrote {args.output}")


def progress(runs: Sequence[Run]) -> Iterable[Run]:
    return tqdm(runs, "runs", disable=not sys.stderr.isatty())


def table(result: Comparison) -> str:
    rows = [
        [f"{other} - {result.base.name}", metric, str(i), "decided" if i.decided else "not decided"]
        for other, found in result.differences.items()
        for metric, i in found.items()
    ]
    return tabulate(rows, [result.dataset, "", "difference (95 %)", ""])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders")
    parser.add_argument("--output", default="comparison.html", metavar="PAGE", help="the page")
    parser.add_argument("--output-json", metavar="FILE", help="also the differences as json")
    parser.add_argument("--dataset", default="", help="where runs were evaluated on several")
    parser.add_argument("--task", choices=["bbox", "segm"], default="bbox")
    parser.add_argument(
        "--side", action="append", default=[], metavar="NAME=GLOB", help="runs of a side"
    )
    parser.add_argument("--base", default="", metavar="NAME", help="default: the first side")
    parser.add_argument(
        "--factors", nargs="+", default=[], metavar="KEY", help="config keys of the factor figure"
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"of the images ({DRAWS})")
    parser.add_argument("--title", default="")
    parser.add_argument("--json", default="", help="the test set, where it has moved")
    parser.add_argument("--images", default="", metavar="DIR", help="its images, likewise")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(exit_code(main, parse()))
