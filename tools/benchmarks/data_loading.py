#!/usr/bin/env python3
"""Speed of one loading worker with Copy-Paste, and memory and start on annotations of LVIS' size.

Speed: images a second at 1,024 px with masks, on photographs that are given. The sides, each in a
process of its own with one thread, take turns batch by batch on the same images with the same draws
of the jitter: Detectron2's mapper with its transforms of large-scale jitter, ours, ours with
Copy-Paste from the stream and from the pool, and, where its file is given, torchvision's reference
SimpleCopyPaste after Detectron2's mapper. Detectron2's mapper is the measure, as decoding and
resampling are bounded by no rate of the machine.

Annotations: a json of LVIS' size is made (100,000 images, 1.27 M polygons). Our loader and
Detectron2's, each in new processes, in turn: seconds from the start of Python to the first batch,
and the memory of the process with all its workers (proportional set size) after each has read all
records. The memory without workers bounds that with them.

    python tools/benchmarks/data_loading.py speed --json instances_train2017.json \\
        --photos train2017 --torchvision vision/references/detection/transforms.py \\
        --output docs/results/benchmark_data_loading.json
    python tools/benchmarks/data_loading.py annotations --folder output/loading \\
        --output docs/results/benchmark_annotations.json
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dataset_check import make_json
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.data.samplers import RepeatFactorTrainingSampler
from measurements import ratios, spread, write_measurements
from PIL import Image
from sides import take_turns

from det_transfer.config import load_config
from det_transfer.data import build_train_loader, register_datasets
from det_transfer.engine.detection import prepare
from det_transfer.engine.launch import quiet
from det_transfer.engine.setup import setup

SIZE = 1024
STRETCHES = 6  # that the turns are cut into: single batches differ more than the machine does
# Share of Detectron2's images a second that each side should reach.
GOALS = {"ours": 1.0, "stream": 0.45, "pool": 0.8}
MOST_MEMORY = 1.2  # of no workers
MOST_SECONDS = 15.0


def options(json_file: str, images: str, *more: Any) -> list[str]:
    given = [
        *("DATASETS.CUSTOM", [["photos", str(json_file), str(images)]]),
        *("DATASETS.TRAIN", ("photos",)),
        *("DATASETS.TEST", ()),
        *("DATALOADER.SAMPLER_TRAIN", "TrainingSampler"),
        *("INPUT.MASK_FORMAT", "bitmask"),
        *("INPUT.LSJ.ENABLED", True),
        *("INPUT.LSJ.SIZE", SIZE),
        *("MODEL.MASK_ON", True),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 0),
        *("SEED", 1),
        *more,
    ]
    return [str(word) for word in given]


def detectron2s_mapper() -> DatasetMapper:
    """Its LSJ, as in its configs/common/data/coco_panoptic_separated.py, with bitmasks."""
    return DatasetMapper(
        is_train=True,
        augmentations=[
            T.RandomFlip(),
            T.ResizeScale(min_scale=0.1, max_scale=2.0, target_height=SIZE, target_width=SIZE),
            T.FixedSizeCrop(crop_size=(SIZE, SIZE)),
        ],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        recompute_boxes=True,
    )


def ours(source: str | None, args: argparse.Namespace) -> Callable[[], None]:
    torch.set_num_threads(1)
    paste = ["INPUT.COPY_PASTE.ENABLED", True, "INPUT.COPY_PASTE.SOURCE", source]
    stream = iter(build_train_loader(read(args, *(paste if source else ()))))
    return lambda: next(stream)


def read(args: argparse.Namespace, *more: Any) -> CfgNode:
    more = ["DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", args.batch, *more]
    cfg = load_config(None, options(args.json, args.photos, *more)).cfg
    register_datasets(cfg)
    return cfg


def detectron2s(args: argparse.Namespace) -> Callable[[], list[dict]]:
    """On the images that ours takes, with its draws."""
    torch.set_num_threads(1)
    cfg = read(args)
    loader = build_train_loader(cfg)
    records, mapper = DatasetFromList(list(loader.dataset.dicts)), detectron2s_mapper()
    batches = iter(loader.batches)

    def step() -> list[dict]:
        samples = []
        for position, index in next(batches):
            state = np.random.SeedSequence((cfg.SEED, position)).generate_state(4)
            np.random.seed(state[1:3])
            samples.append(mapper(records[index]))
        return samples

    return step


def torchvisions(args: argparse.Namespace) -> Callable[[], None]:
    """Detectron2's mapper, and then the reference pastes within the batch."""
    spec = importlib.util.spec_from_file_location("reference", args.torchvision)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    paste, samples = reference.SimpleCopyPaste(blending=False), detectron2s(args)

    def step() -> None:
        batch = samples()
        paste([sample["image"] for sample in batch], [target(sample) for sample in batch])

    return step


def target(sample: dict) -> dict[str, torch.Tensor]:
    objects = sample["instances"]
    masks = objects.gt_masks.tensor if len(objects) else torch.zeros(0, SIZE, SIZE, dtype=bool)
    return {"masks": masks, "boxes": objects.gt_boxes.tensor, "labels": objects.gt_classes}


def speed(args: argparse.Namespace) -> dict[str, Any]:
    sides: dict[str, Callable] = {
        "detectron2": partial(detectron2s, args),
        "ours": partial(ours, None, args),
        "stream": partial(ours, "stream", args),
        "pool": partial(ours, "pool", args),
    }
    if args.torchvision:
        sides["torchvision"] = partial(torchvisions, args)
    found = take_turns(sides, rounds=args.rounds)
    wall = {name: stretches(turns.seconds) for name, turns in found.items()}
    cpu = {name: stretches(turns.cpu) for name, turns in found.items()}
    return {
        name: {
            "images_per_s": spread(args.batch / seconds for seconds in wall[name]),
            "images_per_cpu_s": spread(args.batch / seconds for seconds in cpu[name]),
            "wall_ratio": ratios(wall["detectron2"], wall[name]),
            "cpu_ratio": ratios(cpu["detectron2"], cpu[name]),
            "goal": GOALS.get(name),
            "peak_mb": turns.peak / 1e6,
        }
        for name, turns in found.items()
    }


def stretches(seconds: list[float]) -> list[float]:
    """Means of a turn, of turns that follow each other."""
    parts = np.array_split(seconds, min(STRETCHES, len(seconds)))
    return [float(part.mean()) for part in parts]


def annotations(args: argparse.Namespace) -> dict[str, Any]:
    """Both loaders in new processes, on a json of LVIS' size."""
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        json_file, images = Path(folder) / "data.json", Path(folder) / "images"
        make_json(json_file, args.images, args.annotations, seed=0)
        make_links(images, args.images)
        taken: dict[str, dict[str, list[float]]] = {side: {} for side in LOADERS}
        for _ in range(args.repeats):
            shutil.rmtree(Path(folder) / "cache", ignore_errors=True)
            for name, (sides, what, workers) in MEASURED.items():
                for side in sides:
                    value = measured(folder, side, what, workers)
                    taken[side].setdefault(name, []).append(value)
    found: dict[str, dict[str, Any]] = {
        side: {
            **{name: spread(values) for name, values in rounds.items()},
            "memory_ratio": ratios(rounds["mb_with_4_workers"], rounds["mb_with_0_workers"]),
        }
        for side, rounds in taken.items()
    }
    goals = {"goal_start_s": MOST_SECONDS, "goal_memory_ratio": MOST_MEMORY}
    return {**found, "ours": goals | found["ours"]}


def make_links(folder: Path, count: int) -> None:
    """One picture under as many names; a file has 65,000 at most where the file system is ext4."""
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    picture = noise.resize((640, 640), Image.Resampling.BICUBIC)
    for k in range(1, count + 1):
        path = folder / f"{k:012}.jpg"
        if k % 50_000 == 1:
            picture.save(path, quality=90)
            original = path
        else:
            os.link(original, path)


def measured(folder: str, side: str, what: str, workers: int) -> float:
    """By a new process."""
    command = [sys.executable, __file__, "--measure", folder, side, what, str(workers)]
    environment = {**os.environ, "BENCHMARK_BEGAN": str(time.time())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.splitlines()[-1])


def measure(folder: str, side: str, what: str, workers: str) -> float:
    """In this process: seconds to the first batch, or megabytes after all records were read."""
    opts = options(
        f"{folder}/data.json",
        f"{folder}/images",
        *("DATASETS.CACHE_DIR", f"{folder}/cache"),
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        *("DATALOADER.NUM_WORKERS", workers),
        *("OUTPUT_DIR", f"{folder}/run_{time.time()}"),
    )
    mapper = None if what == "seconds" else counted
    stream = iter(LOADERS[side](opts, f"{folder}/data.json", f"{folder}/images", mapper))
    if what == "seconds":
        next(stream)
        return time.time() - float(os.environ["BENCHMARK_BEGAN"])
    images = 0
    while images < 150_000:  # repeated ones among them
        images += len(next(stream))
    return proportional_megabytes()


def our_loader(opts: list[str], _json: str, _images: str, mapper: Any) -> Any:
    """As tools/train_net.py comes to it."""
    arguments = argparse.Namespace(config_file="", opts=opts, resume=False, eval_only=False)
    return build_train_loader(setup(arguments, prepare), mapper=mapper)


def detectron2s_loader(opts: list[str], json_file: str, images: str, mapper: Any) -> Any:
    cfg = load_config(None, opts).cfg
    register_coco_instances("plain", {}, json_file, images)
    dicts = get_detection_dataset_dicts("plain")
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dicts, cfg.DATALOADER.REPEAT_THRESHOLD
    )
    return build_detection_train_loader(
        dicts,
        mapper=mapper or detectron2s_mapper(),
        sampler=RepeatFactorTrainingSampler(factors, seed=1),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


LOADERS = {"ours": our_loader, "detectron2": detectron2s_loader}
# Of a round, in this order -> whose it is, what a process measures, and with how many workers.
MEASURED = {
    "first_start_s": (["ours"], "seconds", 4),  # no cache yet; Detectron2 has none
    "start_s": (LOADERS, "seconds", 4),
    "mb_with_0_workers": (LOADERS, "megabytes", 0),
    "mb_with_4_workers": (LOADERS, "megabytes", 4),
}


def counted(record: dict) -> dict:
    """A mapper for where the records alone matter."""
    size = {"width": record["width"], "height": record["height"]}
    return {**size, "objects": len(record["annotations"])}


def proportional_megabytes() -> float:
    """Of this process and its children: what several share counts once."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = 0.0
    for process in (str(os.getpid()), *children):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                found += int(line.split()[1]) / 1e3
    return found


# Part -> its function, title, and what its columns are.
PARTS = {
    "speed": (
        speed,
        "loading and Copy-Paste",
        "One worker at 1,024 px with masks, on photographs: wall_ratio is images a second in those "
        "of Detectron2's mapper. Medians of six stretches of the turns.",
    ),
    "annotations": (
        annotations,
        "annotations of LVIS' size",
        "Medians of processes of their own: seconds from the start of Python to the first batch of "
        "4 workers, where the json is parsed (first) and where it was before, and megabytes "
        "(proportional set size) of a process with its workers after each has read all records.",
    ),
}


def main() -> None:
    quiet()
    if sys.argv[1:2] == ["--measure"]:
        print(measure(*sys.argv[2:]))
        return
    args = parse()
    part, title, note = PARTS[args.part]
    results = [{"side": side, **found} for side, found in part(args).items()]
    print(json.dumps(results, indent=1))
    write_measurements(
        args.output,
        title,
        results,
        note=f"{note} {args.note}".strip(),
        packages=("torch", "detectron2", "numpy", "pillow"),
        data={name: value for name, value in vars(args).items() if isinstance(value, int)},
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    loading = parts.add_parser("speed")
    loading.add_argument("--json", type=Path, required=True, help="COCO format, with masks")
    loading.add_argument("--photos", type=Path, required=True, help="its images")
    loading.add_argument("--torchvision", type=Path, help="its references/detection/transforms.py")
    loading.add_argument("--batch", type=int, default=4, help="images a turn")
    loading.add_argument("--rounds", type=int, default=60)
    records = parts.add_parser("annotations")
    records.add_argument("--images", type=int, default=100_000, help="of the json that is made")
    records.add_argument("--annotations", type=int, default=1_270_000, help="of the same")
    records.add_argument("--repeats", type=int, default=3, help="of all, minutes each")
    records.add_argument(
        "--folder", type=Path, help="where the json is made; default: the temporary folder"
    )
    for one in (loading, records):
        one.add_argument("--note", default="", help="what else the machine did")
        one.add_argument("--output", type=Path, help="write the numbers as json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
