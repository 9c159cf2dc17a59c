"""Top-1, top-5 and mean per-class accuracy, and what an evaluation leaves behind.

``results.json``
    the metrics (x100) and what they were measured on.
``per_category.csv``
    images and accuracy of each class.
``predictions/part-<rank>.npz``
    ``image_id`` (N,) int64, ``label`` (N,) int64, ``top`` (N, K) int64: the K = min(5, classes)
    likeliest classes, ``score`` (N, K) float32: their probabilities; with
    MODEL.CLASSIFIER.TEST_BLOCKS also ``block_<layer>`` (N,) int64: the likeliest class by that
    layer alone.
"""

import csv
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..errors import UserError
from ..run_folder import prediction_parts, replacing, write_json
from .data import ImageSet

__all__ = ["ClassificationEvaluator", "measure"]

logger = logging.getLogger(__name__)

_TOP = 5


def measure(top: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """Accuracies in percent.

    Args:
        top: (N, K) int, the likeliest classes of each image, best first
        labels: (N,) int

    Returns:
        "top1"; "top5" where there are more than 5 classes; "class_mean": the mean over classes
        that have images of their top-1
    """
    hits = top[:, 0] == labels
    found = {"top1": 100.0 * hits.mean()}
    if classes > _TOP:
        found["top5"] = 100.0 * (top == labels[:, None]).any(axis=1).mean()
    found["class_mean"] = 100.0 * np.nanmean(_by_class(hits, labels, classes))
    return {name: float(value) for name, value in found.items()}


def _by_class(hits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    count = np.bincount(labels, minlength=classes)
    right = np.bincount(labels, weights=hits, minlength=classes)
    return np.divide(right, count, out=np.full(classes, np.nan), where=count > 0)


class ClassificationEvaluator(DatasetEvaluator):
    """Collects the likeliest classes of each image; rank 0 measures.

    Args:
        images: the test set, with the labels of its task
        output_dir: ``eval/<dataset>`` of the run folder, on a disk that all processes share
        max_skipped: share of the images that may be missing, since they do not decode
    """

    def __init__(self, images: ImageSet, output_dir: str | os.PathLike, max_skipped: float = 0.01):
        self._images, self._folder, self._max_skipped = images, Path(output_dir), max_skipped
        self.reset()

    def reset(self) -> None:
        self._rows: dict[str, list[np.ndarray]] = {
            "image_id": [np.empty(0, np.int64)],
            "label": [np.empty(0, np.int64)],
            "top": [np.empty((0, self._kept), np.int64)],
            "score": [np.empty((0, self._kept), np.float32)],
        }

    @property
    def _kept(self) -> int:
        return min(_TOP, len(self._images.classes))

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Take in {"logits": (classes,)} of some images."""
        if not inputs:
            return
        logits = torch.stack([output["logits"] for output in outputs]).float()
        score, top = logits.softmax(dim=1).topk(self._kept)
        self._rows["image_id"].append(np.array([i["image_id"] for i in inputs], np.int64))
        self._rows["label"].append(np.array([i["label"] for i in inputs], np.int64))
        self._rows["top"].append(top.cpu().numpy())
        self._rows["score"].append(score.cpu().numpy())
        for name in outputs[0].get("blocks", ()):
            alone = torch.stack([output["blocks"][name] for output in outputs]).argmax(dim=1)
            self._rows.setdefault(f"block_{name}", []).append(alone.cpu().numpy())

    def evaluate(self) -> "OrderedDict[str, dict[str, float]]":
        """{"accuracy": {"top1", "top5", "class_mean"}} in percent; empty on other ranks than 0.

        Where blocks were tested, also "top1_<layer>" of each alone.

        Raises:
            UserError: more images than `max_skipped` do not decode
        """
        folder = self._folder / "predictions"
        own = {name: np.concatenate(rows) for name, rows in self._rows.items()}
        with replacing(folder / f"part-{comm.get_rank()}.npz") as path, path.open("wb") as file:
            np.savez(file, **own)
        comm.synchronize()
        if not comm.is_main_process():
            return OrderedDict()
        for stale in prediction_parts(folder)[comm.get_world_size() :]:
            stale.unlink()
        parts = [dict(np.load(part)) for part in prediction_parts(folder)]
        # A process without images has no blocks.
        rows = {
            name: np.concatenate([part[name] for part in parts if name in part])
            for name in dict.fromkeys(name for part in parts for name in part)
        }
        _, first = np.unique(rows["image_id"], return_index=True)
        rows = {name: values[first] for name, values in rows.items()}
        skipped = self._check_missing(rows["image_id"])
        return OrderedDict(accuracy=self._write(rows, skipped))

    def _check_missing(self, seen: np.ndarray) -> int:
        missing = np.setdiff1d(np.arange(len(self._images)), seen)
        if not len(missing):
            return 0
        names = [self._images.files[i] for i in missing.tolist()]
        words = f"{self._images.name}: {len(missing)} of {len(self._images)} images do not decode"
        if len(missing) > self._max_skipped * len(self._images):
            raise UserError(
                f"{words}, more than DATASETS.MAX_SKIPPED {self._max_skipped:.1%}: "
                f"{', '.join(names[:3])}"
            )
        logger.warning("%s and are left out: %s", words, ", ".join(names))
        return len(missing)

    def _write(self, rows: Mapping[str, np.ndarray], skipped: int) -> dict[str, float]:
        images = self._images
        metrics = measure(rows["top"], rows["label"], len(images.classes))
        for name in (name for name in rows if name.startswith("block_")):
            alone = 100.0 * float((rows[name] == rows["label"]).mean())
            metrics[f"top1_{name.removeprefix('block_')}"] = alone
        write_json(
            self._folder / "results.json",
            {
                "dataset": images.name,
                "images": len(images),
                "images_skipped": skipped,
                "classes": len(images.classes),
                "metrics": {"accuracy": metrics},
            },
        )
        accuracy = _by_class(rows["top"][:, 0] == rows["label"], rows["label"], len(images.classes))
        path = self._folder / "per_category.csv"
        with replacing(path) as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["task", "id", "name", "images", "top1"])
            for k, name in enumerate(images.classes):
                cell = "" if np.isnan(accuracy[k]) else repr(100.0 * float(accuracy[k]))
                table.writerow(["accuracy", k, name, int(images.counts()[k]), cell])
        return metrics
