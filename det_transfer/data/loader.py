"""Loaders of detection data, on the positioned stream of :mod:`det_transfer.stream`."""

from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
)
from detectron2.data.build import _train_loader_from_config
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils import comm
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ..errors import UserError, machine_fault
from ..stream import PositionedBatches, PositionedDataset, TrainLoader, seeded
from .catalog import content_of
from .mapper import BROKEN, TransferDatasetMapper
from .pasting import CopyPasteMapper, PastePool, Paster, source_weights
from .training_set import TrainingSet, training_set

__all__ = [
    "DetectionTrainLoader",
    "build_test_loader",
    "build_train_loader",
    "build_validation_loader",
]


class DetectionTrainLoader(TrainLoader):
    """:class:`~det_transfer.stream.TrainLoader` that knows what it was made of.

    Attributes:
        objects, images, subset: see :class:`~det_transfer.data.training_set.TrainingSet`
    """

    objects: NDArray[np.integer]
    images: NDArray[np.integer]
    subset: dict[str, Any] | None = None


def build_train_loader(cfg: CfgNode, mapper: Any = None) -> DetectionTrainLoader:
    """Detectron2's training data (names, filter, sampler as in `cfg`) as a positioned stream.

    Args:
        mapper: a callable from a dataset dict to a sample; default
            :class:`~det_transfer.data.TransferDatasetMapper`
    Raises:
        UserError: the batch cannot be divided among the processes
    """
    world_size = comm.get_world_size()
    parts = world_size * cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.IMS_PER_BATCH % parts:
        accumulated = f" and SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} parts" * (parts > world_size)
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world_size} "
            f"processes{accumulated}"
        )
    seed = max(cfg.SEED, 0)
    training = training_set(cfg)
    outline = training.outline
    with seeded(seed):  # Detectron2's samplers take their seed from NumPy's global generator
        parts = _train_loader_from_config(
            cfg, mapper or TransferDatasetMapper(cfg, True), dataset=outline
        )
    batches = PositionedBatches(
        parts["sampler"],
        cfg.SOLVER.IMS_PER_BATCH // world_size,
        _shapes(cfg, outline) if parts["aspect_ratio_grouping"] else None,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    mapper, pool = _with_copy_paste(cfg, parts["mapper"], training, seed)
    dataset = PositionedDataset(
        training.records,
        mapper,
        seed,
        cfg.DATASETS.MAX_SKIPPED,
        broken=BROKEN,
        hint="; tools/check_dataset.py finds all",
    )
    loader = DetectionTrainLoader(dataset, batches, parts["num_workers"], pool)
    loader.objects, loader.images = training.objects, training.images
    loader.subset = training.subset
    return loader


def _shapes(cfg: CfgNode, outline: list[dict[str, Any]]) -> list[int]:
    """Of each image 1 where it is wide, 0 where it is tall."""
    lacking = sum("width" not in record or "height" not in record for record in outline)
    if lacking:
        raise UserError(
            f"DATALOADER.ASPECT_RATIO_GROUPING True: {lacking} of {len(outline)} images of "
            f"DATASETS.TRAIN {', '.join(cfg.DATASETS.TRAIN)} have no width and height; add them to "
            "their dataset dicts, or set it to False"
        )
    return [int(record["width"] > record["height"]) for record in outline]


def _with_copy_paste(
    cfg: CfgNode, mapper: Any, training: TrainingSet, seed: int
) -> tuple[Any, PastePool | None]:
    """The mapper that pastes, or the pool that does so behind it, as INPUT.COPY_PASTE says."""
    options = cfg.INPUT.COPY_PASTE
    if not options.ENABLED:
        return mapper, None
    paster = Paster.from_config(cfg)
    if options.SOURCE == "stream" or not options.PROBABILITY:  # which then draws no source
        weights = source_weights(cfg, training.outline)
        return CopyPasteMapper(mapper, training.records, paster, weights), None
    weights = source_weights(cfg, training.outline, drawn_by=cfg.DATALOADER.SAMPLER_TRAIN)
    return mapper, PastePool(options.POOL_SIZE, paster, seed, weights)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Detectron2's test loader with our mapper, which names an image that it cannot read."""
    mapper = TransferDatasetMapper(cfg, is_train=False)

    def named(record: dict) -> dict:
        try:
            return mapper(record)
        except BROKEN as error:
            if machine_fault(error):
                raise
            raise UserError(
                f"{record.get('file_name')}: {type(error).__name__}: {error}"
            ) from error

    return _one_by_one(cfg, dataset_name, named)


def build_validation_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """All images of a test set with their annotations, prepared as for testing, one at a time."""
    mapper = TransferDatasetMapper(
        cfg,
        is_train=True,
        augmentations=build_augmentation(cfg, is_train=False),
        use_instance_mask=cfg.MODEL.MASK_ON,  # whatever Copy-Paste needs in training
        recompute_boxes=False,
    )
    return _one_by_one(cfg, dataset_name, mapper)


def _one_by_one(cfg: CfgNode, dataset_name: str, mapper: Any) -> DataLoader:
    if cfg.MODEL.LOAD_PROPOSALS:  # Detectron2 reads them together with the dataset
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)
    records = content_of(cfg, dataset_name).records
    workers = cfg.DATALOADER.NUM_WORKERS
    return build_detection_test_loader(records, mapper=mapper, num_workers=workers)
