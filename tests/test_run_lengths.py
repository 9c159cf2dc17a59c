"""Packed masks are the list of dicts that they were made from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from det_transfer.run_lengths import RunLengths

MASKS = st.lists(
    st.builds(
        lambda height, width, counts: {"size": [height, width], "counts": counts},
        st.integers(1, 9999),
        st.integers(1, 9999),
        st.binary(max_size=9),
    ),
    max_size=9,
)


@given(MASKS, MASKS, st.randoms(use_true_random=False))
def test_a_list_of_dicts(first, second, random):
    masks = first + second
    packed = RunLengths.joined([RunLengths.of(first), RunLengths.of(second)])
    assert len(packed) == len(masks)
    assert list(packed) == masks
    assert [packed[row] for row in range(-len(masks), len(masks))] == masks * 2
    rows = np.array([random.randrange(len(masks)) for _ in masks], int)
    assert packed[rows] == [masks[row] for row in rows]
    keep = np.array([random.random() < 0.5 for _ in masks], bool)
    assert packed[keep] == [mask for mask, kept in zip(masks, keep, strict=True) if kept]
    assert packed[1:] == masks[1:]


def test_text_is_packed_as_bytes():
    assert RunLengths.of([{"size": [2, 3], "counts": "06"}])[0]["counts"] == b"06"


@pytest.mark.parametrize(
    ("ends", "sizes", "counts"),
    [
        ([3, 2], [[1, 1]] * 2, np.uint8),
        ([4], [[1, 1]], np.uint8),
        ([1, 2], [[1, 1]], np.uint8),
        ([1], [1], np.uint8),
        ([1.0], [[1, 1]], np.uint8),
        ([1], [[1, 1]], np.int64),
        ([[1]], [[1, 1]], np.uint8),
    ],
)
def test_arrays_that_do_not_fit(ends, sizes, counts):
    with pytest.raises(ValueError, match="no masks"):
        RunLengths(np.zeros(3, counts), np.array(ends), np.array(sizes))


def test_a_row_that_is_not_there():
    with pytest.raises(IndexError):
        RunLengths.of([])[0]
