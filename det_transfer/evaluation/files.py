"""What an evaluation leaves in ``eval/<dataset>/`` of the run folder.

``results.json``
    the metrics of each task (x100, null where there is no ground truth), and what they were
    measured on and with.
``per_category.csv``
    a row for each task and category; an empty cell where there is nothing to measure.
``curves.npz``
    ``category_ids`` (K,), ``recall_thresholds`` (101,), ``iou_thresholds`` (10,), and for each
    task ``<task>_precision`` (3, K, 101) float32 at IoU 0.5, 0.75 and the mean over all IoUs, and
    ``<task>_recall`` (10, K) float32 by IoU; 0 to 1, NaN where there is no ground truth.
``predictions/part-<rank>.npz``
    see :mod:`det_transfer.run_folder`.
``predictions.json``
    on request: the same in COCO's result format.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..run_folder import prediction_parts, read_predictions, replacing, write_json
from ..run_lengths import RunLengths
from .backends import IOU_THRESHOLDS, RECALL_THRESHOLDS, Accumulated, Detections
from .metrics import category_metrics, summary, summary_recalls

__all__ = [
    "Category",
    "frequencies",
    "read_parts",
    "result_rows",
    "write_curves",
    "write_per_category",
    "write_predictions_json",
    "write_results",
]

_MEASURES = ("AP", "AP50", "AP75", "AR")


@dataclass(frozen=True)
class Category:
    """A category as the tables show it.

    Attributes:
        frequency: "r", "c", "f" or None where the json does not say
        image_count: images of the training set with it, None where the json does not say
        n_gt: instances in the evaluated json, crowds left out
    """

    id: int
    name: str
    frequency: str | None
    image_count: int | None
    n_gt: int


def frequencies(categories: Sequence[Category]) -> list[str] | None:
    """The frequency of each category; None where the json does not say it of all."""
    found = [c.frequency for c in categories]
    return found if all(found) else None


def read_parts(folder: str | os.PathLike, ranks: int) -> tuple[np.ndarray, Detections]:
    """All ranks' predictions; an image that several ranks saw counts once, at the lowest rank.

    Args:
        folder: ``<eval folder>/predictions``
        ranks: how many parts there must be; parts of higher ranks, left by an earlier run, are
            not read.

    Returns:
        the ids of the images looked at, (I,) int64 ascending, and their detections

    Raises:
        UserError: a rank's part is missing.
    """
    folder = Path(folder)
    parts = {part.name: part for part in prediction_parts(folder)}
    missing = [f"part-{r}.npz" for r in range(ranks) if f"part-{r}.npz" not in parts]
    if missing:
        raise UserError(
            f"predictions of {len(missing)} of {ranks} processes are not in {folder} (first: "
            f"{missing[0]}): with several machines the output folder must be on a shared disk"
        )
    seen = np.empty(0, np.int64)
    columns: dict[str, list] = {
        "image_id": [np.empty(0, np.int64)],
        "category_id": [np.empty(0, np.int64)],
        "score": [np.empty(0, np.float32)],
        "box": [np.empty((0, 4), np.float32)],
    }
    rles: list[RunLengths] = []
    for rank in range(ranks):
        looked_at = [seen]
        for chunk in read_predictions(parts[f"part-{rank}.npz"]):
            looked_at.append(chunk["images"])
            new = np.isin(chunk["image_id"], seen, invert=True)
            for key, column in columns.items():
                column.append(chunk[key][new])
            if "rles" in chunk:
                here = chunk["rles"]
                rles.append(here if new.all() else RunLengths.of(here[new]))
        seen = np.unique(np.concatenate(looked_at))
    image_ids, category_ids, scores, boxes = (np.concatenate(c) for c in columns.values())
    masks = RunLengths.joined(rles) if rles else None
    return seen, Detections(image_ids, category_ids, scores, boxes, masks)


def write_results(
    path: Path,
    made_from: Mapping[str, Any],
    categories: Sequence[Category],
    accumulated: Mapping[str, Accumulated],
) -> None:
    """Write ``results.json``: `made_from`, and under ``metrics`` every task's AP and AR."""
    metrics = {
        task: summary(arrays, frequencies(categories)) | summary_recalls(arrays)
        for task, arrays in accumulated.items()
    }
    write_json(path, {**made_from, "metrics": metrics})


def write_per_category(
    path: Path, categories: Sequence[Category], accumulated: Mapping[str, Accumulated]
) -> None:
    """Write ``per_category.csv``."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["task", "id", "name", "frequency", "image_count", "n_gt", *_MEASURES])
        for task, arrays in accumulated.items():
            measured = category_metrics(arrays)
            for k, c in enumerate(categories):
                values = (float(measured[m][k]) for m in _MEASURES)
                cells = ("" if np.isnan(v) else repr(v) for v in values)
                rows.writerow([task, c.id, c.name, c.frequency, c.image_count, c.n_gt, *cells])


def write_curves(
    path: Path, categories: Sequence[Category], accumulated: Mapping[str, Accumulated]
) -> None:
    """Write ``curves.npz``."""
    arrays = {
        "category_ids": np.array([c.id for c in categories], np.int64),
        "recall_thresholds": RECALL_THRESHOLDS,
        "iou_thresholds": IOU_THRESHOLDS,
    }
    for task, found in accumulated.items():
        precision = found.precision[..., 0]
        curves = np.stack([precision[0], precision[5], precision.mean(axis=0)])
        arrays[f"{task}_precision"] = curves.transpose(0, 2, 1).astype(np.float32)
        arrays[f"{task}_recall"] = found.recall[:, :, 0, -1].astype(np.float32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_predictions_json(path: Path, detections: Detections) -> None:
    """Write the detections in COCO's result format, as its evaluation servers take it."""
    rows = result_rows(detections)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(rows, file)


def result_rows(detections: Detections, *, boxes: bool = True) -> list[dict[str, Any]]:
    """The detections in COCO's result format, as json takes them."""
    rows = detections.as_dicts(boxes=boxes)
    for row in rows:
        if "segmentation" in row:
            rle = row["segmentation"]
            row["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    return rows
