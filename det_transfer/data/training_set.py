"""The images that a run trains on, and how many objects each class has among them."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import print_instances_class_histogram
from detectron2.data.detection_utils import check_metadata_consistency
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset

from .. import run_folder
from ..errors import UserError
from .catalog import content_of
from .records import Content
from .subset import checksum, few_shots, fraction

__all__ = ["TrainingSet", "counted", "hold_to_subset", "set_image_counts", "training_set"]

logger = logging.getLogger(__name__)

_NAMED = 5  # classes that are named where more are meant
_UNCOUNTED = "det_transfer: nobody has counted its images"  # a dataset's name


@dataclass(frozen=True)
class TrainingSet:
    """What DATASETS.TRAIN, TRAIN_FRACTION and TRAIN_SHOTS come to.

    Attributes:
        records: dataset dicts, one copy for all processes
        outline: see :func:`~det_transfer.data.records.outline_of`, of the same images
        objects: (classes,) objects of each class, without crowds
        images: (classes,) images that have such an object
        subset: what the run folder says of the choice, with the ids of the images; None: all
    """

    records: Dataset
    outline: list[dict[str, Any]]
    objects: NDArray[np.integer]
    images: NDArray[np.integer]
    subset: dict[str, Any] | None = None


def training_set(cfg: CfgNode) -> TrainingSet:
    """Read the training data; warns of classes that a choice of images leaves without objects."""
    records, outline, classes = _records(cfg)
    options = cfg.DATASETS
    if options.TRAIN_SHOTS:
        chosen = few_shots(classes, options.TRAIN_SHOTS, options.SUBSET_SEED)
    elif options.TRAIN_FRACTION < 1:
        chosen = fraction(classes, options.TRAIN_FRACTION, options.SUBSET_SEED)
    else:
        return TrainingSet(records, outline, *_both_counts(cfg, classes))
    left = [outline[index] for index in chosen]
    objects, images = _both_counts(cfg, [classes[index] for index in chosen])
    _warn_of_empty(cfg, _counts(cfg, classes), objects)
    ids = _ids(cfg, left)
    subset = {
        "datasets": list(options.TRAIN),
        "fraction": options.TRAIN_FRACTION,
        "shots": options.TRAIN_SHOTS,
        "seed": options.SUBSET_SEED,
        "of": len(outline),
        "sha256": checksum(ids),
        "images": ids,
    }
    logger.info(
        "training on %d of %d images, %s...", len(left), len(outline), subset["sha256"][:12]
    )
    return TrainingSet(Subset(records, np.array(chosen)), left, objects, images, subset)


def _ids(cfg: CfgNode, outline: Sequence[dict[str, Any]]) -> list[int | str]:
    """By which the run folder says what was chosen."""
    lacking = sum("image_id" not in record for record in outline)
    if not lacking:
        return [record["image_id"] for record in outline]
    shots = cfg.DATASETS.TRAIN_SHOTS
    choice = f"TRAIN_SHOTS {shots}" if shots else f"TRAIN_FRACTION {cfg.DATASETS.TRAIN_FRACTION:g}"
    everything = "TRAIN_SHOTS to 0" if shots else "TRAIN_FRACTION to 1"
    raise UserError(
        f"DATASETS.{choice}: {lacking} of {len(outline)} chosen images of DATASETS.TRAIN "
        f"{', '.join(cfg.DATASETS.TRAIN)} have no image_id, by which the run keeps its choice; add "
        f"it to their dataset dicts, or set DATASETS.{everything}"
    )


def hold_to_subset(output_dir: str, subset: dict[str, Any] | None) -> None:
    """Write which images a run is trained on into its folder; a resumed run is held to them.

    Args:
        subset: of :class:`TrainingSet`

    Raises:
        UserError: the run that is in the folder was begun on others
    """
    path = run_folder.subset_file(output_dir)
    if not Path(output_dir, "last_checkpoint").is_file():  # it begins
        path.unlink(missing_ok=True)
        if subset is not None:
            run_folder.write_json(path, subset)
        return
    before = run_folder.read_json(path) if path.exists() else None
    if (before or {}).get("sha256") != (subset or {}).get("sha256"):
        raise UserError(
            f"{output_dir}: this run was begun on {_said(before)}, and now they are "
            f"{_said(subset)}: its data or DATASETS.TRAIN_FRACTION, TRAIN_SHOTS or SUBSET_SEED "
            "have changed"
        )


def _said(subset: dict[str, Any] | None) -> str:
    if subset is None:
        return "all images"
    return f"{len(subset['images'])} images with checksum {subset['sha256'][:12]}"


def set_image_counts(cfg: CfgNode) -> list[int]:
    """Give datasets of one's own the counts that Detectron2's federated loss draws classes by.

    Returns:
        the counts: images of each class
    """
    names = [n for n in cfg.DATASETS.TRAIN if not MetadataCatalog.get(n).get("class_image_count")]
    if names:
        counts = _as_metadata(training_set(cfg).images)
        for name in names:
            MetadataCatalog.get(name).class_image_count = counts
    counts = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).class_image_count
    return [count["image_count"] for count in counts]


@contextlib.contextmanager
def counted(cfg: CfgNode) -> Iterator[CfgNode]:
    """A config that a model with a federated loss can be built of, inside.

    Where :func:`set_image_counts` was not called, as in a process that only uses a detector, all
    counts are 1. They are a buffer of the model, and a checkpoint brings those of its training.
    """
    head, classes = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    known = [_counts_known(name) == classes for name in cfg.DATASETS.TRAIN]
    if not head.USE_FED_LOSS or (known and all(known)):
        yield cfg
        return
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (_UNCOUNTED,)
    MetadataCatalog.get(_UNCOUNTED).class_image_count = _as_metadata([1] * classes)
    try:
        yield cfg
    finally:
        MetadataCatalog.pop(_UNCOUNTED)


def _as_metadata(images: Sequence[int]) -> list[dict[str, int]]:
    return [{"id": n + 1, "image_count": int(count)} for n, count in enumerate(images)]


def _counts_known(name: str) -> int:
    """Of how many classes a dataset's images were counted."""
    if name not in MetadataCatalog:  # which would make an entry of it
        return 0
    return len(MetadataCatalog.get(name).get("class_image_count", ()))


def _records(cfg: CfgNode) -> tuple[Dataset, list[dict[str, Any]], list[list[int]]]:
    """Dataset dicts, outlines and objects' classes, of what Detectron2's train loader takes."""
    names = cfg.DATASETS.TRAIN
    if cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
        contents = [Content.of(_dicts_for_more_than_objects(cfg))]
    else:
        contents = [content_of(cfg, name) for name in names]
    outline = [record for content in contents for record in content.outline]
    if not outline:
        raise UserError(
            f"DATASETS.TRAIN {', '.join(names)}: no image; name a dataset that has some"
        )
    records: Dataset = ConcatDataset([content.records for content in contents])
    classes = [_classes(record) for record in outline]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and "annotations" in outline[0]:
        kept = np.flatnonzero([bool(labels) for labels in classes])
        if not len(kept):
            raise UserError(f"DATASETS.TRAIN {', '.join(names)}: no image has an object")
        records = Subset(records, kept)
        outline, classes = ([of[index] for index in kept] for of in (outline, classes))
    if _names(cfg):
        check_metadata_consistency("thing_classes", names)
        # As of one image: a histogram for each of 100,000 takes seconds.
        every = list(chain.from_iterable(record["annotations"] for record in outline))
        print_instances_class_histogram([{"annotations": every}], _names(cfg))
    return records, outline, classes


def _dicts_for_more_than_objects(cfg: CfgNode) -> list[dict[str, Any]]:
    return get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=False,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        if cfg.MODEL.KEYPOINT_ON
        else 0,
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


def _both_counts(cfg: CfgNode, classes: Sequence[Sequence[int]]) -> tuple[NDArray, NDArray]:
    """Objects of each class, and images that have it."""
    return _counts(cfg, classes), _counts(cfg, [sorted(set(labels)) for labels in classes])


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
