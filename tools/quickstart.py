#!/usr/bin/env python3
"""The first run, start to end: draw the data, train, evaluate, show. `make quickstart` calls it.

Run again after an interruption it goes on where it was; run again when done it shows the result.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from pathlib import Path

from det_transfer import run_folder
from det_transfer.data.catalog import datasets_root
from det_transfer.report import draw_predictions

ROOT = Path(__file__).resolve().parent.parent
DATASET = "openmoji_val"


def call(*command: str) -> None:
    """Run one of our programs; where it fails it has said why, and so this one ends alike."""
    process = subprocess.Popen([sys.executable, *command])
    while process.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):  # it is told too, and ends in good order
            process.wait()
    if process.returncode:
        sys.exit(process.returncode)


def train(run: Path, config_file: str, opts: list[str]) -> None:
    if run_status(run) == "finished":
        return
    # Broken off before its first checkpoint, a run that is resumed starts afresh.
    resume = ["--resume"] if run.exists() else []
    command = ["tools/train_net.py", "--config-file", config_file, *resume]
    call(*command, "OUTPUT_DIR", str(run), *opts)


def run_status(run: Path) -> str:
    record = run / run_folder.RUN
    return run_folder.read_json(record)["status"] if record.exists() else ""


def summary(run: Path, pictures: list[Path]) -> str:
    """Five lines that a person wants."""
    record = run_folder.read_json(run / run_folder.RUN)
    box = record["results"]["bbox"]
    seconds, memory = record["seconds"], record["peak_memory_bytes"]["host"]
    evaluation = run_folder.eval_folder(run, DATASET)
    return "\n".join(
        [
            f"Box AP {ap(box['AP'])} (rare {ap(box['APr'])}, common {ap(box['APc'])}, frequent "
            f"{ap(box['APf'])}), AP50 {ap(box['AP50'])}, in 0-100 on {DATASET}",
            f"Time   training {minutes(seconds['training'])}, evaluation "
            f"{minutes(seconds['evaluation'])}; peak memory {memory / 1e9:.1f} GB",
            f"Look   {run}/report.html; {run}/pictures: {len(pictures)} images, truth left, "
            "predictions right",
            f"Files  {evaluation}/results.json, per_category.csv; weights {run}/model_final.pth",
            "Next   your own data (COCO or LVIS json): .venv/bin/python tools/train_net.py "
            "--config-file configs/quickstart.yaml OUTPUT_DIR output/mine "
            "DATASETS.CUSTOM \"[['train','a.json','images'],['val','b.json','images']]\" "
            "DATASETS.TRAIN \"('train',)\" DATASETS.TEST \"('val',)\"",
        ]
    )


def ap(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"  # no class of this kind in the val images


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="configs/quickstart.yaml")
    parser.add_argument("--output", default="output/quickstart", help="the run folder")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the config")
    args = parser.parse_args()
    os.chdir(ROOT)  # all paths are shown as a person at the top of the checkout would type them
    run = Path(args.output)
    call("datasets/prepare_openmoji.py")
    train(run, args.config_file, args.opts)
    data = datasets_root() / "openmoji"
    pictures = draw_predictions(run, DATASET, data / "openmoji_lvis_val.json", data / "val")
    print("\n" + summary(run, pictures))


if __name__ == "__main__":
    main()
