#!/usr/bin/env python3
"""How much faster is training of scope New on cached activations, and how long takes a run?

Two trainers on the same drawn images and views, one with MODEL.CLASSIFIER.CACHE, each in a process
of its own with one thread, take turns step by step: data, forward, backward and update. An epoch
is so many steps; what filling the cache takes once is told apart. CPU seconds hardly depend on
what else the machine does. Beside them stands how near a step, with its data, comes to the matrix
products of one thread.

With --runs whole runs follow, each in a process of its own: start, cache, training and evaluation
of a widened network; with one thread, and once more with one for every core. Table 1
(configs/plans/growth_table1.yaml) is so many of those with one thread, and half of their sum on two
cores.

    python tools/benchmarks/growth.py                            # compact network, 64 px, FC of 512
    python tools/benchmarks/growth.py --network alexnet --size 224 --rounds 5
    python tools/benchmarks/growth.py --runs --output docs/results/benchmark_growth.json
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from measurements import PRODUCTS, ratios, spread, spreads, write_measurements
from sides import Turns, operations, take_turns

from det_transfer.classification import ClassificationTrainer, prepare
from det_transfer.engine.launch import quiet
from det_transfer.engine.setup import argument_parser, setup
from det_transfer.testing import make_tiny_images

ROOT = Path(__file__).resolve().parents[2]
# Scope -> runs in Table 1: six methods, of which "progressive" has New alone, and three seeds.
TABLE1 = {"New": 18, "FC7-New": 15, "FC6-New": 15, "All": 15}


def options(args: argparse.Namespace, folder: Path, output: str) -> list[str]:
    sets = [[name, "images", str(folder / "images"), name] for name in ("train", "test")]
    sets = sets if args.runs else sets[:1]
    width = 512 if args.network == "compact_alexnet" else 4096
    pairs = {
        "DATASETS.CLASSIFICATION": sets,
        "DATASETS.TRAIN": ("train",),
        "DATASETS.TEST": (),
        "INPUT.VIEW.RESIZE": args.size + args.size // 8,
        "INPUT.VIEW.CROP": args.size,
        "INPUT.VIEW.FIXED": 1,
        "MODEL.CLASSIFIER.NETWORK": args.network,
        "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": args.batch,
        "SOLVER.BASE_LR": 0.001,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.CHECKPOINT_PERIOD": 100_000,
        "OUTPUT_DIR": str(folder / output),
        "SEED": 1,
    }
    if output != "source":
        pairs |= {
            "MODEL.WEIGHTS": str(folder / "source" / "source.pth"),
            "MODEL.CLASSIFIER.TASK": "new",
            "MODEL.CLASSIFIER.SCOPE": "New",
            "MODEL.GROWTH.KIND": "widen",
            "MODEL.GROWTH.SIZES": [width // 2],
            "MODEL.CLASSIFIER.CACHE": output == "cached",
        }
    return [
        word if isinstance(word, str) else repr(word) for pair in pairs.items() for word in pair
    ]


def trainer(args: argparse.Namespace, folder: Path, output: str) -> ClassificationTrainer:
    parsed = argument_parser("").parse_args(options(args, folder, output))
    made = ClassificationTrainer(setup(parsed, prepare))
    made.resume_or_load(resume=False)
    return made


def side(args: argparse.Namespace, folder: Path, output: str) -> Callable[[], None]:
    """A training step of one side; how long its making took, and what a step is, lie in a file."""
    torch.set_num_threads(1)
    start, computed = time.perf_counter(), time.process_time()
    made = trainer(args, folder, output)
    took = {"s": time.perf_counter() - start, "cpu_s": time.process_time() - computed}

    def step() -> None:
        with EventStorage(0):
            made._trainer.iter = 0
            made._trainer.run_step()

    took["operations"] = operations(step)
    (folder / f"{output}.json").write_text(json.dumps(took))
    return step


def whole_runs(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of a run of each scope from start to end, and of Table 1."""
    rounds = []
    for round_ in range(args.run_rounds):
        place = folder / f"round{round_}"
        rounds.append({scope: runs_of(args, folder, place / scope, scope) for scope in TABLE1})
    found: dict[str, Any] = {scope: spreads([one[scope] for one in rounds]) for scope in TABLE1}
    for kind, name in (("run_s", "table1_min_on_two_cores"), ("run_cpu_s", "table1_cpu_min")):
        totals = [sum(n * one[scope][kind] for scope, n in TABLE1.items()) for one in rounds]
        found[name] = spread(total / (120 if kind == "run_s" else 60) for total in totals)
    return found


def runs_of(args: argparse.Namespace, folder: Path, place: Path, scope: str) -> dict[str, float]:
    """A run with one thread, and one on all cores."""
    one_thread, cpu = whole_run(args, folder, place / "one", scope, 1)
    alone, _ = whole_run(args, folder, place / "all", scope, len(os.sched_getaffinity(0)))
    return {"run_s": one_thread, "run_cpu_s": cpu, "alone_on_all_cores_s": alone}


def whole_run(
    args: argparse.Namespace, folder: Path, output: Path, scope: str, threads: int
) -> tuple[float, float]:
    """Seconds, and CPU seconds, of one run."""
    words = options(args, folder, "cached")
    words += ["MODEL.CLASSIFIER.SCOPE", scope, "DATASETS.TEST", "('test',)"]
    words += ["INPUT.VIEW.FIXED", "2", "SOLVER.IMS_PER_BATCH", "32", "SOLVER.STEPS", "()"]
    words += ["SOLVER.MAX_ITER", str(args.iterations), "OUTPUT_DIR", str(output)]
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train_classifier.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="compact_alexnet", help="or alexnet, vgg16")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--images", type=int, default=32, help="of each class")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", action="store_true", help="time whole runs too")
    parser.add_argument("--run-rounds", type=int, default=1, help="of whole runs, 4 minutes each")
    parser.add_argument("--iterations", type=int, default=300, help="of a run")
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(1)  # for the machine's rates, as in the sides
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny_images(
            folder / "images",
            classes=args.classes,
            per_class=args.images,
            size=args.size + args.size // 2,
            splits=("train", "test") if args.runs else ("train",),
        )
        trainer(args, folder, "source").checkpointer.save("source", tag=False)
        makers = {output: partial(side, args, folder, output) for output in ("uncached", "cached")}
        turns = take_turns(makers, rounds=args.rounds)
        made = {name: json.loads((folder / f"{name}.json").read_text()) for name in turns}
        results = summary(args, turns, made)
        if args.runs:
            results["whole_runs"] = whole_runs(args, folder)
    print(json.dumps(results, indent=1))
    write_measurements(
        args.output,
        "training of scope New on cached activations",
        results,
        packages=("torch", "torchvision", "detectron2", "numpy"),
        reached={
            PRODUCTS["fp32"]: {
                name: side.gflops(made[name]["operations"]) for name, side in turns.items()
            }
        },
        data={k: v for k, v in vars(args).items() if k != "output"},
    )


def summary(
    args: argparse.Namespace, turns: dict[str, Turns], made: dict[str, dict[str, float]]
) -> dict[str, Any]:
    steps = args.classes * args.images / args.batch
    found: dict[str, Any] = {
        name: {
            "step_ms": spread(1000 * seconds for seconds in side.seconds),
            "step_cpu_ms": spread(1000 * seconds for seconds in side.cpu),
            "epoch_s": spread(steps * seconds for seconds in side.seconds),
            "peak_bytes": side.peak,
        }
        for name, side in turns.items()
    }
    uncached, cached = turns["uncached"], turns["cached"]
    found["times_faster"] = ratios(uncached.seconds, cached.seconds)
    found["times_faster_cpu"] = ratios(uncached.cpu, cached.cpu)
    found["filling_the_cache_cpu_s"] = made["cached"]["cpu_s"] - made["uncached"]["cpu_s"]
    return found


if __name__ == "__main__":
    main()
