#!/usr/bin/env python3
"""Writing and reading a checkpoint of a frozen detector: slim, full, and Detectron2's own.

R-50 FPN Faster R-CNN with its optimizer after a step; the sides take turns in one process, on the
same disk; medians over rounds. A slim checkpoint's frozen part is written once a run, so its first
write stands apart. Beside the seconds stands how near they come to what the machine does with bare
bytes in the same folder: written until the disk has them, as ours are, and read back.

    python tools/benchmarks/checkpoints.py --output docs/results/benchmark_checkpoints.json
"""

import argparse
import tempfile
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.model_zoo import get_config_file
from detectron2.utils.events import EventStorage
from measurements import spread, timed, write_measurements
from torch import nn

from det_transfer.config import load_config
from det_transfer.data.synthetic import synthetic_batch
from det_transfer.engine.checkpoint import TransferCheckpointer
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.launch import quiet
from det_transfer.engine.optimizer import build_optimizer

OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_reuse_backbone",
    "MODEL.TRUNK.NAME": "build_resnet_backbone",
    "MODEL.REUSE.MODE": "frozen",
    "SOLVER.BASE_LR": 1e-5,  # random weights do not stand the recipe's
}


def read(**more: object) -> CfgNode:
    words = [str(word) for pair in {**OPTIONS, **more}.items() for word in pair]
    return load_config(get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"), words).cfg


def trained(cfg: CfgNode) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The detector and its optimizer after one step, with momentum."""
    torch.manual_seed(0)
    model = DetectionTrainer.build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    with EventStorage():
        sum(model(synthetic_batch(cfg, 1, 128)).values()).backward()
    optimizer.step()
    return model, optimizer


def sides(folder: Path) -> dict[str, DetectionCheckpointer]:
    """Name -> a checkpointer with a folder, a detector and an optimizer of its own."""
    made = {}
    for name, options in (
        ("slim", {}),
        ("full", {"SOLVER.SLIM_CHECKPOINTS": False}),
        ("Detectron2's", {}),
    ):
        cfg = read(**options)
        model, optimizer = trained(cfg)
        place = folder / name
        place.mkdir()
        if name == "Detectron2's":
            made[name] = DetectionCheckpointer(model, str(place), optimizer=optimizer)
        else:
            made[name] = TransferCheckpointer(model, str(place), cfg=cfg, optimizer=optimizer)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where to write them (default: the system's temporary)")
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    spent: dict[str, dict[str, list[float]]] = {"write": {}, "read": {}}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        checkpointers = sides(Path(folder))
        first = {n: timed(lambda c=c: c.save("model_0000000")) for n, c in checkpointers.items()}
        for round_ in range(1, args.rounds + 1):
            for name, checkpointer in checkpointers.items():
                file = f"model_{round_:07d}"
                path = f"{checkpointer.save_dir}/{file}.pth"
                write = timed(lambda c=checkpointer, f=file: c.save(f))
                spent["write"].setdefault(name, []).append(write)
                read_ = timed(lambda c=checkpointer, p=path: c.load(p))
                spent["read"].setdefault(name, []).append(read_)
        megabytes = {
            name: (Path(folder) / name / "model_0000001.pth").stat().st_size / 1e6
            for name in checkpointers
        }
    medians = {
        f"seconds to {what} it:": {name: spread(seconds) for name, seconds in by_side.items()}
        for what, by_side in spent.items()
    }
    reached = {
        "GB/s of writing files": {
            name: spread(megabytes[name] / 1e3 / s for s in seconds)
            for name, seconds in spent["write"].items()
            if name != "Detectron2's"  # which does not wait for the disk
        },
        "GB/s of reading files": {
            name: spread(megabytes["full"] / 1e3 / s for s in seconds)  # slim is joined
            for name, seconds in spent["read"].items()
        },
    }
    results = {
        "MB of it:": megabytes,
        "seconds to write the first:": first,
        **medians,
    }
    for what, by_side in results.items():
        for name, value in by_side.items():
            value = value["median"] if isinstance(value, dict) else value
            print(f"{what:28} {name:14} {value:8.3f}")
    write_measurements(
        args.output,
        "checkpoints of a frozen detector",
        results,
        folder=args.folder or tempfile.gettempdir(),
        reached=reached,
        data={"rounds": args.rounds},
    )


if __name__ == "__main__":
    main()
