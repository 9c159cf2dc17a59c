#!/usr/bin/env python3
"""Draw what the network is fed: each image as it is annotated, and what the loader makes of it.

    python tools/visualize_data.py --config-file configs/frozen_cascade_lvis.yaml \\
        --output data.jpg DATASETS.TRAIN '("lvis_v1_train",)'

Masks, boxes and names; what Copy-Paste pasted has a white edge. With --iteration, what the network
is fed from that iteration on, the same images in the same places.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in config, files or command line.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image

from det_transfer.config import load_config, validate
from det_transfer.data import TransferDatasetMapper, build_train_loader
from det_transfer.engine.detection import prepare
from det_transfer.engine.launch import run
from det_transfer.report.drawing import Shape, annotated, below, beside
from det_transfer.run_folder import replacing

# Pixels. JPEG has 65,535 at most, and Copy-Paste's images are square.
_HIGHEST = 60_000
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def read(args: argparse.Namespace) -> CfgNode:
    config = load_config(args.config_file, [*args.opts, "DATASETS.TEST", "()"])
    validate(config.cfg, config.explicit)
    prepare(config)
    return config.cfg


def rows(cfg: CfgNode, args: argparse.Namespace) -> Iterator[Image.Image]:
    loader = build_train_loader(cfg)
    loader.start_at(args.iteration)
    untouched = TransferDatasetMapper(cfg, True, augmentations=[])
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    for sample in itertools.islice(loader.one_by_one(), args.count):
        before = untouched(loader.dataset.dicts[sample["index"]])
        sides = [(Path(sample["file_name"]).name, before), ("fed", sample)]
        yield beside([drawn(side, title, names, cfg, args.side) for title, side in sides])


def drawn(
    sample: dict[str, Any], title: str, names: list[str], cfg: CfgNode, side: int
) -> Image.Image:
    """A sample, so that it fits into a square of `side` pixels."""
    objects, pasted = sample["instances"], sample.get("pasted", 0)
    pixels = sample["image"].numpy().transpose(1, 2, 0)
    picture = Image.fromarray(convert_image_to_rgb(pixels, cfg.INPUT.FORMAT))
    boxes = objects.gt_boxes.tensor.numpy()
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    shapes = [
        Shape(label, names[label], box, mask, outlined=n >= len(objects) - pasted)
        for n, (label, box, mask) in enumerate(
            zip(objects.gt_classes.tolist(), boxes.tolist(), masks_of(objects), strict=True)
        )
    ]
    more = f", {pasted} of them pasted" * (pasted > 0)
    number = f"{len(objects)} object{'s' * (len(objects) != 1)}"
    title = f"{title}: {number}{more}, {picture.width} x {picture.height} px"
    return annotated(picture, title, shapes, side / max(picture.size))


def masks_of(objects: Any) -> list[np.ndarray | None]:
    if not objects.has("gt_masks"):
        return [None] * len(objects)
    if isinstance(objects.gt_masks, PolygonMasks):
        size = objects.image_size
        return [polygons_to_bitmask(polygons, *size) for polygons in objects.gt_masks.polygons]
    return list(objects.gt_masks.tensor.numpy())


def main(args: argparse.Namespace) -> None:
    sheet = below(list(rows(read(args), args)))
    if sheet.height > _HIGHEST:
        sheet.thumbnail((sheet.width, _HIGHEST))
    with replacing(args.output) as temporary:
        sheet.save(temporary, format=FORMATS[args.output.suffix.lower()], quality=88)
    print(f"{args.count} images before and after in {args.output}")


def picture(text: str) -> Path:
    if Path(text).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(FORMATS)}")
    return Path(text)


def natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", type=picture, default="output/data.jpg", metavar="FILE")
    parser.add_argument("--count", type=positive, default=6, help="images")
    parser.add_argument("--side", type=positive, default=480, help="of a picture, in pixels")
    parser.add_argument("--iteration", type=natural, default=0, help="to look at")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the config")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
