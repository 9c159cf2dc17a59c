#!/usr/bin/env python3
"""Which pretrained backbone should I reuse for my data? Transferability scores, side by side.

    python tools/rank_backbones.py --data images:photos.tar:train.txt --test-data \\
        images:photos.tar:test.txt --backbones resnet50 mobilenetv2_100 R-50=weights/R-50.pkl
    python tools/rank_backbones.py --data boxes:train.json:images/ --backbones resnet18 output/mine

--data is READER:PATH:SPLIT, as an entry of DATASETS.CLASSIFICATION has them (images:FOLDER: for a
folder of images for each class), or boxes:JSON:FOLDER in COCO or LVIS format, whose features are
pooled in ground-truth boxes. A backbone is [NAME=]SOURCE, where SOURCE is

    resnet50, convnext_tiny.fb_in1k            timm's, else torchvision's network and its weights
    timm://..., torchvision://..., package://..., R-50.pkl      weights that say whose they are
    alexnet@weights.pth                        a network and a file that does not say so
    random:resnet50                            the network as it is initialised
    output/mine                                a run folder: the classifier, or the detector's trunk

Features are computed once and kept in OUT/features. Prints a table, best by the first of --scores,
and how far the order of each score agrees with the accuracy: of --accuracies (a csv with columns
backbone and accuracy, such as a plan's results.csv), else of the linear probe. Writes
OUT/ranking.json and OUT/ranking.csv (docs/scores.md).

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import csv
import io
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

# First: it keeps quiet what Detectron2's import has torch warn of.
import det_transfer  # isort: skip  # noqa: F401

import numpy as np
import torch
from ranked_boxes import LabelledBoxes, open_any
from tabulate import tabulate

from det_transfer.classification.backbones import Backbone
from det_transfer.classification.data import read_images
from det_transfer.classification.extraction import LabelledImages, Source, extract
from det_transfer.classification.ranking import (
    agreement,
    by_score,
    chosen_scores,
    read_accuracies,
    score_all,
)
from det_transfer.classification.scores import SCORES
from det_transfer.engine.hooks import device_name
from det_transfer.engine.launch import run
from det_transfer.errors import UserError, raise_all
from det_transfer.machine import now, versions
from det_transfer.run_folder import replacing, write_json

BOXES = "boxes"


# What is ranked on ------------------------------------------------------------------------------


def open_data(spec: str, flag: str, most: int = 0) -> Source:
    """--data or --test-data, at most `most` images of each class (0: all)."""
    parts = spec.split(":", 2)
    if len(parts) < 3:
        raise UserError(f"{flag} {spec}: write READER:PATH:SPLIT, e.g. images:photos.tar:train.txt")
    if parts[0] == BOXES:
        if most:
            raise UserError(f"--shots {most}: it chooses images; {flag} {spec} has boxes")
        return LabelledBoxes(*parts[1:], flag)
    images = read_images(flag, *parts)
    without = [k for k, count in enumerate(images.counts()) if not count]
    if without and flag == "--data":  # of a test set it costs nothing
        raise UserError(
            f"{flag} has classes without images: {len(without)}, e.g. "
            f"{images.classes[without[0]]}; add some, or leave them out"
        )
    if len(images) < len(images.classes):
        raise UserError(
            f"{flag} has {len(images)} images of {len(images.classes)} classes; it needs several "
            "of each"
        )
    if most:
        order = np.random.default_rng(0).permutation(len(images))
        kept = [order[images.labels[order] == c][:most] for c in range(len(images.classes))]
        images = images.only(np.sort(np.concatenate(kept)))
    return LabelledImages(images)


def check_classes(data: Source, flag: str) -> None:
    present = np.unique(data.labels)
    if len(present) < 2:
        name = data.classes[present[0]]
        raise UserError(f"{flag} has one class, {name}: there is nothing to tell apart")


def match_classes(test: Source, train: Source) -> None:
    """Give the labels of `test` the numbers that `train` has."""
    number = {name: k for k, name in enumerate(train.classes)}
    strangers = [name for name in test.classes if name not in number]
    if strangers:
        raise UserError(
            f"--test-data has {len(strangers)} classes that --data lacks, e.g. {strangers[0]}"
        )
    test.labels = np.array([number[name] for name in test.classes], np.int64)[test.labels]
    test.classes = train.classes


def open_backbones(words: list[str]) -> dict[str, Backbone]:
    """Name -> network; all that is wrong with them at once."""
    named = [split_name(word) for word in words]
    twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if twice:
        raise UserError(f"--backbones has {twice[0]} twice; a name before = tells them apart")
    found, problems = {}, []
    for name, source in named:
        try:
            found[name] = open_any(source)
        except UserError as error:
            problems.append(f"--backbones {name}: {str(error).removeprefix('MODEL.WEIGHTS ')}")
    raise_all(problems)
    return found


def split_name(word: str) -> tuple[str, str]:
    name, separator, source = word.partition("=")
    return (name, source) if separator and not Path(word).exists() else (word, word)


# Ranking -----------------------------------------------------------------------------------------


def rank(args: argparse.Namespace) -> dict[str, Any]:
    names = chosen_scores(args.scores)
    train = open_data(args.data, "--data", args.shots)
    check_classes(train, "--data")
    test = open_data(args.test_data, "--test-data") if args.test_data else None
    if test is not None:
        check_classes(test, "--test-data")
        match_classes(test, train)
    labels = [split_name(word)[0] for word in args.backbones]
    accuracies = read_accuracies(args.accuracies, labels) if args.accuracies else None
    rows = []
    for name, backbone in open_backbones(args.backbones).items():
        print(f"{name}: {backbone.origin}, {backbone.preprocessing}", file=sys.stderr, flush=True)
        options = {"size": args.size, "cache": args.out / "features", "device": args.device}
        seen = extract(backbone, train, **options)
        tested = extract(backbone, test, **options) if test is not None else None
        try:
            scores = score_all(names, backbone, seen, tested)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        rows.append(
            {
                "backbone": name,
                "origin": backbone.origin,
                "features": seen.values.shape[1],
                "images": len(seen.labels),
                "scores": scores,
            }
        )
    return report(args, names, rows, accuracies, train)


def report(
    args: argparse.Namespace,
    names: list[str],
    rows: list[dict[str, Any]],
    accuracies: list[float] | None,
    train: Source,
) -> dict[str, Any]:
    if accuracies is not None:
        for row, accuracy in zip(rows, accuracies, strict=True):
            row["accuracy"] = accuracy
    against = "accuracy" if accuracies is not None else "probe" if "probe" in names else ""
    measured = accuracies or ([row["scores"]["probe"] for row in rows] if against else [])
    agree = {
        name: agreement([row["scores"][name] for row in rows], measured)
        for name in names
        if against and name != against
    }
    order = by_score([row["scores"] for row in rows], names[0])
    return {
        "title": "Ranking of backbones",
        "command": shlex.join(["python", "tools/rank_backbones.py", *sys.argv[1:]]),
        "device": device_name(args.device),
        "versions": versions(),
        "ended": now(),
        "data": {
            "train": args.data,
            "test": args.test_data,
            "classes": len(np.unique(train.labels)),
        },
        "size": args.size,
        "ranked_by": names[0],
        "against": against,
        "backbones": [rows[k] for k in order],
        "agreement": agree,
    }


# Showing -----------------------------------------------------------------------------------------


def shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-"


def table(found: dict[str, Any]) -> str:
    names = list(found["backbones"][0]["scores"])
    extra = ["accuracy"] if found["against"] == "accuracy" else []
    rows = [
        [row["backbone"], row["features"]]
        + [shown(row["scores"][name]) for name in names]
        + [shown(row[key]) for key in extra]
        for row in found["backbones"]
    ]
    heads = ["backbone", "features", *(SCORES[name].title for name in names), *extra]
    lines = [tabulate(rows, heads, disable_numparse=True, stralign="right")]
    reasons = {
        f"{row['backbone']} has no {SCORES[name].title}: {value}"
        for row in found["backbones"]
        for name, value in row["scores"].items()
        if isinstance(value, str)
    }
    lines += ["", *sorted(reasons)] * bool(reasons)
    return "\n".join(lines)


def agreement_table(found: dict[str, Any]) -> str:
    heads = ["score", "backbones", "Kendall tau", "weighted tau", "Spearman"]
    rows = [
        [SCORES[name].title, a["backbones"]]
        + [shown(a[key]) for key in ("kendall", "weighted_kendall", "spearman")]
        for name, a in found["agreement"].items()
        if a is not None
    ]
    return tabulate(rows, heads, disable_numparse=True, stralign="right") if rows else ""


def write(folder: Path, found: dict[str, Any]) -> None:
    write_json(folder / "ranking.json", found)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    names = list(found["backbones"][0]["scores"])
    extra = ["accuracy"] if found["against"] == "accuracy" else []
    rows.writerow(["backbone", "features", *names, *extra])
    for row in found["backbones"]:
        values = (v if isinstance(v, float) else "" for v in row["scores"].values())
        rows.writerow([row["backbone"], row["features"], *values, *(row[key] for key in extra)])
    with replacing(folder / "ranking.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def main(args: argparse.Namespace) -> None:
    if args.size < 1 or args.shots < 0:
        raise UserError(f"--size {args.size} --shots {args.shots}: pixels and images, from 1 on")
    try:
        torch.device(args.device)
    except RuntimeError:
        raise UserError(f"--device {args.device}: take cpu, cuda or cuda:1") from None
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {args.device}: torch finds no CUDA device here")
    found = rank(args)
    write(args.out, found)
    print(table(found))
    compared = agreement_table(found)
    if compared:
        what = "the fine-tuned accuracy" if found["against"] == "accuracy" else "the linear probe"
        print(f"\nAgreement with the order of {what}:\n\n{compared}")
    print(f"\nwritten: {args.out}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="READER:PATH:SPLIT")
    parser.add_argument("--test-data", default="", metavar="READER:PATH:SPLIT")
    parser.add_argument("--backbones", nargs="+", required=True, metavar="[NAME=]SOURCE")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="SCORE", help=f"of {', '.join(SCORES)} (all)"
    )
    parser.add_argument("--size", type=int, default=224, help="pixels of the short side (224)")
    parser.add_argument(
        "--shots", type=int, default=0, help="images of each class of --data, at most (0: all)"
    )
    parser.add_argument("--accuracies", type=Path, metavar="CSV")
    parser.add_argument("--out", type=Path, default=Path("output/ranking"), metavar="FOLDER")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, cuda:1")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
