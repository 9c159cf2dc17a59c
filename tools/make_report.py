#!/usr/bin/env python3
"""Make the report of a run: one HTML file that needs no network.

    python tools/make_report.py output/quickstart            # writes output/quickstart/report.html
    python tools/make_report.py output/a output/b
    python tools/make_report.py copied_run --json val.json --images val --output report.html
    python tools/make_report.py output/growth_table1   # a plan of tools/run_growth.py: table.html

Needs neither torch nor Detectron2: a run folder and the test set will do, on any machine.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import sys
from pathlib import Path

from det_transfer.errors import UserError, exit_code
from det_transfer.report.growth_page import write_page
from det_transfer.report.run_page import make_report

RESULTS = "results.csv"  # of tools/run_plan.py


def main(args: argparse.Namespace) -> None:
    if args.output and len(args.runs) > 1:
        raise UserError("--output is the report of one run; name one RUN")
    for run in args.runs:
        if (Path(run) / RESULTS).is_file():  # a plan's folder
            print("wrote", ", ".join(map(str, write_page(run))))
            continue
        path = make_report(run, args.output, json_file=args.json, images=args.images)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, or a growth plan's")
    parser.add_argument("--output", default="", metavar="FILE", help="default: RUN/report.html")
    parser.add_argument("--json", default="", help="the test set, where it has moved")
    parser.add_argument("--images", default="", metavar="DIR", help="its images, likewise")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(exit_code(main, parse()))
