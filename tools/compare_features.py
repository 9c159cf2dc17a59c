#!/usr/bin/env python3
"""What the backbone kept: its stages before and after a run, on images to classify.

    python tools/compare_features.py output/mine --data tiny-imagenet/
    python tools/compare_features.py output/mine --data photos/ --max-images 1000 --device cuda

DATA has a folder of images for each class, or such folders in train/ and val/. Shown are, stage by
stage, how far the weights have moved, how alike the features still are (linear CKA), and how well
nearest neighbours and a linear probe classify with them, before and after. "Before" is the trunk
with what the run started from, "after" that of its last checkpoint. Writes RUN/features.json
(docs/features.md).

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First: it keeps quiet what Detectron2's import has torch warn of.
import det_transfer  # isort: skip  # noqa: F401

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.env import seed_all_rng
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from det_transfer import run_folder
from det_transfer.config import load_config
from det_transfer.data.mapper import BROKEN
from det_transfer.engine.checkpoint import TransferCheckpointer, last_checkpoint
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.launch import run
from det_transfer.engine.progress import watched
from det_transfer.errors import UserError
from det_transfer.reuse import trunk_of
from det_transfer.reuse.features import pooled_features, stage_weights
from det_transfer.reuse.similarity import (
    knn_accuracy,
    linear_cka,
    probe_accuracy,
    relative_distance,
)

TEST_SHARE = 5  # of images without train/ and val/ every fifth of a class is for the test
TEST_FOLDERS = ("val", "test")
BATCH = 32


# Images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """Paths with their classes, of the side that is learned from and of the one that is tested."""

    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    classes: int


def find_images(folder: Path, most: int) -> Labelled:
    """At most `most` images for each side, of each class alike, the same at every call."""
    if not folder.is_dir():
        raise UserError(f"--data {folder} is no folder")
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and test:
        train, others = (read_folder(each) for each in (folder / "train", test))
        if train.classes != others.classes:
            odd = sorted(set(train.classes) ^ set(others.classes))
            raise UserError(f"--data {folder}: train and {test.name} differ in class {odd[0]!r}")
        sides = by_class(train), by_class(others)
    else:
        groups = by_class(read_folder(folder))
        sides = (
            [[p for n, p in enumerate(g) if n % TEST_SHARE or len(g) == 1] for g in groups],
            [group[::TEST_SHARE] if len(group) > 1 else [] for group in groups],
        )
    train, test = (take_in_turn(groups, most) for groups in sides)
    count = len({label for _, label in train})
    if count < 2 or not test:
        raise UserError(
            f"--data {folder}: {count} classes, {len(train)} images to learn from, "
            f"{len(test)} to test; there must be two classes with two images"
        )
    return Labelled(train, test, count)


def read_folder(folder: Path) -> ImageFolder:
    try:
        return ImageFolder(str(folder), allow_empty=True)
    except (FileNotFoundError, OSError) as error:
        raise UserError(
            f"--data {folder}: there is no folder for each class in it, as cat/1.jpg, dog/2.jpg"
        ) from error


def by_class(images: ImageFolder) -> list[list[tuple[str, int]]]:
    """The images of each class in an order that is random and always the same."""
    groups: list[list[tuple[str, int]]] = [[] for _ in images.classes]
    for path, label in images.samples:
        groups[label].append((path, label))
    rng = np.random.default_rng(0)
    return [[group[i] for i in rng.permutation(len(group))] for group in groups]


def take_in_turn(groups: list[list], most: int) -> list:
    """One of each group, another of each, ... up to `most`."""
    ranked = sorted(
        ((place, number, item) for number, g in enumerate(groups) for place, item in enumerate(g)),
        key=lambda entry: entry[:2],
    )
    return [item for _, _, item in ranked[:most]]


def read_image(path: str, cfg: CfgNode, side: int) -> Tensor:
    """The middle square as the run's detector sees its images, (C, side, side)."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    scale = side / min(image.size)
    image = image.resize([max(round(s * scale), side) for s in image.size], Image.BILINEAR)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    array = convert_PIL_to_numpy(image, cfg.INPUT.FORMAT).astype(np.float32)
    pixels = (array - np.float32(cfg.MODEL.PIXEL_MEAN)) / np.float32(cfg.MODEL.PIXEL_STD)
    return torch.from_numpy(pixels.transpose(2, 0, 1))


# Trunks ------------------------------------------------------------------------------------------


def read_config(folder: Path, device: str) -> CfgNode:
    file = folder / run_folder.CONFIG
    if not file.is_file():
        raise UserError(f"{folder} is no run folder: it has no {run_folder.CONFIG}")
    cfg = load_config(str(file)).cfg
    cfg.MODEL.REUSE.FAST = False  # its twin computes outside of the stages
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {device}: torch finds no CUDA device here")
    if device or not torch.cuda.is_available():
        cfg.MODEL.DEVICE = device or "cpu"
    return cfg


def trunk_before(cfg: CfgNode) -> tuple[nn.Module, str]:
    """The trunk as the run started; a random one is drawn again by the run's seed."""
    seed_all_rng(cfg.SEED)
    model = DetectionTrainer.build_model(cfg)
    TransferCheckpointer(model, cfg=cfg).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    return trunk_of(model).eval(), cfg.MODEL.WEIGHTS


def trunk_after(cfg: CfgNode, folder: Path, name: str) -> nn.Module:
    path = folder / name if name else last_checkpoint(folder) or folder / "model_final.pth"
    if not path.is_file():
        raise UserError(f"{folder} has no checkpoint {path.name}")
    model = DetectionTrainer.build_model(cfg)
    TransferCheckpointer(model, cfg=cfg).load_detector(str(path))
    return trunk_of(model).eval()


# Comparing ---------------------------------------------------------------------------------------


class Side:
    """Labels and features of the images of one side, of both trunks."""

    def __init__(self) -> None:
        self.labels: list[int] = []
        self.before: dict[str, list[Tensor]] = {}
        self.after: dict[str, list[Tensor]] = {}

    def features(self, stage: str) -> tuple[Tensor, Tensor]:
        return torch.cat(self.before[stage]), torch.cat(self.after[stage])


def extract(
    images: list[tuple[str, int]], before: nn.Module, after: nn.Module, cfg: CfgNode, size: int
) -> Side:
    side = Side()
    pixels: list[Tensor] = []

    def look() -> None:
        batch = torch.stack(pixels).to(cfg.MODEL.DEVICE)
        pixels.clear()
        for trunk, kept in ((before, side.before), (after, side.after)):
            for stage, features in pooled_features(trunk, batch).items():
                kept.setdefault(stage, []).append(features)

    for path, label in watched(images, total=len(images), unit="image"):
        try:
            pixels.append(read_image(path, cfg, size))
        except BROKEN as error:
            tqdm.write(f"skipped: {path}: {type(error).__name__}", file=sys.stderr)
            continue
        side.labels.append(label)
        if len(pixels) == BATCH:
            look()
    if pixels:
        look()
    return side


def compare_stage(stage: str, train: Side, test: Side) -> dict[str, Any]:
    labels = torch.tensor(train.labels), torch.tensor(test.labels)
    learned, tested = train.features(stage), test.features(stage)
    same = all(torch.equal(*pair) for pair in (learned, tested))
    result: dict[str, Any] = {"cka": linear_cka(*tested)}
    for name, accuracy in (("knn", knn_accuracy), ("probe", probe_accuracy)):
        first = accuracy(learned[0], labels[0], tested[0], labels[1])
        second = first if same else accuracy(learned[1], labels[0], tested[1], labels[1])
        result[name] = {"before": first, "after": second}
    return result


def compare(args: argparse.Namespace) -> dict[str, Any]:
    folder, data = Path(args.run), Path(args.data)
    cfg = read_config(folder, args.device)
    images = find_images(data, args.max_images)
    before, start = trunk_before(cfg)
    after = trunk_after(cfg, folder, args.weights)
    unit = getattr(before, "size_divisibility", 0) or 32
    if args.size < unit or args.size % unit:
        raise UserError(f"--size {args.size}: this trunk wants a multiple of {unit}")
    weights = stage_weights(before), stage_weights(after)
    train, test = (
        extract(side, before, after, cfg, args.size) for side in (images.train, images.test)
    )
    if not train.labels or not test.labels:
        raise UserError(f"--data {data}: none of its images could be read")
    stages = []
    for stage in watched(train.before, total=len(train.before), unit="stage"):
        moved = relative_distance(weights[0][stage], weights[1][stage])
        stages.append(
            {
                "stage": stage,
                "weights_distance": moved if start else None,
                **compare_stage(stage, train, test),
            }
        )
    counts = {"images": len(train.labels) + len(test.labels), "test_images": len(test.labels)}
    return {
        "data": {"name": data.resolve().name, **counts, "classes": images.classes},
        "start": start or "random",
        "stages": stages,
    }


def table(report: dict[str, Any]) -> str:
    rows = [
        [
            entry["stage"],
            "-" if entry["weights_distance"] is None else f"{entry['weights_distance']:.4f}",
            f"{entry['cka']:.4f}",
            *(f"{entry[k]['before']:.1f} -> {entry[k]['after']:.1f}" for k in ("knn", "probe")),
        ]
        for entry in report["stages"]
    ]
    headers = ["stage", "weights moved", "CKA", "kNN %", "linear probe %"]
    return tabulate(rows, headers, stralign="right", disable_numparse=True)


def main(args: argparse.Namespace) -> None:
    if args.max_images < 1:
        raise UserError(f"--max-images {args.max_images}: it must be at least 1")
    report = compare(args)
    path = Path(args.run) / run_folder.FEATURES
    run_folder.write_json(path, report)
    data = report["data"]
    print(
        f"{data['images']} images of {data['classes']} classes in {data['name']}, "
        f"{data['test_images']} of them tested; started from {report['start']}\n"
    )
    print(table(report))
    print(f"\n{path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument(
        "--data", required=True, metavar="FOLDER", help="class/image.jpg, or train/ and val/ so"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (224)")
    parser.add_argument(
        "--max-images", type=int, default=4000, help="to learn from, and to test, each (4000)"
    )
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; default: the run's")
    parser.add_argument("--weights", default="", help="a checkpoint's name; default: the last")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
