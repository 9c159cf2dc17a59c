#!/usr/bin/env python
"""Speed, memory and checkpoints of the modes of reuse, against stock Detectron2 and torchvision.

R-50 FPN Faster R-CNN, random weights with norms that fit the batch, one made-up batch for all. Each
side has a process of its own, set up as it would be for training. They take turns, a step each a
round, so that whatever else the machine does disturbs all alike; medians over rounds. Operations
are counted by torch; beside what a step achieves stands what the machine's matrix products do.

    python tools/benchmarks/reuse_modes.py --output docs/results/benchmark_reuse_modes.json
    python tools/benchmarks/reuse_modes.py --device cuda --batch 16 --size 1024
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.model_zoo import get_config_file
from detectron2.utils.events import EventStorage
from measurements import PRODUCTS, Spread, spread, write_measurements
from sides import Clock, Turns, operations, take_turns, watch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from det_transfer.config import load_config
from det_transfer.data.synthetic import synthetic_batch
from det_transfer.engine.allocator import keep_freed_memory
from det_transfer.engine.analysis import settle
from det_transfer.engine.checkpoint import TransferCheckpointer
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.launch import quiet
from det_transfer.engine.optimizer import build_optimizer
from det_transfer.engine.precision import autocast, bf16_is_hopeless
from det_transfer.reuse import trunk_of

ROOT = Path(__file__).resolve().parents[2]
STOCK = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
SMALL_RATE = 1e-5  # random weights do not stand the recipe's


@dataclass(frozen=True)
class Side:
    """A way of training the detector.

    Attributes:
        options: config keys
        torchvision: instead, the name of torchvision's detector
    """

    precision: str = "fp32"
    options: dict[str, Any] = field(default_factory=dict)
    torchvision: str = ""


OURS = {
    "MODEL.BACKBONE.NAME": "build_reuse_backbone",
    "MODEL.TRUNK.NAME": "build_resnet_backbone",
}
FROZEN = {**OURS, "MODEL.REUSE.MODE": "frozen"}
FAST = {**FROZEN, "MODEL.REUSE.FAST": True}
COMPILED = {**FAST, "MODEL.REUSE.COMPILE": True}
FINETUNE = {**OURS, "MODEL.REUSE.MODE": "finetune"}
ADAPTERS = {**OURS, "MODEL.REUSE.MODE": "adapters"}
STOCK_FROZEN = {"MODEL.BACKBONE.FREEZE_AT": 5}

STEPS = {
    "stock, fine-tuned, fp32": Side(),
    "stock, FREEZE_AT 5, fp32": Side(options=STOCK_FROZEN),
    "stock, FREEZE_AT 5, bf16": Side("bf16", STOCK_FROZEN),
    "frozen, fast, fp32": Side(options=FAST),
    "frozen, fast, bf16": Side("bf16", FAST),
    "adapters, bf16": Side("bf16", ADAPTERS),
    "finetune, fp32": Side(options=FINETUNE),
    "finetune, bf16": Side("bf16", FINETUNE),
    "torchvision, frozen, fp32": Side(torchvision="fasterrcnn_resnet50_fpn"),
    "torchvision v2, frozen, fp32": Side(torchvision="fasterrcnn_resnet50_fpn_v2"),
}
TRUNKS = {
    "stock, FREEZE_AT 5, fp32": Side(options=STOCK_FROZEN),
    "stock, FREEZE_AT 5, bf16": Side("bf16", STOCK_FROZEN),
    "fast, fp32": Side(options=FAST),
    "fast, compiled, fp32": Side(options=COMPILED),
    "fast, bf16": Side("bf16", FAST),
    "fast, compiled, bf16": Side("bf16", COMPILED),
}
# (what, of which table, numerator, denominator): how many times faster, or larger, or more.
RATIOS = [
    ("trunk", "stock, FREEZE_AT 5, fp32", "fast, fp32"),
    ("trunk", "stock, FREEZE_AT 5, fp32", "fast, compiled, fp32"),
    ("trunk", "stock, FREEZE_AT 5, fp32", "fast, bf16"),
    ("trunk", "stock, FREEZE_AT 5, bf16", "fast, bf16"),
    ("step", "stock, FREEZE_AT 5, fp32", "frozen, fast, fp32"),
    ("step", "stock, FREEZE_AT 5, bf16", "frozen, fast, bf16"),
    ("step", "stock, FREEZE_AT 5, fp32", "frozen, fast, bf16"),
    ("step", "torchvision, frozen, fp32", "frozen, fast, fp32"),
    ("step", "torchvision v2, frozen, fp32", "frozen, fast, fp32"),
    ("step", "finetune, fp32", "frozen, fast, fp32"),
    ("step", "finetune, bf16", "frozen, fast, bf16"),
    ("memory", "finetune, fp32", "frozen, fast, fp32"),
    ("memory", "finetune, bf16", "frozen, fast, bf16"),
]


def config(side: Side, device: str) -> CfgNode:
    options = {"MODEL.DEVICE": device, "MODEL.WEIGHTS": "", "SOLVER.BASE_LR": SMALL_RATE}
    words = [str(word) for pair in (options | side.options).items() for word in pair]
    return load_config(get_config_file(STOCK), words).cfg


def build(side: Side, args: argparse.Namespace) -> tuple[torch.nn.Module, CfgNode]:
    torch.manual_seed(0)
    if "MODEL.BACKBONE.NAME" in side.options:  # ours, set up as train_net.py does it
        keep_freed_memory()
    cfg = config(side, args.device)
    model = DetectionTrainer.build_model(cfg).train()
    batch = synthetic_batch(cfg, args.batch, args.size)
    settle(model.backbone, lambda: model.backbone(model.preprocess_image(batch).tensor))
    return model, cfg


def training_step(side: Side, args: argparse.Namespace) -> Callable[[], None]:
    losses, optimizer = (of_torchvision if side.torchvision else of_detectron2)(side, args)

    def step() -> None:
        optimizer.zero_grad()
        with EventStorage(), autocast(side.precision, torch.device(args.device)):
            loss = sum(losses().values())
        loss.backward()
        optimizer.step()

    return step


Losses = Callable[[], dict[str, torch.Tensor]]


def of_detectron2(side: Side, args: argparse.Namespace) -> tuple[Losses, torch.optim.Optimizer]:
    model, cfg = build(side, args)
    batch = synthetic_batch(cfg, args.batch, args.size)
    return lambda: model(batch), build_optimizer(cfg, model)


def of_torchvision(side: Side, args: argparse.Namespace) -> tuple[Losses, torch.optim.Optimizer]:
    """Its detector as ``trainable_backbone_layers=0`` leaves it where it has pretrained weights."""
    torch.manual_seed(0)
    cfg = config(Side(), args.device)
    sizes = {"min_size": args.size, "max_size": args.size, "num_classes": 81}
    if side.torchvision == "fasterrcnn_resnet50_fpn":
        frozen_norms = {"norm_layer": FrozenBatchNorm2d, "trainable_layers": 0}
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, **frozen_norms)
        model = detection.FasterRCNN(backbone, **sizes)
    else:
        make = getattr(detection, side.torchvision)
        model = make(weights=None, weights_backbone=None, **sizes)
        model.backbone.body.requires_grad_(False)
    model = model.to(args.device).train()
    batch = synthetic_batch(cfg, args.batch, args.size)
    images = [sample["image"].to(args.device) / 255 for sample in batch]
    targets = [
        {
            "boxes": sample["instances"].gt_boxes.tensor.to(args.device),
            "labels": sample["instances"].gt_classes.to(args.device) + 1,
        }
        for sample in batch
    ]
    settle(model.backbone, lambda: model.backbone(torch.stack(images)))
    parameters = [p for p in model.parameters() if p.requires_grad]
    return lambda: model(images, targets), torch.optim.SGD(parameters, SMALL_RATE, momentum=0.9)


def able(sides: dict[str, Side], args: argparse.Namespace) -> dict[str, Side]:
    """Those in precisions that are measured."""
    return {name: side for name, side in sides.items() if side.precision in args.precisions}


def trunk_forward(side: Side, args: argparse.Namespace) -> Callable[[], None]:
    trunk = trunk_of(build(side, args)[0])
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)

    def step() -> None:
        with autocast(side.precision, torch.device(args.device)):
            trunk(images)

    return step


def turns(sides: dict[str, Side], make: Callable, args: argparse.Namespace) -> dict[str, Turns]:
    makers = {name: partial(make, side, args) for name, side in able(sides, args).items()}
    return take_turns(makers, rounds=args.rounds, device=args.device)


PROFILED = [name for name in STEPS if name.startswith(("stock, FREEZE", "frozen"))]


def profile(args: argparse.Namespace) -> dict[str, Spread]:
    """Milliseconds of the parts of a step; "backbone" includes the trunk."""
    spent: dict[str, list[float]] = {}
    steps = [profiled_step(n, spent, args) for n in PROFILED if n in able(STEPS, args)]
    for round_ in range(args.rounds + 2):
        if round_ == 2:
            spent.clear()
        for step in steps:
            step()
    return {name: spread(1000 * s for s in seconds) for name, seconds in spent.items()}


def profiled_step(
    name: str, spent: dict[str, list[float]], args: argparse.Namespace
) -> Callable[[], None]:
    side = STEPS[name]
    model, cfg = build(side, args)
    optimizer = build_optimizer(cfg, model)
    batch = synthetic_batch(cfg, args.batch, args.size)
    clock = Clock(args.device, lambda part, seconds: spent.setdefault(part, []).append(seconds))
    watch(model, clock.start, lambda part: clock.stop(f"{name}: {part}", part))

    def step() -> None:
        optimizer.zero_grad()
        with EventStorage(), autocast(side.precision, torch.device(args.device)):
            loss = sum(model(batch).values())
        clock.start("backward")
        loss.backward()
        clock.stop(f"{name}: backward", "backward")
        clock.start("optimizer")
        optimizer.step()
        clock.stop(f"{name}: optimizer", "optimizer")

    return step


def checkpoint(side: Side, args: argparse.Namespace) -> dict[str, float]:
    """Bytes of the model's part of a checkpoint; the trained share of the parameters."""
    model, cfg = build(side, args)
    learned = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with tempfile.TemporaryDirectory() as folder:
        TransferCheckpointer(model, folder, cfg=cfg).save("model")
        size = (Path(folder) / "model.pth").stat().st_size
    return {"bytes": size, "trained_bytes": 4 * trained, "trained_share": 100 * trained / learned}


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {
        f"{what}: {a} / {b}": _value(results[what][a]) / _value(results[what][b])
        for what, a, b in RATIOS
        if {a, b} <= results[what].keys()
    }


def _value(entry: Any) -> float:
    return entry["median"] if isinstance(entry, dict) else entry


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=4, help="images")
    parser.add_argument("--size", type=int, default=320, help="their side in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--precisions", nargs="+", choices=["fp32", "bf16"], help="default: what is of use here"
    )
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    if not args.precisions:  # without instructions for it a step in bf16 takes minutes
        hopeless = bf16_is_hopeless(torch.device(args.device))
        args.precisions = ["fp32"] if hopeless else ["fp32", "bf16"]
    trunks = turns(TRUNKS, trunk_forward, args)
    steps = turns(STEPS, training_step, args)
    measured = {
        "trunk": {name: side.summary() for name, side in trunks.items()},
        "step": {name: side.summary() for name, side in steps.items()},
        "memory": {name: side.peak for name, side in steps.items()},
    }
    counted = {n: operations(training_step(side, args)) for n, side in able(STEPS, args).items()}
    rates = {name: side.gflops(counted[name]) for name, side in steps.items()}
    saved = {n: checkpoint(STEPS[n], args) for n in ("frozen, fast, fp32", "finetune, fp32")}
    results = {
        "times": ratios(measured),
        "seconds of a trunk's forward:": measured["trunk"],
        "seconds of a step:": measured["step"],
        "milliseconds of": profile(args),
        "GFLOP of a step:": {name: count / 1e9 for name, count in counted.items()},
        "GFLOP a second in a step:": rates,
        "peak MB of a process:": {k: v / 1e6 for k, v in measured["memory"].items()},
        "MB of a checkpoint's model:": {k: v["bytes"] / 1e6 for k, v in saved.items()},
        "MB that are trained:": {k: v["trained_bytes"] / 1e6 for k, v in saved.items()},
    }
    for name, times in results["times"].items():
        print(f"{times:6.2f}  {name}")
    for name, entry in saved.items():
        megabytes, trained = entry["bytes"] / 1e6, entry["trained_bytes"] / 1e6
        print(f"checkpoint of {name}: {megabytes:.1f} MB, of which trained {trained:.1f} MB")
    write_measurements(
        args.output,
        "modes of reuse",
        results,
        device=args.device,
        reached={
            PRODUCTS[precision]: {n: r for n, r in rates.items() if STEPS[n].precision == precision}
            for precision in args.precisions
        },
        data={"images": args.batch, "side_px": args.size, "rounds": args.rounds},
    )


if __name__ == "__main__":
    main()
