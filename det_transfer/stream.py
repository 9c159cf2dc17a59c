"""A stream of samples that is a function of the seed and the position in it, and of nothing else.

Every random choice about a sample is drawn from generators seeded by (seed, position in the
stream). So the stream is the same for any number of workers, and a resumed run goes on where the
broken one was: batches are grouped on indices alone, and skipping costs nothing but counting.

Knows nothing of what a sample is: detection and classification both stand on it.
"""

import contextlib
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .errors import UserError, machine_fault
from .garbage import without_garbage

__all__ = ["PositionedBatches", "PositionedDataset", "TrainLoader", "as_list", "seeded"]

logger = logging.getLogger(__name__)

# What a broken image raises: Pillow's errors, and those of whatever is made of it.
BROKEN = (OSError, SyntaxError, ValueError, AssertionError, RuntimeError)


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
        broken: what `mapper` raises on a broken image
        hint: the last words of the error, e.g. what finds all broken images
    """

    def __init__(
        self,
        dicts: Dataset,
        mapper: Any,
        seed: int,
        max_skipped: float = 0.0,
        *,
        broken: tuple[type[Exception], ...] = BROKEN,
        hint: str = "",
    ):
        self.dicts, self.mapper, self.seed = dicts, mapper, seed
        self.max_skipped, self.broken, self.hint = max_skipped, broken, hint
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
        except self.broken as error:
            if machine_fault(error):  # no fault of the image
                raise
            self._skip(index, _what_failed(record, error), error)
            return None

    def _skip(self, index: int, what: str, error: Exception) -> None:
        if index in self._failed:
            return
        self._failed.add(index)
        if len(self._failed) > self.max_skipped * len(self.dicts):
            raise UserError(
                f"{what} ({len(self._failed)} of {len(self.dicts)} images cannot be used, more "
                f"than DATASETS.MAX_SKIPPED {self.max_skipped:.1%}){self.hint}"
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
        pool: makes other batches of what the workers made, called with their iterator and a number
            of batches to take in silence, which its ``refill(iteration, batch)`` gives
    """

    def __init__(
        self,
        dataset: PositionedDataset,
        batches: PositionedBatches,
        num_workers: int,
        pool: Any = None,
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
            collate_fn=as_list,
            # Of its own, so that starting workers draws nothing from the global generator.
            generator=torch.Generator(),
            worker_init_fn=_one_thread,
        )
        with without_garbage() if self.num_workers else contextlib.nullcontext():
            batches = iter(loader)  # starts the workers
        return self.pool(batches, self._refill) if self.pool else batches

    def one_by_one(self) -> Iterator[dict]:
        """The same samples without batches, each made in this process when it is asked for."""
        made = ([self.dataset[key]] for batch in self.batches for key in batch)
        if self.pool:
            made = self.pool(made, self._refill * self.batches.batch_size)
        return (sample for (sample,) in made)


def as_list(samples: list[dict]) -> list[dict]:
    """A batch as Detectron2's models take it: the list of its samples."""
    return samples


def _one_thread(_: int) -> None:
    # OpenCV and torch threads inside workers only fight the training for cores.
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(0)
