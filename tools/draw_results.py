#!/usr/bin/env python3
"""Draw the groups of a json of docs/results as bars: what they reached, and what it took.

    python tools/draw_results.py docs/results/quickstart.json docs/pictures/quickstart.svg \\
        --metrics AP APr APc APf

Exit codes: 0 done, 2 a mistake in files or command line.
"""

import argparse
import sys
from pathlib import Path

from det_transfer.errors import UserError, exit_code
from det_transfer.report.collect import KIND
from det_transfer.report.group_bars import group_bars
from det_transfer.run_folder import read_json, replacing


def main(args: argparse.Namespace) -> None:
    if not args.json.is_file():
        raise UserError(f"{args.json} does not exist; tools/make_results.py collect makes one")
    content = read_json(args.json)
    if content.get("kind") != KIND:
        raise UserError(f"{args.json} holds no groups of runs, as tools/make_results.py collects")
    drawn = group_bars(content, args.metrics, args.task)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.picture) as temporary:
        temporary.write_bytes(drawn)
    print(f"wrote {args.picture}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, help="of tools/make_results.py collect")
    parser.add_argument("picture", type=Path, help="SVG to write")
    parser.add_argument("--metrics", nargs="+", default=["AP", "AP50"], metavar="METRIC")
    parser.add_argument("--task", choices=["bbox", "segm"], default="bbox")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(exit_code(main, parse()))
