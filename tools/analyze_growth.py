#!/usr/bin/env python3
"""What growing did to a network: classes apart, blocks alone, alike units, how far weights moved.

    python tools/analyze_growth.py --dataset grocery_test --output output/analysis \\
        --run "fine-tuned=output/growth_table1/target_FT_All_s1" \\
        --run "WA-CNN=output/growth_table1/target_WA_All_s1"

Each run is finished; its last checkpoint is looked at on a dataset of its config. Writes
analysis.json, and as pictures tsne.png (what the classifier reads, by t-SNE) and units_<run>.png
(for some units of its top layers the test images that activate them most). In the json of each run:

    separation   accuracy of 5 nearest neighbours and silhouette of what the classifier reads
    blocks       top-1 with all that the classifier reads, and with each layer of it alone
    diversity    mean absolute correlation among old units, among new ones, and across
    movement     ||after - before|| / ||before|| of each tensor that its MODEL.WEIGHTS has

Source of the analyses: Growing a Brain, figures 3 to 7.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from det_transfer.classification.analysis import (
    block_accuracies,
    diversity,
    features,
    movement,
    separation,
    top_images,
)
from det_transfer.classification.checkpoint import load_run
from det_transfer.classification.data import Tasks, build_test_loader
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.report.scatter import scatter
from det_transfer.reuse import read_checkpoint
from det_transfer.run_folder import replacing, write_json

_SIDE = 64  # pixels of an image in a grid of units


def main(args: argparse.Namespace) -> None:
    found, panels = {}, []
    for entry in args.run:
        name, separator, folder = entry.partition("=")
        if not separator:
            raise UserError(f"--run {entry}: write NAME=FOLDER")
        found[name], read, labels = analyze(Path(folder), name, args)
        panels.append((name, embed(read, args.seed), labels))
    write_json(args.output / "analysis.json", {"dataset": args.dataset, "runs": found})
    with replacing(args.output / "tsne.png") as path:
        path.write_bytes(scatter(panels))
    shown = {n: {k: v for k, v in f.items() if k != "movement"} for n, f in found.items()}
    print(json.dumps(shown, indent=1))
    print(f"written: {args.output}")


def analyze(folder: Path, name: str, args: argparse.Namespace) -> tuple[dict[str, Any], Any, Any]:
    """The numbers of a run, what its classifier reads (points, channels), and the labels."""
    cfg, model = load_run(folder)
    known = [entry[0] for entry in cfg.DATASETS.CLASSIFICATION]
    if args.dataset not in known:
        raise UserError(f"--dataset {args.dataset}: {folder} has {', '.join(known)}")
    cfg.DATASETS.TEST = (args.dataset,)
    tasks = Tasks(cfg)
    task = tasks.of(args.dataset)
    blocks = model.classifiers[task].inputs
    arrays, labels = features(model, build_test_loader(cfg, args.dataset), list(blocks))
    numbers: dict[str, Any] = {
        "network": str(model.architecture),
        "blocks": block_accuracies(model, build_test_loader(cfg, args.dataset), task),
    }
    if len(blocks) > 1:
        new = np.hstack([arrays[block] for block in blocks[1:]])
        numbers["diversity"] = diversity(arrays[blocks[0]], new)
    read = np.hstack([_unit(arrays[block]) for block in blocks])
    chosen = np.random.default_rng(args.seed).permutation(len(read))[: args.points]
    numbers["separation"] = separation(read[chosen], labels[chosen])
    if cfg.MODEL.WEIGHTS.endswith(".pth") and Path(cfg.MODEL.WEIGHTS).is_file():
        before = read_checkpoint(cfg.MODEL.WEIGHTS)["model"]
        numbers["movement"] = movement(before, model.state_dict())
    images = tasks.images(args.dataset)
    grid = unit_grid(images, arrays, blocks, args)
    with replacing(args.output / f"units_{re.sub(r'[^A-Za-z0-9]+', '_', name)}.png") as path:
        grid.save(path, format="png")
    return numbers, read[chosen], labels[chosen]


def embed(points: np.ndarray, seed: int) -> np.ndarray:
    """(N, 2) by scikit-learn's t-SNE on the first 50 principal components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = min(50, *points.shape)
    points = PCA(components, random_state=seed).fit_transform(points)
    perplexity = min(30.0, (len(points) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)


def unit_grid(
    images: Any, arrays: dict[str, np.ndarray], blocks: tuple[str, ...], args: argparse.Namespace
) -> Image.Image:
    """A row a unit, `args.units` of each layer; the images that activate it most from the left."""
    rows = []
    for block in blocks:
        alive = np.flatnonzero(arrays[block].max(axis=0) > 0)
        units = np.random.default_rng(args.seed).permutation(alive)[: args.units]
        rows += top_images(arrays[block], units.tolist()).tolist() if len(units) else []
    canvas = Image.new("RGB", (5 * _SIDE, max(len(rows), 1) * _SIDE), "white")
    for y, row in enumerate(rows):
        for x, number in enumerate(row):
            picture = Image.fromarray(images.image(number)).resize((_SIDE, _SIDE))
            canvas.paste(picture, (x * _SIDE, y * _SIDE))
    return canvas


def _unit(block: np.ndarray) -> np.ndarray:
    """Rows of norm 1, so that each layer weighs alike."""
    return block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--dataset", required=True, help="of the runs' DATASETS.CLASSIFICATION")
    parser.add_argument("--output", type=Path, required=True, help="folder for json and pictures")
    parser.add_argument("--points", type=int, default=1500, help="images of t-SNE and separation")
    parser.add_argument("--units", type=int, default=4, help="of each layer, in the grid")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse_args()))
