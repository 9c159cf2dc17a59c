#!/usr/bin/env python3
"""Carry out an experiment of "Growing a Brain" and lay the paper's table beside the result.

    python tools/run_growth.py configs/plans/growth_table1.yaml
    python tools/run_growth.py configs/plans/growth_table1.yaml --only 'target_WA_*'
    python tools/run_growth.py configs/plans/growth_table1.yaml --page-only

Flags are those of tools/run_plan.py; started again, it goes on where it was. Beside the plan's
results.csv it writes table.csv (over seeds) and table.md.

Exit codes: 0 all is finished, 1 a run has failed, 2 a mistake in the plan.
"""

import argparse
import re
import sys
from pathlib import Path

import run_plan

from det_transfer.engine.launch import run
from det_transfer.engine.plan import read_plan
from det_transfer.report.growth import gather, page, write_csv
from det_transfer.run_folder import replacing


def main(args: argparse.Namespace) -> None:
    output = read_plan(args.plan, args.output).output
    failed = 0
    if not args.page_only:
        try:
            run_plan.main(args)
        except SystemExit as ended:  # some run has failed; the others have results
            failed = ended.code
    if not args.dry_run:
        write_page(Path(args.plan), output)
    if failed:
        sys.exit(failed)


def write_page(plan: Path, output: Path) -> None:
    rows = gather(output / "results.csv")
    write_csv(output / "table.csv", rows)
    number = re.search(r"table(\d+)", plan.stem)
    title = f"Growing a Brain, table {number[1]}" if number else plan.stem
    text = page(rows, int(number[1]) if number else None, title)
    with replacing(output / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{text}\npage: {output / 'table.md'}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    argv = sys.argv[1:] if argv is None else argv
    args = run_plan.parse_args([word for word in argv if word != "--page-only"], __doc__)
    args.page_only = "--page-only" in argv
    return args


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
