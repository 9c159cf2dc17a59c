#!/usr/bin/env python3
"""Turn a checkpoint of a run into a file for elsewhere.

    python tools/convert_checkpoint.py output/run --full detector.pth       # for stock Detectron2
    python tools/convert_checkpoint.py output/run --adapters adapters.pth   # the adapters alone

A full checkpoint holds every tensor of the detector; adapters are folded into the layers that they
adapt. A file of adapters (det_transfer.reuse.load_adapters) fits only the trunk that they were
trained in.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in files or command line.
"""

import argparse
import sys
from pathlib import Path

import det_transfer
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.reuse import adapters_of, merge_adapters, save_adapters, trunk_of
from det_transfer.reuse.slim import write_checkpoint


def main(args: argparse.Namespace) -> None:
    target = Path(args.full or args.adapters)
    if target.exists():
        raise UserError(f"{target} exists already; name another file")
    loaded = det_transfer.load(args.run, weights=args.weights)
    write = _write_full if args.full else _write_adapters
    print(f"{target}: {write(loaded, target)} of {loaded.weights}")


def _write_full(loaded, target: Path) -> str:
    count = len(adapters_of(loaded.model))
    stay = merge_adapters(loaded.model)
    if stay:
        name, reason = next(iter(stay.items()))
        raise UserError(
            f"{len(stay)} of {count} adapters cannot become part of the layers that they adapt, "
            f"e.g. of {name}: {reason}; --adapters writes them as they are"
        )
    state = loaded.model.state_dict()
    write_checkpoint(target, {"model": state})
    return f"{len(state)} tensors" + (f", {count} adapters merged," if count else "")


def _write_adapters(loaded, target: Path) -> str:
    trunk, cfg = trunk_of(loaded.model), loaded.cfg
    if not adapters_of(trunk):
        raise UserError(
            f"{loaded.weights} has no adapters: MODEL.REUSE.MODE {cfg.MODEL.REUSE.MODE!r}"
        )
    options = {key.lower(): value for key, value in cfg.MODEL.ADAPTERS.items()}
    save_adapters(trunk, target, norm_type=cfg.MODEL.REUSE.NORM, **options)
    return f"{len(adapters_of(trunk))} adapters"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--weights", default="", help="e.g. model_0000399.pth; default: the best")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--full", metavar="FILE")
    what.add_argument("--adapters", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
