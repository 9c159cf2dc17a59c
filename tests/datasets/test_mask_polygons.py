import hotcoco
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_polygons import box, polygons

masks = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: arrays(bool, shape, elements=st.booleans(), fill=st.nothing())
)


def decoded(shape, segmentation, mask_api=coco_mask) -> np.ndarray:
    if not segmentation:
        return np.zeros(shape, bool)
    rles = mask_api.frPyObjects(segmentation, *shape)
    return np.asarray(mask_api.decode(mask_api.merge(rles))).astype(bool)


@settings(max_examples=300, deadline=None)
@given(masks)
def test_polygons_decode_to_the_mask_they_came_from(mask):
    segmentation = polygons(mask)
    assert all(len(polygon) >= 8 and len(polygon) % 2 == 0 for polygon in segmentation)
    for api in (coco_mask, hotcoco.mask):
        np.testing.assert_array_equal(decoded(mask.shape, segmentation, api), mask)


@pytest.mark.parametrize("seed", range(5))
def test_large_masks_with_holes_and_islands(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:90, 0:120]
    mask = np.zeros((90, 120), bool)
    for cx, cy, radius in zip(
        rng.uniform(0, 120, 12), rng.uniform(0, 90, 12), rng.uniform(4, 40, 12), strict=True
    ):
        mask ^= np.hypot(x - cx, y - cy) < radius  # rings within rings
    np.testing.assert_array_equal(decoded(mask.shape, polygons(mask)), mask)


def test_a_rectangle_has_four_corners_and_a_ring_is_one_polygon():
    mask = np.zeros((10, 12), bool)
    mask[2:7, 3:9] = True
    assert [sorted(zip(p[::2], p[1::2], strict=True)) for p in polygons(mask)] == [
        [(3, 2), (3, 7), (9, 2), (9, 7)]
    ]
    mask[4, 5] = False
    assert len(polygons(mask)) == 1


@settings(deadline=None)
@given(masks)
def test_box_is_tight(mask):
    left, top, right, bottom = box(mask)
    cut = mask[top:bottom, left:right]
    assert cut.sum() == mask.sum()
    if mask.any():
        assert cut[0].any()
        assert cut[-1].any()
        assert cut[:, 0].any()
        assert cut[:, -1].any()


def test_parts_that_touch_at_a_corner_are_two_polygons():
    assert len(polygons(np.eye(2, dtype=bool))) == 2
