#!/usr/bin/env python3
"""Carry out a plan: many named runs from one YAML (docs/plans.md).

    python tools/run_plan.py configs/plans/quickstart_reuse.yaml
    python tools/run_plan.py plan.yaml --dry-run         # the runs and how far they are
    python tools/run_plan.py plan.yaml --only 'bccd_*'   # some of them, and what they need
    python tools/run_plan.py plan.yaml --parallel 2      # so many at a time, or on each GPU
    python tools/run_plan.py plan.yaml --ray auto        # on a Ray cluster

Started again, it goes on where it was: finished runs are not repeated, interrupted ones resumed.
Exit codes: 0 all is finished, 1 a run has failed, 2 a mistake in the plan.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from tqdm import tqdm

from det_transfer.engine.launch import run
from det_transfer.engine.plan import (
    LocalSlots,
    Plan,
    RunState,
    Slots,
    Status,
    carry_out,
    look_at,
    read_plan,
    write_tables,
)
from det_transfer.engine.plan.runner import blocked, locked
from det_transfer.engine.plan.state import orphans


class Progress:
    """A bar over the iterations of all runs; its time to go is that of the whole plan."""

    def __init__(self, plan: Plan):
        self._total = {r.name: int(r.cfg.SOLVER.MAX_ITER) for r in plan.runs}
        self._bar = tqdm(
            total=sum(self._total.values()), unit="it", dynamic_ncols=True, disable=None
        )
        self._bar.initial = None

    def __call__(self, states: dict[str, RunState]) -> None:
        done = sum(
            self._total[name] if state.status is Status.FINISHED else state.iterations
            for name, state in states.items()
        )
        if self._bar.initial is None:  # what was there before does not count for the speed
            self._bar.initial = self._bar.n = done
            self._bar.start_t = time.time()
        finished = sum(state.status is Status.FINISHED for state in states.values())
        failed = sum(state.status is Status.FAILED for state in states.values())
        self._bar.set_postfix_str(
            f"{finished} of {len(states)} runs" + f", {failed} failed" * bool(failed), refresh=False
        )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def table(plan: Plan, states: dict[str, RunState]) -> str:
    rows = [
        [r.name, states[r.name].status.value, states[r.name].iterations, ", ".join(r.needs)]
        for r in plan.runs
    ]
    return tabulate(rows, ["run", "is", "iterations", "needs"], tablefmt="simple")


def main(args: argparse.Namespace) -> None:
    def slots(lock: int) -> Slots:
        return LocalSlots(torch.cuda.device_count(), lock, each=args.parallel)

    show_or_run(read_plan(args.plan, args.output), args, slots)


def show_or_run(plan: Plan, args: argparse.Namespace, make_slots: Callable[[int], Slots]) -> None:
    """Do what the flags say; `make_slots` gets the descriptor of the lock on the plan's folder."""
    for name in orphans(plan):
        print(f"{plan.output}/{name} is not in the plan (any more); it is left alone")
    plan = plan.only(*args.only) if args.only else plan
    if args.dry_run:
        states = {r.name: look_at(r) for r in plan.runs}
        print(table(plan, states))
        for name, state in states.items():
            if state.why:
                print(f"{name}: {state.why}")
        return
    with locked(plan.output) as lock:
        if args.ray:
            from det_transfer.engine.plan.on_ray import RaySlots

            slots = RaySlots(args.ray)
        else:
            slots = make_slots(lock)
        progress = Progress(plan)
        try:
            states = carry_out(
                plan, slots, retry_failed=args.retry_failed, say=tqdm.write, progress=progress
            )
        finally:
            progress.close()
            results, _ = write_tables(plan)
    print(table(plan, states))
    for name, causes in blocked(plan, states).items():
        print(f"not started: {name}, which needs {', '.join(causes)}")
    print(f"results: {results}")
    failed = {name: state.why for name, state in states.items() if state.status is Status.FAILED}
    for name, why in failed.items():
        print(f"failed: {name}: {why} (see {plan.output}/{name}/console.txt; --retry-failed)")
    if any(state.status is not Status.FINISHED for state in states.values()):
        sys.exit(1)


def argument_parser(description: str | None = __doc__) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", help="the YAML of the plan")
    add_flags(parser)
    return parser


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", help="folder of the runs, instead of the plan's")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="runs of these names, as in a shell; may be given several times",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the runs and start none")
    parser.add_argument("--retry-failed", action="store_true", help="try failed runs again")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--parallel",
        type=at_least_one,
        default=1,
        metavar="N",
        help="runs at a time on the CPU, or on each GPU",
    )
    where.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster: auto, or host:port")


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return argument_parser().parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
