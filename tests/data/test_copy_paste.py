"""The pure function: invariants on random scenes, and a naive second version that agrees."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer.data.copy_paste import (
    EDGE_MOVED,
    FEW_PIXELS,
    Scene,
    box_masks,
    choose,
    paste,
    tight_box,
)
from det_transfer.errors import UserError

SIZES = st.tuples(st.integers(8, 64), st.integers(8, 64))
COUNTS = st.integers(0, 5)
SEEDS = st.integers(0, 2**32 - 1)


def scene(rng, size, count):
    """Overlapping rectangles with holes, their boxes a little off, as annotations are."""
    height, width = size
    masks = np.zeros((count, height, width), bool)
    boxes = np.zeros((count, 4))
    for n in range(count):
        while not masks[n].any():
            (x0, x1), (y0, y1) = (np.sort(rng.integers(0, end + 1, 2)) for end in (width, height))
            masks[n, y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < rng.choice([0.3, 0.9, 1])
        boxes[n] = tight_box(masks[n]) + rng.uniform(-1, 1, 4)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Scene(image, masks, boxes, rng.integers(0, 9, count))


@st.composite
def pairs(draw):
    rng = np.random.default_rng(draw(SEEDS))
    size = draw(SIZES)
    return scene(rng, size, draw(COUNTS)), scene(rng, size, draw(COUNTS))


@given(pairs(), st.sampled_from([0.1, 0.5, 1.0, 2.0]))
@settings(max_examples=200, deadline=None)
def test_invariants(both, scale):
    target, source = both
    before = copy.deepcopy(both)
    result = paste(target, source, scale=scale)
    alpha = source.masks.any(axis=0) if len(source) else np.zeros(target.image.shape[:2], bool)

    # Pixels under the paste are the source's, all others the target's.
    assert (result.image[alpha] == source.image[alpha]).all()
    assert (result.image[~alpha] == target.image[~alpha]).all()
    # Counts add up, and the source's objects arrive whole.
    left = len(result) - len(source)
    assert 0 <= left <= len(target)
    assert (result.masks[left:] == source.masks).all()
    assert (result.boxes[left:] == source.boxes).all()
    assert (result.classes[left:] == source.classes).all()
    # What is left of the target's is disjoint from the paste and not empty.
    assert not (result.masks[:left] & alpha).any()
    assert result.masks[:left].any(axis=(1, 2)).all()
    # Every edge of a box is where it was or tight.
    for mask, box, label in zip(result.masks[:left], result.boxes, result.classes, strict=False):
        tight = tight_box(mask)
        assert any(
            label == target.classes[n]
            and all(b in (t, o) for b, t, o in zip(box, tight, target.boxes[n], strict=True))
            and (mask == (target.masks[n] & ~alpha)).all()
            for n in range(len(target))
        )
    # Inputs are as they were.
    for ours, earlier in zip(both, before, strict=True):
        for name in ("image", "masks", "boxes", "classes"):
            assert np.array_equal(getattr(ours, name), getattr(earlier, name))


def naive(target, source, scale):
    """Pixel by pixel and object by object, as the text says it."""
    height, width = target.image.shape[:2]
    image = target.image.copy()
    hidden = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            if any(mask[y, x] for mask in source.masks):
                hidden[y, x] = True
                image[y, x] = source.image[y, x]
    masks, boxes, classes = [], [], []
    for mask, box, label in zip(target.masks, target.boxes, target.classes, strict=True):
        seen = [(x, y) for y in range(height) for x in range(width) if mask[y, x]]
        visible = [(x, y) for x, y in seen if not hidden[y, x]]
        if not visible:
            continue
        new, moved = list(box), False
        if len(visible) < len(seen):
            xs, ys = [x for x, _ in visible], [y for _, y in visible]
            tight = [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
            for edge in range(4):
                if abs(tight[edge] - box[edge]) > 10 * scale:
                    new[edge], moved = tight[edge], True
        if moved and len(visible) <= 300 * scale * scale:
            continue
        masks.append(mask & ~hidden)
        boxes.append(new)
        classes.append(label)
    return image, [*masks, *source.masks], [*boxes, *source.boxes], [*classes, *source.classes]


def test_a_naive_version_agrees_on_a_thousand_cases():
    dropped = moved = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        size = tuple(rng.integers(8, 33, 2))
        target, source = scene(rng, size, rng.integers(0, 4)), scene(rng, size, rng.integers(0, 4))
        scale = rng.choice([0.1, 0.3, 1.0])
        result = paste(target, source, scale=scale)
        image, masks, boxes, classes = naive(target, source, scale)
        assert np.array_equal(result.image, image)
        assert np.array_equal(result.masks, np.array(masks).reshape(-1, *size))
        assert np.array_equal(result.boxes, np.array(boxes).reshape(-1, 4))
        assert np.array_equal(result.classes, classes)
        dropped += len(target) + len(source) - len(result)
        kept = {tuple(box) for box in target.boxes}
        moved += sum(tuple(box) not in kept for box in result.boxes[: len(result) - len(source)])
    assert dropped > 100  # the cases reach what is asked
    assert moved > 30


def one(size, x0, y0, x1, y1, label=0):
    mask = np.zeros((1, *size), bool)
    mask[0, y0:y1, x0:x1] = True
    image = np.full((*size, 3), label, np.uint8)
    return Scene(image, mask, np.array([[x0, y0, x1, y1]], float), np.array([label]))


@pytest.mark.parametrize(
    ("covered", "scale", "box"),
    [
        (10, 1.0, [0, 0, 60, 20]),  # an edge that moves by 10 px stays
        (11, 1.0, [11, 0, 60, 20]),  # by more it follows the mask
        (44, 1.0, [44, 0, 60, 20]),  # 320 px are left
        (45, 1.0, None),  # 300 px are few
        (60, 1.0, None),
        (10, 0.5, [10, 0, 60, 20]),  # in pixels of an original twice as large
        (55, 0.5, [55, 0, 60, 20]),  # 100 px are 400 of it
        (57, 0.5, None),
        (20, 2.0, [0, 0, 60, 20]),
    ],
)
def test_thresholds_on_cases_worked_out_by_hand(covered, scale, box):
    assert (EDGE_MOVED, FEW_PIXELS) == (10, 300)
    target, source = one((20, 60), 0, 0, 60, 20, label=1), one((20, 60), 0, 0, covered, 20, label=2)
    result = paste(target, source, scale=scale)
    if box is None:
        assert result.classes.tolist() == [2]
    else:
        assert result.classes.tolist() == [1, 2]
        assert result.boxes[0].tolist() == box


def test_one_hidden_object_does_not_cost_another():
    """The authors' code would drop the small one that nothing covers."""
    size = (40, 80)
    parts = [one(size, 0, 0, 60, 40, label=1), one(size, 70, 0, 75, 5, label=2)]
    target = Scene(
        parts[0].image,
        np.concatenate([p.masks for p in parts]),
        np.concatenate([p.boxes for p in parts]),
        np.array([1, 2]),
    )
    result = paste(target, one(size, 0, 0, 30, 40, label=3))
    assert result.classes.tolist() == [1, 2, 3]


def test_blending_is_soft_and_leaves_the_truth_alone():
    target, source = one((40, 40), 0, 0, 40, 40, label=0), one((40, 40), 10, 10, 30, 30, label=200)
    hard, soft = paste(target, source), paste(target, source, blend=2.0)
    assert np.array_equal(hard.masks, soft.masks)
    assert np.array_equal(hard.boxes, soft.boxes)
    row = soft.image[20, :, 0].astype(int)
    assert row[20] == 200
    assert row[0] == 0
    assert (np.diff(row[:21]) >= 0).all()  # fades in, from 0 over many values to 200
    assert len(set(row)) > 6
    assert row[9] + row[10] == pytest.approx(200, abs=2)  # half at the edge
    # As far as a blur of 2 px reaches and no farther.
    assert (row[:4] == 0).all()


def test_objects_are_drawn_evenly_and_repeatably():
    counts = np.zeros(5)
    each = np.zeros(4)
    shares = np.random.default_rng(1).random(4000)
    for seed, share in enumerate(shares):
        chosen = choose(4, share, np.random.default_rng(seed))
        assert np.array_equal(chosen, choose(4, share, np.random.default_rng(seed)))
        assert len(set(chosen.tolist())) == len(chosen)
        counts[len(chosen)] += 1
        each[chosen] += 1
    assert np.allclose(counts / 4000, 1 / 5, atol=0.03)
    assert np.allclose(each / 4000, 1 / 2, atol=0.03)
    rng = np.random.default_rng(0)
    assert max(len(choose(50, share, rng, at_most=3)) for share in shares[:50]) == 3
    assert len(choose(0, 0.999, rng)) == 0


@given(st.lists(st.tuples(*[st.floats(-5, 25)] * 4), max_size=4))
@settings(max_examples=100, deadline=None)
def test_box_masks_are_what_boxes_touch(corners):
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners])
    masks = box_masks(boxes.reshape(-1, 4), 20, 16)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        for y in range(20):
            for x in range(16):
                assert mask[y, x] == (x < x1 and x + 1 > x0 and y < y1 and y + 1 > y0) or (
                    x0 == x1 or y0 == y1
                )


@pytest.mark.parametrize("scale", [0.03, 0.1, 1.0])
def test_rounding_of_boxes_is_no_movement(scale):
    """Of filled boxes, at small scales: 0.03 times 10 px is less than a box is rounded by."""
    size, boxes = (20, 20), np.array([[2.4, 2.4, 9.6, 9.6]])
    target = Scene(np.zeros((*size, 3), np.uint8), box_masks(boxes, *size), boxes, np.array([1]))
    inside = one(size, 4, 4, 6, 6, label=2)
    assert paste(target, inside, scale=scale, boxes=True).boxes[0].tolist() == boxes[0].tolist()
    corner = one(size, 2, 0, 5, 12, label=2)  # the left edge goes from 2 to 5
    moved = [5, 2.4, 9.6, 9.6] if scale < 0.3 else boxes[0].tolist()
    assert paste(target, corner, scale=scale, boxes=True).boxes[0].tolist() == moved
    # Of an object's own mask it is, against the box as it is annotated.
    assert paste(target, inside, scale=0.03).boxes[0].tolist() == [2, 2, 10, 10]


def test_images_of_different_size_are_refused():
    with pytest.raises(UserError, match=r"\(8, 8, 3\) and \(8, 9, 3\).*of one size, as INPUT.LSJ"):
        paste(one((8, 8), 0, 0, 4, 4), one((8, 9), 0, 0, 4, 4))
