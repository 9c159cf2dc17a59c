#!/usr/bin/env python
"""Time and memory of the dataset check: a json of LVIS' size, and images against bare decoding.

The json (100,000 images, 1.27 M annotations with polygons, 1,203 classes) is made from a seed and
checked in a process of its own, as training does before it starts. Images: the check of a folder of
JPEGs, and Pillow decoding the same files in as many processes. All take turns. Bare decoding bounds
the check of images; the json's is mostly parsing, which no rate of the machine bounds.

    python tools/benchmarks/dataset_check.py --output docs/results/benchmark_dataset_check.json
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from measurements import spreads, timed, write_measurements
from PIL import Image

from det_transfer.data.checks import check_annotations, check_images
from det_transfer.data.datasets.coco_format import read_annotations

CLASSES = 1203


def make_json(path: Path, images: int, annotations: int, seed: int) -> None:
    """Boxes with a polygon of eight points each, classes by a long tail."""
    rng = np.random.default_rng(seed)
    classes = np.minimum(rng.zipf(1.3, annotations), CLASSES)
    of_image = rng.integers(1, images + 1, annotations)
    corners = rng.integers(0, 400, (annotations, 2))
    sides = rng.integers(4, 200, (annotations, 2))
    turns = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1) / 2 + 0.5
    with path.open("w") as file:
        entries = [
            {"id": k, "file_name": f"{k:012}.jpg", "width": 640, "height": 640}
            for k in range(1, images + 1)
        ]
        names = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
        file.write(f'{{"images": {json.dumps(entries)}, "categories": {json.dumps(names)}, ')
        file.write('"annotations": [')
        for k in range(annotations):
            points = (corners[k] + circle * sides[k]).round(1).ravel().tolist()
            entry = {
                "id": k + 1,
                "image_id": int(of_image[k]),
                "category_id": int(classes[k]),
                "bbox": [*corners[k].tolist(), *sides[k].tolist()],
                "area": int(sides[k].prod()),
                "iscrowd": 0,
                "segmentation": [points],
            }
            file.write(("," if k else "") + json.dumps(entry))
        file.write("]}")


def in_a_process(path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure_json(path: Path) -> dict[str, float]:
    """In this process: seconds of reading and of checking, peak memory."""
    start = time.perf_counter()
    content = read_annotations(str(path))
    read = time.perf_counter()
    check = check_annotations(content, masks=True)
    end = time.perf_counter()
    return {
        "read_s": read - start,
        "check_s": end - read,
        "total_s": end - start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "findings": len(check.findings),
    }


def make_images(folder: Path, count: int, seed: int) -> dict:
    """JPEGs of 640 x 480 px with detail at all scales, as photographs have."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        picture = np.zeros((480, 640, 3))
        for cells in (4, 16, 64):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            picture += np.asarray(noise.resize((640, 480), Image.Resampling.BICUBIC)) / 3
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{k}.jpg", quality=90)
    return {
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "width": 640, "height": 480} for k in range(count)
        ]
    }


def decode(path: str) -> None:
    with Image.open(path) as image:
        image.load()


def decode_all(paths: list[str], workers: int) -> None:
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(decode, paths, chunksize=32))


def measure_images(folder: Path, content: dict, workers: int) -> dict[str, float]:
    """Images a second of the check and of bare decoding."""
    paths = [str(folder / image["file_name"]) for image in content["images"]]
    decoded = timed(lambda: decode_all(paths, workers))
    start = time.perf_counter()
    found = check_images(content, folder, workers)
    checked = time.perf_counter() - start
    assert not found.findings
    return {
        "check_images_per_s": len(paths) / checked,
        "decode_images_per_s": len(paths) / decoded,
        "check_over_decode": decoded / checked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000, help="in the json")
    parser.add_argument("--annotations", type=int, default=1_270_000)
    parser.add_argument("--jpegs", type=int, default=600, help="images that are decoded")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of all, half a minute each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure_json(args.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.json"
        make_json(path, args.images, args.annotations, args.seed)
        size = path.stat().st_size / 1e6
        content = make_images(Path(folder), args.jpegs, args.seed)
        of_json, of_images = [], []
        for _ in range(args.repeats):
            of_json.append(in_a_process(path))
            of_images.append(measure_images(Path(folder), content, args.workers))
    findings = of_json[0].pop("findings")
    results = [
        {"what": "json", **spreads(of_json), "findings": findings},
        {"what": "images", **spreads(of_images)},
    ]
    print(json.dumps(results, indent=1))
    write_measurements(
        args.output,
        "the dataset check",
        results,
        packages=("numpy", "pillow"),
        data={
            "images": args.images,
            "annotations": args.annotations,
            "json_mb": size,
            "jpegs": args.jpegs,
            "workers": args.workers,
            "repeats": args.repeats,
            "seed": args.seed,
        },
    )


if __name__ == "__main__":
    main()
