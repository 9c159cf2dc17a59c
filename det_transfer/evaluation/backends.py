"""Two ways from detections to precision over recall: hotcoco, and the official tools.

A backend holds the ground truth of one json and matches detections to it under one of two
protocols:

``coco``
    every image is annotated in full; the best ``max_dets`` of a category count in an image; crowds
    are ignored.
``lvis``
    federated: a category counts in an image only where the json verifies it (positive or
    negative), unmatched detections of a not exhaustively annotated category are ignored, and the
    best ``max_dets`` of an image count, over all categories.

Both backends return the same arrays, so that everything after them is written once
(:mod:`det_transfer.evaluation.metrics`).
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import io
import json
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import UserError, nearest
from ..run_lengths import RunLengths

__all__ = [
    "AREAS",
    "IOU_THRESHOLDS",
    "PROTOCOLS",
    "RECALL_THRESHOLDS",
    "Accumulated",
    "Backend",
    "Detections",
    "HotcocoBackend",
    "ReferenceBackend",
    "import_lvis",
    "load_backend",
]

PROTOCOLS = ("coco", "lvis")
# The axes of the arrays. Source: pycocotools 2.0 cocoeval.Params.setDetParams, lvis 0.5 Params;
# small is under 32^2 pixels, large over 96^2.
AREAS = ("all", "small", "medium", "large")
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_SAMPLE = 1000  # annotations whose keys are looked at; a Python dict for each of them is slow
_AT_ONCE = 1_000_000  # detections that hotcoco is given: with masks, some 1.5 kB each


@dataclass(frozen=True)
class Detections:
    """N detections as columns; ids are those of the json.

    Attributes:
        image_ids: (N,) int64
        category_ids: (N,) int64
        scores: (N,) float32
        boxes: (N, 4) float32, x, y, width, height in pixels of the image as it is on disk
        rles: N masks ``{"size": [h, w], "counts": bytes}``, a list or packed; None without masks
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    rles: Sequence[dict] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray) -> "Detections":
        """Those at the indices `rows` (R,), with their masks as a list."""
        columns = (self.image_ids, self.category_ids, self.scores, self.boxes)
        if self.rles is None:
            masks = None
        elif isinstance(self.rles, RunLengths):
            masks = self.rles[rows]
        else:
            masks = [self.rles[row] for row in rows.tolist()]
        return Detections(*(column[rows] for column in columns), masks)

    def as_dicts(self, *, boxes: bool = True, masks: bool = True) -> list[dict[str, Any]]:
        """COCO's result format, one dict a detection."""
        columns = {
            "image_id": self.image_ids.tolist(),
            "category_id": self.category_ids.tolist(),
            "score": self.scores.tolist(),
        }
        if boxes:
            columns["bbox"] = self.boxes.tolist()
        if masks and self.rles is not None:
            columns["segmentation"] = self.rles
        keys = tuple(columns)
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class Accumulated:
    """Precision and recall of every category, from 0 to 1, NaN where there is no ground truth.

    Axes: T of :data:`IOU_THRESHOLDS`, R of :data:`RECALL_THRESHOLDS`, K categories by ascending
    id, A of :data:`AREAS`, M of `max_dets`.

    Attributes:
        precision: (T, R, K, A) float64 at the largest of `max_dets`
        recall: (T, K, A, M) float64
        max_dets: M limits, ascending
    """

    precision: np.ndarray
    recall: np.ndarray
    max_dets: tuple[int, ...]

    @classmethod
    def of(cls, evaluation: Mapping[str, np.ndarray], max_dets: tuple[int, ...]) -> "Accumulated":
        """From the ``eval`` of a finished evaluation, where -1 says absent."""
        precision, recall = (np.asarray(evaluation[k]) for k in ("precision", "recall"))
        if precision.ndim == 5:
            precision = precision[..., -1]
        if recall.ndim == 3:
            recall = recall[..., None]
        return cls(
            precision=np.where(precision > -1, precision, np.nan),
            recall=np.where(recall > -1, recall, np.nan),
            max_dets=max_dets,
        )


class Backend(Protocol):
    """Ground truth of one json, and the matching of detections to it."""

    name: str  # with version, e.g. "hotcoco 1.3.0"
    images: Mapping[int, dict]
    categories: list[dict]  # by ascending id
    num_instances: Mapping[int, int]  # category id -> annotations that are not crowds
    annotation_keys: frozenset[str]  # what every annotation has (of _SAMPLE, where it is costly)

    def accumulate(
        self, detections: Detections, task: str, max_dets: tuple[int, ...]
    ) -> Accumulated:
        """Match `detections` for `task` ("bbox" or "segm").

        `max_dets` are ascending limits; ``lvis`` takes one, negative for no limit.
        """
        ...


class HotcocoBackend:
    """hotcoco: written in Rust, takes columns, no Python object for a box.

    One thing it does not know: ``ignore`` on an annotation under ``lvis``, which lvis reads and no
    release of LVIS has.
    """

    def __init__(self, json_file: str, protocol: str):
        import hotcoco

        self.name = f"hotcoco {hotcoco.__version__}"
        self._hotcoco = hotcoco
        self._lvis = protocol == "lvis"
        self._gt = self._read(json_file)
        crowds = self._gt.get_ann_ids(iscrowd=True) if self._lvis else []
        if crowds:  # lvis knows no crowds: their annotations count as any other
            self._gt.update_anns([{"id": i, "iscrowd": 0} for i in crowds])
        self.images = self._gt.imgs
        self.categories = _by_id(self._gt.cats)

    def _read(self, json_file: str) -> Any:
        try:
            return self._hotcoco.COCO(json_file)
        except ValueError:
            # It insists on types in parts that no evaluation reads; Detectron2's own converter
            # writes "licenses": null.
            content = json.loads(Path(json_file).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise
            kept = ("images", "categories", "annotations")
            return self._hotcoco.COCO({key: content[key] for key in kept if key in content})

    @functools.cached_property
    def num_instances(self) -> dict[int, int]:
        crowd = None if self._lvis else False
        return {
            c["id"]: len(self._gt.get_ann_ids(cat_ids=c["id"], iscrowd=crowd))
            for c in self.categories
        }

    @functools.cached_property
    def annotation_keys(self) -> frozenset[str]:
        ids = self._gt.get_ann_ids()
        sample = self._gt.load_anns(ids[:: max(1, len(ids) // _SAMPLE)])
        return _common_keys(sample)

    def accumulate(
        self, detections: Detections, task: str, max_dets: tuple[int, ...]
    ) -> Accumulated:
        if task == "bbox":
            detections = dataclasses.replace(detections, rles=None)
        kept = np.arange(len(detections))
        if self._lvis and max_dets[-1] >= 0:
            kept = _best_of_images(detections, max_dets[-1])
        blocks = self._blocks(detections, kept)
        parts = [self._evaluate(detections.take(r), ids, task, max_dets) for ids, r in blocks]
        return Accumulated(
            precision=np.concatenate([p.precision for p in parts], axis=2),
            recall=np.concatenate([p.recall for p in parts], axis=1),
            max_dets=max_dets,
        )

    def _blocks(
        self, detections: Detections, kept: np.ndarray
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Ids of categories, ascending, and the `kept` detections of them: _AT_ONCE, if it can be.

        Categories do not know of each other, once the best of every image are found.
        """
        kept = kept[np.argsort(detections.category_ids[kept], kind="stable")]
        ids = [c["id"] for c in self.categories]
        categories = detections.category_ids[kept]
        starts, ends = (np.searchsorted(categories, ids, side) for side in ("left", "right"))
        first = 0
        for last in range(1, len(ids) + 1):
            if last == len(ids) or ends[last] - starts[first] > _AT_ONCE:
                yield ids[first:last], kept[starts[first] : ends[last - 1]]
                first = last

    def _evaluate(
        self, detections: Detections, ids: list[int], task: str, max_dets: tuple[int, ...]
    ) -> Accumulated:
        found = self._load(detections, task)
        if self._lvis:
            found = found.cap_detections_per_image(None)  # marks it as cut
        evaluation = self._hotcoco.COCOeval(self._gt, found, task, lvis_style=self._lvis)
        evaluation.params.cat_ids = ids
        # Detections are cut per image by now: this limit, per image and category, must not bind.
        evaluation.params.max_dets = [max(len(detections), 1)] if self._lvis else list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        return Accumulated.of(evaluation.eval, max_dets)

    def _load(self, detections: Detections, task: str) -> Any:
        n = len(detections)
        rows = np.empty((n, 7), np.float64)
        rows[:, 0] = detections.image_ids
        rows[:, 1:5] = detections.boxes
        rows[:, 5] = detections.scores
        rows[:, 6] = detections.category_ids
        if task == "bbox" or not n:
            return self._gt.load_res(rows)
        found = self._gt.load_res(rows, segmentation=detections.rles)
        # Small, medium and large go by the mask's area, not by the box's.
        area = self._hotcoco.mask.area(detections.rles)
        found.update_anns(ids=np.arange(1, n + 1), area=np.asarray(area, np.float64))
        return found


class ReferenceBackend:
    """pycocotools for ``coco``, lvis for ``lvis``: slow, and what the others are held to."""

    def __init__(self, json_file: str, protocol: str):
        self._lvis = protocol == "lvis"
        package = "lvis" if self._lvis else "pycocotools"
        self.name = f"{package} {importlib.metadata.version(package)}"
        load = import_lvis().LVIS if self._lvis else _import_pycocotools()[0].COCO
        with contextlib.redirect_stdout(io.StringIO()):
            self._gt = load(json_file)
        for annotation in self._gt.dataset["annotations"]:
            annotation.setdefault("iscrowd", 0)  # LVIS has none, pycocotools insists on it
        for image in self._gt.dataset["images"] if self._lvis else ():
            image.setdefault("neg_category_ids", [])
            image.setdefault("not_exhaustive_category_ids", [])
        self._renumber_zero()
        self.images = self._gt.imgs
        self.categories = _by_id(self._gt.cats)

    @functools.cached_property
    def num_instances(self) -> dict[int, int]:
        counted = Counter(
            a["category_id"]
            for a in self._gt.dataset["annotations"]
            if self._lvis or not a["iscrowd"]
        )
        return {c["id"]: counted[c["id"]] for c in self.categories}

    @functools.cached_property
    def annotation_keys(self) -> frozenset[str]:
        return _common_keys(self._gt.dataset["annotations"])

    def accumulate(
        self, detections: Detections, task: str, max_dets: tuple[int, ...]
    ) -> Accumulated:
        # Given boxes, the official tools would take their areas for small, medium and large.
        found = detections.as_dicts(boxes=task == "bbox", masks=task == "segm")
        run = self._run_lvis if self._lvis else self._run_coco
        with contextlib.redirect_stdout(io.StringIO()):
            return Accumulated.of(run(found, task, max_dets), max_dets)

    def _renumber_zero(self) -> None:
        """Give annotation 0 another id: both tools read a match with 0 as no match."""
        if 0 in self._gt.anns:
            self._gt.anns[0]["id"] = max(self._gt.anns) + 1
            with contextlib.redirect_stdout(io.StringIO()):
                (self._gt._create_index if self._lvis else self._gt.createIndex)()

    def _run_coco(self, found: list[dict], task: str, max_dets: tuple[int, ...]) -> dict:
        coco, cocoeval = _import_pycocotools()
        if found:
            found = self._gt.loadRes(found)
        else:  # loadRes looks at the first detection
            found = coco.COCO()
            found.dataset = {"images": [], "annotations": [], "categories": []}
            found.createIndex()
        evaluation = cocoeval.COCOeval(self._gt, found, task)
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval

    def _run_lvis(self, found: list[dict], task: str, max_dets: tuple[int, ...]) -> dict:
        lvis = import_lvis()
        if found:
            found = lvis.LVISResults(self._gt, found, max_dets=max_dets[-1])
        else:  # LVISResults looks at the first detection
            found = lvis.LVISResults.__new__(lvis.LVISResults)
            found.logger = self._gt.logger
            found.dataset = {"images": [], "annotations": [], "categories": []}
            found._create_index()
        evaluation = lvis.LVISEval(self._gt, found, task)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval


_BACKENDS = {"hotcoco": HotcocoBackend, "reference": ReferenceBackend}


def load_backend(name: str, json_file: str, protocol: str) -> Backend:
    """Read the ground truth in `json_file` with the backend called `name`.

    Args:
        name: "hotcoco", "reference" (pycocotools or lvis), or "auto": hotcoco where it is
            installed, else reference.
        protocol: "coco" or "lvis".

    Raises:
        UserError: no such backend, it is not installed, or the file is missing or no COCO json.
    """
    if name == "auto":
        name = "hotcoco" if importlib.util.find_spec("hotcoco") else "reference"
    if name not in _BACKENDS:
        meant = nearest(name, ["auto", *_BACKENDS])
        raise UserError(
            f"evaluation backend {name!r}: there are auto, {', '.join(_BACKENDS)}"
            + (f"; did you mean {meant[0]}?" if meant else "")
        )
    try:
        backend = _BACKENDS[name](json_file, protocol)
    except ImportError as error:
        raise UserError(
            f"evaluation backend {name!r} needs the package {error.name!r}: pip install it, or "
            "leave the backend at auto"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"annotation file {json_file} is missing") from error
    except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
        raise UserError(
            f"annotation file {json_file} cannot be read as {protocol.upper()} json: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not backend.categories:
        raise UserError(f"annotation file {json_file} has no categories: nothing can be evaluated")
    return backend


def _common_keys(annotations: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The keys with a value in all of `annotations`."""
    found = [{k for k, v in a.items() if v is not None and v != []} for a in annotations]
    return frozenset(set.intersection(*found)) if found else frozenset()


def _best_of_images(detections: Detections, limit: int) -> np.ndarray:
    """Indices, ascending, of the `limit` best detections of each image; of equal ones the first.

    Source: lvis 0.5.3, results.py, LVISResults.limit_dets_per_image.
    """
    order = np.lexsort((-detections.scores, detections.image_ids))
    images = detections.image_ids[order]
    place = np.arange(len(order)) - np.searchsorted(images, images)
    return np.sort(order[place < limit])


def _by_id(categories: Mapping[int, dict]) -> list[dict]:
    return [categories[i] for i in sorted(categories)]


def _import_pycocotools() -> tuple[Any, Any]:
    from pycocotools import coco, cocoeval

    return coco, cocoeval


@functools.cache
def import_lvis() -> Any:
    """lvis, its evaluation given the ``np.float`` that NumPy 1.24 dropped (NumPy is not touched).

    Source: lvis 0.5.3, eval.py, LVISEval.accumulate; mended on its main in 2024, not released.
    """
    import lvis
    import lvis.eval

    if not hasattr(np, "float"):
        numpy = types.SimpleNamespace(**vars(np))
        numpy.float = float
        lvis.eval.np = numpy
    return lvis
