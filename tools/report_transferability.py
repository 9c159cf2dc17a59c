#!/usr/bin/env python3
"""Make the page of a transferability experiment: one HTML file that needs no network.

    python tools/report_transferability.py output/transferability
    python tools/report_transferability.py output/transferability --without-paper

Writes transferability.html, transferability.csv (a line a run) and transferability_differences.csv
(a line a difference) into the plan folder of tools/run_transferability.py, which does
so by itself at its end. Runs that have failed or are still to come are named, the rest is shown.
Needs neither torch nor Detectron2.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import sys
from collections.abc import Sequence

from det_transfer.errors import exit_code
from det_transfer.report import transferability


def main(args: argparse.Namespace) -> None:
    path = transferability.write(args.folder, with_paper=not args.without_paper)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="PLAN_FOLDER", help="of tools/run_transferability.py")
    parser.add_argument(
        "--without-paper", action="store_true", help="leave the paper's curves and numbers out"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(exit_code(main, parse()))
