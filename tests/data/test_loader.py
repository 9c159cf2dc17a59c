"""The stream of samples is a function of seed and position alone."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Sampler

from det_transfer.errors import UserError
from det_transfer.stream import PositionedBatches, PositionedDataset, TrainLoader, seeded


class Endless(Sampler):
    def __init__(self, size, seed, rank=0, world_size=1):
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size

    def stream(self):
        rng = np.random.default_rng(self.seed)
        while True:
            yield from rng.permutation(self.size).tolist()

    def __iter__(self):
        return itertools.islice(self.stream(), self.rank, None, self.world_size)


def noisy_mapper(sample):
    return {
        "id": sample,
        "numpy": np.random.rand(),
        "python": random.random(),
        "torch": torch.rand(1).item(),
    }


def loader(start=0, workers=0, seed=5, groups=None, mapper=noisy_mapper, size=7):
    batches = PositionedBatches(Endless(size, 3), 4, groups)
    result = TrainLoader(PositionedDataset(list(range(size)), mapper, seed), batches, workers)
    result.start_at(start)
    return result


def take(source, n):
    return list(itertools.islice(iter(source), n))


def test_same_for_any_number_of_workers():
    groups = [0, 1, 0, 1, 1, 0, 1]
    expected = take(loader(groups=groups), 6)
    for workers in (1, 3):
        assert take(loader(workers=workers, groups=groups), 6) == expected


def test_another_seed_gives_other_choices():
    assert take(loader(seed=6), 2) != take(loader(seed=5), 2)


def test_the_same_image_is_drawn_differently_at_each_position():
    values = [sample["numpy"] for batch in take(loader(size=2), 5) for sample in batch]
    assert len(set(values)) == len(values)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 9), st.lists(st.integers(0, 1), min_size=7, max_size=7))
def test_starting_later_is_the_tail_of_the_stream(start, groups):
    whole = take(loader(groups=groups), start + 3)
    assert take(loader(start=start, groups=groups), 3) == whole[start:]


def test_a_batch_has_one_group_and_no_sample_is_lost():
    groups = [0, 1, 0, 1, 1, 0, 1]
    batches = take(PositionedBatches(Endless(7, 3), 4, groups), 40)
    positions = [position for batch in batches for position, _ in batch]
    assert len(set(positions)) == len(positions)
    assert all(len({groups[index] for _, index in batch}) == 1 for batch in batches)
    # At most one unfinished batch a group is waiting.
    assert max(positions) + 1 - len(positions) <= 3 * 2


def test_processes_share_the_stream_without_overlap():
    parts = [
        take(PositionedBatches(Endless(7, 3, rank, 2), 2, rank=rank, world_size=2), 6)
        for rank in range(2)
    ]
    single = [pair for batch in take(PositionedBatches(Endless(7, 3), 4), 6) for pair in batch]
    both = sorted(pair for part in parts for batch in part for pair in batch)
    assert both == single


def test_global_generators_are_put_back():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(7, 8):
        inside = random.random(), np.random.rand(), torch.rand(1).item()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    with seeded(7, 8):
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == inside


def test_an_unusable_image_is_answered_by_the_next():
    def mapper(sample):
        return None if sample == 1 else {"id": sample}

    dataset = PositionedDataset([0, 1, 2], mapper, 0)
    drawn = [{"id": index, "position": 9, "index": index} for index in (0, 2, 2)]
    assert [dataset[(9, index)] for index in range(3)] == drawn
    with pytest.raises(UserError, match="no image"):
        PositionedDataset([1, 1], mapper, 0)[(0, 0)]
