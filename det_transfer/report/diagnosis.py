"""Why detections are wrong, how far scores can be trusted, and which images show it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .matching import Matches
from .truth import Found, Truth

__all__ = [
    "Calibration",
    "Confusion",
    "ErrorTypes",
    "calibration",
    "confusion",
    "error_types",
    "image_scores",
    "operating_point",
]

ERROR_TYPES = {
    "Cls": "class wrong",
    "Loc": "box inaccurate",
    "Both": "class and box wrong",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "missed",
}


@dataclass(frozen=True)
class ErrorTypes:
    """Source: TIDE, Bolya et al. 2020: what AP50 would gain if errors of one type were mended.

    Attributes:
        ap50: as it is, times 100
        gains: type -> points of AP50; the types of TIDE, and FP and FN, all of either kind
        counts: type -> errors
    """

    ap50: float
    gains: dict[str, float]
    counts: dict[str, int]


def error_types(truth: Truth, found: Found, max_dets: int) -> ErrorTypes:
    """Sort the errors by hotcoco: boxes at IoU 0.5, 0.1 being the least that is "near"."""
    evaluation = _hotcoco(truth, found, max_dets)
    evaluation.evaluate()
    result = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
    gains = {name: 100 * gain for name, gain in result["delta_ap"].items()}
    return ErrorTypes(100 * result["ap_base"], gains, dict(result["counts"]))


@dataclass(frozen=True)
class Confusion:
    """Attributes:
    matrix: (K + 1, K + 1) counts, rows the truth, columns what was said; last: nothing
    """

    names: list[str]
    matrix: NDArray[np.int64]

    def worst(self, count: int) -> list[tuple[str, str, int, float]]:
        """Pairs of classes most often taken for one another: truth, said, times, percent."""
        inner = self.matrix[:-1, :-1].copy()
        np.fill_diagonal(inner, 0)
        totals = self.matrix[:-1].sum(axis=1)
        order = np.argsort(-inner, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, inner.shape), strict=True)
        return [
            (self.names[a], self.names[b], int(inner[a, b]), 100 * inner[a, b] / totals[a])
            for a, b in pairs
            if inner[a, b]
        ]


def confusion(truth: Truth, found: Found, max_dets: int, min_score: float) -> Confusion:
    """What objects were taken for, at IoU 0.5, by detections from `min_score` on."""
    evaluation = _hotcoco(truth, found, max_dets)
    # It looks at the classes of an image together; COCO's limit is one of a class.
    limit = max(max_dets, 100)
    result = evaluation.confusion_matrix(iou_thr=0.5, max_det=limit, min_score=min_score)
    return Confusion(list(truth.names), result["matrix"].astype(np.int64))


def _hotcoco(truth: Truth, found: Found, max_dets: int) -> Any:
    """An evaluation that is not yet carried out."""
    import hotcoco

    lvis = truth.verified is not None
    data = hotcoco.COCO.from_arrays(
        _images(truth),
        [
            {"id": i, "name": name, "frequency": frequency or "f"}
            for i, name, frequency in zip(
                truth.category_ids.tolist(), truth.names, truth.frequencies, strict=True
            )
        ],
        truth.image_ids[truth.images],
        truth.category_ids[truth.categories],
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowds,
    )
    rows = np.empty((len(found), 7))
    rows[:, 0] = truth.image_ids[found.images]
    rows[:, 1:5] = found.boxes
    rows[:, 5] = found.scores
    rows[:, 6] = truth.category_ids[found.categories]
    detections = data.load_res(rows)
    if lvis:
        detections = detections.cap_detections_per_image(max_dets if max_dets >= 0 else None)
    evaluation = hotcoco.COCOeval(data, detections, "bbox", lvis_style=lvis)
    evaluation.params.area_rng, evaluation.params.area_rng_lbl = [[0, 1e10]], ["all"]
    evaluation.params.max_dets = [max(len(found), 1)] if lvis else [max_dets]
    return evaluation


def _images(truth: Truth) -> list[dict[str, Any]]:
    images = [
        {"id": i, "height": height, "width": width, "file_name": file}
        for i, (height, width), file in zip(
            truth.image_ids.tolist(), truth.sizes.tolist(), truth.files, strict=True
        )
    ]
    if truth.verified is None:
        return images
    present = truth.codes(truth.images, truth.categories)
    negative = np.setdiff1d(truth.verified, present)
    for image in images:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for key, codes in (
        ("neg_category_ids", negative),
        ("not_exhaustive_category_ids", truth.partial),
    ):
        where, what = np.divmod(codes, len(truth.category_ids))
        for i, category in zip(where.tolist(), truth.category_ids[what].tolist(), strict=True):
            images[i][key].append(category)
    return images


# By image and by score ---------------------------------------------------------------------------


def operating_point(matches: Matches) -> float:
    """The score from which on detections are shown: at which F1 over all images is best.

    At IoU 0.5, all classes together. 0 where nothing was found.
    """
    counted, hits = matches.counted["all"][0], matches.hits["all"][0]
    order = np.argsort(-matches.scores[counted], kind="stable")
    scores = matches.scores[counted][order]
    if not len(scores):
        return 0.0
    found = np.cumsum(hits[counted][order])
    objects = matches.truths["all"].sum(dtype=np.int64)
    f1 = 2 * found / (np.arange(1, len(found) + 1) + objects)
    last_of_equals = np.r_[scores[1:] != scores[:-1], True]
    return float(scores[np.argmax(np.where(last_of_equals, f1, -1))])


def image_scores(matches: Matches, min_score: float) -> NDArray[np.float64]:
    """(I,) F1 of each image at IoU 0.5, of detections from `min_score` on.

    1 where there is nothing and nothing was found.
    """
    shown = matches.counted["all"][0] & (matches.scores >= min_score)
    hits = shown & matches.hits["all"][0]
    images = matches.num_images
    said = np.bincount(matches.images[shown], minlength=images)
    right = np.bincount(matches.images[hits], minlength=images)
    both = said + matches.truths["all"].sum(axis=0, dtype=np.int64)
    return np.divide(2.0 * right, both, out=np.ones(images), where=both > 0)


@dataclass(frozen=True)
class Calibration:
    """Detections in ten bins of equal width by score: what they promise, and what holds.

    Attributes:
        ece: expected calibration error, percent: the mean gap, weighted by detections
        bins: lower edge, detections, mean score, share that is right; empty bins left out
        detections: in all of them
    """

    ece: float
    bins: list[tuple[float, int, float, float]]
    detections: int


def calibration(matches: Matches, min_score: float = 0.05) -> Calibration | None:
    """Whether a score is the chance to be right, at IoU 0.5; None where nothing was found.

    Args:
        min_score: detections below are left out: a detector gives them by the hundred, and they
            would decide the mean

    Source: expected calibration error, Naeini et al. 2015 and Guo et al. 2017; for detectors, with
    precision in place of accuracy, Kueppers et al. 2020.
    """
    import hotcoco

    counted = matches.counted["all"][0] & (matches.scores >= min_score)
    scores, hits = matches.scores[counted], matches.hits["all"][0][counted]
    if not len(scores):
        return None
    error, _ = hotcoco.metrics.calibration_error(scores, hits, 10)
    bins = [
        (b["bin_lower"], int(b["count"]), b["avg_confidence"], b["avg_accuracy"])
        for b in hotcoco.metrics.calibration_curve(scores, hits, 10)
        if b["count"]
    ]
    return Calibration(100 * error, bins, len(scores))
