#!/usr/bin/env python
"""Time and memory of our evaluation beside the official tools, on the same synthetic predictions.

Each measurement runs in a process of its own, the two sides in turn. Three numbers of each:

call
    from detections in memory (arrays for ours, COCO's result dicts for the official tools) to the
    metrics
end to end
    from the files (annotation json; our prediction parts, or a result json) to the metrics
peak memory
    what the process grows by beyond its imports

The precision and recall of every category are compared in full, not the means alone. Where the
package faster-coco-eval is installed, it is a third side under COCO's protocol. The official tools
are the measure: sorting and matching are neither matrix products nor copies.

    python tools/benchmarks/evaluation.py                              # 3 minutes
    python tools/benchmarks/evaluation.py --repeats 3 --output FILE    # medians
    python tools/benchmarks/evaluation.py --images 19809 --ours-only --only lvis/bbox  # LVIS val
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from measurements import spread, write_measurements

from det_transfer.evaluation.backends import Accumulated, Detections, import_lvis, load_backend
from det_transfer.evaluation.files import read_parts, write_predictions_json
from det_transfer.evaluation.metrics import summary, summary_recalls
from det_transfer.run_folder import PredictionWriter, read_json

HEIGHT, WIDTH = 480, 640
LIMITS = {"coco": (1, 10, 100), "lvis": (300,)}
MEASURED = ("call_s", "call_cpu_s", "end_to_end_s", "end_to_end_cpu_s", "peak_mb")
OFFICIAL = {"coco": "pycocotools", "lvis": "lvis"}
PEER = "faster_coco_eval"
SIDES = ("official", PEER, "ours")


# Synthetic data ----------------------------------------------------------------------------------


def make_data(
    folder: Path,
    images: int,
    categories: int,
    boxes: int,
    detections: int,
    seed: int,
    *,
    masks: bool = True,
    result_json: bool = True,
) -> None:
    """Write ``truth.json`` in LVIS format, ``predictions/part-0.npz`` and the same as json.

    Categories follow Zipf's law; an image has some negative and not exhaustive categories; of the
    detections of an image, at most half are near an object.
    """
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, categories + 1)
    share /= share.sum()
    image_of = np.sort(rng.integers(1, images + 1, boxes))
    truth_boxes, truth_classes = _boxes(rng, boxes), rng.choice(categories, boxes, p=share) + 1
    polygons = _octagons(truth_boxes)
    annotations = [
        {
            "id": k + 1,
            "image_id": int(image_of[k]),
            "category_id": int(truth_classes[k]),
            "bbox": truth_boxes[k].tolist(),
            "area": float(truth_boxes[k, 2] * truth_boxes[k, 3] * 7 / 8),
            "iscrowd": 0,
            "segmentation": [polygons[k].tolist()],
        }
        for k in range(boxes)
    ]
    content = {"images": [], "categories": _categories(categories), "annotations": annotations}
    with PredictionWriter(folder / "predictions" / "part-0.npz") as writer:
        for image_id in range(1, images + 1):
            here = slice(*np.searchsorted(image_of, [image_id, image_id + 1]))
            classes = truth_classes[here]
            unknown = rng.choice(categories, 12, p=share) + 1
            content["images"].append(
                {
                    "id": image_id,
                    "file_name": f"{image_id}.jpg",
                    "height": HEIGHT,
                    "width": WIDTH,
                    "neg_category_ids": np.setdiff1d(unknown, classes).tolist(),
                    "not_exhaustive_category_ids": np.unique(classes)[:1].tolist(),
                }
            )
            found = _detect(rng, truth_boxes[here], classes, detections, share)
            outlines = _octagons(found[2]).tolist() if masks else None
            rles = mask_util.frPyObjects(outlines, HEIGHT, WIDTH) if masks else None
            writer.add(image_id, *found, rles)
    (folder / "truth.json").write_text(json.dumps(content))
    if result_json:
        found = read_parts(folder / "predictions", 1)[1]
        write_predictions_json(folder / "predictions.json", found)


def _categories(n: int) -> list[dict]:
    # LVIS v1 has 405 frequent, 461 common and 337 rare of 1,203.
    rank = np.arange(n) / n
    group = np.select([rank < 405 / 1203, rank < 866 / 1203], ["f", "c"], "r")
    return [{"id": c + 1, "name": f"class {c}", "frequency": str(group[c])} for c in range(n)]


def _boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    sides = np.exp(rng.uniform(np.log(10), np.log(300), (n, 2)))  # pixels
    corner = rng.random((n, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([corner, sides], axis=1).round(2)


def _octagons(boxes: np.ndarray) -> np.ndarray:
    """(N, 16): boxes with their corners cut off, 7/8 of the area."""
    corners = [(0.25, 0), (0.75, 0), (1, 0.25), (1, 0.75), (0.75, 1), (0.25, 1), (0, 0.75)]
    unit = np.array([*corners, (0, 0.25)])
    points = boxes[:, None, :2] + unit * boxes[:, None, 2:]
    return points.reshape(len(boxes), 16).round(2)


def _detect(rng, truth_boxes, truth_classes, n, share):
    boxes, classes = _boxes(rng, n), rng.choice(len(share), n, p=share) + 1
    if len(truth_boxes):
        near = rng.integers(0, len(truth_boxes), rng.integers(0, n // 2 + 1))
        jitter = rng.normal(0, 0.08, (len(near), 4)) * np.tile(truth_boxes[near, 2:], 2)
        boxes[: len(near)] = truth_boxes[near] + jitter
        classes[: len(near)] = truth_classes[near]
    boxes[:, 2:] = boxes[:, 2:].clip(4)
    return classes, rng.beta(1, 4, n), boxes


# One measurement, in its own process -------------------------------------------------------------


class Clocks(NamedTuple):
    """Seconds of the wall and of all cores' work; on a busy machine only the latter compare."""

    wall: float
    cpu: float


def _now() -> Clocks:
    return Clocks(time.perf_counter(), time.process_time())


def measure(side: str, protocol: str, task: str, folder: Path) -> None:
    """Run one side and print its times, memory and metrics as json; leave its arrays in a file."""
    run = {"ours": _ours, PEER: _faster}.get(side) or OFFICIAL_RUNS[protocol]
    _import(side, protocol)
    before = _memory("VmRSS")
    started = _now()
    loaded, accumulated = run(protocol, task, folder)
    metrics = summary(accumulated) | summary_recalls(accumulated)
    ended = _now()
    np.savez(folder / f"{side}.npz", precision=accumulated.precision, recall=accumulated.recall)
    json.dump(
        {
            "call_s": ended.wall - loaded.wall,
            "call_cpu_s": ended.cpu - loaded.cpu,
            "end_to_end_s": ended.wall - started.wall,
            "end_to_end_cpu_s": ended.cpu - started.cpu,
            "peak_mb": _memory("VmHWM") - before,
            "metrics": metrics,
        },
        sys.stdout,
    )


def _import(side: str, protocol: str) -> None:
    """What is imported is not what is measured."""
    if (side, protocol) == ("official", "lvis"):
        import_lvis()
    else:
        modules = {"ours": "hotcoco", PEER: "faster_coco_eval"}
        importlib.import_module(modules.get(side, "pycocotools.cocoeval"))


def _ours(protocol: str, task: str, folder: Path) -> tuple[Clocks, Accumulated]:
    truth = load_backend("hotcoco", str(folder / "truth.json"), protocol)
    detections: Detections = read_parts(folder / "predictions", 1)[1]
    loaded = _now()
    return loaded, truth.accumulate(detections, task, LIMITS[protocol])


def _lvis(protocol: str, task: str, folder: Path) -> tuple[Clocks, Accumulated]:
    lvis = import_lvis()
    truth = lvis.LVIS(str(folder / "truth.json"))
    found = _result_dicts(folder, task)
    loaded = _now()
    evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, found, max_dets=300), task)
    evaluation.run()
    return loaded, Accumulated.of(evaluation.eval, LIMITS[protocol])


def _pycocotools(protocol: str, task: str, folder: Path) -> tuple[Clocks, Accumulated]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _as_pycocotools(COCO, COCOeval, protocol, task, folder)


def _faster(protocol: str, task: str, folder: Path) -> tuple[Clocks, Accumulated]:
    from faster_coco_eval import COCO, COCOeval_faster

    return _as_pycocotools(COCO, COCOeval_faster, protocol, task, folder)


OFFICIAL_RUNS = {"coco": _pycocotools, "lvis": _lvis}


def _as_pycocotools(
    COCO: Any, COCOeval: Any, protocol: str, task: str, folder: Path
) -> tuple[Clocks, Accumulated]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        found = _result_dicts(folder, task)
        loaded = _now()
        evaluation = COCOeval(truth, truth.loadRes(found), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return loaded, Accumulated.of(evaluation.eval, LIMITS[protocol])


def _result_dicts(folder: Path, task: str) -> list[dict]:
    found = read_json(folder / "predictions.json")
    drop = "segmentation" if task == "bbox" else "bbox"  # as Detectron2 does: areas go by the task
    for detection in found:
        detection.pop(drop, None)
    return found


def _memory(field: str) -> float:
    """A size of this process in MB (10^6 bytes): VmRSS, what it has, or VmHWM, the most it had.

    Not getrusage: a new process inherits the peak of the one that started it.
    """
    status = dict(x.split(":", 1) for x in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024 / 1e6


# All of them -------------------------------------------------------------------------------------


def sides_of(protocol: str) -> list[str]:
    peer = protocol == "coco" and importlib.util.find_spec(PEER)
    return [side for side in SIDES if side != PEER or peer]


def compare(protocol: str, task: str, sides: list[str], repeats: int, folder: Path) -> dict:
    """Measure the sides in turn, `repeats` times; medians with the extremes, and their ratio."""
    measured: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, runs in measured.items():
            runs.append(_in_a_process(side, protocol, task, folder))
    row = {"protocol": protocol, "task": task}
    for side, runs in measured.items():
        row[side] = {key: spread(r[key] for r in runs) for key in MEASURED}
        row[side]["metrics"] = runs[0]["metrics"]
    others = [side for side in sides if side != "ours"]
    for side in others:
        row[f"{side}_over_ours"] = {
            key: row[side][key]["median"] / row["ours"][key]["median"] for key in MEASURED
        }
    if others:
        row["largest_difference"] = max(_difference(folder, side) for side in others)
    return row


def _in_a_process(side: str, protocol: str, task: str, folder: Path) -> dict:
    command = [sys.executable, "-W", "ignore", __file__, "--measure", side, protocol, task]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def _difference(folder: Path, side: str) -> float:
    """The largest difference in precision or recall of any category; absent must be absent."""
    ours, official = (np.load(folder / f"{name}.npz") for name in ("ours", side))
    for name in ("precision", "recall"):
        if not np.array_equal(np.isnan(ours[name]), np.isnan(official[name])):
            return float("inf")
    return max(float(np.nanmax(np.abs(ours[n] - official[n]))) for n in ("precision", "recall"))


def print_row(row: dict) -> None:
    name = f"{row['protocol']:5}{row['task']:5}"
    for side in (side for side in SIDES if side in row):
        package = OFFICIAL[row["protocol"]] if side == "official" else side
        call, call_cpu, whole, whole_cpu, peak = (row[side][k]["median"] for k in MEASURED)
        print(
            f"{name} {package:16} call {call:8.2f} s (cpu {call_cpu:8.2f})   "
            f"end to end {whole:8.2f} s (cpu {whole_cpu:8.2f})   peak {peak:6.0f} MB   "
            f"AP {row[side]['metrics']['AP']:.6f}"
        )
    for side in (side for side in SIDES if f"{side}_over_ours" in row):
        call, call_cpu, whole, whole_cpu, peak = row[f"{side}_over_ours"].values()
        print(
            f"{name} ours against {side}: call {call:.1f} times faster (cpu {call_cpu:.1f}), end "
            f"to end {whole:.1f} times (cpu {whole_cpu:.1f}), {peak:.1f} times less memory; "
            f"largest difference {row['largest_difference']:.1e}"
        )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--boxes", type=int, help="annotations (default: 13.693 an image)")
    parser.add_argument("--detections", type=int, default=300, help="an image")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ours-only", action="store_true", help="leave the official tools out")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PROTOCOL/TASK",
        default=["lvis/bbox", "lvis/segm", "coco/bbox"],
        choices=["lvis/bbox", "lvis/segm", "coco/bbox", "coco/segm"],
    )
    parser.add_argument("--output", type=Path, help="write the numbers to this json")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    if args.measure:
        side, protocol, task, folder = args.measure
        return measure(side, protocol, task, Path(folder))
    boxes = round(13.693 * args.images) if args.boxes is None else args.boxes
    data = {
        "images": args.images,
        "categories": args.categories,
        "boxes": boxes,
        "detections_an_image": args.detections,
        "seed": args.seed,
    }
    print(", ".join(f"{k} {v}" for k, v in data.items()), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_data(
            folder,
            args.images,
            args.categories,
            boxes,
            args.detections,
            args.seed,
            masks=any(name.endswith("segm") for name in args.only),
            result_json=not args.ours_only,
        )
        for protocol, task in (name.split("/") for name in args.only):
            sides = ["ours"] if args.ours_only else sides_of(protocol)
            rows.append(compare(protocol, task, sides, args.repeats, folder))
            print_row(rows[-1])
    packages = ["numpy", "hotcoco", "pycocotools", "lvis"]
    packages += [PEER] if any(PEER in row for row in rows) else []
    write_measurements(
        args.output, "evaluation", rows, packages=packages, data={**data, "repeats": args.repeats}
    )


if __name__ == "__main__":
    main()
