#!/usr/bin/env python3
"""Several detectors on one frozen trunk, which is computed once for all of them (docs/compose.md).

    python tools/compose.py make shared.yaml cells=output/cells rooms=output/rooms
    python tools/compose.py list shared.yaml               # what is in it
    python tools/compose.py check shared.yaml              # is everything there, and still the same
    python tools/compose.py run shared.yaml photos/ --output found

`run` writes one folder a task, as tools/predict.py does.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from det_transfer import run_folder
from det_transfer.composition import compose, load_composition, read_composition
from det_transfer.config import load_config
from det_transfer.engine.launch import run
from det_transfer.engine.progress import watched
from det_transfer.errors import UserError
from det_transfer.modeling.meta_arch import SharedBackboneDetector
from det_transfer.prediction import Reader, category_ids, find_sources, writing


def make(args: argparse.Namespace) -> None:
    runs = dict(task(word) for word in args.tasks)
    if len(runs) < len(args.tasks):
        raise UserError("two tasks have one name")
    sizes = dict(zip(("min_size", "max_size"), args.input_size or (), strict=False))
    composed = compose(args.file, runs, input=sizes)
    print(costs(composed.model))
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
        rows.append([name, millions(part), "and a pass of its own: adapters" * part.own_pass])
    return tabulate(rows, ["part", "M parameters", "trunk computed"], tablefmt="simple")


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
    names = run_folder.read_json(record).get("classes", [])
    more = ", ..." if len(names) > 3 else ""
    mode = load_config(str(folder / run_folder.CONFIG)).cfg.MODEL.REUSE.MODE
    return [mode or "as built", f"{len(names)}: {', '.join(names[:3])}{more}"]


def check(args: argparse.Namespace) -> None:
    composed = load_composition(args.file, device=args.device)
    print(costs(composed.model))
    print("everything is there and fits")


def detect(args: argparse.Namespace) -> None:
    if Path(args.output).is_file():
        raise UserError(f"--output {args.output} is a file; name a folder")
    sources = find_sources(args.inputs, args.output)
    folders = {name: folder for name, (folder, _) in read_composition(args.file).tasks.items()}
    composed = load_composition(args.file, device=args.device, score_threshold=args.score_threshold)
    reader = Reader(sources, say=lambda line: tqdm.write(line, file=sys.stderr))
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(
                writing(
                    Path(args.output) / name,
                    classes=detector.classes,
                    categories=category_ids(folders[name], detector.classes),
                    pictures=not args.no_pictures,
                )
            )
            for name, detector in composed.detectors.items()
        }
        for frame in watched(reader, total=reader.total(), unit="image"):
            for name, instances in composed(frame.picture).items():
                found[name].add(frame, instances)
        if not any(each.images for each in found.values()):
            raise UserError(f"none of {len(sources)} files could be read")
    for name, each in found.items():
        print(f"{name}: {each.detections} detections in {len(each.images)} images")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, function, text in (
        ("make", make, "put runs on one trunk"),
        ("list", listed, "what is in a composition"),
        ("check", check, "load it"),
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
        if name in ("check", "run"):
            command.add_argument("--device", default="", help="cpu, cuda, cuda:1")
        if name == "run":
            command.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders")
            command.add_argument("--output", required=True, metavar="FOLDER")
            command.add_argument("--score-threshold", type=float, default=0.4)
            command.add_argument("--no-pictures", action="store_true", help="write json alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(lambda args: args.function(args), parse()))
