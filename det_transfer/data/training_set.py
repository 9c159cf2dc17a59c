"""The images that a run trains on, and how many objects each class has among them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from numpy.typing import NDArray

from .. import run_folder
from ..errors import UserError
from .subset import checksum, few_shots, fraction

__all__ = ["TrainingSet", "set_image_counts", "training_set", "write_subset"]

logger = logging.getLogger(__name__)

_NAMED = 5  # classes that are named where more are meant


@dataclass(frozen=True)
class TrainingSet:
    """What DATASETS.TRAIN, TRAIN_FRACTION and TRAIN_SHOTS come to.

    Attributes:
        dicts: dataset dicts
        objects: (classes,) objects of each class, without crowds
        subset: what the run folder says of the choice, with the ids of the images; None: all
    """

    dicts: list[dict[str, Any]]
    objects: NDArray[np.integer]
    subset: dict[str, Any] | None = None


def training_set(cfg: CfgNode) -> TrainingSet:
    """Read the training data; warns of classes that a choice of images leaves without objects."""
    dicts = _all_dicts(cfg)
    options = cfg.DATASETS
    classes = [_classes(record) for record in dicts]
    if options.TRAIN_SHOTS:
        chosen = few_shots(classes, options.TRAIN_SHOTS, options.SUBSET_SEED)
    elif options.TRAIN_FRACTION < 1:
        chosen = fraction(classes, options.TRAIN_FRACTION, options.SUBSET_SEED)
    else:
        return TrainingSet(dicts, _counts(cfg, classes))
    left = [dicts[index] for index in chosen]
    objects = _counts(cfg, [classes[index] for index in chosen])
    _warn_of_empty(cfg, _counts(cfg, classes), objects)
    ids = [record["image_id"] for record in left]
    subset = {
        "datasets": list(options.TRAIN),
        "fraction": options.TRAIN_FRACTION,
        "shots": options.TRAIN_SHOTS,
        "seed": options.SUBSET_SEED,
        "of": len(dicts),
        "sha256": checksum(ids),
        "images": ids,
    }
    logger.info("training on %d of %d images, %s...", len(left), len(dicts), subset["sha256"][:12])
    return TrainingSet(left, objects, subset)


def write_subset(output_dir: str, subset: dict[str, Any]) -> None:
    """Write which images a run is trained on into its folder.

    Raises:
        UserError: the folder's run was trained on others
    """
    path = run_folder.subset_file(output_dir)
    if not path.exists():
        run_folder.write_json(path, subset)
        return
    before = run_folder.read_json(path)
    if before["sha256"] != subset["sha256"]:
        raise UserError(
            f"{path}: this run was begun on {len(before['images'])} images with checksum "
            f"{before['sha256'][:12]}, and now they are {len(subset['images'])} with "
            f"{subset['sha256'][:12]}: its data or DATASETS.TRAIN_FRACTION, TRAIN_SHOTS or "
            "SUBSET_SEED have changed"
        )


def set_image_counts(cfg: CfgNode) -> None:
    """Give datasets of one's own the counts that Detectron2's federated loss draws classes by."""
    names = [n for n in cfg.DATASETS.TRAIN if not MetadataCatalog.get(n).get("class_image_count")]
    if not names:
        return
    images = _counts(cfg, [sorted(set(_classes(r))) for r in training_set(cfg).dicts])
    counts = [{"id": n + 1, "image_count": int(count)} for n, count in enumerate(images)]
    for name in names:
        MetadataCatalog.get(name).class_image_count = counts


def _all_dicts(cfg: CfgNode) -> list[dict[str, Any]]:
    """As Detectron2's train loader reads them."""
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    return get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )


def _classes(record: dict[str, Any]) -> list[int]:
    annotations = record.get("annotations", ())
    return [a["category_id"] for a in annotations if not a.get("iscrowd", 0)]


def _names(cfg: CfgNode) -> list[str]:
    return list(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", ()))


def _counts(cfg: CfgNode, classes: Sequence[Sequence[int]]) -> NDArray[np.integer]:
    every = np.fromiter((label for labels in classes for label in labels), dtype=np.int64)
    return np.bincount(every, minlength=len(_names(cfg)))


def _warn_of_empty(cfg: CfgNode, before: NDArray, after: NDArray) -> None:
    empty = np.flatnonzero((before > 0) & (after == 0))
    if not len(empty):
        return
    names = [_names(cfg)[index] for index in empty[:_NAMED]]
    more = ", ..." * (len(empty) > _NAMED)
    logger.warning(
        "DATASETS.TRAIN_FRACTION %g leaves %d of %d classes without an object, which will not be "
        "learned: %s%s; take more, or DATASETS.TRAIN_SHOTS",
        *(cfg.DATASETS.TRAIN_FRACTION, len(empty), len(before), ", ".join(names), more),
    )
