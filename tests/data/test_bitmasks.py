"""Masks drawn fast are those that Detectron2 draws, bit for bit."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from detectron2.structures.masks import polygons_to_bitmask
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer.data.bitmasks import draw_bitmasks

HEIGHT, WIDTH = 30, 43
POINT = st.tuples(st.floats(-3, WIDTH + 3), st.floats(-3, HEIGHT + 3))
POLYGON = st.lists(POINT, min_size=3, max_size=7).map(lambda points: np.ravel(points))
OBJECT = st.lists(POLYGON, max_size=3)


@settings(max_examples=300, deadline=None)
@given(st.lists(OBJECT, max_size=4))
def test_polygons(objects):
    masks, boxes, kept = draw_bitmasks(objects, HEIGHT, WIDTH)
    theirs = [polygons_to_bitmask(polygons, HEIGHT, WIDTH) for polygons in objects]
    assert kept == [index for index, mask in enumerate(theirs) if mask.any()]
    assert masks.dtype == torch.bool
    assert masks.shape == (len(kept), HEIGHT, WIDTH)
    for mask, index in zip(masks, kept, strict=True):
        assert np.array_equal(mask.numpy(), theirs[index])
    assert torch.equal(boxes, BitMasks(masks).get_bounding_boxes().tensor)


@given(st.lists(st.integers(0, 2**12 - 1), max_size=4))
def test_masks(numbers):
    bits = [np.array([n >> k & 1 for k in range(12)], np.uint8).reshape(3, 4) for n in numbers]
    masks, boxes, kept = draw_bitmasks(bits, 3, 4)
    assert kept == [index for index, number in enumerate(numbers) if number]
    assert [mask.int().tolist() for mask in masks] == [bits[index].tolist() for index in kept]
    assert torch.equal(boxes, BitMasks(masks).get_bounding_boxes().tensor)


@pytest.mark.parametrize("objects", [[], [[]], [[np.array([1.0, 1, 1, 1, 1, 1])]]])
def test_nothing_to_draw(objects):
    masks, boxes, kept = draw_bitmasks(objects, 5, 6)
    assert (masks.shape, boxes.shape) == ((len(kept), 5, 6), (len(kept), 4))
