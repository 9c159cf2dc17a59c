#!/usr/bin/env python3
"""The table of recipes, docs/configs.md: what each trains, what a step of it costs, the paper's AP.

    python tools/make_config_table.py --measure           # builds and steps every recipe: 15 min
    python tools/make_config_table.py --measure stage2    # steps of those so named, and new ones
    python tools/make_config_table.py                     # the page from docs/configs.json

Parameters are counted anew for all whenever anything is measured. Operations are those of one image
of the recipe's size. They are counted on steps on two smaller sizes, since convolutions cost in
proportion to the area and all else the same; tested in tests/tools/test_make_config_table.py.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in a config.
"""

import argparse
import hashlib
import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from tqdm import tqdm

from det_transfer.config import load_config
from det_transfer.data.synthetic import OBJECTS, synthetic_batch
from det_transfer.engine.analysis import Cost, measure, settle
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.launch import run
from det_transfer.run_folder import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
NUMBERS = ROOT / "docs" / "configs.json"
PAGE = ROOT / "docs" / "configs.md"
# Multiples of every recipe's size_divisibility, large enough for 1,000 proposals.
SIZES = (256, 384)

INTRO = """\
# Recipes

Made by `python tools/make_config_table.py` from the configs themselves. Parameters in millions;
operations (a multiply-add counts 2) of one training step on one image of the recipe's size, in
units of 1e9, by torch's counter as in `tools/analyze_model.py`; masks are those of 7 objects. AP is
box AP on COCO val or LVIS val as the paper prints it, or, where a config's header says so, as read
off its figure 3 (within 0.1). There is no column of ours: **none of these recipes was trained by us
at this size**. What was measured of the same questions at a size for two
cores (decoders, modes, Copy-Paste) is in [results](results/README.md). Files whose name starts
alike share a base in `configs/base`; other combinations are overrides, for example
`--config-file configs/coco/rcnn_resnetrs101_nasfpn_frozen_72ep.yaml MODEL.NASFPN.REPEATS 7`.
"""


def recipes() -> list[Path]:
    """Every config that trains something big, by folder and name."""
    return [
        *sorted(CONFIGS.glob("frozen_cascade_lvis*.yaml")),
        *sorted((CONFIGS / "coco").glob("*.yaml")),
        *sorted((CONFIGS / "lvis").glob("*.yaml")),
    ]


# Under which every size has the same number of proposals, and of masks: that of its objects.
STEADY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.REUSE.NORM": "BN",  # as many parameters and operations as SyncBN, which needs CUDA
    "MODEL.RPN.NMS_THRESH": 1.0,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": OBJECTS / 512,
    "MODEL.ROI_BOX_CASCADE_HEAD.MASK_PROPOSALS": "first",
}


def read(path: Path) -> CfgNode:
    return load_config(str(path), [str(word) for pair in STEADY.items() for word in pair]).cfg


def cost(cfg: CfgNode, size: int) -> Cost:
    model, batch = DetectionTrainer.build_model(cfg), synthetic_batch(cfg, 1, size)
    with EventStorage():
        settle(model, lambda: model(batch))
    return measure(model, batch)


def operations(small: Cost, large: Cost, size: int) -> float:
    """Operations of a step at `size` from those at :data:`SIZES`: a constant and a part by area."""
    low, high = SIZES
    by_area = (large.step - small.step) / (high**2 - low**2)
    return small.step + by_area * (size**2 - low**2)


def measured(wanted: str, known: dict[str, Any]) -> dict[str, Any]:
    """An entry for each recipe, counted anew where its path has `wanted` in it or it is new."""
    done: dict[str, dict[str, Any]] = {}  # recipes that differ in data and schedule cost alike
    found = {}
    for path in tqdm(recipes(), unit="recipe"):
        name = str(path.relative_to(ROOT))
        cfg = read(path)
        if name in known and wanted not in name:
            found[name] = {**known[name], **parameters(cfg)}
            continue
        key = hashlib.sha256(f"{cfg.MODEL.dump()}{cfg.INPUT.LSJ.SIZE}".encode()).hexdigest()
        if key not in done:
            # In a process of its own, which takes its memory with it.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                done[key] = pool.submit(entry_of, path).result()
        found[name] = done[key]
    for name in PAPERS_MILLIONS:
        name = f"configs/{name}.yaml"
        found[name] = {**found[name], "with_papers_classes": with_papers_classes(name)}
    return found


def with_papers_classes(name: str) -> dict[str, int]:
    """:func:`parameters` of a recipe with as many classes as the paper's models have."""
    cfg = read(ROOT / name)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = PAPERS_CLASSES
    return parameters(cfg)


def parameters(cfg: CfgNode) -> dict[str, int]:
    """All, and those that are trained, of a model without memory."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        every = list(DetectionTrainer.build_model(cfg).parameters())
    trained = (p for p in every if p.requires_grad)
    return {"parameters": sum(p.numel() for p in every), "trained": sum(p.numel() for p in trained)}


def entry_of(path: Path) -> dict[str, Any]:
    cfg = read(path)
    small, large = (cost(cfg, size) for size in SIZES)
    size = cfg.INPUT.LSJ.SIZE
    return {**parameters(cfg), "size": size, "operations": operations(small, large, size)}


def page(numbers: dict[str, Any]) -> str:
    rows = []
    for name, entry in numbers.items():
        share = 100 * entry["trained"] / entry["parameters"]
        rows.append(
            [
                f"[{Path(name).stem}](../{name})",
                f"{entry['parameters'] / 1e6:.1f}",
                f"{entry['trained'] / 1e6:.1f} ({share:.0f} %)",
                entry["size"],
                f"{entry['operations'] / 1e9:,.0f}",
                papers_ap((ROOT / name).read_text()),
            ]
        )
    headers = ["config", "parameters", "trained", "px", "operations", "AP in the paper"]
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    return f"{INTRO}\n{table}\n\n{trained_in_the_paper(numbers)}\n{savings(numbers)}"


# In millions. Source: table 3 of the paper; of EfficientNet-B7, the README of Copy-Paste's configs.
PAPERS_MILLIONS = {
    "coco/rcnn_resnetrs101_fpn_frozen_600ep": ("trained", 21.9),
    "coco/rcnn_resnetrs101_nasfpn_frozen_600ep": ("trained", 40.9),
    "coco/rcnn_resnetrs101_nasfpn_cascade_frozen_600ep": ("trained", 71.3),
    "coco/mask_rcnn_efficientnetb7_nasfpn_cascade_copypaste_frozen": ("parameters", 185.0),
}
PAPERS_CLASSES = 90  # and the background. Source: num_classes 91 of official/vision's maskrcnn.py


def trained_in_the_paper(numbers: dict[str, Any]) -> str:
    lines = [
        "Against the paper's own counts of parameters, which are of 90 classes and the background; "
        "ours so too, and in brackets with the 80 classes of the recipe:\n"
    ]
    for name, (what, paper) in PAPERS_MILLIONS.items():
        entry = numbers[f"configs/{name}.yaml"]
        ours, recipe = entry["with_papers_classes"][what] / 1e6, entry[what] / 1e6
        kind = "trained" if what == "trained" else "in all"
        lines.append(
            f"- {Path(name).stem}: {ours:.2f} M {kind} ({recipe:.2f}), the paper {paper:.1f} M: "
            f"{ours - paper:+.2f}"
        )
    lines.append(
        "\nThe cascades' follow from the released configs; what the paper's first two have more, "
        "they do not say."
    )
    return "\n".join(lines) + "\n"


# Recipe -> percent of its operations that freezing spares in the paper, read off figure 1 (right).
SAVED = {
    "resnetrs101_nasfpn_cascade": 39,
    "resnetrs50_nasfpn_cascade": 28,
    "resnetrs101_nasfpn": 40,
    "resnetrs101_fpn": 35,
}


def savings(numbers: dict[str, Any]) -> str:
    lines = [
        "What freezing spares of a step's operations, and what is read off figure 1 (right) of the "
        "paper:\n"
    ]
    for recipe, paper in SAVED.items():
        frozen, finetuned = (
            numbers[f"configs/coco/rcnn_{recipe}_{mode}_600ep.yaml"]["operations"]
            for mode in ("frozen", "finetuned")
        )
        lines.append(
            f"- {recipe}: {100 - 100 * frozen / finetuned:.1f} % (the paper: about {paper} %)"
        )
    lines.append(
        "\nA frozen trunk spares two thirds of its own operations. By the paper's figures the "
        "trunk is then 42 to 60 % of a step, by ours less: decoder and heads weigh more in our "
        "count. How the paper counted it does not say."
    )
    return "\n".join(lines) + "\n"


def papers_ap(text: str) -> str:
    """The AP that a config's header names under "Reproduces:"."""
    header = " ".join(
        line.removeprefix("#").strip() for line in text.splitlines() if line[:1] == "#"
    )
    found = re.search(r"Reproduces: (?:tables?|figure) [\w, ]+: ([\d.]+) box AP", header)
    return found.group(1) if found else "-"


def main(args: argparse.Namespace) -> None:
    if args.measure is not None:
        write_json(NUMBERS, measured(args.measure, read_json(NUMBERS)))
    PAGE.write_text(page(read_json(NUMBERS)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--measure", nargs="?", const="", metavar="PART", help="count anew, not only write the page"
    )
    sys.exit(run(main, parser.parse_args()))
