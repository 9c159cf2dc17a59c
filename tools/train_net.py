#!/usr/bin/env python3
"""Train or evaluate a detector, with the flags of Detectron2's own train_net.py.

    python tools/train_net.py --config-file configs/quickstart.yaml OUTPUT_DIR output/first
    python tools/train_net.py --config-file configs/quickstart.yaml --resume OUTPUT_DIR output/first
    python tools/train_net.py --config-file configs/quickstart.yaml --eval-only \\
        MODEL.WEIGHTS output/first/model_final.pth OUTPUT_DIR output/first
    python tools/train_net.py --config-file configs/quickstart.yaml --dry-run  # what it would cost
    torchrun --nproc-per-node 8 tools/train_net.py --config-file configs/frozen_cascade_lvis.yaml

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in config, files or command line, 3
the machine gave out (memory, disk, a process was killed): --resume goes on.
"""

import argparse
import sys

from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.launch import launch
from det_transfer.engine.program import train_or_evaluate
from det_transfer.engine.setup import argument_parser


def main(args: argparse.Namespace) -> None:
    train_or_evaluate(args, DetectionTrainer, prepare)


if __name__ == "__main__":
    sys.exit(launch(main, argument_parser(__doc__).parse_args()))
