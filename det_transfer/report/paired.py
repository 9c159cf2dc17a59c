"""Is one side better than the other, or were these images kind to it? Intervals over images.

The images of a test set are a sample. Drawing them again, with replacement, gives the spread of a
difference in AP; both sides are measured on the same draw each time, so that what makes an image
easy or hard for both falls out. Source: Efron and Tibshirani 1993, chapter 13 (percentiles); of R
draws the (R + 1) p-th smallest is the percentile p (Davison and Hinkley 1997, section 5.2.1), which
with 200 draws leaves 2.5 % outside on each side, not 3 %.

What it does not cover: another seed of training would give another run.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .matching import AREAS, IOU_THRESHOLDS, Matches

__all__ = ["METRICS", "Interval", "Prepared", "draw_weights", "intervals", "prepare"]

# Name -> area, IoUs, frequency.
METRICS = {
    "AP": ("all", slice(None), None),
    "AP50": ("all", 0, None),
    "AP75": ("all", 5, None),
    **{f"AP{area}": (area, slice(None), None) for area in AREAS if area != "all"},
    **{f"AP{group}": ("all", slice(None), group) for group in "rcf"},
}
_RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_AND_NONE = np.append(_RECALL_THRESHOLDS, np.inf)
_AT_ONCE = 400_000  # numbers in an array: what is computed together, so that it stays in the cache


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
class _Area:
    """The detections of one range of areas, as far as any draw can need them."""

    images: NDArray[np.int64]  # (D,)
    starts: NDArray[np.int64]  # (K + 1,) where each category begins
    base: NDArray[np.bool_]  # (D,) counts at the first IoU
    hits: list[NDArray[np.int64]]  # T of (H,) indices
    changed: list[
        tuple[NDArray[np.int64], NDArray[np.int32]]
    ]  # T: where it counts unlike base, +-1
    truths: NDArray[np.float32]  # (I, K)


@dataclass(frozen=True)
class Prepared:
    """One run's matches, ready to be counted for many draws at once."""

    areas: dict[str, _Area]
    frequencies: tuple[str | None, ...]
    images: int

    def by_category(self, weights: NDArray, area: str = "all") -> NDArray[np.float64]:
        """AP by category, 0 to 1, NaN where a draw has no object of it.

        Args:
            weights: (R, I) integers: how often each image counts, in each of R draws

        Returns:
            (R, T, K)
        """
        mine = self.areas[area]
        totals = (weights.astype(np.float32) @ mine.truths).astype(np.float64)  # (R, K)
        result = np.empty((len(weights), len(IOU_THRESHOLDS), totals.shape[1]))
        for rows in _chunks(len(weights), len(mine.images)):
            by_detection = weights[rows][:, mine.images].astype(np.int32)
            seen = np.cumsum(by_detection * mine.base, axis=1, dtype=np.int32)
            for t in range(len(IOU_THRESHOLDS)):
                result[rows, t] = _average_precision(mine, t, by_detection, seen, totals[rows])
        result[np.broadcast_to((totals == 0)[:, None], result.shape)] = np.nan
        return result

    def metrics(self, weights: NDArray) -> NDArray[np.float64]:
        """(R, M) of :data:`METRICS`, times 100; NaN where a draw has no object for it."""
        by_area = {area: self.by_category(weights, area) for area in self.areas}
        frequencies = np.array(self.frequencies, dtype=object)
        columns = []
        for area, ious, group in METRICS.values():
            chosen = slice(None) if group is None else np.flatnonzero(frequencies == group)
            values = by_area[area][:, ious][..., chosen] if area in by_area else None
            if values is None or not values.size:
                columns.append(np.full(len(weights), np.nan))
                continue
            columns.append(_mean(values.reshape(len(weights), -1)))
        return 100 * np.stack(columns, axis=1)


def _mean(values: NDArray) -> NDArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing: NaN is what is meant
        return np.nanmean(values, axis=1)


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _AT_ONCE // max(columns, 1))
    return (slice(k, min(k + step, rows)) for k in range(0, rows, step))


def prepare(matches: Matches) -> Prepared:
    """Take from the matches what a draw needs: nothing behind a category's last hit."""
    categories = len(matches.frequencies)
    areas = {}
    for name, hits in matches.hits.items():
        counted = matches.counted[name]
        last = np.full(categories, -1)
        places = np.flatnonzero(hits.any(axis=0))
        np.maximum.at(last, matches.categories[places], places)
        needed = np.arange(hits.shape[1]) <= last[matches.categories]
        kept = np.flatnonzero(needed & counted.any(axis=0))
        hits, counted = hits[:, kept], counted[:, kept]
        base = counted[0]
        unlike = [np.flatnonzero(row != base) for row in counted]
        areas[name] = _Area(
            images=matches.images[kept],
            starts=np.searchsorted(matches.categories[kept], np.arange(categories + 1)),
            base=base,
            hits=[np.flatnonzero(row) for row in hits],
            changed=[
                (places, np.where(row[places], 1, -1).astype(np.int32))
                for places, row in zip(unlike, counted, strict=True)
            ],
            truths=matches.truths[name].T.astype(np.float32),
        )
    return Prepared(areas, matches.frequencies, matches.num_images)


def _average_precision(
    area: _Area, threshold: int, weights: NDArray, seen: NDArray, totals: NDArray
) -> NDArray[np.float64]:
    """(R, K) mean precision at 101 recalls. As pycocotools' accumulate, counted at hits alone.

    Between two hits precision falls and recall stands still, so that only hits matter.

    Args:
        weights: (R, D) how often each detection's image was drawn
        seen: (R, D) running sum of what counts at the first IoU, over all categories
        totals: (R, K) objects
    """
    hits = area.hits[threshold]
    result = np.zeros(totals.shape)
    if not len(hits):
        return result
    category = np.searchsorted(area.starts, hits, "right") - 1  # (H,)
    first = np.searchsorted(hits, area.starts)  # of each category, among the hits
    found = _since_start(np.cumsum(weights[:, hits], axis=1, dtype=np.int32), first, category)
    counted = seen[:, hits] - _before(seen, area.starts[category])
    places, signs = area.changed[threshold]
    if len(places):
        change = np.cumsum(weights[:, places] * signs, axis=1, dtype=np.int32)
        upto = np.searchsorted(places, hits, "right")
        counted += _before(change, upto) - _before(
            change, np.searchsorted(places, area.starts[category])
        )
    precision = found / np.maximum(counted, 1)
    recall = found / np.maximum(totals[:, category], 1)
    # The best precision from here on, of each category: an offset keeps categories apart.
    offset = 2.0 * (totals.shape[1] - category)
    envelope = np.maximum.accumulate((precision + offset)[:, ::-1], axis=1)[:, ::-1] - offset
    reached = _reached(recall)
    gained = np.diff(reached, axis=1, prepend=0)
    begins = first[:-1][np.diff(first) > 0]
    gained[:, begins] = reached[:, begins]
    sums = np.add.reduceat(envelope * gained, begins, axis=1)
    result[:, category[begins]] = sums / len(_RECALL_THRESHOLDS)
    return result


def _reached(recall: NDArray) -> NDArray[np.int32]:
    """How many of the recalls 0, 0.01 ... 1 are reached: searchsorted, but faster."""
    near = (recall * 100).astype(np.int32)
    above = _AND_NONE.take(near + 1) <= recall
    below = _AND_NONE.take(near) > recall
    return near + 1 + above - below


def _before(running: NDArray, places: NDArray) -> NDArray:
    """A running sum up to, without, each of these places."""
    return np.where(places > 0, running[:, np.maximum(places - 1, 0)], 0)


def _since_start(running: NDArray, first: NDArray, category: NDArray) -> NDArray:
    return running - _before(running, first[category])


# Many draws --------------------------------------------------------------------------------------


def draw_weights(images: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """(draws + 1, I): the images as they are, and `draws` samples of as many with replacement."""
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(images, np.full(images, 1 / images), draws)
    return np.vstack([np.ones((1, images), np.int64), drawn])


def intervals(first: NDArray, second: NDArray) -> dict[str, Interval]:
    """The difference `first` - `second` with its 95 % interval, by metric.

    Args:
        first, second: (R, M) metrics of the sides, the first row on the images as they are

    Returns:
        without the metrics that a side has not
    """
    differences = first - second
    found = {}
    for k, metric in enumerate(METRICS):
        column = differences[:, k]
        drawn = column[1:][np.isfinite(column[1:])]
        if np.isfinite(column[0]) and len(drawn):
            low, high = np.percentile(drawn, [2.5, 97.5], method="weibull")
            found[metric] = Interval(float(column[0]), float(low), float(high))
    return found
