#!/usr/bin/env python3
"""Train, grow or evaluate an image classifier, with the flags of tools/train_net.py.

    python tools/train_classifier.py --config-file configs/classification/digits.yaml
    python tools/train_classifier.py --config-file configs/classification/digits.yaml \\
        MODEL.WEIGHTS output/digits/model_final.pth MODEL.CLASSIFIER.TASK more \\
        MODEL.GROWTH.KIND widen MODEL.GROWTH.SIZES '[64]' OUTPUT_DIR output/digits_grown
    python tools/train_classifier.py --config-file ... --resume OUTPUT_DIR output/first
    python tools/train_classifier.py --config-file ... --eval-only \\
        MODEL.WEIGHTS output/first/model_final.pth

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in config, files or command line, 3
the machine gave out (memory, disk, a process was killed): --resume goes on.
"""

import argparse
import sys

from det_transfer.classification import ClassificationTrainer, prepare
from det_transfer.engine.launch import launch
from det_transfer.engine.program import train_or_evaluate
from det_transfer.engine.setup import argument_parser


def main(args: argparse.Namespace) -> None:
    train_or_evaluate(args, ClassificationTrainer, prepare)


if __name__ == "__main__":
    sys.exit(launch(main, argument_parser(__doc__).parse_args()))
