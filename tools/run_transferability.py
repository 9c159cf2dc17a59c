#!/usr/bin/env python3
"""Find out where a network is general and where specific (docs/transferability.md).

    python tools/run_transferability.py configs/plans/transferability_digits.yaml
    python tools/run_transferability.py plan.yaml --dry-run     # the runs, and how far they are
    python tools/run_transferability.py plan.yaml --parallel 2  # so many at a time
    python tools/run_transferability.py plan.yaml --only 'random0_*_s0'
    python tools/run_transferability.py plan.yaml --page-only

Flags are those of tools/run_plan.py; started again, it goes on where it was. Beside the plan's
results.csv it writes transferability.json (what each run is), the splits with their checksums, and
the page.

Exit codes: 0 all is finished, 1 a run has failed, 2 a mistake in the plan.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import run_plan
import torch

from det_transfer.classification.transfer_plan import (
    DESCRIPTION,
    SECTION,
    Experiment,
    read_experiment,
)
from det_transfer.engine.launch import run
from det_transfer.engine.plan import ForkedSlots, LocalSlots, Plan, Slots, read_plan
from det_transfer.engine.plan.runner import unchanged
from det_transfer.errors import UserError

# What the runs import, once for all of them.
MODULES = ("det_transfer.classification", "sklearn.datasets", "torch.utils.tensorboard")


def main(args: argparse.Namespace) -> None:
    plan, experiment = read(args.plan, args.output)
    failed = 0
    if not args.page_only:
        if not args.dry_run:
            unchanged(plan)  # before the description of what is there is written anew
            experiment.write(plan.output)
        try:
            run_plan.show_or_run(plan, args, lambda lock: make_slots(args, lock))
        except SystemExit as ended:  # some run has failed; the others have results
            failed = ended.code
    if not args.dry_run:
        try:
            write_page(plan.output)
        except UserError as error:
            if not failed:
                raise
            print(f"no page: {error}")
    if failed:
        sys.exit(failed)


def read(path: str, output: str | None) -> tuple[Plan, Experiment]:
    """The plan's runs, and what they are.

    Raises:
        UserError: the plan has no section for them, or what is wrong with it
    """
    found: list[Experiment] = []

    def expand(section: Any, rest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        found.append(read_experiment(section, rest, Path(path).stem))
        return found[0].templates(folder)

    plan = read_plan(path, output, sections={SECTION: expand})
    if not found:
        raise UserError(f"{path} has no section {SECTION}; tools/run_plan.py carries out others")
    return plan, found[0]


def make_slots(args: argparse.Namespace, lock: int) -> Slots:
    gpus = torch.cuda.device_count()
    if args.spawn:
        return LocalSlots(gpus, lock, each=args.parallel)
    return ForkedSlots(MODULES, gpus, lock, each=args.parallel)


def write_page(folder: Path) -> None:
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder} has no {DESCRIPTION}: nothing of this plan was run yet")
    from det_transfer.report.transferability import write

    print(f"page: {write(folder)}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = run_plan.argument_parser(__doc__)
    parser.add_argument("--page-only", action="store_true", help="train nothing, write the page")
    parser.add_argument(
        "--spawn",
        action="store_true",
        help="start each run as a program of its own, not as a copy of one that has imported all",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
