#!/usr/bin/env python3
"""Several tasks on one frozen trunk, which is computed once for all of them (docs/compose.md).

    python tools/compose.py make shared.yaml cells=output/cells rooms=output/rooms
    python tools/compose.py list shared.yaml               # what is in it
    python tools/compose.py check shared.yaml              # is everything there, and still the same
    python tools/compose.py eval shared.yaml               # each task on its own test sets
    python tools/compose.py run shared.yaml photos/ --output found    # as tools/predict.py does

`eval` writes <output>/<task>/eval/<dataset>, with the results of the runs evaluated alone.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from det_transfer import run_folder
from det_transfer.classification import load_head
from det_transfer.composition import (
    LOADERS,
    LoadedTask,
    compose,
    evaluate,
    load_composition,
    read_composition,
)
from det_transfer.config import load_config
from det_transfer.engine.launch import run
from det_transfer.engine.progress import watched
from det_transfer.errors import UserError
from det_transfer.modeling.meta_arch import SharedBackboneDetector
from det_transfer.prediction import find_sources, named, predict

LOADERS["classifier"] = load_head


def make(args: argparse.Namespace) -> None:
    runs = dict(task(word) for word in args.tasks)
    if len(runs) < len(args.tasks):
        raise UserError("two tasks have one name")
    sizes = dict(zip(("min_size", "max_size"), args.input_size or (), strict=False))
    composed = compose(args.file, runs, input=sizes)
    print(costs(composed.model))
    for line in namesakes(composed.tasks):
        print(line)
    print(f"{args.file}: {len(runs)} tasks on trunk {composed.model.fingerprint[:12]}")


def task(word: str) -> tuple[str, str]:
    name, _, folder = word.partition("=")
    if not name.replace("_", "").replace("-", "").isalnum() or not folder:
        raise UserError(f"{word!r}: write NAME=RUN_FOLDER; a name has letters, digits, - and _")
    return name, folder


def costs(model: SharedBackboneDetector) -> str:
    """What the parts weigh, and which tasks need a pass of their own."""
    rows = [["trunk, shared", millions(model.trunk), "once"]]
    for name, part in model.tasks.items():
        own_pass = getattr(part, "own_pass", False)  # a classifier's head has none
        rows.append([name, millions(part), "and a pass of its own: adapters" * own_pass])
    return tabulate(rows, ["part", "M parameters", "trunk computed"], tablefmt="simple")


def namesakes(tasks: Mapping[str, LoadedTask]) -> Iterator[str]:
    """Tasks with classes of one name, which stay apart."""
    for (one, first), (other, second) in itertools.combinations(tasks.items(), 2):
        if both := [name for name in first.classes if name in set(second.classes)]:
            yield (
                f"{one} and {other} have {len(both)} classes of one name, e.g. {both[0]}: answers "
                "are kept apart by task"
            )


def millions(module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}"


def listed(args: argparse.Namespace) -> None:
    composition = read_composition(args.file)
    rows = [
        [name, str(folder), weights, *described(folder)]
        for name, (folder, weights) in composition.tasks.items()
    ]
    print(f"trunk {composition.fingerprint[:12]}")
    print(tabulate(rows, ["task", "run", "weights", "mode", "classes"]))


def described(folder: Path) -> list[str]:
    record = folder / run_folder.RUN
    if not record.is_file():
        return ["-", "no run there"]
    content = run_folder.read_json(record)
    if run_folder.is_classifier(folder):
        mode, names = "classifier", next(iter(content["tasks"].values()), [])
    else:
        mode = load_config(str(folder / run_folder.CONFIG)).cfg.MODEL.REUSE.MODE or "as built"
        names = content.get("classes", [])
    more = ", ..." if len(names) > 3 else ""
    return [mode, f"{len(names)}: {', '.join(names[:3])}{more}"]


def check(args: argparse.Namespace) -> None:
    composed = load_composition(args.file, device=args.device)
    print(costs(composed.model))
    print("everything is there and fits")


def detect(args: argparse.Namespace) -> None:
    if Path(args.output).is_file():
        raise UserError(f"--output {args.output} is a file; name a folder")
    sources = find_sources(args.inputs, args.output)
    composed = load_composition(args.file, device=args.device, score_threshold=args.score_threshold)
    done = predict(
        composed,
        named(composed.tasks),
        sources,
        args.output,
        pictures=not args.no_pictures,
        say=lambda line: tqdm.write(line, file=sys.stderr),
        watch=watched,
    )
    for name, counted in done.counted.items():
        print(f"{name}: {counted} in {done.images} images")


def measure(args: argparse.Namespace) -> None:
    output = Path(args.output or Path(args.file).with_suffix(""))
    if output.is_file():
        raise UserError(f"--output {output} is a file; name a folder")
    composed = load_composition(args.file, device=args.device)

    def watch(batches, dataset, count):
        print(f"{dataset}: {count} batches", flush=True)
        return watched(batches, total=count, unit="batch")

    results = evaluate(composed, output, watch=watch)
    for name, datasets in results.items():
        for dataset, found in datasets.items():
            print(f"{name}: {dataset}: {summary(found)}, in {output / name / 'eval' / dataset}")


def summary(found: dict[str, dict[str, float]], most: int = 3) -> str:
    """The first metrics of each kind: "bbox AP 45.12, AP50 70.30, AP75 48.00"."""
    kinds = (
        f"{kind} {', '.join(f'{name} {value:.2f}' for name, value in list(metrics.items())[:most])}"
        for kind, metrics in found.items()
    )
    return "; ".join(kinds) or "the test set has no annotations, nothing is measured"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, function, text in (
        ("make", make, "put runs on one trunk"),
        ("list", listed, "what is in a composition"),
        ("check", check, "load it"),
        ("eval", measure, "evaluate each task on its own test sets"),
        ("run", detect, "detect in images"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(function=function)
        command.add_argument("file", metavar="FILE", help="the composition, a YAML")
        if name == "make":
            command.add_argument("tasks", nargs="+", metavar="NAME=RUN", help="a run folder each")
            command.add_argument(
                *("--input-size",),
                nargs=2,
                type=int,
                metavar=("MIN", "MAX"),
                help="short side and most of the long side of images in pixels, for all tasks; "
                "default: the runs' INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST",
            )
        if name in ("check", "eval", "run"):
            command.add_argument("--device", default="", help="cpu, cuda, cuda:1")
        if name == "eval":
            command.add_argument(
                *("--output",),
                default="",
                metavar="FOLDER",
                help="default: beside FILE, called as it is without .yaml",
            )
        if name == "run":
            command.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders")
            command.add_argument("--output", required=True, metavar="FOLDER")
            command.add_argument("--score-threshold", type=float, default=0.4)
            command.add_argument("--no-pictures", action="store_true", help="write json alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(lambda args: args.function(args), parse()))
