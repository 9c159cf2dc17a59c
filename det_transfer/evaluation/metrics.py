"""From precision over recall to the numbers that people read, under Detectron2's keys, x100."""

import warnings
from collections.abc import Sequence

import numpy as np

from .backends import AREAS, IOU_THRESHOLDS, Accumulated

__all__ = ["category_metrics", "summary", "summary_recalls"]

_FREQUENCIES = ("r", "c", "f")  # rare, common, frequent in LVIS's train images


def summary(
    accumulated: Accumulated, frequencies: Sequence[str | None] | None = None
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl, and APr, APc, APf where `frequencies` are given.

    A mean leaves out the categories without ground truth (in that range of areas) and is NaN where
    none has any.

    Args:
        frequencies: "r", "c" or "f" for each of the K categories.

    Source: pycocotools 2.0, COCOeval.summarize; lvis 0.5, LVISEval.summarize.
    """
    precision = accumulated.precision
    everywhere = precision[..., 0]
    metrics = {
        "AP": _mean(everywhere),
        "AP50": _mean(everywhere[_at(0.5)]),
        "AP75": _mean(everywhere[_at(0.75)]),
    }
    for a, area in enumerate(AREAS[1:], 1):
        metrics[f"AP{area[0]}"] = _mean(precision[..., a])
    if frequencies is not None:
        groups = np.asarray(frequencies, dtype=object)
        for group in _FREQUENCIES:
            metrics[f"AP{group}"] = _mean(everywhere[:, :, groups == group])
    return metrics


def summary_recalls(accumulated: Accumulated) -> dict[str, float]:
    """Average recall, ``AR@<max_dets>`` at every limit, ``ARs@``, ``ARm@``, ``ARl@`` at the last.

    Source: as :func:`summary`; the keys are those of lvis.
    """
    recall = accumulated.recall
    metrics = {
        f"AR@{limit}": _mean(recall[:, :, 0, m]) for m, limit in enumerate(accumulated.max_dets)
    }
    for a, area in enumerate(AREAS[1:], 1):
        metrics[f"AR{area[0]}@{accumulated.max_dets[-1]}"] = _mean(recall[:, :, a, -1])
    return metrics


def category_metrics(accumulated: Accumulated) -> dict[str, np.ndarray]:
    """AP, AP50, AP75 and AR of each category over all areas, (K,) float64.

    Source: detectron2 0.6, COCOEvaluator._derive_coco_results, for AP.
    """
    everywhere = accumulated.precision[..., 0]
    return {
        "AP": 100 * everywhere.mean(axis=(0, 1)),
        "AP50": 100 * everywhere[_at(0.5)].mean(axis=0),
        "AP75": 100 * everywhere[_at(0.75)].mean(axis=0),
        "AR": 100 * accumulated.recall[:, :, 0, -1].mean(axis=0),
    }


def _at(iou: float) -> int:
    return int(np.argmin(np.abs(IOU_THRESHOLDS - iou)))


def _mean(values: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing: NaN is what is meant
        return float(100 * np.nanmean(values))
