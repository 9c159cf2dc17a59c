#!/usr/bin/env python3
"""Latency and memory of K detectors on one trunk against K detectors apart, and against the limit.

For K = 1, 2, 4, 8 and two detectors on a frozen ResNet-50 (Faster R-CNN with FPN, Cascade with
NAS-FPN), one image at a time: the K composed, the K one after the other, and the two parts of the
limit, the trunk once and what stands on it K times, which is nearer than the machine's. Each is a
process of its own; they take turns; medians over rounds.

    python tools/benchmarks/shared_backbone.py --output docs/results/benchmark_shared_backbone.json
    python tools/benchmarks/shared_backbone.py --device cuda --size 1024
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import Backbone, build_model
from measurements import spread, write_measurements
from sides import take_turns
from torch import nn

from det_transfer.config import load_config
from det_transfer.engine.allocator import keep_freed_memory
from det_transfer.engine.analysis import settle
from det_transfer.engine.launch import quiet
from det_transfer.modeling import SharedBackboneDetector

DETECTORS = {
    "FPN": "configs/coco/rcnn_r50_fpn_frozen_72ep.yaml",
    "Cascade NAS-FPN": "configs/coco/rcnn_r50_nasfpn_cascade_frozen_72ep.yaml",
}
TASKS = (1, 2, 4, 8)
WITHIN = 1.05  # of the limit


def detectors(path: str, count: int, args: argparse.Namespace) -> Iterator[nn.Module]:
    """Of one trunk, each with heads of its own; random, but fed like trained ones."""
    cfg = load_config(path, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", args.device]).cfg
    first = None
    for seed in range(count):
        torch.manual_seed(seed)
        model = build_model(cfg).eval()
        trunk = model.backbone.bottom_up
        first = first or trunk
        trunk.load_state_dict(first.state_dict())
        settle(model, lambda model=model: model(sample(args)))
        yield model


@torch.no_grad()
def count_proposals(path: str, args: argparse.Namespace) -> int:
    """How many boxes the heads of one detector get."""
    (model,) = detectors(path, 1, args)
    images = model.preprocess_image(sample(args))
    return len(model.proposal_generator(images, model.backbone(images.tensor))[0][0])


def sample(args: argparse.Namespace) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, args.size, args.size), generator=generator)
    return [{"image": image.float(), "height": args.size, "width": args.size}]


def apart(path: str, count: int, args: argparse.Namespace) -> Callable[[], None]:
    keep_freed_memory()
    models, images = list(detectors(path, count, args)), sample(args)

    @torch.no_grad()
    def step() -> None:
        for model in models:
            model(images)

    return step


def composed(path: str, count: int, args: argparse.Namespace) -> Callable[[], None]:
    keep_freed_memory()
    models, images = detectors(path, count, args), sample(args)
    shared = SharedBackboneDetector({"task0": next(models)})
    for number, model in enumerate(models, start=1):  # one by one: its own trunk goes at once
        shared.add(f"task{number}", model)
    return lambda: shared(images)


def trunk(path: str, count: int, args: argparse.Namespace) -> Callable[[], None]:
    """The trunk alone, once."""
    keep_freed_memory()
    (model,) = detectors(path, 1, args)
    pixels = model.preprocess_image(sample(args)).tensor

    @torch.no_grad()
    def step() -> None:
        model.backbone.bottom_up(pixels)

    return step


class Known(Backbone):
    """In place of a trunk: features that were computed before."""

    def __init__(self, trunk: Backbone, pixels: torch.Tensor):
        super().__init__()
        self.shapes = trunk.output_shape()
        with torch.no_grad():
            self.features = trunk(pixels)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.features

    def output_shape(self) -> dict:
        return self.shapes


def heads(path: str, count: int, args: argparse.Namespace) -> Callable[[], None]:
    """Decoders and heads of K detectors, on features that are there."""
    keep_freed_memory()
    models, images = list(detectors(path, count, args)), sample(args)
    for model in models:
        pixels = model.preprocess_image(images).tensor
        model.backbone.bottom_up = Known(model.backbone.bottom_up, pixels)

    @torch.no_grad()
    def step() -> None:
        for model in models:
            model(images)

    return step


SIDES = {"composed": composed, "apart": apart, "trunk": trunk, "heads": heads}


def compare(path: str, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """One K of one detector."""
    sides = {name: partial(make, path, count, args) for name, make in SIDES.items()}
    found = take_turns(sides, rounds=args.rounds, device=args.device)
    seconds = {name: side.summary()["median"] for name, side in found.items()}
    least = seconds["trunk"] + seconds["heads"]
    cpu = {name: spread(side.cpu) for name, side in found.items()}
    least_cpu = cpu["trunk"]["median"] + cpu["heads"]["median"]
    return {
        "proposals a detector": count_proposals(path, args),
        **{f"seconds, {name}": found[name].summary() for name in SIDES},
        "seconds, limit (trunk + heads)": least,
        "times limit: composed": seconds["composed"] / least,
        # What else the machine does is hardly in these; on a GPU they say little.
        **{f"CPU seconds, {name}": value for name, value in cpu.items()},
        "times limit: composed, CPU seconds": cpu["composed"]["median"] / least_cpu,
        "times composed: apart": seconds["apart"] / seconds["composed"],
        "peak MB, composed": found["composed"].peak / 1e6,
        "peak MB, apart": found["apart"].peak / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=640, help="side of the image in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, nargs="+", default=list(TASKS), help="values of K")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    results = {}
    for name in args.detectors:
        for count in args.tasks:
            path = DETECTORS[name]
            found = results[f"{name}, K = {count}"] = compare(path, count, args)
            print(
                f"{name}, K = {count}: composed {found['seconds, composed']['median']:.2f} s, "
                f"{found['times limit: composed']:.3f} of the limit (of CPU seconds "
                f"{found['times limit: composed, CPU seconds']:.3f}); apart takes "
                f"{found['times composed: apart']:.2f} times as long",
                flush=True,
            )
    write_measurements(
        args.output,
        "one trunk, many detectors",
        results,
        note=f"Composed should stay within {WITHIN} of the limit.",
        device=args.device,
        data={"images": 1, "side_px": args.size, "rounds": args.rounds},
    )


if __name__ == "__main__":
    main()
