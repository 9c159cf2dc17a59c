#!/usr/bin/env python3
"""Train or evaluate a detector, with the flags of Detectron2's own train_net.py.

    python tools/train_net.py --config-file configs/quickstart.yaml OUTPUT_DIR output/first
    python tools/train_net.py --config-file configs/quickstart.yaml --resume OUTPUT_DIR output/first
    python tools/train_net.py --config-file configs/quickstart.yaml --eval-only \\
        MODEL.WEIGHTS output/first/model_final.pth OUTPUT_DIR output/first
    python tools/train_net.py --config-file configs/quickstart.yaml --dry-run  # what it would cost
    torchrun --nproc-per-node 8 tools/train_net.py --config-file configs/frozen_cascade_lvis.yaml

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in config, files or command line.
"""

import argparse
import sys

from det_transfer.config import load_config
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.dry_run import dry_run
from det_transfer.engine.launch import launch
from det_transfer.engine.setup import argument_parser, setup


def main(args: argparse.Namespace) -> None:
    cfg = setup(args, prepare)
    if args.eval_only:
        DetectionTrainer.evaluate(cfg, resume=args.resume)
        return
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if args.dry_run:
        dry_run(trainer, load_config(args.config_file, args.opts).cfg.OUTPUT_DIR)
        return
    trainer.train()


if __name__ == "__main__":
    sys.exit(launch(main, argument_parser(__doc__).parse_args()))
