#!/usr/bin/env python
"""What the plan runner costs: the same runs by a plan and one after the other, in turn.

A run is a program that sleeps and then writes a run folder, so that all else is overhead: reading
and checking the plan (with torch and Detectron2 imported once), looking at folders, tables. The
runs themselves are the measure; no rate of the machine bounds the rest.

    python tools/benchmarks/plan_overhead.py --output docs/results/benchmark_plan_overhead.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from functools import partial
from pathlib import Path

from measurements import spreads, timed, write_measurements

from det_transfer.engine.plan import read_plan

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
    import json, pathlib, sys, time
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    time.sleep({seconds})
    folder = pathlib.Path(options["OUTPUT_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    record = {{"status": "finished", "results": {{"bbox": {{"AP": 1.0}}}},
              "seconds": {{"training": {seconds}, "evaluation": 0.0}}}}
    (folder / "run.json").write_text(json.dumps(record))
"""


def seconds_of(command: list[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = partial(subprocess.run, cwd=ROOT, env=environment, check=True, capture_output=True)
    return timed(partial(run, command))


def measure(folder: Path, runs: int, seconds: float) -> dict[str, float]:
    """The plan, and its runs one after the other without it."""
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM.format(seconds=seconds)))
    plan = folder / "plan.yaml"
    seeds = list(range(1, runs + 1))
    plan.write_text(f"program: {program}\noutput: {folder / 'runs'}\nseeds: {seeds}\n")
    by_plan = seconds_of([sys.executable, "tools/run_plan.py", str(plan)])
    alone = sum(
        seconds_of([sys.executable, *run.command(resume=False)])
        for run in read_plan(plan, folder / "alone").runs
    )
    return {
        "by_plan_s": by_plan,
        "one_after_the_other_s": alone,
        "overhead_s": by_plan - alone,
        "overhead_percent": 100 * (by_plan - alone) / alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a run")
    parser.add_argument("--repeats", type=int, default=3, help="of both, four minutes each")
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    rounds = []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measure(Path(folder), args.runs, args.seconds))
    results = [{"what": "plan", **spreads(rounds)}]
    print(json.dumps(results, indent=1))
    write_measurements(
        args.output,
        "the plan runner",
        results,
        packages=(),
        data={"runs": args.runs, "seconds_a_run": args.seconds, "repeats": args.repeats},
    )


if __name__ == "__main__":
    main()
