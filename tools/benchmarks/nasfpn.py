#!/usr/bin/env python3
"""Speed and memory of NAS-FPN against the same table with a module for every operation.

Forward and backward of 256 channels, 5 repeats, on features of 640 px. Each side has a process of
its own; they take turns; medians over rounds, and how near they come to the machine's matrix
products of the same precision.

    python tools/benchmarks/nasfpn.py --output docs/results/benchmark_nasfpn.json
    python tools/benchmarks/nasfpn.py --device cuda --batch 16 --compile
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from detectron2.modeling import Backbone
from measurements import PRODUCTS, write_measurements
from sides import operations, take_turns
from torch import Tensor, nn

from det_transfer.engine.allocator import keep_freed_memory
from det_transfer.engine.launch import quiet
from det_transfer.engine.precision import autocast
from det_transfer.modeling import NASFPN
from det_transfer.modeling.backbone.nasfpn import CELL, LEVELS, wiring

CHANNELS = {"res3": 512, "res4": 1024, "res5": 2048}  # of a ResNet-50
LAYOUTS = ("contiguous", "channels last")


class Given(Backbone):
    """Stands for a trunk: hands features on."""

    def __init__(self):
        super().__init__()
        self._out_features = list(CHANNELS)
        self._out_feature_channels = CHANNELS
        self._out_feature_strides = {name: 2 ** int(name[3:]) for name in CHANNELS}

    def forward(self, features):
        return features


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return coarse + fine * self.sigmoid(self.pool(coarse))


class Transcribed(nn.Module):
    """The table as one would write it down: a module for each operation of each merge."""

    def __init__(self, channels: int = 256, repeats: int = 5):
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for width in CHANNELS.values()
        )
        self.down = nn.MaxPool2d(2)
        levels = [*LEVELS, *(merge.level for merge in CELL)]
        self.cells = nn.ModuleList()
        for _ in range(repeats):
            cell = nn.ModuleList()
            for merge, wires in zip(CELL, wiring(), strict=True):
                cell.append(
                    nn.ModuleDict(
                        {
                            "resample": nn.ModuleList(
                                resampled(levels[n] - merge.level) for n in wires
                            ),
                            "attention": Attention(),
                            "relu": nn.ReLU(),
                            "conv": nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                            "norm": nn.BatchNorm2d(channels),
                        }
                    )
                )
            self.cells.append(cell)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        nodes = [lateral(x) for lateral, x in zip(self.laterals, features.values(), strict=True)]
        nodes.append(self.down(nodes[-1]))
        nodes.append(self.down(nodes[-1]))
        for cell in self.cells:
            levels = list(LEVELS)
            for merge, wires, parts in zip(CELL, wiring(), cell, strict=True):
                a, b, *added = (
                    resample(nodes[n]) for n, resample in zip(wires, parts["resample"], strict=True)
                )
                if merge.combine == "sum":
                    node = a + b
                elif levels[wires[0]] >= levels[wires[1]]:
                    node = parts["attention"](a, b)
                else:
                    node = parts["attention"](b, a)
                for other in added:
                    node = node + other
                nodes.append(parts["norm"](parts["conv"](parts["relu"](node))))
                levels.append(merge.level)
            last = dict(zip(levels[5:], nodes[5:], strict=True))
            nodes = [last[level] for level in LEVELS]
        return dict(zip(("p3", "p4", "p5", "p6", "p7"), nodes, strict=True))


def resampled(steps: int) -> nn.Module:
    if steps > 0:
        return nn.Upsample(scale_factor=2**steps, mode="nearest")
    return nn.MaxPool2d(2**-steps) if steps < 0 else nn.Identity()


def ours() -> nn.Module:
    return NASFPN(Given(), in_features=list(CHANNELS), channels=256, repeats=5)


SIDES: dict[str, Callable[[], nn.Module]] = {"transcribed": Transcribed, "ours": ours}


def step(side: str, precision: str, layout: str, args: argparse.Namespace) -> Callable[[], None]:
    """Forward and backward of a decoder in a precision and a memory layout."""
    keep_freed_memory()
    torch.manual_seed(0)
    memory_format = torch.channels_last if layout == "channels last" else torch.contiguous_format
    decoder = SIDES[side]().to(args.device, memory_format=memory_format)
    run = torch.compile(decoder) if args.compile and side == "ours" else decoder
    features = {
        name: torch.randn(
            args.batch,
            width,
            args.size // 2 ** int(name[3:]),
            args.size // 2 ** int(name[3:]),
            device=args.device,
        ).to(memory_format=memory_format)
        for name, width in CHANNELS.items()
    }

    def once() -> None:
        decoder.zero_grad()
        with autocast(precision, torch.device(args.device)):
            outputs = run(features)
        sum(x.float().mean() for x in outputs.values()).backward()

    return once


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--size", type=int, default=640, help="their side in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile")
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    makers = {
        f"{side}, {precision}, {layout}": partial(step, side, precision, layout, args)
        for layout in LAYOUTS
        for precision in PRODUCTS
        for side in SIDES
    }
    found = take_turns(makers, rounds=args.rounds, device=args.device)
    seconds = {name: side.summary() for name, side in found.items()}
    megabytes = {name: side.peak / 1e6 for name, side in found.items()}
    times = {}
    for layout in LAYOUTS:
        for precision in PRODUCTS:
            a, b = (f"{side}, {precision}, {layout}" for side in SIDES)
            times[f"step: {a} / {b}"] = seconds[a]["median"] / seconds[b]["median"]
            times[f"memory: {a} / {b}"] = megabytes[a] / megabytes[b]
    counted = {side: operations(step(side, "fp32", "contiguous", args)) for side in SIDES}
    reached = {
        rate: {
            name: turns.gflops(counted[name.split(",")[0]])
            for name, turns in found.items()
            if precision in name
        }
        for precision, rate in PRODUCTS.items()
    }
    for name, ratio in times.items():
        print(f"{ratio:6.2f}  {name}")
    write_measurements(
        args.output,
        "NAS-FPN",
        {
            "times": times,
            "seconds of forward and backward:": seconds,
            "peak MB of a process:": megabytes,
        },
        device=args.device,
        reached=reached,
        data={"images": args.batch, "side_px": args.size, "rounds": args.rounds},
    )


if __name__ == "__main__":
    main()
