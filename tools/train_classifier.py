#!/usr/bin/env python3
"""Train, grow or evaluate an image classifier, with the flags of tools/train_net.py.

    python tools/train_classifier.py --config-file configs/classification/digits.yaml
    python tools/train_classifier.py --config-file configs/classification/digits_grown.yaml \\
        MODEL.WEIGHTS output/digits/model_final.pth
    python tools/train_classifier.py --config-file ... --resume OUTPUT_DIR output/first
    python tools/train_classifier.py --config-file ... --eval-only \\
        MODEL.WEIGHTS output/first/model_final.pth

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in config, files or command line.
"""

import argparse
import sys

from det_transfer.classification import ClassificationTrainer, prepare
from det_transfer.config import load_config
from det_transfer.engine.dry_run import dry_run
from det_transfer.engine.launch import launch
from det_transfer.engine.setup import argument_parser, setup


def main(args: argparse.Namespace) -> None:
    cfg = setup(args, prepare)
    if args.eval_only:
        ClassificationTrainer.evaluate(cfg, resume=args.resume)
        return
    trainer = ClassificationTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if args.dry_run:
        dry_run(trainer, load_config(args.config_file, args.opts).cfg.OUTPUT_DIR)
        return
    trainer.train()


if __name__ == "__main__":
    sys.exit(launch(main, argument_parser(__doc__).parse_args()))
