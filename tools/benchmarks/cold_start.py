#!/usr/bin/env python3
"""Seconds from a command to the end of its first training iteration.

Sides: tools/train_net.py, first and later starts (the second has the annotations in its cache), and
Detectron2's own ``DefaultTrainer`` on the same json, with its stock ResNet-50 FPN. Of ours also
where the time goes. Each start is a process of its own; the sides take turns. Most of it is Python
importing, which no rate of the machine bounds.

    python tools/benchmarks/cold_start.py --output docs/results/benchmark_cold_start.json

The data are those of the first run (datasets/prepare_openmoji.py); --json and --images name others.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measurements import spread, spreads, write_measurements

from det_transfer.data.catalog import datasets_root
from det_transfer.run_folder import read_json

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(datasets_root()) / "openmoji"
SECONDS = 8.0  # that a start may take, on 2 cores

# Ends the process after its first step, and says when each part was done.
MARKS = """
import json, sys, time
marks = {{}}
def mark(name):
    marks.setdefault(name, time.time())
def stop():
    mark("first iteration")
    open({file!r}, "w").write(json.dumps(marks))
    import os
    os._exit(0)
"""
OURS = """
import runpy
import det_transfer.engine.detection as detection
mark("imports")
from det_transfer.engine.trainer import StepTrainer
build, step = detection.DetectionTrainer.build_train_loader, StepTrainer.run_step
def building(cls, cfg):
    mark("config, data checks, model")
    loader = build.__func__(cls, cfg)
    mark("loader")
    return loader
def first_step(self):
    mark("weights, hooks")
    step(self)
    stop()
detection.DetectionTrainer.build_train_loader = classmethod(building)
StepTrainer.run_step = first_step
sys.argv = {argv!r}
runpy.run_path({argv!r}[0], run_name="__main__")
"""
STOCK = """
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, SimpleTrainer, default_setup
from detectron2.model_zoo import get_config_file
mark("imports")
step = SimpleTrainer.run_step
def first_step(self):
    mark("model, data, hooks")
    step(self)
    stop()
SimpleTrainer.run_step = first_step
register_coco_instances("set", {{}}, {json!r}, {images!r})
cfg = get_cfg()
cfg.merge_from_file(get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("set",), ()
cfg.MODEL.ROI_HEADS.NUM_CLASSES = {classes}
cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (320,), 480
cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 4, 1
cfg.OUTPUT_DIR = {output!r}
import os
os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
DefaultTrainer(cfg).train()
"""


def start(code: str, file: Path) -> dict[str, float]:
    """Seconds from the start of a process to each of its marks."""
    began = time.time()
    text = MARKS.format(file=str(file)) + code
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"a side has failed:\n{done.stderr[-3000:]}")
    return {name: at - began for name, at in read_json(file).items()}


def sides(args: argparse.Namespace, folder: Path, round_: int) -> dict[str, str]:
    """The code of each side; a first start has a cache of its own, a later one that of all."""
    config = ["tools/train_net.py", "--config-file", args.config_file]
    common = [
        *("DATASETS.CUSTOM", repr([["set", str(args.json), str(args.images)]])),
        *("DATASETS.TRAIN", "('set',)", "DATASETS.TEST", "()"),
    ]

    def ours(name: str, cache: str) -> str:
        output = str(folder / f"{name}{round_}")
        more = ["DATASETS.CACHE_DIR", str(folder / cache), "OUTPUT_DIR", output]
        return OURS.format(argv=[*config, *common, *more])

    classes = len(read_json(args.json)["categories"])
    stock = {"json": str(args.json), "images": str(args.images), "classes": classes}
    return {
        "ours, first": ours("first", f"cache{round_}"),
        "ours, later": ours("later", "cache"),
        "Detectron2's DefaultTrainer": STOCK.format(**stock, output=str(folder / f"d2{round_}")),
    }


def parts(marks: dict[str, float]) -> dict[str, float]:
    """Seconds between one mark and the next."""
    names = sorted(marks, key=marks.__getitem__)
    begins = [0.0, *(marks[name] for name in names[:-1])]
    return {name: marks[name] - begin for name, begin in zip(names, begins, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="configs/quickstart.yaml")
    parser.add_argument("--json", type=Path, default=DATA / "openmoji_lvis_train.json")
    parser.add_argument("--images", type=Path, default=DATA / "train")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    args.json, args.images = args.json.resolve(), args.images.resolve()
    if not args.json.is_file():
        parser.error(f"{args.json} does not exist; datasets/prepare_openmoji.py makes the default")
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        start(sides(args, place, -1)["ours, later"], place / "marks.json")  # fills the cache
        for round_ in range(args.rounds):
            for name, code in sides(args, place, round_).items():
                found.setdefault(name, []).append(start(code, place / "marks.json"))
    whole = {name: [m["first iteration"] for m in marks] for name, marks in found.items()}
    results: dict[str, Any] = {
        "seconds to the end of the first iteration:": {
            name: spread(seconds) for name, seconds in whole.items()
        },
        **{f"seconds of {name}": spreads([parts(m) for m in ms]) for name, ms in found.items()},
    }
    for name, seconds in results["seconds to the end of the first iteration:"].items():
        print(f"{name:30} {seconds['median']:6.2f} s")
    for name, seconds in results["seconds of ours, later"].items():
        print(f"  {name:28} {seconds['median']:6.2f} s")
    write_measurements(
        args.output,
        "from the command to the first iteration",
        results,
        note=f"Ours should take at most {SECONDS:g} s.",
        data={"images": len(read_json(args.json)["images"]), "rounds": args.rounds},
    )


if __name__ == "__main__":
    main()
