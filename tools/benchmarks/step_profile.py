#!/usr/bin/env python3
"""What a training step of a config does: time, operations, synchronisations and copies by part.

A synchronisation is where Python waits for a number that a GPU has not computed yet (``.item()``,
``nonzero``, an index of bools): there they cost most, but they can be counted on a CPU. Whose they
are says the innermost file that is not torch's. How near a whole step comes to the machine's matrix
products is measured by tools/benchmarks/reuse_modes.py.

    python tools/benchmarks/step_profile.py --output docs/results/benchmark_step_profile.json
    python tools/benchmarks/step_profile.py --device cuda --batch 8 --size 1024 --rois 512
"""

import argparse
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from measurements import Spread, spread, write_measurements
from sides import Clock, watch
from torch.utils._python_dispatch import TorchDispatchMode

from det_transfer.config import load_config
from det_transfer.data.synthetic import synthetic_batch
from det_transfer.engine.allocator import keep_freed_memory
from det_transfer.engine.analysis import settle
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.launch import quiet
from det_transfer.engine.optimizer import build_optimizer

ROOT = Path(__file__).resolve().parents[2]
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2"}
COPIES = {"aten::_to_copy", "aten::copy_", "aten::clone"}
OWNERS = ("det_transfer", "detectron2", "torchvision", "fvcore", "timm")


class Ledger(TorchDispatchMode):
    """Counts what is dispatched, by the part that is running and by whose code asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = ["other"]
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.operations[self.parts[-1]] += 1
        if name in WAITS or (name.startswith("aten::index") and _has_bools(args)):
            owner, place = _asked_by()
            self.waits[owner] += 1
            self.places[place] += 1
        if name in COPIES:
            self.copies[_asked_by()[0]] += 1
        return func(*args, **(kwargs or {}))


def _has_bools(args: tuple[Any, ...]) -> bool:
    indices = [t for a in args[1:2] if isinstance(a, list | tuple) for t in a if t is not None]
    return any(t.dtype == torch.bool for t in indices)


def _asked_by() -> tuple[str, str]:
    """The package and the line that asked; in backward there is none."""
    for frame in reversed(traceback.extract_stack()[:-2]):
        path = Path(frame.filename).parts
        owner = next((name for name in OWNERS if name in path), None)
        if owner:
            return owner, f"{'/'.join(path[path.index(owner) :])}:{frame.lineno}"
    return "torch", "backward and optimizer"


def read(args: argparse.Namespace) -> CfgNode:
    options = {
        "MODEL.DEVICE": args.device,
        "MODEL.WEIGHTS": "",
        "MODEL.REUSE.FAST": True,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": args.rois,
        "SOLVER.BASE_LR": 1e-5,  # random weights do not stand the recipe's
    }
    words = [str(word) for pair in options.items() for word in pair]
    return load_config(args.config_file, words).cfg


def build(args: argparse.Namespace) -> tuple[torch.nn.Module, Callable[..., None]]:
    """The detector, and its step, which tells what it is at."""
    torch.manual_seed(0)
    keep_freed_memory()
    cfg = read(args)
    model = DetectionTrainer.build_model(cfg).train()
    batch = synthetic_batch(cfg, args.batch, args.size)
    settle(model.backbone, lambda: model.backbone(model.preprocess_image(batch).tensor))
    optimizer = build_optimizer(cfg, model)

    def step(start: Callable[[str], None], stop: Callable[[str], None]) -> None:
        optimizer.zero_grad()
        with EventStorage():
            loss = sum(model(batch).values())
        for part, do in (("backward", loss.backward), ("optimizer", optimizer.step)):
            start(part)
            do()
            stop(part)

    return model, step


def count(args: argparse.Namespace) -> Ledger:
    ledger = Ledger()
    model, step = build(args)
    step(lambda _: None, lambda _: None)  # what is made once
    marks = (ledger.parts.append, lambda _: ledger.parts.pop())
    watch(model, *marks)
    with ledger:
        step(*marks)
    return ledger


def clock(args: argparse.Namespace) -> dict[str, Spread]:
    """Milliseconds of each part; "backbone" includes the trunk."""
    spent: dict[str, list[float]] = {}
    model, step = build(args)
    timer = Clock(args.device, lambda part, s: spent.setdefault(part, []).append(1000 * s))
    marks = (timer.start, lambda part: timer.stop(part, part))
    watch(model, *marks)
    for round_ in range(args.rounds + 2):
        if round_ == 2:
            spent.clear()
        step(*marks)
    return {part: spread(ms) for part, ms in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default=str(ROOT / "configs/frozen_cascade_lvis.yaml"))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--size", type=int, default=256, help="their side in pixels")
    parser.add_argument("--rois", type=int, default=32, help="of an image; recipes have 512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    ledger, times = count(args), clock(args)
    results = {
        "milliseconds of:": times,
        "operations of:": dict(ledger.operations),
        "synchronisations asked for by:": dict(ledger.waits.most_common()),
        "copies asked for by:": dict(ledger.copies.most_common()),
        "synchronisations at:": dict(ledger.places.most_common(20)),
    }
    for what, table in results.items():
        for name, value in table.items():
            value = value["median"] if isinstance(value, dict) else value
            print(f"{what:32} {name:64} {value:8.1f}")
    write_measurements(
        args.output,
        "a training step, taken apart",
        results,
        note=f"One step of {Path(args.config_file).name}, its trunk computed fast.",
        device=args.device,
        data={"images": args.batch, "side_px": args.size, "RoIs": args.rois},
    )


if __name__ == "__main__":
    main()
