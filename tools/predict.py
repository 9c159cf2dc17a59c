#!/usr/bin/env python3
"""Detect in images, folders of images and videos, with a run folder alone (docs/predict.md).

    python tools/predict.py output/mine photos/ --output found
    python tools/predict.py output/mine a.jpg b.jpg clip.mp4 --output found --score-threshold 0.6
    python tools/predict.py output/mine val_images/ --output found --ids val.json \\
        --score-threshold 0 --no-pictures      # for an evaluation elsewhere

Writes found/pictures (annotated), found/predictions.json (COCO's result format) and
found/images.json (which image and which class an id is). Files that cannot be read are named and
left out.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake, or nothing could be read.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

# First: it keeps quiet what Detectron2's import has torch warn of.
import det_transfer  # isort: skip

from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from det_transfer.api import Detector
from det_transfer.engine.launch import run
from det_transfer.engine.progress import watched
from det_transfer.errors import UserError, raise_all
from det_transfer.prediction import (
    Frame,
    Reader,
    Source,
    category_ids,
    find_sources,
    writing,
)


def main(args: argparse.Namespace) -> None:
    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: it must be at least 1")
    if Path(args.output).is_file():
        raise UserError(f"--output {args.output} is a file; name a folder")
    sources = find_sources(args.inputs, args.output)
    detector = det_transfer.load(
        args.run, weights=args.weights, device=args.device, score_threshold=args.score_threshold
    )
    images, categories = ids(args, sources, detector.classes)
    reader = Reader(sources, say=lambda line: tqdm.write(line, file=sys.stderr))
    with writing(
        args.output,
        classes=detector.classes,
        categories=categories,
        images=images,
        pictures=not args.no_pictures,
    ) as found:
        pairs = detect(reader, detector, args.batch)
        for frame, instances in watched(pairs, total=reader.total(), unit="image"):
            found.add(frame, instances)
        if not found.images:
            raise UserError(f"none of {len(sources)} files could be read")
    print(
        f"{found.detections} detections with a score of {args.score_threshold:g} or more in "
        f"{len(found.images)} images, by {detector.weights}"
    )
    if reader.skipped:
        print(f"{reader.skipped} of {len(sources)} files were skipped, see above")
    print(
        f"in {args.output}: predictions.json, images.json" + ", pictures" * (not args.no_pictures)
    )


def detect(
    frames: Iterable[Frame], detector: Detector, batch: int
) -> Iterator[tuple[Frame, Instances]]:
    """Each frame with what is in it; no more than a batch of frames is held at a time."""
    waiting: deque[Frame] = deque()

    def pictures() -> Iterator[Image.Image]:
        for frame in frames:
            waiting.append(frame)
            yield frame.picture

    for found in detector.each(pictures(), batch=batch):
        yield waiting.popleft(), found


def ids(
    args: argparse.Namespace, sources: Sequence[Source], classes: Sequence[str]
) -> tuple[dict[str, int] | None, list[int]]:
    """Image name -> id, None for 1, 2, ...; and the id of each class."""
    if args.ids:
        return ids_of_json(args.ids, sources, classes)
    return None, category_ids(args.run, classes)


def ids_of_json(
    path: str, sources: Sequence[Source], classes: Sequence[str]
) -> tuple[dict[str, int], list[int]]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        images = {image["file_name"]: image["id"] for image in content["images"]}
        categories = {category["name"]: category["id"] for category in content["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
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
    parser.add_argument("run", metavar="RUN", help="a run folder")
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
