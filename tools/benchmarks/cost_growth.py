#!/usr/bin/env python3
"""How cost grows with images, classes, objects an image and decoder repeats.

Training: seconds of a step of a frozen R-50 with Faster R-CNN, on FPN for classes and objects, on
NAS-FPN for its repeats; each point is a process of its own, and they take turns. Start: seconds to
the first batch and memory of our loader on a json with so many images, read before. Evaluation:
seconds and memory from the files, LVIS protocol, boxes. Beside each table the power that its
medians grow with, by least squares on logarithms: 1 is in proportion, 0 not at all.

K detectors on one trunk are measured by tools/benchmarks/shared_backbone.py, how near a step comes
to the machine's matrix products by reuse_modes.py.

    python tools/benchmarks/cost_growth.py --output docs/results/benchmark_cost_growth.json
    python tools/benchmarks/cost_growth.py --parts objects repeats --device cuda --size 1024
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import data_loading
import evaluation
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from measurements import spread, write_measurements
from sides import take_turns

from det_transfer.config import load_config
from det_transfer.data.synthetic import OBJECTS, synthetic_batch
from det_transfer.engine.allocator import keep_freed_memory
from det_transfer.engine.analysis import settle
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.launch import quiet
from det_transfer.engine.optimizer import build_optimizer

ROOT = Path(__file__).resolve().parents[2]
FPN = "configs/coco/rcnn_r50_fpn_frozen_72ep.yaml"
NASFPN = "configs/coco/rcnn_r50_nasfpn_frozen_72ep.yaml"
CLASSES = (20, 80, 365, 1203)  # VOC, COCO, Objects365, LVIS
OBJECTS_AN_IMAGE = (1, OBJECTS, 30, 100, 300)
REPEATS = (1, 3, 5, 7)  # the paper has 5, NAS-FPN's own paper 7
IMAGES = (1_000, 10_000, 100_000)
ANNOTATIONS_AN_IMAGE = 12.7  # Source: LVIS v1, 1,270,141 in 100,170 images

Table = dict[str, Any]
Tables = dict[str, Table]


def read(config: str, options: Mapping[str, Any], args: argparse.Namespace) -> CfgNode:
    common = {
        "MODEL.DEVICE": args.device,
        "MODEL.WEIGHTS": "",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": args.rois,
        "SOLVER.BASE_LR": 1e-5,  # random weights do not stand the recipe's
    }
    words = [str(word) for pair in (common | dict(options)).items() for word in pair]
    return load_config(str(ROOT / config), words).cfg


def training_step(
    config: str, options: Mapping[str, Any], objects: int, args: argparse.Namespace
) -> Callable[[], None]:
    torch.manual_seed(0)
    keep_freed_memory()
    cfg = read(config, options, args)
    model = DetectionTrainer.build_model(cfg).train()
    batch = synthetic_batch(cfg, args.batch, args.size, objects=objects)
    settle(model.backbone, lambda: model.backbone(model.preprocess_image(batch).tensor))
    optimizer = build_optimizer(cfg, model)

    def step() -> None:
        optimizer.zero_grad()
        with EventStorage():
            sum(model(batch).values()).backward()
        optimizer.step()

    return step


def steps(
    what: str, points: Mapping[int, tuple[str, Mapping[str, Any], int]], args: argparse.Namespace
) -> Tables:
    """`points`: how many of them -> config, options, objects an image."""
    makers = {str(n): partial(training_step, *point, args) for n, point in points.items()}
    turns = take_turns(makers, rounds=args.rounds, device=args.device)
    return {
        f"seconds of a step, by {what}:": {n: t.summary() for n, t in turns.items()},
        f"peak MB of a process, by {what}:": {n: t.peak / 1e6 for n, t in turns.items()},
    }


def classes(args: argparse.Namespace) -> Tables:
    points = {n: (FPN, {"MODEL.ROI_HEADS.NUM_CLASSES": n}, OBJECTS) for n in CLASSES}
    evaluated = {n: {"categories": n, "images": 1000} for n in CLASSES}
    return steps("classes", points, args) | evaluations("classes", evaluated, args)


def objects(args: argparse.Namespace) -> Tables:
    return steps("objects an image", {n: (FPN, {}, n) for n in OBJECTS_AN_IMAGE}, args)


def repeats(args: argparse.Namespace) -> Tables:
    points = {n: (NASFPN, {"MODEL.NASFPN.REPEATS": n}, OBJECTS) for n in REPEATS}
    return steps("repeats of NAS-FPN", points, args)


def images(args: argparse.Namespace) -> Tables:
    evaluated = {n: {"categories": 1203, "images": n} for n in IMAGES if n <= args.most_images}
    return starts(args) | evaluations("images", evaluated, args)


def starts(args: argparse.Namespace) -> Tables:
    """Of our loader; the json is read once before what is measured."""
    seconds, megabytes = {}, {}
    for n in (n for n in IMAGES if n <= args.most_images):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            count = round(ANNOTATIONS_AN_IMAGE * n)
            data_loading.make_json(place / "data.json", n, count, seed=0)
            data_loading.make_links(place / "images", n)
            data_loading.measured(folder, "ours", "seconds", 1)
            taken = [data_loading.measured(folder, "ours", "seconds", 1) for _ in range(3)]
            seconds[str(n)] = spread(taken)
            megabytes[str(n)] = data_loading.measured(folder, "ours", "megabytes", 1)
    return {
        "seconds to the first batch, by images:": seconds,
        "MB of a loader, by images:": megabytes,
    }


def evaluations(
    what: str, points: Mapping[int, Mapping[str, int]], args: argparse.Namespace
) -> Tables:
    """Of ours, 100 detections an image."""
    seconds, megabytes = {}, {}
    for n, sizes in points.items():
        with tempfile.TemporaryDirectory() as folder:
            boxes = round(ANNOTATIONS_AN_IMAGE * sizes["images"])
            evaluation.make_data(
                Path(folder), **sizes, boxes=boxes, detections=100, seed=0, masks=False,
                result_json=False,
            )  # fmt: skip
            found = evaluation.compare("lvis", "bbox", ["ours"], 3, Path(folder))["ours"]
        seconds[str(n)], megabytes[str(n)] = found["end_to_end_s"], found["peak_mb"]
    return {
        f"seconds of an evaluation, by {what}:": seconds,
        f"MB of an evaluation, by {what}:": megabytes,
    }


PARTS = {"images": images, "classes": classes, "objects": objects, "repeats": repeats}


def power(table: Table) -> float:
    """b of a * n^b, through the medians."""
    values = [v["median"] if isinstance(v, dict) else v for v in table.values()]
    return float(np.polyfit(np.log([int(n) for n in table]), np.log(values), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=2, help="images of a step")
    parser.add_argument("--size", type=int, default=256, help="their side in pixels")
    parser.add_argument("--rois", type=int, default=64, help="of an image; recipes have 512")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--most-images", type=int, default=IMAGES[-1], help="leave out more")
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    tables: Tables = {}
    for name in args.parts:
        tables |= PARTS[name](args)
    powers = {name.rstrip(":"): power(table) for name, table in tables.items() if len(table) > 1}
    for name, value in powers.items():
        print(f"{name:45} grows with the power {value:5.2f}")
    write_measurements(
        args.output,
        "how cost grows",
        {"the power of": powers, **tables},
        note="The power is b of cost = a n^b: 1 is in proportion, 0 not at all.",
        device=args.device,
        data={"images": args.batch, "side_px": args.size, "RoIs": args.rois},
    )


if __name__ == "__main__":
    main()
