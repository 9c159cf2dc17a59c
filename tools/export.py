#!/usr/bin/env python3
"""A part of a trained detector as one file that runs without Detectron2 (docs/export.md).

    python tools/export.py output/cells --part trunk --out trunk.pt2
    python tools/export.py output/cells --part backbone --out backbone.onnx --format onnx
    python tools/export.py output/cells --part detector --size 320 480 --out cells.pt2 \\
        --images photos/

The file is loaded again and run beside the original; the largest difference is printed and written
into <out>.json, with what a user must know to feed it.

Exit codes: 0 done, 1 the file computes something else (or a bug, with a traceback), 2 a mistake, or
a part that cannot be exported.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# First: it keeps quiet what Detectron2's import has torch warn of.
import det_transfer  # isort: skip

import torch
import torchvision
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from det_transfer.api import Detector
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.export import (
    FORMATS,
    PARTS,
    TOLERANCE,
    Exported,
    export_part,
    largest_difference,
)
from det_transfer.prediction import Reader, Source, find_sources
from det_transfer.run_folder import write_json


def main(args: argparse.Namespace) -> None:
    out = Path(args.out)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file")
    if args.images and args.part != "detector":
        raise UserError(f"--images is for --part detector; a {args.part} is checked on noise")
    sources = find_sources(args.images, out) if args.images else []
    detector = det_transfer.load(
        args.run,
        weights=args.weights,
        device=args.device,
        options={"MODEL.REUSE.FAST": False, "MODEL.REUSE.COMPILE": False},
    )
    exported = export_part(detector, args.part, tuple(args.size or size_of(detector.cfg)))
    loaded = exported.save(out, args.format)
    images = list(pictures(sources, detector, exported) if sources else exported.inputs())
    if not images:
        raise UserError(f"{out} is written and not checked: no file of --images could be read")
    answers = [(loaded(image), exported.original(image)) for image in images]
    difference = max(largest_difference(*pair) for pair in answers)
    detections = sum(len(expected.get("boxes", ())) for _, expected in answers)
    record(args, detector, exported, difference, len(images))
    height, width = exported.size
    others = f" and any multiples of {exported.multiple}" * bool(exported.multiple)
    print(
        f"{out}: {args.part} for {height} x {width} px{others}, {out.stat().st_size / 1e6:.1f} MB"
    )
    seen = f", {detections} detections" * (args.part == "detector")
    print(f"largest difference on {len(images)} images{seen}: {difference:.1e} of {TOLERANCE:.0e}")
    if args.part == "detector" and not detections:
        print("nothing was detected, so little was compared: name pictures with --images")
    if not difference <= TOLERANCE:
        sys.exit(1)


def size_of(cfg: CfgNode) -> tuple[int, int]:
    """The run's size of test images, in multiples of 128 px, which suit every decoder."""
    short, long = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    sides = (short or long or 800), max(long, short)
    return tuple(max(256, round(side / 128) * 128) for side in sides)


def pictures(sources: Sequence[Source], detector: Detector, exported: Exported) -> Iterator[Tensor]:
    """The user's pictures, made to fit."""
    for frame in Reader(sources, say=print):
        image = detector.sample(frame.picture)["image"][None].float()
        fitted = F.interpolate(image, exported.size, mode="bilinear", align_corners=False)[0]
        yield fitted.to(detector.model.device)


def record(
    args: argparse.Namespace,
    detector: Detector,
    exported: Exported,
    difference: float,
    images: int,
) -> None:
    """What was made of what, beside the file."""
    cfg = detector.cfg
    content = {
        "part": exported.part,
        "format": args.format,
        "run": str(args.run),
        "weights": detector.weights.name,
        "size": exported.size,
        "any_multiple_of": exported.multiple or None,
        "image_format": cfg.INPUT.FORMAT,
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        **exported.made_from,
        "check": {
            "images": images,
            "largest_difference": difference,
            "tolerance": TOLERANCE,
            "within": difference <= TOLERANCE,
        },
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    write_json(f"{args.out}.json", content)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--part", required=True, choices=list(PARTS))
    parser.add_argument("--out", required=True, metavar="FILE", help="e.g. trunk.pt2, trunk.onnx")
    parser.add_argument("--format", default="torch", choices=list(FORMATS))
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="of images in pixels; default: the run's test size, in multiples of 128",
    )
    parser.add_argument("--images", nargs="+", metavar="IMAGE", help="check a detector on these")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; default: the run's")
    parser.add_argument("--weights", default="", help="e.g. model_final.pth; default: the best")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
