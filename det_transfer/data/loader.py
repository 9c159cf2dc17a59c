"""Loaders whose stream is a function of the seed and the position in it, and of nothing else.

Every random choice about a sample is drawn from generators seeded by (seed, position in the
stream). So the stream is the same for any number of workers, and a resumed run goes on where the
broken one was: batches are grouped on indices alone, and skipping costs nothing but counting.
"""

import contextlib
import gc
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
)
from detectron2.data.build import _train_loader_from_config, trivial_batch_collator
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils import comm
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import UserError
from .catalog import content_of
from .mapper import BROKEN, TransferDatasetMapper
from .pasting import CopyPasteMapper, PastePool, Paster, source_weights
from .training_set import TrainingSet, training_set

logger = logging.getLogger(__name__)

__all__ = [
    "PositionedBatches",
    "PositionedDataset",
    "build_test_loader",
    "build_train_loader",
    "build_validation_loader",
    "seeded",
]


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside, Python's, NumPy's and torch's global generators are seeded by `key`.

    Detectron2's augmentations and samplers draw from the global generators; what the process
    draws outside is not touched.
    """
    state = np.random.SeedSequence(key).generate_state(4)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(int(state[0]))
    np.random.seed(state[1:3])
    torch.default_generator.manual_seed(int(state[3]))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class PositionedDataset(Dataset):
    """Maps (position in the stream, index) to a sample with all its choices seeded by position.

    The sample, a dict, says its "position", and its "index" in the list.

    A mapper that returns None (nothing usable), or that fails on a broken image, is answered by
    the next image of the list; what failed is logged once.

    Args:
        max_skipped: share of the images that may fail, of those each loading process meets; more
            end the run
    """

    def __init__(self, dicts: Dataset, mapper: Any, seed: int, max_skipped: float = 0.0):
        self.dicts, self.mapper, self.seed = dicts, mapper, seed
        self.max_skipped = max_skipped
        self._failed: set[int] = set()

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        position, index = key
        with seeded(self.seed, position):
            for offset in range(len(self.dicts)):
                place = (index + offset) % len(self.dicts)
                sample = self._sample(place)
                if sample is not None:
                    sample.update(position=position, index=place)
                    return sample
        raise UserError("no image of the dataset gives a usable sample")

    def _sample(self, index: int) -> dict | None:
        record = self.dicts[index]
        try:
            return self.mapper(record)
        except UserError:
            raise
        except BROKEN as error:
            self._skip(index, _what_failed(record, error), error)
            return None

    def _skip(self, index: int, what: str, error: Exception) -> None:
        if index in self._failed:
            return
        self._failed.add(index)
        if len(self._failed) > self.max_skipped * len(self.dicts):
            raise UserError(
                f"{what} ({len(self._failed)} of {len(self.dicts)} images cannot be used, more "
                f"than DATASETS.MAX_SKIPPED {self.max_skipped:.1%}); tools/check_dataset.py finds "
                "all"
            ) from error
        logger.warning("skipped %s", what)


def _what_failed(record: dict, error: Exception) -> str:
    return f"{record.get('file_name')}: {type(error).__name__}: {error}"


class PositionedBatches(Sampler):
    """Endless batches of (position, index), grouped by shape, startable at any batch.

    Args:
        sampler: endless indices, the same again for every ``iter``
        batch_size: images a process
        groups: (N,) a batch holds images of one group only (wide or tall, to save padding)
        rank, world_size: of this process; positions count over all processes
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        groups: Sequence[int] | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sampler, self.batch_size, self.groups = sampler, batch_size, groups
        self.rank, self.world_size = rank, world_size
        self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        made = 0
        waiting: dict[int, list[tuple[int, int]]] = {}
        for step, index in enumerate(self.sampler):
            group = 0 if self.groups is None else self.groups[index]
            batch = waiting.setdefault(group, [])
            batch.append((self.rank + step * self.world_size, index))
            if len(batch) == self.batch_size:
                del waiting[group]
                made += 1
                if made > self.start:
                    yield batch


class TrainLoader:
    """An endless loader; :meth:`start_at` sets the iteration at which it goes on.

    Args:
        pool: pastes onto what the workers made

    Attributes:
        objects, images, subset: see :class:`~det_transfer.data.training_set.TrainingSet`
    """

    objects: NDArray[np.integer]
    images: NDArray[np.integer]
    subset: dict[str, Any] | None = None

    def __init__(
        self,
        dataset: PositionedDataset,
        batches: PositionedBatches,
        num_workers: int,
        pool: PastePool | None = None,
    ):
        self.dataset, self.batches, self.num_workers = dataset, batches, num_workers
        self.pool = pool
        self._refill = 0

    def start_at(self, iteration: int) -> None:
        """Skip what the iterations before `iteration` were fed. Takes effect at the next iter.

        A pool is filled again by making the samples before that once more.
        """
        if self.pool:
            self._refill = self.pool.refill(iteration, self.batches.batch_size)
        self.batches.start = iteration - self._refill

    def __iter__(self) -> Iterator[list[dict]]:
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.batches,
            num_workers=self.num_workers,
            collate_fn=trivial_batch_collator,
            # Of its own, so that starting workers draws nothing from the global generator.
            generator=torch.Generator(),
            worker_init_fn=_one_thread,
        )
        gc.collect()
        gc.freeze()  # so that no worker copies pages by looking for garbage in them
        batches = iter(loader)
        gc.unfreeze()
        return self.pool(batches, self._refill) if self.pool else batches

    def one_by_one(self) -> Iterator[dict]:
        """The same samples without batches, each made in this process when it is asked for."""
        made = ([self.dataset[key]] for batch in self.batches for key in batch)
        if self.pool:
            made = self.pool(made, self._refill * self.batches.batch_size)
        return (sample for (sample,) in made)


def _one_thread(_: int) -> None:
    # OpenCV and torch threads inside workers only fight the training for cores.
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(0)


def build_train_loader(cfg: CfgNode, mapper: Any = None) -> TrainLoader:
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
    groups = [int(d["width"] > d["height"]) for d in outline]
    batches = PositionedBatches(
        parts["sampler"],
        cfg.SOLVER.IMS_PER_BATCH // world_size,
        groups if parts["aspect_ratio_grouping"] else None,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    mapper, pool = _with_copy_paste(cfg, parts["mapper"], training, seed)
    dataset = PositionedDataset(training.records, mapper, seed, cfg.DATASETS.MAX_SKIPPED)
    loader = TrainLoader(dataset, batches, parts["num_workers"], pool)
    loader.objects, loader.images = training.objects, training.images
    loader.subset = training.subset
    return loader


def _with_copy_paste(
    cfg: CfgNode, mapper: Any, training: TrainingSet, seed: int
) -> tuple[Any, PastePool | None]:
    """The mapper that pastes, or the pool that does so behind it, as INPUT.COPY_PASTE says."""
    options = cfg.INPUT.COPY_PASTE
    if not options.ENABLED:
        return mapper, None
    paster = Paster.from_config(cfg)
    if options.SOURCE == "stream":
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
