#!/usr/bin/env python3
"""Detect in images, folders of images and videos, with a run folder alone (docs/predict.md).

A composition of several runs (docs/compose.md) serves as a run does.

    python tools/predict.py output/mine photos/ --output found
    python tools/predict.py output/mine a.jpg b.jpg clip.mp4 --output found --score-threshold 0.6
    python tools/predict.py output/mine val_images/ --output found --ids val.json \\
        --score-threshold 0 --no-pictures      # for an evaluation elsewhere
    python tools/predict.py shared.yaml photos/ --output found

Writes found/pictures (annotated), found/predictions.json (COCO's result format) and
found/images.json (which image and which class an id is); of a composition the json files of each
task into a folder of its own. Files that cannot be read are named and left out.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake, or nothing could be read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# First: it keeps quiet what Detectron2's import has torch warn of.
import det_transfer  # isort: skip

from tqdm import tqdm

from det_transfer.classification import load_head
from det_transfer.composition import ENDINGS, LOADERS, load_composition
from det_transfer.documents import read_json
from det_transfer.engine.launch import run
from det_transfer.engine.progress import watched
from det_transfer.errors import UserError, raise_all
from det_transfer.prediction import ONE, Named, Source, category_ids, find_sources, named, predict


def main(args: argparse.Namespace) -> None:
    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: it must be at least 1")
    if Path(args.output).is_file():
        raise UserError(f"--output {args.output} is a file; name a folder")
    sources = find_sources(args.inputs, args.output)
    load = of_composition if Path(args.run).suffix in ENDINGS else of_run
    predictor, tasks, origins, images = load(args, sources)
    done = predict(
        predictor,
        tasks,
        sources,
        args.output,
        images=images,
        pictures=not args.no_pictures,
        batch=args.batch,
        say=lambda line: tqdm.write(line, file=sys.stderr),
        watch=watched,
    )
    for name, counted in done.counted.items():
        task = f"{name}: " * (name != ONE)
        print(f"{task}{counted} in {done.images} images, by {origins[name]}")
    if done.skipped:
        print(f"{done.skipped} of {len(sources)} files were skipped, see above")
    folders = "" if ONE in tasks else f" for each of {', '.join(tasks)}"
    pictures = ", pictures" * (not args.no_pictures)
    print(f"in {args.output}: predictions.json, images.json{folders}{pictures}")


def of_run(args: argparse.Namespace, sources: Sequence[Source]) -> tuple:
    """A run's detector, what its classes are called, its checkpoint, and the ids of images."""
    detector = det_transfer.load(
        args.run, weights=args.weights, device=args.device, score_threshold=args.score_threshold
    )
    if args.ids:
        images, categories = ids_of_json(args.ids, sources, detector.classes)
    else:
        images, categories = None, category_ids(args.run, detector.classes)
    classes = {ONE: Named(detector.classes, categories)}
    return detector, classes, {ONE: detector.weights}, images


def of_composition(args: argparse.Namespace, sources: Sequence[Source]) -> tuple:
    """As :func:`of_run`, for each task of a composition."""
    for flag in ("weights", "ids"):
        if getattr(args, flag):
            raise UserError(f"--{flag} is for one run; {args.run} is a composition of several")
    LOADERS["classifier"] = load_head
    composed = load_composition(args.run, device=args.device, score_threshold=args.score_threshold)
    origins = {name: task.weights for name, task in composed.tasks.items()}
    return composed, named(composed.tasks), origins, None


def ids_of_json(
    path: str, sources: Sequence[Source], classes: Sequence[str]
) -> tuple[dict[str, int], list[int]]:
    try:
        content = read_json(path, "--ids")
        images = {image["file_name"]: image["id"] for image in content["images"]}
        categories = {category["name"]: category["id"] for category in content["categories"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"--ids {path} is no json in COCO format: {error!r}") from error
    unknown = [source.name for source in sources if source.name not in images]
    missing = [name for name in classes if name not in categories]
    problems = []
    if unknown:
        problems.append(f"--ids {path} lacks {len(unknown)} of the files, e.g. {unknown[0]}")
    if missing:
        problems.append(f"--ids {path} lacks {len(missing)} of the classes, e.g. {missing[0]}")
    raise_all(problems)
    return images, [categories[name] for name in classes]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, or the YAML of a composition")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images, videos, folders")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.4,
        help="leave out what has a lower score, of pictures and json (0.4)",
    )
    parser.add_argument(
        "--batch", type=int, default=1, help="images of one size that are looked at together (1)"
    )
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; default: the run's")
    parser.add_argument("--weights", default="", help="e.g. model_final.pth; default: the best")
    parser.add_argument("--ids", metavar="JSON", help="take the ids of a json in COCO format")
    parser.add_argument("--no-pictures", action="store_true", help="write json alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
