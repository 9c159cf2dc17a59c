"""Is one side better than the other, or were these images kind to it? Intervals over images.

The images of a test set are a sample. Drawing them again, with replacement, gives the spread of a
difference in AP; both sides are measured on the same draw each time, so that what makes an image
easy or hard for both falls out. Source: Efron and Tibshirani 1993, chapter 13 (percentiles).
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .. import run_folder
from ..errors import UserError
from .backends import IOU_THRESHOLDS, RECALL_THRESHOLDS

__all__ = ["Interval", "Matched", "match_run", "paired_intervals"]

METRICS = ("AP", "AP50")
_AT_ONCE = 25  # draws that are computed together, for memory
_MAX_DETS = 100  # an image and category. Source: COCO's protocol


@dataclass(frozen=True)
class Interval:
    """A difference of two sides, times 100: on the images as they are, and 95 % over draws."""

    difference: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.difference:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True)
class _Category:
    images: np.ndarray  # (D,) index of the image of each detection, by falling score
    hits: np.ndarray  # (T, D) matches a truth that counts
    misses: np.ndarray  # (T, D) matches none
    truths: np.ndarray  # (I,) truths that count, of each image


@dataclass(frozen=True)
class Matched:
    """Detections of one run matched to the truth of one dataset, by image."""

    images: int
    categories: tuple[_Category, ...]

    def metrics(self, weights: np.ndarray) -> np.ndarray:
        """AP and AP50, times 100.

        Args:
            weights: (R, I) how often each image counts, in each of R draws

        Returns:
            (R, 2); NaN where a draw has no truth at all
        """
        by_category = [_precision(category, weights) for category in self.categories]
        mean = np.nanmean(np.stack(by_category), axis=0)  # (R, T)
        return 100 * np.stack([mean.mean(axis=1), mean[:, 0]], axis=1)


def match_run(run: str | Path, dataset: str, json_file: str | Path, task: str = "bbox") -> Matched:
    """Match what a run has predicted for a dataset.

    Args:
        run: a run folder with ``eval/<dataset>/predictions``
        json_file: the truth, in COCO format

    Raises:
        UserError: there are no predictions
    """
    folder = run_folder.eval_folder(run, dataset) / "predictions"
    parts = run_folder.prediction_parts(folder)
    if not parts:
        raise UserError(f"{folder} has no predictions; tools/train_net.py --eval-only makes them")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells how long it took
        truth = COCO(str(json_file))
        found = [row for part in parts for row in _rows(part, task)]
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), task)
        evaluation.params.maxDets = [_MAX_DETS]
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.evaluate()
    return _matched(evaluation)


def _rows(part: Path, task: str) -> Iterator[dict]:
    for chunk in run_folder.read_predictions(part):
        for k in range(len(chunk["score"])):
            row = {
                "image_id": int(chunk["image_id"][k]),
                "category_id": int(chunk["category_id"][k]),
                "score": float(chunk["score"][k]),
            }
            if task == "segm":
                yield {**row, "segmentation": chunk["rles"][k]}
            else:
                yield {**row, "bbox": chunk["box"][k].tolist()}


def _matched(evaluation: COCOeval) -> Matched:
    images = len(evaluation.params.imgIds)
    entries = evaluation.evalImgs  # categories outside, images inside
    categories = []
    for start in range(0, len(entries), images):
        of_category = entries[start : start + images]
        counted = [
            0 if e is None else int((~e["gtIgnore"].astype(bool)).sum()) for e in of_category
        ]
        if any(counted):
            categories.append(_category(of_category, np.array(counted)))
    return Matched(images, tuple(categories))


def _category(entries: list[dict | None], truths: np.ndarray) -> _Category:
    there = [(k, entry) for k, entry in enumerate(entries) if entry is not None]
    scores = np.concatenate([entry["dtScores"] for _, entry in there])
    # Stable, as pycocotools has it.
    order = np.argsort(-scores, kind="mergesort")
    matches = np.concatenate([entry["dtMatches"] for _, entry in there], axis=1)[:, order] > 0
    ignored = np.concatenate([entry["dtIgnore"] for _, entry in there], axis=1)[:, order] > 0
    images = np.concatenate([np.full(len(entry["dtScores"]), k) for k, entry in there])[order]
    return _Category(images.astype(int), matches & ~ignored, ~matches & ~ignored, truths)


def _precision(category: _Category, weights: np.ndarray) -> np.ndarray:
    """(R, T) average precision; NaN in draws without a truth. As pycocotools' accumulate."""
    draws, thresholds = len(weights), len(IOU_THRESHOLDS)
    result = np.zeros((draws, thresholds))
    totals = weights @ category.truths
    if category.images.size:
        by_detection = weights[:, None, category.images]
        hits = np.cumsum(by_detection * category.hits, axis=2)
        misses = np.cumsum(by_detection * category.misses, axis=2)
        precision = hits / (hits + misses + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
        for draw in np.flatnonzero(totals):
            for threshold in range(thresholds):
                recall = hits[draw, threshold] / totals[draw]
                at = np.searchsorted(recall, RECALL_THRESHOLDS, side="left")
                reached = at[at < recall.size]
                result[draw, threshold] = envelope[draw, threshold, reached].sum()
    result /= len(RECALL_THRESHOLDS)
    result[totals == 0] = np.nan
    return result


def paired_intervals(
    first: Sequence[Matched], second: Sequence[Matched], *, draws: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """The difference `first` - `second` in AP and AP50, with 95 % intervals over images.

    Args:
        first, second: the runs of a side, e.g. of several seeds, whose mean is compared; all on one
            dataset
        draws: how often the images are drawn again

    Raises:
        ValueError: the runs were matched to different numbers of images
    """
    sizes = {run.images for run in (*first, *second)}
    if len(sizes) != 1:
        raise ValueError(f"the runs are of datasets with {sorted(sizes)} images")
    images = sizes.pop()
    generator = np.random.default_rng(seed)
    chances = np.full(images, 1 / images)
    weights = np.vstack([np.ones((1, images)), generator.multinomial(images, chances, draws)])
    found = np.concatenate(
        [
            _mean(first, weights[k : k + _AT_ONCE]) - _mean(second, weights[k : k + _AT_ONCE])
            for k in range(0, len(weights), _AT_ONCE)
        ]
    )
    low, high = np.nanpercentile(found[1:], [2.5, 97.5], axis=0)
    return {
        metric: Interval(float(found[0, k]), float(low[k]), float(high[k]))
        for k, metric in enumerate(METRICS)
    }


def _mean(runs: Sequence[Matched], weights: np.ndarray) -> np.ndarray:
    return np.mean([run.metrics(weights) for run in runs], axis=0)
