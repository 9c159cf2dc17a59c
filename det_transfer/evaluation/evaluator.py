"""Detectron2's ``DatasetEvaluator`` for boxes and masks, whatever the protocol."""

import contextlib
import functools
import itertools
import logging
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from ..errors import UserError, raise_all
from ..run_folder import PredictionWriter, prediction_parts, sha256
from .backends import Accumulated, Backend, Detections, load_backend
from .files import (
    Category,
    frequencies,
    read_parts,
    write_curves,
    write_per_category,
    write_predictions_json,
    write_results,
)
from .metrics import category_metrics, summary

__all__ = ["MAX_CATEGORIES_IN_RESULTS", "TASKS", "DetectionEvaluator", "encode_masks"]

TASKS = ("bbox", "segm")
# With more categories than this their AP stands in per_category.csv alone: Detectron2 writes every
# returned number as a scalar into metrics.json, which would be 1,203 a line for LVIS.
MAX_CATEGORIES_IN_RESULTS = 100


class DetectionEvaluator(DatasetEvaluator):
    """Streams predictions to disk, one file a rank; rank 0 measures them.

    Base of the evaluators in :mod:`det_transfer.evaluation.protocols`.

    Args:
        dataset_name: a dataset with metadata; ``json_file`` in COCO or LVIS format is the ground
            truth (without one it is made from the registered dicts, as Detectron2 does).
        tasks: of :data:`TASKS`; None takes them from the predictions.
        output_dir: ``eval/<dataset>`` of the run folder. Must be on a disk that all ranks share.
        max_dets_per_image: the protocol says what is counted; None is the protocol's own.
        backend: "auto", "hotcoco" or "reference", see :func:`backends.load_backend`.
        write_json: also write ``predictions.json`` in COCO's result format.
        distributed: False where only this process evaluates.

    Raises:
        UserError: the json is missing, is not of the protocol's format or has no images, or the
            metadata and the json name different categories.
    """

    protocol: ClassVar[str]
    default_max_dets: ClassVar[int]

    def __init__(
        self,
        dataset_name: str,
        tasks: Iterable[str] | None = None,
        output_dir: str | os.PathLike = "",
        *,
        max_dets_per_image: int | None = None,
        backend: str = "auto",
        write_json: bool = False,
        distributed: bool = True,
    ):
        self._dataset = dataset_name
        self._tasks = None if tasks is None else _checked_tasks(tasks)
        if not str(output_dir):
            raise UserError(f"evaluation of {dataset_name}: output_dir is empty; name a folder")
        self._folder = Path(output_dir)
        limit = self.default_max_dets if max_dets_per_image is None else max_dets_per_image
        self._max_dets = self._limits(limit)
        self._write_json = write_json
        self._rank, self._ranks = 0, 1
        if distributed:
            self._rank, self._ranks = comm.get_rank(), comm.get_world_size()
        self._writer: PredictionWriter | None = None
        self._writing = contextlib.ExitStack()
        self._seen: set[int] = set()
        self._logger = logging.getLogger(__name__)

        self._metadata = MetadataCatalog.get(dataset_name)
        # Only the process that measures holds the ground truth.
        self._truth: Backend | None = None
        if self._rank == 0:
            self._json_file = self._find_json()
            self._truth = load_backend(backend, self._json_file, self.protocol)
            raise_all(self._problems(self._truth))

    def _limits(self, max_dets: int) -> tuple[int, ...]:
        raise NotImplementedError

    def _problems(self, truth: Backend) -> Iterable[str]:
        """What is wrong with the json for this protocol, a line for each."""
        if not truth.images:
            yield f"{self._json_file}: no images, so nothing can be evaluated on {self._dataset}"
        if not truth.categories:
            yield f"{self._json_file}: no categories"
        known = {c["id"] for c in truth.categories}
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id") or {}
        needed = ["bbox", "area"] + ["segmentation"] * ("segm" in (self._tasks or ()))
        for key in needed if sum(truth.num_instances.values()) else ():
            if key not in truth.annotation_keys:
                yield (
                    f"{self._json_file}: annotations without {key!r} cannot be evaluated"
                    + (
                        "; leave the task segm out (of a run: MODEL.MASK_ON False)"
                        if key == "segmentation"
                        else ""
                    )
                )
        unknown = sorted(set(mapping) - known)
        if unknown:
            yield (
                f"{self._dataset}: category ids {unknown[:5]} of its metadata are not in "
                f"{self._json_file}; register the dataset with the json it is evaluated on"
            )
        if sorted(mapping.values()) != list(range(len(mapping))):
            yield (
                f"{self._dataset}: thing_dataset_id_to_contiguous_id in its metadata must give "
                f"each category a class of its own, 0 to {len(mapping) - 1}"
            )

    # -- Writing -----------------------------------------------------------------------------

    def reset(self) -> None:
        """Start over: an evaluation that was broken off leaves nothing."""
        if self._writer is not None:
            with contextlib.suppress(_BrokenOffError), self._writing:
                raise _BrokenOffError
        part = self._folder / "predictions" / f"part-{self._rank}.npz"
        self._writer = self._writing.enter_context(PredictionWriter(part))
        self._seen = set()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Write the predictions of some images.

        Args:
            inputs: dicts with ``image_id``
            outputs: dicts with ``instances``: :class:`Instances` with ``pred_boxes`` (XYXY in
                pixels of the image as it is on disk), ``scores``, ``pred_classes`` and optionally
                ``pred_masks`` (N, H, W) bool.

        Raises:
            UserError: the model gives no instances, or a class that the dataset does not have.
        """
        for given, found in zip(inputs, outputs, strict=True):
            if "instances" not in found:
                raise UserError(
                    f"evaluation of {self._dataset}: the model gives {', '.join(found)} and no "
                    "instances; box proposals and panoptic output need Detectron2's own evaluators"
                )
            # A sampler that pads the last batch gives an image twice.
            if given["image_id"] not in self._seen:
                self._seen.add(given["image_id"])
                self._add(given["image_id"], found["instances"])

    def _add(self, image_id: int, instances: Instances) -> None:
        boxes = instances.pred_boxes.tensor.float().cpu()
        boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        self._writer.add(
            image_id,
            self._to_category_ids(instances.pred_classes.cpu().numpy()),
            instances.scores.float().cpu().numpy(),
            boxes.numpy(),
            encode_masks(instances.pred_masks) if self._wants_masks(instances) else None,
        )

    def _wants_masks(self, instances: Instances) -> bool:
        return instances.has("pred_masks") and (self._tasks is None or "segm" in self._tasks)

    def _to_category_ids(self, classes: np.ndarray) -> np.ndarray:
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self._category_ids):
            raise UserError(
                f"the model predicts class {classes.max()}, but {self._dataset} has "
                f"{len(self._category_ids)} classes (0 to {len(self._category_ids) - 1}); set "
                "MODEL.ROI_HEADS.NUM_CLASSES (MODEL.RETINANET.NUM_CLASSES) to that number"
            )
        return self._category_ids[classes]

    # -- Measuring ---------------------------------------------------------------------------

    def evaluate(self) -> "OrderedDict[str, dict[str, float]]":
        """Measure what all ranks have written; other ranks than 0 return an empty dict.

        Returns:
            {task: {metric: value x100}} under Detectron2's keys, NaN where there is no ground
            truth; ``AP-<class name>`` for up to :data:`MAX_CATEGORIES_IN_RESULTS` categories.
            Empty where the json has no annotations; then ``predictions.json`` is written.

        Raises:
            UserError: no image was looked at, an image is not in the json, or masks are asked for
                and there are none.
        """
        self._writing.close()
        self._writer = None
        if self._ranks > 1:
            comm.synchronize()
        if self._rank != 0:
            return OrderedDict()
        started = time.perf_counter()
        looked_at, detections = self._read()
        seconds = {"read": time.perf_counter() - started}
        measurable = sum(self._truth.num_instances.values()) > 0
        if self._write_json or not measurable:
            write_predictions_json(self._folder / "predictions.json", detections)
        if not measurable:
            self._logger.info(
                f"{self._json_file} has no annotations, so nothing is measured; the predictions "
                f"are in {self._folder / 'predictions.json'}"
            )
            return OrderedDict()
        accumulated: dict[str, Accumulated] = {}
        for task in self._tasks_of(detections):
            started = time.perf_counter()
            accumulated[task] = self._truth.accumulate(detections, task, self._max_dets)
            seconds[task] = time.perf_counter() - started
        return self._report(accumulated, len(looked_at), len(detections), seconds)

    def _read(self) -> tuple[np.ndarray, Detections]:
        folder = self._folder / "predictions"
        looked_at, detections = read_parts(folder, self._ranks)
        for stale in prediction_parts(folder)[self._ranks :]:
            stale.unlink()  # of an earlier evaluation on more ranks
        if not len(looked_at):
            raise UserError(
                f"evaluation of {self._dataset}: the data loader gave no images; look at what "
                "filters or splits the dataset"
            )
        strangers = [i for i in looked_at.tolist() if i not in self._truth.images]
        if strangers:
            raise UserError(
                f"{len(strangers)} images that the model was run on are not in {self._json_file} "
                f"(image ids {strangers[:5]}): {self._dataset} is registered with another json"
            )
        if len(looked_at) < len(self._truth.images):
            self._logger.warning(
                f"{self._dataset}: the model saw {len(looked_at)} of {len(self._truth.images)} "
                "images; objects in the others count as missed"
            )
        return looked_at, detections

    def _tasks_of(self, detections: Detections) -> tuple[str, ...]:
        if self._tasks is None:
            masks = detections.rles is not None and "segmentation" in self._truth.annotation_keys
            return TASKS if masks else ("bbox",)
        if "segm" in self._tasks and detections.rles is None and len(detections):
            raise UserError(
                f"evaluation of {self._dataset}: segm is asked for, but the model gives no masks; "
                "set MODEL.MASK_ON True or leave segm out"
            )
        return self._tasks

    def _report(
        self,
        accumulated: Mapping[str, Accumulated],
        looked_at: int,
        num_detections: int,
        seconds: Mapping[str, float],
    ) -> "OrderedDict[str, dict[str, float]]":
        categories = self._categories()
        made_from = {
            "dataset": self._dataset,
            "json_file": self._json_file,
            "json_sha256": sha256(self._json_file),
            "image_root": self._metadata.get("image_root"),
            "protocol": self.protocol,
            "backend": self._truth.name,
            "max_dets": self._max_dets,
            "images": len(self._truth.images),
            "images_looked_at": looked_at,
            "categories": len(categories),
            "instances": sum(c.n_gt for c in categories),
            "detections": num_detections,
            "seconds": seconds,
        }
        write_results(self._folder / "results.json", made_from, categories, accumulated)
        write_per_category(self._folder / "per_category.csv", categories, accumulated)
        write_curves(self._folder / "curves.npz", categories, accumulated)
        results: OrderedDict[str, dict[str, float]] = OrderedDict()
        for task, arrays in accumulated.items():
            metrics = summary(arrays, frequencies(categories))
            by_name = _by_name(categories, category_metrics(arrays)["AP"])
            self._logger.info(
                f"{task} on {self._dataset} ({self.protocol.upper()} protocol, "
                f"{self._truth.name}):\n{create_small_table(metrics)}"
            )
            if by_name:
                self._logger.info(f"Per-category {task} AP:\n{_table(by_name)}")
            results[task] = metrics | {f"AP-{name}": ap for name, ap in by_name.items()}
        return results

    # -- Datasets ----------------------------------------------------------------------------

    def _find_json(self) -> str:
        json_file = self._metadata.get("json_file")
        if not json_file:
            json_file = str(self._folder / f"{self._dataset}_coco_format.json")
            convert_to_coco_json(self._dataset, json_file, allow_cached=False)
        return PathManager.get_local_path(json_file)

    @functools.cached_property
    def _category_ids(self) -> np.ndarray:
        """The json's category id of each contiguous class id of the model."""
        # Not looked up before it is needed: Detectron2 fills it in when the dataset is loaded.
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping:
            return np.array(sorted(mapping, key=mapping.get), np.int64)
        # Detectron2 registers LVIS without a mapping, its ids being 1 to 1203.
        first = 1 if self.protocol == "lvis" else 0
        return np.arange(first, first + len(self._metadata.get("thing_classes", ())))

    def _categories(self) -> list[Category]:
        names = dict(
            zip(self._category_ids.tolist(), self._metadata.get("thing_classes", ()), strict=False)
        )
        return [
            Category(
                id=c["id"],
                name=names.get(c["id"], c["name"]),
                frequency=c.get("frequency"),
                image_count=c.get("image_count"),
                n_gt=self._truth.num_instances[c["id"]],
            )
            for c in self._truth.categories
        ]


class _BrokenOffError(Exception):
    """Tells an open writer to leave no file."""


def _checked_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    tasks = set(tasks)
    unknown = sorted(tasks - set(TASKS))
    if unknown or not tasks:
        raise UserError(
            f"evaluation tasks {', '.join(unknown) or '(none)'}: there are {', '.join(TASKS)}; "
            "keypoints need Detectron2's own COCOEvaluator"
        )
    return tuple(sorted(tasks))


def encode_masks(masks: torch.Tensor) -> list[dict]:
    """COCO's compressed run-length codes of masks (N, H, W) bool."""
    # The code runs down the columns: turned here, where torch does it fast (and on its device),
    # the masks need no copy there.
    columns = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
    return mask_util.encode(columns.transpose(2, 1, 0))


def _by_name(categories: Sequence[Category], values: np.ndarray) -> dict[str, float]:
    if not 1 < len(categories) <= MAX_CATEGORIES_IN_RESULTS:
        return {}
    repeated = {name for name, n in Counter(c.name for c in categories).items() if n > 1}
    names = (f"{c.name} ({c.id})" if c.name in repeated else c.name for c in categories)
    return dict(zip(names, values.tolist(), strict=True))


def _table(by_name: Mapping[str, float], columns: int = 3) -> str:
    cells = list(itertools.chain(*by_name.items()))
    width = 2 * min(columns, len(by_name))
    rows = [cells[i : i + width] for i in range(0, len(cells), width)]
    headers = ["category", "AP"] * (width // 2)
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
