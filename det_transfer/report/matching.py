"""Detections matched to the truth, under the protocol of COCO or LVIS.

As the official tools do it, but for all images at once: of each image and category the best
detection chooses first, then the second best of all, and so on, so that the work is a few steps
over arrays instead of a loop over images. What is kept can be counted again for any choice of
images (:mod:`det_transfer.report.paired`).

Source: pycocotools 2.0, COCOeval.evaluateImg; lvis 0.5, LVISEval.evaluate_img.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from .truth import Found, Truth, mask_codes

__all__ = ["AREAS", "IOU_THRESHOLDS", "Matches", "match"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Name -> smallest and largest area in pixels, both counted in.
AREAS = {"all": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
_SURE = 1 - 1e-10  # an overlap that needs not be better


@dataclass(frozen=True)
class Matches:
    """D detections that the protocol counts, in order of category, falling score, image.

    Attributes:
        images, categories: (D,) indices
        scores: (D,) float64
        boxes: (D, 4) float64
        hits: area -> (T, D) bool: matches an object that counts at this IoU
        counted: area -> (T, D) bool: is a hit or a false alarm (neither: it is ignored)
        truths: area -> (K, I) uint16: objects that count, by category and image
        frequencies: of the categories
    """

    images: NDArray[np.int64]
    categories: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    hits: dict[str, NDArray[np.bool_]]
    counted: dict[str, NDArray[np.bool_]]
    truths: dict[str, NDArray[np.uint16]]
    frequencies: tuple[str | None, ...]

    def above(self, min_score: float) -> "Matches":
        """The detections from a score on, over all areas together."""
        rows = np.flatnonzero(self.scores >= min_score)
        columns = (self.images, self.categories, self.scores, self.boxes)
        return Matches(
            *(column[rows] for column in columns),
            {"all": self.hits["all"][:, rows]},
            {"all": self.counted["all"][:, rows]},
            {"all": self.truths["all"]},
            self.frequencies,
        )

    @property
    def num_images(self) -> int:
        return self.truths["all"].shape[1]


def match(
    truth: Truth, found: Found, max_dets: int = 100, areas: tuple[str, ...] = tuple(AREAS)
) -> Matches:
    """Match what was found to the truth.

    Args:
        max_dets: detections that count, of an image and category (of an image, where the truth
            has ``verified``; negative: all)
        areas: of :data:`AREAS`
    """
    found = _limited(truth, found, max_dets)
    order = np.lexsort((found.images, -found.scores, found.categories))
    found = found.take(order)
    limits = np.array([AREAS[name] for name in areas])
    ignored = truth.crowds | (truth.areas < limits[:, :1]) | (truth.areas > limits[:, 1:])  # (A, N)
    hits, blank = _assigned(truth, found, ignored)
    sizes = _sizes(found)
    # What matches nothing and lies outside the range, or may be an object that nobody annotated.
    outside = (sizes < limits[:, :1]) | (sizes > limits[:, 1:])
    unknown = np.isin(truth.codes(found.images, found.categories), truth.partial)
    spared = (outside | unknown)[:, None] & ~hits
    counted = ~(blank | spared)
    shape = len(truth.category_ids), len(truth.image_ids)
    truths = {}
    for name, out in zip(areas, ignored, strict=True):
        truths[name] = np.zeros(shape, np.uint16)
        np.add.at(truths[name], (truth.categories[~out], truth.images[~out]), 1)
    return Matches(
        found.images,
        found.categories,
        found.scores,
        found.boxes,
        dict(zip(areas, hits, strict=True)),
        dict(zip(areas, counted, strict=True)),
        truths,
        tuple(truth.frequencies),
    )


def _limited(truth: Truth, found: Found, max_dets: int) -> Found:
    """The detections that the protocol looks at."""
    group = found.images
    if truth.verified is None:
        group = truth.codes(found.images, found.categories)
    rows = np.arange(len(found))
    if max_dets >= 0:
        order = np.lexsort((-found.scores, group))
        rows = np.sort(order[_rank(group[order]) < max_dets])
    if truth.verified is not None:
        codes = truth.codes(found.images[rows], found.categories[rows])
        rows = rows[np.isin(codes, truth.verified)]
    return found.take(rows)


def _rank(group: NDArray) -> NDArray[np.int64]:
    """0, 1, 2 ... within each run of equal values."""
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else group
    lengths = np.diff(np.r_[starts, len(group)])
    return np.arange(len(group)) - np.repeat(starts, lengths)


def _sizes(found: Found) -> NDArray[np.float64]:
    if found.masks is not None and len(found):
        return mask_util.area(list(found.masks)).astype(np.float64)
    return found.boxes[:, 2] * found.boxes[:, 3]


# Who overlaps whom -------------------------------------------------------------------------------


def _pairs(truth: Truth, found: Found) -> tuple[NDArray, NDArray, NDArray]:
    """(P,) detection, (P,) object, (P,) overlap, of one image and category, from IoU 0.5 on.

    In order of detections, and for each in the order of objects.
    """
    codes = truth.codes(truth.images, truth.categories)
    order = np.argsort(codes, kind="stable")
    wanted = truth.codes(found.images, found.categories)
    first = np.searchsorted(codes[order], wanted, "left")
    counts = np.searchsorted(codes[order], wanted, "right") - first
    detections = np.repeat(np.arange(len(found)), counts)
    within = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts, counts)
    objects = order[np.repeat(first, counts) + within]
    if found.masks is None:
        overlap = _box_overlap(found.boxes[detections], truth.boxes[objects], truth.crowds[objects])
    else:
        overlap = _mask_overlap(truth, found, detections, objects)
    near = overlap >= min(IOU_THRESHOLDS[0], _SURE)
    return detections[near], objects[near], overlap[near]


def _box_overlap(found: NDArray, truth: NDArray, crowds: NDArray) -> NDArray[np.float64]:
    """(P,) intersection over union; for a crowd over the detection alone."""
    low = np.maximum(found[:, :2], truth[:, :2])
    high = np.minimum(found[:, :2] + found[:, 2:], truth[:, :2] + truth[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    own = found[:, 2:].prod(axis=1)
    union = np.where(crowds, own, own + truth[:, 2:].prod(axis=1) - common)
    return np.divide(common, union, out=np.zeros(len(union)), where=union > 0)


def _mask_overlap(
    truth: Truth, found: Found, detections: NDArray, objects: NDArray
) -> NDArray[np.float64]:
    codes = mask_codes(truth)
    overlap = np.empty(len(detections))
    starts = np.flatnonzero(np.r_[True, detections[1:] != detections[:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(detections)], strict=True):
        mine = objects[start:end]
        theirs = [codes[k] for k in mine.tolist()]
        crowds = truth.crowds[mine].astype(int).tolist()
        overlap[start:end] = mask_util.iou([found.masks[detections[start]]], theirs, crowds)[0]
    return overlap


# Who gets whom -----------------------------------------------------------------------------------


def _assigned(truth: Truth, found: Found, ignored: NDArray) -> tuple[NDArray, NDArray]:
    """(A, T, D) bool: matches an object that counts; matches one that is ignored."""
    shape = (len(ignored), len(IOU_THRESHOLDS), len(found))
    hits, blank = np.zeros(shape, bool), np.zeros(shape, bool)
    detections, objects, overlap = _pairs(truth, found)
    if not len(detections):
        return hits, blank
    chooser, pair_of = np.unique(detections, return_inverse=True)
    # In each image and category the best chooses first: `turn` says as how many-th.
    groups = truth.codes(found.images[chooser], found.categories[chooser])
    order = np.argsort(groups, kind="stable")
    turn = np.empty(len(chooser), np.int64)
    turn[order] = _rank(groups[order])
    by_turn = np.argsort(turn[pair_of], kind="stable")
    ends = np.searchsorted(turn[pair_of][by_turn], np.arange(turn.max() + 2))
    state = _State(np.zeros((*shape[:2], len(ignored[0])), bool), ignored, truth.crowds)
    for start, end in itertools.pairwise(ends.tolist()):
        rows = by_turn[start:end]
        chosen = state.choose(detections[rows], objects[rows], overlap[rows])
        for target, value in zip((hits, blank), chosen.values, strict=True):
            target[:, :, chosen.detections] = value
    return hits, blank


@dataclass
class _Chosen:
    detections: NDArray
    values: tuple[NDArray, NDArray]  # (A, T, M) each: an object that counts, one that is ignored


@dataclass
class _State:
    taken: NDArray[np.bool_]  # (A, T, N)
    ignored: NDArray[np.bool_]  # (A, N)
    crowds: NDArray[np.bool_]  # (N,)

    def choose(self, detections: NDArray, objects: NDArray, overlap: NDArray) -> _Chosen:
        """One detection of each image and category takes the best of what is left.

        An object that counts goes before one that is ignored; then the overlap decides, and
        between equals the later object. A crowd can be taken again and again.
        """
        starts = np.flatnonzero(np.r_[True, detections[1:] != detections[:-1]])
        lengths = np.diff(np.r_[starts, len(detections)])
        enough = overlap >= np.minimum(IOU_THRESHOLDS, _SURE)[:, None]  # (T, P)
        free = ~self.taken[:, :, objects] | self.crowds[objects]
        rank = overlap + 2.0 * ~self.ignored[:, None, objects]  # (A, 1, P)
        rank = np.where(enough & free, rank, -1.0)
        best = np.maximum.reduceat(rank, starts, axis=2)
        is_best = rank == np.repeat(best, lengths, axis=2)
        last = np.maximum.reduceat(np.where(is_best, np.arange(len(objects)), -1), starts, axis=2)
        some = best >= 0
        mine = objects[last]  # (A, T, M)
        areas, thresholds, _ = np.nonzero(some)
        self.taken[areas, thresholds, mine[some]] = True
        unwanted = self.ignored[np.arange(len(self.ignored))[:, None, None], mine]
        return _Chosen(detections[starts], (some & ~unwanted, some & unwanted))
