#!/usr/bin/env python3
"""How long does each transferability score take, and how much memory?

Each score runs in a process of its own, one after the other, on the same made-up features:
classes that overlap, units of unequal scale, rectified as behind a ReLU. Peak memory is the
process's own, with torch and the features in it. CPU seconds hardly depend on what else the machine
does. Decompositions and searches are no plain matrix products, so that these give no bound.

    python tools/benchmarks/transferability.py                 # 10,000 x 2,048, 100 classes
    python tools/benchmarks/transferability.py --images 500 --units 64 --classes 5 --rounds 1
    python tools/benchmarks/transferability.py --output docs/results/benchmark_transferability.json
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measurements import spread, write_measurements
from sides import Turns, take_turns
from torch import Tensor

from det_transfer.classification.scores import SCORES
from det_transfer.engine.launch import quiet

SOURCE_CLASSES = 1000  # ImageNet's


def make_data(images: int, units: int, classes: int) -> tuple[Tensor, Tensor]:
    """(images, units) float32 and (images,) int64, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    centres = torch.randn(classes, units, generator=generator)
    scales = torch.rand(units, generator=generator) + 0.1
    noise = torch.randn(images, units, generator=generator)
    return (scales * (0.3 * centres[labels] + noise)).relu_(), labels


def side(name: str, images: int, units: int, classes: int) -> Callable[[], None]:
    score = SCORES[name]
    values, labels = make_data(images, SOURCE_CLASSES if score.reads_head else units, classes)
    if score.reads_head:
        values = values.softmax(dim=1)

    def step() -> None:
        score.function(values, labels)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--scores", nargs="+", default=list(SCORES), choices=list(SCORES))
    parser.add_argument("--rounds", type=int, default=3, help="that count; two warm up (3)")
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    sizes = (args.images, args.units, args.classes)
    results = {}
    for name in args.scores:
        results[name] = numbers(take_turns({name: partial(side, name, *sizes)}, rounds=args.rounds))
        print(json.dumps({name: results[name]}), flush=True)
    write_measurements(
        args.output,
        "transferability scores",
        results,
        packages=("torch", "numpy", "scikit-learn"),
        data={k: v for k, v in vars(args).items() if k != "output"},
    )


def numbers(turns: dict[str, Turns]) -> dict[str, Any]:
    (taken,) = turns.values()
    return {"s": taken.summary(), "cpu_s": spread(taken.cpu), "peak_bytes": taken.peak}


if __name__ == "__main__":
    main()
