#!/usr/bin/env python3
"""What a config's detector costs in each mode of reuse: parameters, operations, memory.

    python tools/analyze_model.py --config-file configs/frozen_cascade_lvis.yaml --size 1024
    python tools/analyze_model.py --config-file configs/quickstart.yaml \\
        --modes frozen adapters finetune --json cost.json

Table 3 (parameters trained) and Figure 1, right (operations a training step), of "Proper Reuse of
Image Classification Features Improves Object Detection" for any config. One step on made-up images
is taken for each mode, on the CPU, with random weights: neither data nor weights are needed.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in config, files or command line.
"""

import argparse
import sys
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from det_transfer.config import load_config, validate
from det_transfer.data.synthetic import synthetic_batch
from det_transfer.engine.analysis import Cost, measure
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.reuse import MODES
from det_transfer.run_folder import write_json

STOCK = "as built"  # what mode "" is called in tables


def main(args: argparse.Namespace) -> None:
    config = load_config(args.config_file, args.opts)
    own = config.cfg.MODEL.REUSE.MODE
    modes = args.modes if args.modes is not None else [own, "frozen", "finetune"]
    costs = {mode: measure_mode(config.cfg, mode, args) for mode in dict.fromkeys(modes)}
    print(f"{args.batch} image(s) of {args.size} x {args.size} px; a multiply-add counts 2\n")
    print(overview(costs))
    print()
    print(by_part(costs))
    if args.json:
        write_json(args.json, report(costs, args))


def measure_mode(base: CfgNode, mode: str, args: argparse.Namespace) -> Cost:
    cfg = base.clone()
    cfg.MODEL.REUSE.MODE = mode
    cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES <= 0:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = args.num_classes
    if mode not in MODES:
        raise UserError(
            f"--modes: {mode!r} does not exist; there is {', '.join(filter(None, MODES))}"
        )
    validate(cfg)
    head, classes = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if head.USE_FED_LOSS and classes < head.FED_LOSS_NUM_CLASSES:
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES is {head.FED_LOSS_NUM_CLASSES} but there are "
            f"{classes} classes; set it to {classes} or less"
        )
    model = DetectionTrainer.build_model(cfg)
    return measure(model, synthetic_batch(cfg, args.batch, args.size))


def overview(costs: dict[str, Cost]) -> str:
    rows = [
        [
            mode or STOCK,
            f"{cost.parameters / 1e6:.1f}",
            f"{cost.trained / 1e6:.1f} ({cost.trained_share:.1f} %)",
            f"{cost.forward / 1e9:.1f}",
            f"{cost.step / 1e9:.1f}",
            f"{cost.activations / 1e6:.0f}",
        ]
        for mode, cost in costs.items()
    ]
    headers = ["mode", "params M", "trained M", "forward G", "step G", "activations MB"]
    return tabulate(rows, headers, stralign="right", disable_numparse=True)


def by_part(costs: dict[str, Cost]) -> str:
    rows = [
        [mode or STOCK, part, f"{total / 1e6:.2f}", f"{trained / 1e6:.2f}", f"{flops / 1e9:.1f}"]
        for mode, cost in costs.items()
        for part, (total, trained, flops) in cost.parts.items()
    ]
    headers = ["mode", "part", "params M", "trained M", "forward G"]
    return tabulate(rows, headers, stralign="right", disable_numparse=True)


def report(costs: dict[str, Cost], args: argparse.Namespace) -> dict[str, Any]:
    return {
        "config": args.config_file,
        "options": args.opts,
        "batch": args.batch,
        "size": args.size,
        "modes": {mode or STOCK: cost.as_dict() for mode, cost in costs.items()},
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="a YAML, ours or stock Detectron2's")
    parser.add_argument(
        "--modes", nargs="*", help="of MODEL.REUSE.MODE; default: the config's, frozen, finetune"
    )
    parser.add_argument("--size", type=int, default=320, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument(
        "--num-classes", type=int, default=80, help="where the config takes them from the data"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
