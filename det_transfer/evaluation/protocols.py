"""The COCO and the LVIS evaluator, and which one a dataset gets."""

import os
from collections.abc import Iterable
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from ..errors import UserError, nearest
from .backends import Backend
from .evaluator import DetectionEvaluator

__all__ = ["EVALUATORS", "COCOEvaluator", "LVISEvaluator", "build_evaluator"]


class COCOEvaluator(DetectionEvaluator):
    """COCO's protocol: the best `max_dets_per_image` (100) **of a category** in an image.

    Where the json's categories have LVIS's ``frequency``, APr, APc and APf are given too.
    """

    protocol = "coco"
    default_max_dets = 100

    def _limits(self, max_dets: int) -> tuple[int, ...]:
        if max_dets < 1:
            raise UserError(f"max_dets_per_image is {max_dets}: COCO's protocol needs 1 or more")
        return tuple(sorted({min(limit, max_dets) for limit in (1, 10, max_dets)}))


class LVISEvaluator(DetectionEvaluator):
    """LVIS's protocol: the best `max_dets_per_image` (300, -1 for all) of an image.

    Per-category AP, which Detectron2's own has not, is given as for COCO.
    """

    protocol = "lvis"
    default_max_dets = 300

    def _limits(self, max_dets: int) -> tuple[int, ...]:
        if max_dets < 1 and max_dets != -1:
            raise UserError(f"max_dets_per_image is {max_dets}: give 1 or more, or -1 for all")
        return (max_dets,)

    def _problems(self, truth: Backend) -> Iterable[str]:
        yield from super()._problems(truth)
        if not _is_federated(truth, self._json_file):
            yield (
                f"{self._json_file}: no image has 'neg_category_ids', so it is no LVIS json; "
                "datasets/coco_to_lvis.py makes one of it, or evaluate it as COCO"
            )
        lacking = sum("frequency" not in c for c in truth.categories)
        if lacking:
            yield (
                f"{self._json_file}: {lacking} of {len(truth.categories)} categories have no "
                "'frequency', which LVIS's protocol needs; datasets/coco_to_lvis.py writes it, or "
                "evaluate as COCO"
            )
        odd = sorted({str(c.get("frequency", "r")) for c in truth.categories} - set("rcf"))
        if odd:
            yield f"{self._json_file}: frequency {', '.join(odd)} in categories; it is r, c or f"


# Metadata's evaluator_type -> class. A project with a protocol of its own adds it here.
EVALUATORS: dict[str, type[DatasetEvaluator]] = {"coco": COCOEvaluator, "lvis": LVISEvaluator}


def build_evaluator(
    dataset_name: str,
    tasks: Iterable[str] | None = None,
    output_dir: str | os.PathLike = "",
    *,
    max_dets_per_image: int | None = None,
    backend: str = "auto",
    write_json: bool = False,
    distributed: bool = True,
) -> DatasetEvaluator:
    """The evaluator for the dataset's ``evaluator_type`` ("coco" where it has none).

    The arguments are those of :class:`COCOEvaluator` and :class:`LVISEvaluator`.

    Raises:
        UserError: there is no evaluator of that type, or as the evaluator's.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind not in EVALUATORS:
        meant = nearest(kind, EVALUATORS)
        raise UserError(
            f"dataset {dataset_name}: no evaluator of type {kind!r}; there are "
            f"{', '.join(EVALUATORS)}" + (f" (did you mean {meant[0]}?)" if meant else "")
        )
    return EVALUATORS[kind](
        dataset_name,
        tasks,
        output_dir,
        max_dets_per_image=max_dets_per_image,
        backend=backend,
        write_json=write_json,
        distributed=distributed,
    )


def _is_federated(truth: Backend, json_file: str) -> bool:
    if any(image.get("neg_category_ids") for image in truth.images.values()):
        return True
    # Where all lists are empty hotcoco shows none: the file itself must tell.
    return b'"neg_category_ids"' in Path(json_file).read_bytes()
