"""Parts of a training set: nested, fair to the classes, and the same for the same seed."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer.data.subset import checksum, few_shots, fraction

IMAGES = st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=60)
SEEDS = st.integers(0, 99)


@given(IMAGES, SEEDS)
@settings(max_examples=150, deadline=None)
def test_fractions_are_nested_and_of_each_class(images, seed):
    shares = (0.1, 0.25, 0.5, 1.0)
    parts = [fraction(images, share, seed) for share in shares]
    for smaller, larger in itertools.pairwise(parts):
        assert set(smaller) <= set(larger)
    common = Counter(label for labels in images for label in set(labels))
    rarest = [min(labels, key=lambda x: (common[x], x), default=None) for labels in images]
    strata = Counter(rarest)
    for share, part in zip(shares, parts, strict=True):
        assert part == sorted(set(part)) == fraction(images, share, seed)
        given_by = Counter(rarest[i] for i in part)
        alone = len(part) == 1  # at least one, whatever the share
        assert alone or all(abs(given_by[k] - share * strata[k]) < 1 for k in strata)
    assert parts[-1] == list(range(len(images)))


@given(IMAGES, SEEDS)
@settings(max_examples=150, deadline=None)
def test_shots_are_nested_and_reached(images, seed):
    available = Counter(label for labels in images for label in labels)
    parts = [few_shots(images, shots, seed) for shots in (1, 2, 5, 1000)]
    for smaller, larger in itertools.pairwise(parts):
        assert set(smaller) <= set(larger)
    for shots, part in zip((1, 2, 5, 1000), parts, strict=True):
        have = Counter(label for index in part for label in images[index])
        assert all(have[label] >= min(shots, count) for label, count in available.items())
        assert part == few_shots(images, shots, seed)
    # One shot of c classes needs no more than c images.
    assert len(parts[0]) <= len(available)


def test_another_seed_chooses_others():
    images = [[n % 3] for n in range(90)]
    assert fraction(images, 0.2, 0) != fraction(images, 0.2, 1)
    assert few_shots(images, 2, 0) != few_shots(images, 2, 1)
    # 20 % of 30 images each.
    chosen = Counter(images[i][0] for i in fraction(images, 0.2, 0))
    assert all(count == pytest.approx(6, abs=1) for count in chosen.values())


def test_the_checksum_is_of_the_ids_in_their_order():
    # sha256 of the six characters [1, 2]
    assert checksum([1, 2]).startswith("3a316d6d")
    assert checksum([2, 1]) != checksum([1, 2])
