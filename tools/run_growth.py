#!/usr/bin/env python3
"""Carry out an experiment of "Growing a Brain" and lay the paper's table beside the result.

    python tools/run_growth.py configs/plans/growth_table1.yaml
    python tools/run_growth.py configs/plans/growth_table1.yaml --only 'target_WA_*'
    python tools/run_growth.py configs/plans/growth_table1.yaml --page-only
    python tools/run_growth.py --relations output/growth_table*   # what the paper finds
    python tools/run_growth.py --relations docs/results/growth_table*.json   # the same, of ours

Flags are those of tools/run_plan.py; started again, it goes on where it was. Beside the plan's
results.csv it writes table.csv (over seeds), table.md and table.html. --relations writes
relations.csv, relations.txt and relations.html into --output (default: output/growth_relations).

Exit codes: 0 all is finished, 1 a run has failed, 2 a mistake in the plan.
"""

import argparse
import sys
from pathlib import Path

import run_plan

from det_transfer.engine.launch import run
from det_transfer.engine.plan import read_plan
from det_transfer.errors import UserError
from det_transfer.report.growth_page import write_page, write_relations
from det_transfer.report.growth_relations import examine, text, write_csv
from det_transfer.run_folder import replacing


def main(args: argparse.Namespace) -> None:
    if args.relations:
        write_findings(args.relations, Path(args.output or "output/growth_relations"))
        return
    if not args.plan:
        raise UserError("name a plan, e.g. configs/plans/growth_table1.yaml, or --relations FOLDER")
    output = read_plan(args.plan, args.output).output
    failed = 0
    if not args.page_only:
        try:
            run_plan.main(args)
        except SystemExit as ended:  # some run has failed; the others have results
            failed = ended.code
    if not args.dry_run:
        try:
            show_page(output)
        except UserError as error:
            if not failed:
                raise
            print(f"no page: {error}")
    if failed:
        sys.exit(failed)


def show_page(output: Path) -> None:
    written = write_page(output)
    print((output / "table.md").read_text(encoding="utf-8"))
    print("page:", ", ".join(map(str, written)))


def write_findings(folders: list[Path], output: Path) -> None:
    """The nine order relations on the results of finished plans: text, csv and page."""
    for folder in folders:
        if not (folder.is_file() if folder.suffix == ".json" else folder.is_dir()):
            raise UserError(f"--relations {folder}: there is no such folder of a plan, or json")
    found = examine(folders)
    said = text(found)
    page = write_relations(folders, found, output)
    write_csv(output / "relations.csv", found)
    with replacing(output / "relations.txt") as temporary:
        temporary.write_text(f"{said}\n", encoding="utf-8")
    print(said)
    print(f"written: {page}, with relations.csv and relations.txt beside it")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", nargs="?", help="the YAML of the plan")
    run_plan.add_flags(parser)
    parser.add_argument("--page-only", action="store_true", help="start no run")
    parser.add_argument(
        "--relations",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="folders of finished plans, or jsons made of them",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
