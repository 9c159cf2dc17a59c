#!/usr/bin/env python3
"""Draw what the network is fed: each image as it is annotated, and what the loader makes of it.

    python tools/visualize_data.py --config-file configs/frozen_cascade_lvis.yaml \\
        --output data.jpg DATASETS.TRAIN '("lvis_v1_train",)'

Masks, boxes and names; what Copy-Paste pasted has a white edge. As annotated means all that is, in
its own boxes: crowds too, which the network is not fed. With --iteration, what the network is fed
from that iteration on, the same images in the same places.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in config, files or command line.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb, read_image
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image

from det_transfer.config import load_config, validate
from det_transfer.data import build_train_loader
from det_transfer.engine.detection import prepare
from det_transfer.engine.launch import run
from det_transfer.report.drawing import Shape, annotated, below, beside
from det_transfer.run_folder import replacing
from det_transfer.segmentations import mask_code

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
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", ())
    for sample in itertools.islice(loader.one_by_one(), args.count):
        record = loader.dataset.dicts[sample["index"]]
        yield beside([before(record, names, args.side), fed(sample, names, cfg, args.side)])


def before(record: dict[str, Any], names: Sequence[str], side: int) -> Image.Image:
    """An image with all that a dataset dict says of it."""
    picture = Image.fromarray(read_image(record["file_name"], format="RGB"))
    annotations = record.get("annotations", ())
    shapes = []
    for annotation in annotations:
        label, crowd = annotation["category_id"], annotation.get("iscrowd", 0)
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
        mask = mask_of(annotation.get("segmentation"), picture)
        shapes.append(Shape(label, called(names, label) + " (crowd)" * bool(crowd), box, mask))
    crowds = sum(bool(annotation.get("iscrowd", 0)) for annotation in annotations)
    more = f", {crowds} crowd{'s' * (crowds != 1)}" * (crowds > 0)
    return drawn(picture, Path(record["file_name"]).name, len(shapes) - crowds, more, shapes, side)


def fed(sample: dict[str, Any], names: Sequence[str], cfg: CfgNode, side: int) -> Image.Image:
    """A sample as the loader gives it."""
    objects, pasted = sample["instances"], sample.get("pasted", 0)
    pixels = sample["image"].numpy().transpose(1, 2, 0)
    picture = Image.fromarray(convert_image_to_rgb(pixels, cfg.INPUT.FORMAT))
    boxes = objects.gt_boxes.tensor.numpy()
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    shapes = [
        Shape(label, called(names, label), box, mask, outlined=n >= len(objects) - pasted)
        for n, (label, box, mask) in enumerate(
            zip(objects.gt_classes.tolist(), boxes.tolist(), masks_of(objects), strict=True)
        )
    ]
    more = f", {pasted} of them pasted" * (pasted > 0)
    return drawn(picture, "fed", len(shapes), more, shapes, side)


def drawn(
    picture: Image.Image, title: str, objects: int, more: str, shapes: Sequence[Shape], side: int
) -> Image.Image:
    """A picture with its objects, so that it fits into a square of `side` pixels."""
    number = f"{objects} object{'s' * (objects != 1)}"
    title = f"{title}: {number}{more}, {picture.width} x {picture.height} px"
    return annotated(picture, title, shapes, side / max(picture.size))


def called(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def mask_of(segmentation: Any, picture: Image.Image) -> np.ndarray | None:
    """As it is annotated: polygons, or a run-length code. None where there is none."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        polygons = [np.asarray(polygon, dtype=np.float64) for polygon in segmentation]
        return polygons_to_bitmask(polygons, picture.height, picture.width)
    if not isinstance(segmentation["counts"], bytes):  # not compressed here: a crowd's may be bad
        segmentation = mask_code(segmentation, picture.height, picture.width)
    return mask_util.decode(segmentation).astype(bool)


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
