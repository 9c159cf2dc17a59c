#!/usr/bin/env python3
"""What growing did to a network: classes apart, blocks alone, alike units, how far weights moved.

    python tools/analyze_growth.py --dataset grocery_test --output output/analysis \\
        --run "fine-tuned=output/growth_table1/target_FT_All_s1" \\
        --run "WA-CNN=output/growth_table1/target_WA_All_s1"

Each run is finished; its last checkpoint is looked at on a dataset that one of their configs has,
so that a source can stand beside what became of it. Writes analysis.json, and into pictures/
tsne.jpg (what the classifier reads, by t-SNE) and units_<run>.jpg (for some units of its top
layers, the same in every run, the test images that activate them most). In the json of each run:

    separation   accuracy of 5 nearest neighbours and silhouette of what the classifier reads
    blocks       top-1 with all that the classifier reads, and with each layer of it alone
    diversity    mean absolute correlation among old units, among new ones, and across
    movement     ||after - before|| / ||before|| of each layer that its MODEL.WEIGHTS has

Source of the analyses: Growing a Brain, figures 3 to 7.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from PIL import Image, ImageDraw

from det_transfer.classification.analysis import (
    block_accuracies,
    diversity,
    features,
    movement,
    separation,
    top_images,
)
from det_transfer.classification.checkpoint import load_run
from det_transfer.classification.classifier import ImageClassifier
from det_transfer.classification.data import ImageSet, Tasks, build_test_loader
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.report.scatter import scatter
from det_transfer.reuse import read_checkpoint
from det_transfer.run_folder import replacing, write_json

_SIDE = 64  # pixels of an image in a grid of units


@dataclass
class Seen:
    """A run, looked at on the images.

    Attributes:
        layers: what its classifier reads
        arrays: layer -> (N, units)
        labels, numbers: (N,), classes and places of the images in their set
        found: the numbers for the json
    """

    name: str
    layers: tuple[str, ...]
    arrays: dict[str, np.ndarray]
    labels: np.ndarray
    numbers: np.ndarray
    found: dict[str, Any]

    @property
    def read(self) -> np.ndarray:
        """(N, units) of all layers side by side, each of norm 1, so that each weighs alike."""
        blocks = (self.arrays[layer] for layer in self.layers)
        norms = ((b, np.linalg.norm(b, axis=1, keepdims=True)) for b in blocks)
        return np.hstack([block / np.maximum(norm, 1e-12) for block, norm in norms])


def main(args: argparse.Namespace) -> None:
    folders = dict(args.run)
    if len(folders) < len(args.run):
        raise UserError("--run: two have one name; write NAME=FOLDER with another for each")
    runs = {name: load_run(Path(folder)) for name, folder in folders.items()}
    data = data_of(args.dataset, [cfg for cfg, _ in runs.values()])
    seen = [look(n, *found, d, args) for (n, found), d in zip(runs.items(), data, strict=True)]
    panels = []
    for one in seen:
        chosen = np.random.default_rng(args.seed).permutation(len(one.labels))[: args.points]
        points, labels = one.read[chosen], one.labels[chosen]
        one.found["separation"] = separation(points, labels)
        panels.append((one.name, embed(points, args.seed), labels))
    units = choose_units(seen, args)
    for one, cfg in zip(seen, data, strict=True):
        images = Tasks(cfg).images(args.dataset)
        name = f"units_{re.sub(r'[^A-Za-z0-9]+', '_', one.name)}"
        save_picture(args.output, name, unit_grid(images, one, units))
    save_picture(args.output, "tsne", Image.open(io.BytesIO(scatter(panels))).convert("RGB"))
    found = {one.name: one.found for one in seen}
    content = {"dataset": args.dataset, "units": units, "folders": folders, "runs": found}
    write_json(args.output / "analysis.json", content)
    print(json.dumps(found, indent=1))
    print(f"written: {args.output}")


def data_of(dataset: str, configs: Sequence[CfgNode]) -> list[CfgNode]:
    """For each config one that has the dataset: itself, or the first that does."""
    known = [[entry[0] for entry in cfg.DATASETS.CLASSIFICATION] for cfg in configs]
    having = [cfg for cfg, names in zip(configs, known, strict=True) if dataset in names]
    if not having:
        names = dict.fromkeys(name for names in known for name in names)
        raise UserError(f"--dataset {dataset}: the runs have {', '.join(names)}")
    chosen = [
        (cfg if dataset in names else having[0]).clone()
        for cfg, names in zip(configs, known, strict=True)
    ]
    for cfg in chosen:
        cfg.DATASETS.TEST = (dataset,)
    return chosen


def look(
    name: str, cfg: CfgNode, model: ImageClassifier, data: CfgNode, args: argparse.Namespace
) -> Seen:
    """A run on the images of `data`; without a classifier for them, on what all of them read."""
    task = Tasks(data).of(args.dataset)
    known = task in model.classifiers
    layers = model.classifiers[task].inputs if known else model.architecture.top
    arrays, labels, numbers = features(model, build_test_loader(data, args.dataset), list(layers))
    found: dict[str, Any] = {"network": str(model.architecture)}
    if known:
        found["blocks"] = block_accuracies(model, build_test_loader(data, args.dataset), task)
    if len(layers) > 1:
        new = np.hstack([arrays[layer] for layer in layers[1:]])
        found["diversity"] = diversity(arrays[layers[0]], new)
    source = cfg.MODEL.WEIGHTS
    here = source.endswith(".pth") and Path(source).is_file()
    moved = movement(model, read_checkpoint(source)["model"]) if here else {}
    if moved:
        found["movement"] = moved
    else:
        print(
            f"{name}: no movement, since {source or 'MODEL.WEIGHTS'} is no checkpoint of ours here"
        )
    return Seen(name, tuple(layers), arrays, labels, numbers, found)


def embed(points: np.ndarray, seed: int) -> np.ndarray:
    """(N, 2) by scikit-learn's t-SNE on the first 50 principal components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = min(50, *points.shape)
    points = PCA(components, random_state=seed).fit_transform(points)
    perplexity = min(30.0, (len(points) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)


def choose_units(seen: Sequence[Seen], args: argparse.Namespace) -> dict[str, list[int]]:
    """Layer -> units to show, the same in all runs: those of --unit, or some that all runs use."""
    layers = dict.fromkeys(layer for one in seen for layer in one.layers)
    having = {layer: [s.arrays[layer] for s in seen if layer in s.layers] for layer in layers}
    widths = {layer: min(a.shape[1] for a in arrays) for layer, arrays in having.items()}
    if args.unit:
        units: dict[str, list[int]] = {}
        for layer, number in args.unit:
            if not 0 <= number < widths.get(layer, 0):
                known = ", ".join(f"{n}:0 to {n}:{width - 1}" for n, width in widths.items())
                raise UserError(f"--unit {layer}:{number}: there is {known}")
            units.setdefault(layer, []).append(number)
        return units
    generator = np.random.default_rng(args.seed)
    units = {}
    for layer, arrays in having.items():
        alive = np.all([a[:, : widths[layer]].max(axis=0) > 0 for a in arrays], axis=0)
        units[layer] = generator.permutation(np.flatnonzero(alive))[: args.units].tolist()
    return units


def unit_grid(images: ImageSet, seen: Seen, units: dict[str, list[int]]) -> Image.Image:
    """A row a unit of each layer, with its name; from the left what activates it most."""
    rows = [
        (f"{layer}:{unit_}", seen.numbers[row])
        for layer in seen.layers
        for unit_, row in zip(
            units.get(layer, []), top_images(seen.arrays[layer], units.get(layer, [])), strict=True
        )
    ]
    canvas = Image.new("RGB", (6 * _SIDE, max(len(rows), 1) * _SIDE), "white")
    for y, (name, row) in enumerate(rows):
        ImageDraw.Draw(canvas).text((4, (y + 0.4) * _SIDE), name, fill="black")
        for x, number in enumerate(row.tolist(), start=1):
            picture = Image.fromarray(images.image(number)).resize((_SIDE, _SIDE))
            canvas.paste(picture, (x * _SIDE, y * _SIDE))
    return canvas


def save_picture(folder: Path, name: str, picture: Image.Image) -> None:
    with replacing(folder / "pictures" / f"{name}.jpg") as path:
        picture.save(path, format="JPEG", quality=90)


def named(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=FOLDER")
    return name, folder


def unit(text: str) -> tuple[str, int]:
    layer, separator, number = text.rpartition(":")
    if not separator or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no LAYER:NUMBER, such as FC7:12")
    return layer, int(number)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=named, action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--dataset", required=True, help="of a run's DATASETS.CLASSIFICATION")
    parser.add_argument("--output", type=Path, required=True, help="folder for json and pictures")
    parser.add_argument("--points", type=int, default=1500, help="images of t-SNE and separation")
    parser.add_argument("--units", type=int, default=4, help="of each layer, in the grid")
    parser.add_argument(
        "--unit", type=unit, action="append", metavar="LAYER:NUMBER", help="this one, e.g. FC7:12"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
