#!/usr/bin/env python3
"""What reports and comparisons cost, and whether their intervals hold what they promise.

    python tools/benchmarks/reports.py --output docs/results/benchmark_reports.json

The report of a made-up run on 5,000 images with 1,203 classes and 300 detections an image; the
comparison of four such runs with 200 draws, in turn; and the coverage of the intervals: made-up
test sets from a world in which the true difference is known, from one of 100,000 images. Matching
and sorting are neither matrix products nor copies, so that these give no bound.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measurements import spreads, write_measurements

from det_transfer import run_folder
from det_transfer.report.comparison import compare
from det_transfer.report.comparison_page import comparison_page
from det_transfer.report.html import render
from det_transfer.report.matching import IOU_THRESHOLDS, Matches
from det_transfer.report.paired import METRICS, draw_weights, intervals, prepare
from det_transfer.report.run_page import make_report
from det_transfer.report.runs import read_run
from det_transfer.run_folder import PredictionWriter, eval_folder, write_json

DATASET = "made_up"
PARTS = ("cost", "coverage")
SIZE = 640  # pixels, both sides


# Large made-up runs ------------------------------------------------------------------------------


def make_truth(path: Path, images: int, classes: int) -> dict[str, np.ndarray]:
    """Write a json in LVIS format with 12 objects an image, classes by Zipf's law."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, classes + 1)
    shares /= shares.sum()
    objects = 12 * images
    where = rng.integers(images, size=objects)
    what = rng.choice(classes, objects, p=shares)
    boxes = np.c_[rng.uniform(0, 400, (objects, 2)), rng.uniform(8, 200, (objects, 2))].round(1)
    present = set(zip(where.tolist(), what.tolist(), strict=True))
    negatives = rng.choice(classes, (images, 12), p=shares)
    content = {
        "images": [
            {
                "id": i + 1,
                "width": SIZE,
                "height": SIZE,
                "file_name": f"{i + 1:012d}.jpg",
                "neg_category_ids": [
                    int(c) + 1 for c in set(negatives[i].tolist()) if (i, int(c)) not in present
                ],
                "not_exhaustive_category_ids": [],
            }
            for i in range(images)
        ],
        "categories": [
            {"id": k + 1, "name": f"class {k + 1}", "frequency": "fcr"[3 * k // classes]}
            for k in range(classes)
        ],
        "annotations": [
            {"id": n + 1, "image_id": i + 1, "category_id": c + 1, "bbox": b, "area": b[2] * b[3]}
            for n, (i, c, b) in enumerate(
                zip(where.tolist(), what.tolist(), boxes.tolist(), strict=True)
            )
        ],
    }
    path.write_text(json.dumps(content))
    return {"where": where, "what": what, "boxes": boxes, "shares": shares}


def make_run(
    folder: Path, truth: dict[str, np.ndarray], json_file: Path, seed: int, mode: str, shift: float
) -> None:
    """A finished run that finds most objects, `shift` pixels off, and much that is not there."""
    rng = np.random.default_rng(seed)
    images, classes, each = int(truth["where"].max()) + 1, len(truth["shares"]), 300
    target = eval_folder(folder, DATASET)
    with PredictionWriter(target / "predictions/part-0.npz") as writer:
        for image in range(images):
            mine = np.flatnonzero(truth["where"] == image)[:each]
            n = each - len(mine)
            boxes = np.vstack(
                [
                    truth["boxes"][mine] + rng.normal(0, shift, (len(mine), 4)),
                    np.c_[rng.uniform(0, 400, (n, 2)), rng.uniform(8, 200, (n, 2))],
                ]
            )
            boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
            labels = np.r_[truth["what"][mine], rng.choice(classes, n, p=truth["shares"])] + 1
            scores = np.r_[rng.beta(3, 3, len(mine)), rng.beta(1, 8, n)]
            writer.add(image + 1, labels, scores, boxes)
    metrics = {"bbox": {"AP": 40.0, "APr": 30.0, "APc": 40.0, "APf": 45.0}}
    results = {
        "dataset": DATASET,
        "json_file": str(json_file),
        "protocol": "lvis",
        "max_dets": [each],
        "images": images,
        "metrics": metrics,
    }
    write_json(target / "results.json", results)
    rows = ["task,id,name,frequency,image_count,n_gt,AP,AP50,AP75,AR"]
    rows += [
        f"bbox,{k + 1},class {k + 1},f,{k},1,{rng.uniform(0, 90):.2f},50,40,50"
        for k in range(classes)
    ]
    (target / "per_category.csv").write_text("\n".join(rows) + "\n")
    parts = [{"module": "heads", "parameters": 1000, "trainable": 1000, "norm": "-"}]
    record = {"status": "finished", "seed": seed, "reuse": parts, "results": metrics}
    write_json(folder / run_folder.RUN, record)
    config = {"SEED": seed, "MODEL": {"REUSE": {"MODE": mode}}}
    (folder / run_folder.CONFIG).write_text(json.dumps(config))  # json is YAML


def in_a_process(call: Callable, *args) -> dict[str, float]:
    """Wall and processor seconds and peak memory of a call in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measured, args=(queue, call, *args))
    process.start()
    found = queue.get()
    process.join()
    return found


def _measured(queue, call: Callable, *args) -> None:
    start, computed = time.perf_counter(), time.process_time()
    call(*args)
    queue.put(
        {
            "wall_s": time.perf_counter() - start,
            "processor_s": time.process_time() - computed,
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
    )


def report(folder: Path) -> None:
    make_report(folder)


def comparison(folders: list[Path], draws: int, page: Path) -> None:
    runs = [read_run(folder) for folder in folders]
    page.write_text(render(comparison_page(compare(runs, draws=draws))), encoding="utf-8")


def measure_cost(images: int, classes: int, draws: int, rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        page = root / "page.html"
        truth = make_truth(root / "truth.json", images, classes)
        folders = [root / f"run{k}" for k in range(4)]
        for k, folder in enumerate(folders):
            mode = ("frozen", "finetune")[k % 2]
            make_run(folder, truth, root / "truth.json", k, mode, 5.0 + k % 2)
        sides = {  # what -> its page, and the call that writes it
            "report of a run": (folders[0] / run_folder.REPORT, report, folders[0]),
            f"comparison of 4 runs, {draws} draws": (page, comparison, folders, draws, page),
        }
        taken: dict[str, list[dict]] = {what: [] for what in sides}
        for _ in range(rounds):
            for what, (_, *call) in sides.items():
                taken[what].append(in_a_process(*call))
        return [
            {"what": what, **spreads(taken[what]), "page_mb": written.stat().st_size / 1e6}
            for what, (written, *_) in sides.items()
        ]


# A world with a known truth ----------------------------------------------------------------------


def made_up_pair(rng: np.random.Generator, images: int, classes: int) -> list[Matches]:
    """What two detectors find in images drawn from one world.

    An image is hard or easy for both, an object too; the second detector is the better one, and
    gives fewer false alarms.
    """
    shares = np.geomspace(0.08, 1.0, classes)  # objects of a class in an image
    hard = rng.normal(0, 0.7, images)
    counts = rng.poisson(shares, (images, classes))
    where, what = np.nonzero(counts)
    repeats = counts[where, what]
    where, what = np.repeat(where, repeats), np.repeat(what, repeats)
    shared = rng.normal(0, 0.6, len(where)) - hard[where] + 0.03 * what
    return [
        _found(rng, ability, alarms, where, what, shared, hard, counts)
        for ability, alarms in ((0.6, 0.3), (0.9, 0.25))
    ]


def _found(rng, ability, alarms, where, what, shared, hard, counts) -> Matches:
    quality = ability + shared + rng.normal(0, 0.6, len(where))
    hits = quality > np.linspace(-0.8, 2.2, len(IOU_THRESHOLDS))[:, None]
    wrong = rng.poisson(alarms * (1 + 0.5 * (hard > 0.5))[:, None], counts.shape)
    at, of = np.nonzero(wrong)
    at, of = np.repeat(at, wrong[at, of]), np.repeat(of, wrong[at, of])
    worth = np.r_[quality + rng.normal(0, 0.7, len(where)), rng.normal(-0.6, 1, len(at))]
    images, categories, scores = np.r_[where, at], np.r_[what, of], 1 / (1 + np.exp(-worth))
    order = np.lexsort((images, -scores, categories))
    every = np.hstack([hits, np.zeros((len(hits), len(at)), bool)])[:, order]
    return Matches(
        images[order],
        categories[order],
        scores[order],
        np.zeros((len(order), 4)),
        {"all": every},
        {"all": np.ones_like(every)},
        {"all": counts.T.astype(np.uint16)},
        (None,) * counts.shape[1],
    )


def true_differences(classes: int, images: int = 100_000) -> dict[str, float]:
    """By a test set so large that chance hardly matters."""
    pair = made_up_pair(np.random.default_rng(2026), images, classes)
    one = np.ones((1, images), np.int64)
    first, second = (prepare(matches).metrics(one)[0] for matches in pair)
    return dict(zip(METRICS, (second - first).tolist(), strict=True))


def measure_coverage(
    sets: int, images: int, classes: int, draws: int, truth: dict[str, float]
) -> dict[str, float | str]:
    """How often the interval holds the true difference, in percent."""
    inside = {"AP": 0, "AP50": 0}
    width = 0.0
    for k in range(sets):
        pair = made_up_pair(np.random.default_rng([images, k]), images, classes)
        weights = draw_weights(images, draws, seed=k)
        first, second = (prepare(matches).metrics(weights) for matches in pair)
        found = intervals(second, first)
        width += (found["AP"].high - found["AP"].low) / sets
        for metric in inside:
            inside[metric] += found[metric].low <= truth[metric] <= found[metric].high
    return {
        "what": f"coverage, {images} images, {classes} classes, {sets} sets, {draws} draws",
        **{f"coverage_{metric}_percent": 100 * n / sets for metric, n in inside.items()},
        "mean_width_AP": width,
        "true_difference_AP": truth["AP"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of report and comparison")
    parser.add_argument("--sets", type=int, default=500, help="test sets for the coverage")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="others stay as in --output"
    )
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    results = []
    if "cost" in args.parts:
        results += measure_cost(args.images, args.classes, args.draws, args.rounds)
        print(json.dumps(results, indent=1), flush=True)
    if "coverage" in args.parts:
        truth = true_differences(20)
        results += [measure_coverage(args.sets, n, 20, args.draws, truth) for n in (300, 50)]
    if len(args.parts) < len(PARTS) and args.output and args.output.is_file():
        measured = {row["what"] for row in results}
        before = run_folder.read_json(args.output)["results"]
        results += [row for row in before if row["what"] not in measured]
    print(json.dumps(results, indent=1))
    write_measurements(
        args.output,
        "reports and comparisons",
        results,
        note="A report and a comparison of made-up runs, each in a process of its own; and how "
        "often the 95 % interval of a difference holds the true one, on made-up test sets. "
        + args.note,
        packages=("numpy",),
        data={
            "images": args.images,
            "classes": args.classes,
            "detections_an_image": 300,
            "rounds": args.rounds,
        },
    )


if __name__ == "__main__":
    main()
