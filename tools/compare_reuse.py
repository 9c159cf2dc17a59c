#!/usr/bin/env python3
"""Which reuse is best for my data? Modes trained under the same budget, and compared on one page.

    python tools/compare_reuse.py --config-file configs/quickstart.yaml \\
        --modes scratch finetune frozen adapters --seeds 2 --budget 20m --output output/which
    python tools/compare_reuse.py ... --budget 500it     # equal iterations instead of equal time
    python tools/compare_reuse.py ... --dry-run          # measure and show, train nothing

A budget of time (90s, 20m, 2h) is what each run may train for, evaluations apart: a mode whose step
is faster gets more iterations. Steps are measured before; warm-up and schedule are scaled. Stopped
or killed, the same command goes on where it was (docs/compare_reuse.md).

Exit codes: 0 done, 1 a run has failed, 2 a mistake in config, files or command line.
"""

import argparse
import contextlib
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from det_transfer import run_folder
from det_transfer.config import Config, load_config
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.dry_run import dry_run
from det_transfer.engine.launch import quiet, run
from det_transfer.engine.plan import PlannedRun, Status, look_at, read_plan
from det_transfer.engine.plan.budget import FEWEST_ITERATIONS, Budget, scaled_schedule
from det_transfer.engine.setup import setup
from det_transfer.errors import USER_ERROR, UserError, nearest, raise_all
from det_transfer.reuse import MODES

TRAIN = "tools/train_net.py"
RUN_PLAN = "tools/run_plan.py"
COMPARE = "tools/compare_runs.py"
PLAN = "plan.yaml"
MEASURED = "budget.json"  # what a step takes in each mode, so that a restart is the same plan
COMPARISON = "comparison.html"
INTERRUPTED = 130  # exit code of a program stopped by hand

# What the command line says elsewhere.
TAKEN = {
    "MODEL.REUSE.MODE": "--modes",
    "SOLVER.MAX_ITER": "--budget",
    "SEED": "--seeds",
    "OUTPUT_DIR": "--output",
}
# Keys that only some modes may have: prefix -> the modes that get them from the command line.
ONLY_FOR = {
    "MODEL.ADAPTERS.": ("adapters", "finetune_adapters"),
    "MODEL.REUSE.FAST": ("frozen",),
    "MODEL.REUSE.COMPILE": ("frozen",),
    "MODEL.REUSE.STAGES": ("partial",),
    "MODEL.REUSE.PATTERNS": ("partial",),
}


# What each mode is --------------------------------------------------------------------------------


def check(args: argparse.Namespace, config: Config) -> None:
    """Say all at once what is wrong with the command line."""
    known = [mode for mode in MODES if mode]
    problems = []
    for mode in args.modes:
        if mode not in known:
            near = " or ".join(nearest(mode, known) or known)
            problems.append(f"--modes: {mode!r} does not exist; did you mean {near}?")
    if len(set(args.modes)) < 2:
        problems.append("--modes: name at least two to compare")
    if args.seeds < 1:
        problems.append(f"--seeds {args.seeds}: it must be at least 1")
    for key, flag in TAKEN.items():
        if key in config.on_command_line:
            problems.append(f"{key} is for {flag} to say; leave it out")
    reusing = [mode for mode in args.modes if mode in known and MODES[mode].weights != "none"]
    if reusing and not config.cfg.MODEL.WEIGHTS:
        problems.append(f"MODEL.WEIGHTS is empty: {', '.join(reusing)} would have nothing to reuse")
    if config.cfg.MODEL.REUSE.TRAIN_ONLY:
        problems.append("MODEL.REUSE.TRAIN_ONLY trains the same parts in every mode; leave it out")
    in_file = sorted(config.explicit - config.on_command_line)
    for key in (key for key in in_file if key.startswith("MODEL.ADAPTERS.")):
        if any("adapters" not in mode for mode in args.modes):
            problems.append(
                f"{args.config_file} has {key}, which only modes with adapters may have; give it "
                "behind the command instead, from where only they get it"
            )
    raise_all(problems)


def split_options(words: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The KEY VALUE pairs for all modes, and those that only some get."""
    given = dict(zip(words[::2], words[1::2], strict=True))
    special = {key: value for key, value in given.items() if key.startswith(tuple(ONLY_FOR))}
    return {key: value for key, value in given.items() if key not in special}, special


def mode_options(mode: str, special: dict[str, str]) -> dict[str, Any]:
    """What makes the config one of a mode, whatever mode it was written for."""
    options: dict[str, Any] = {"MODEL.REUSE.MODE": mode}
    if MODES[mode].weights == "none":
        options["MODEL.WEIGHTS"] = ""
    if mode != "frozen":
        options |= {"MODEL.REUSE.FAST": False, "MODEL.REUSE.COMPILE": False}
    if mode != "partial":
        options |= {"MODEL.REUSE.STAGES": 0, "MODEL.REUSE.PATTERNS": []}
    mine = tuple(prefix for prefix, modes in ONLY_FOR.items() if mode in modes)
    return options | {key: value for key, value in special.items() if key.startswith(mine)}


# Budget -------------------------------------------------------------------------------------------


def measured(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Mode -> seconds of a step and of an evaluation; what was measured before is kept."""
    folder = Path(args.output)
    path = folder / MEASURED
    common, special = split_options(args.opts)
    asked = {"config_file": args.config_file, "options": args.opts}
    kept = run_folder.read_json(path) if path.is_file() else {}
    times = kept.get("modes", {}) if kept.get("asked") == asked else {}
    for mode in args.modes:
        if mode not in times:
            print(f"measuring {mode} ...", flush=True)
            words = as_words({**common, **mode_options(mode, special)})
            times[mode] = measure(args.config_file, words, folder / f"measured_{mode}.txt")
            run_folder.write_json(path, {"asked": asked, "modes": times})
    return times


def measure(config_file: str, words: list[str], log: Path) -> dict[str, float]:
    """In a process of its own, whose memory is then free for the runs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [*words, "OUTPUT_DIR", str(log.with_suffix(""))]  # the config's own may hold a run
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(take_steps, config_file, words, str(log)).result()


def take_steps(config_file: str, words: list[str], log: str) -> dict[str, float]:
    quiet()
    args = argparse.Namespace(
        config_file=config_file, opts=words, resume=False, eval_only=False, dry_run=True
    )
    with open(log, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        trainer = DetectionTrainer(setup(args, prepare))
        trainer.resume_or_load(resume=False)
        found = dry_run(trainer, str(Path(log).parent))
    return {"step_s": found.step_s, "evaluation_s": found.evaluation_s}


def as_words(options: dict[str, Any]) -> list[str]:
    return [str(word) for pair in options.items() for word in pair]


def iterations_of(budget: Budget, times: dict[str, dict[str, float]], modes: list[str]) -> dict:
    """Mode -> iterations.

    Raises:
        UserError: the budget is too small for one of them
    """
    found = {mode: budget.iterations_at(times[mode]["step_s"] if times else 1.0) for mode in modes}
    short = {mode: count for mode, count in found.items() if count < FEWEST_ITERATIONS}
    if short:
        mode = min(short, key=short.get)
        least = f"{FEWEST_ITERATIONS}it"
        if times:
            least = f"{FEWEST_ITERATIONS * max(times[m]['step_s'] for m in modes) + 1:.0f}s"
        raise UserError(
            f"--budget {budget.text} is {short[mode]} iterations of mode {mode}, and a schedule "
            f"needs {FEWEST_ITERATIONS}: take at least {least}"
        )
    return found


def budget_table(iterations: dict, times: dict[str, dict[str, float]]) -> str:
    rows = []
    for mode, count in iterations.items():
        known = times.get(mode)
        step = f"{1000 * known['step_s']:.0f}" if known else "-"
        training = f"{count * known['step_s'] / 60:.1f}" if known else "-"
        rows.append([mode, step, count, training])
    return tabulate(rows, ["mode", "ms a step", "iterations", "minutes of training"])


# Plan and comparison ------------------------------------------------------------------------------


def write_plan(args: argparse.Namespace, config: Config, iterations: dict) -> Path:
    common, special = split_options(args.opts)
    axis = {
        mode: {**mode_options(mode, special), **scaled_schedule(config.cfg, iterations[mode])}
        for mode in iterations
    }
    plan = {
        "config": args.config_file,
        "program": TRAIN,
        "output": args.output,
        "seeds": list(range(1, args.seeds + 1)),
        "options": common,
        "grid": {"mode": axis},
    }
    path = Path(args.output) / PLAN
    with run_folder.replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return path


def compare(runs: list[PlannedRun], page: Path) -> int:
    """The page of runs that have finished; the exit code of what makes it."""
    return call(COMPARE, *(str(run.folder) for run in runs), "--output", str(page))


def call(*command: str) -> int:
    """Run one of our programs; it says itself what is wrong."""
    process = subprocess.Popen([sys.executable, *command])
    while process.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):  # it is told too, and ends in good order
            process.wait()
    return process.returncode


def main(args: argparse.Namespace) -> None:
    config = load_config(args.config_file, args.opts)
    check(args, config)
    args.modes = list(dict.fromkeys(args.modes))
    budget = Budget.parse(args.budget)
    times = measured(args) if budget.seconds else {}
    iterations = iterations_of(budget, times, args.modes)
    path = write_plan(args, config, iterations)
    plan = read_plan(path)
    print(budget_table(iterations, times))
    print(f"{len(plan.runs)} runs: {args.seeds} of each mode; {path}")
    if args.dry_run:
        return
    code = call(RUN_PLAN, str(path))
    if code in (USER_ERROR, INTERRUPTED):
        sys.exit(code)
    finished = [each for each in plan.runs if look_at(each).status is Status.FINISHED]
    if len({each.labels["mode"] for each in finished}) < 2:
        print("fewer than two modes have finished: nothing to compare", file=sys.stderr)
        sys.exit(code or 1)
    page = Path(args.output) / COMPARISON
    sys.exit(compare(finished, page) or code)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="a YAML, of whatever mode")
    parser.add_argument(
        "--modes",
        nargs="+",
        default=["scratch", "finetune", "frozen", "adapters"],
        help="of MODEL.REUSE.MODE (scratch finetune frozen adapters)",
    )
    parser.add_argument("--seeds", type=int, default=2, help="runs of each mode (2)")
    parser.add_argument("--budget", default="20m", help="of a run: 90s, 20m, 2h or 500it (20m)")
    parser.add_argument("--output", default="output/compare_reuse", metavar="FOLDER")
    parser.add_argument("--dry-run", action="store_true", help="measure and show, train nothing")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="for all runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
