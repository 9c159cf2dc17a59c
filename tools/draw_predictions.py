#!/usr/bin/env python3
"""Draw what a run predicts beside the ground truth, into RUN/pictures.

    python tools/draw_predictions.py output/quickstart --count 12

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import sys
from pathlib import Path

from detectron2.data import MetadataCatalog

from det_transfer import run_folder
from det_transfer.config import load_config
from det_transfer.data import register_datasets
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.report import draw_predictions


def find_dataset(folder: str, name: str | None) -> tuple[str, str, str]:
    """Name, json and image folder of a dataset that the run's config knows."""
    cfg = load_config(str(Path(folder) / run_folder.CONFIG)).cfg
    if name is None and len(cfg.DATASETS.TEST) != 1:
        names = ", ".join(cfg.DATASETS.TEST) or "no dataset"
        raise UserError(f"{folder} was evaluated on {names}: choose one with --dataset")
    name = name or cfg.DATASETS.TEST[0]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)  # the training set is not needed here
    register_datasets(cfg)
    metadata = MetadataCatalog.get(name)
    return name, metadata.json_file, metadata.image_root


def main(args: argparse.Namespace) -> None:
    given = (args.dataset, args.json, args.images)
    if (args.json or args.images) and not all(given):
        raise UserError("--json, --images and --dataset (its name in RUN/eval) go together")
    dataset, json_file, images = given if args.json else find_dataset(args.run, args.dataset)
    pictures = draw_predictions(
        args.run, dataset, json_file, images, count=args.count, min_score=args.min_score
    )
    if not pictures:
        where = run_folder.eval_folder(args.run, dataset) / "predictions"
        raise UserError(f"{where} has no predictions; tools/train_net.py --eval-only makes them")
    print(f"{len(pictures)} pictures in {pictures[0].parent}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--dataset", metavar="NAME", help="default: the one of DATASETS.TEST")
    parser.add_argument("--json", help="its json, where the run's config does not know it")
    parser.add_argument("--images", metavar="DIR", help="its image folder")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--min-score", type=float, default=0.4)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
