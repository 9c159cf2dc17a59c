"""Large-scale jitter: square outputs, boxes that follow their masks, Detectron2's mapper else."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog

from det_transfer.config import load_config
from det_transfer.data import TransferDatasetMapper
from det_transfer.data.catalog import register
from det_transfer.data.mapper import large_scale_jitter
from det_transfer.errors import UserError
from det_transfer.stream import seeded


def mapper_for(*opts):
    return TransferDatasetMapper(load_config(None, [str(opt) for opt in opts]).cfg, True)


@pytest.fixture
def records(tiny_coco):
    register("tiny", *tiny_coco)
    return DatasetCatalog.get("tiny")


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_jitter_gives_squares_with_tight_boxes(records, mask_format):
    mapper = mapper_for(
        *("INPUT.LSJ.ENABLED", True, "INPUT.LSJ.SIZE", 80, "MODEL.MASK_ON", True),
        *("INPUT.MASK_FORMAT", mask_format),
    )
    seen = 0
    for position, record in enumerate(records * 3):
        with seeded(1, position):
            sample = mapper(record)
        assert tuple(sample["image"].shape) == (3, 80, 80)
        instances = sample["instances"]
        seen += len(instances)
        tight = instances.gt_masks.get_bounding_boxes().tensor
        assert np.allclose(instances.gt_boxes.tensor, tight)
    assert seen > 10


def test_scales_cover_the_range(records):
    """With white images on the grey padding, the side that is filled shows the scale."""
    from detectron2.data import transforms as T

    size, sides = 100, []
    augmentations = T.AugmentationList(large_scale_jitter(size, 0.1, 2.0, flip="none"))
    for position in range(300):
        with seeded(2, position):
            image = T.AugInput(np.full((50, 50, 3), 255, np.uint8))
            augmentations(image)
        assert image.image.shape == (size, size, 3)
        sides.append((image.image[:, :, 0] == 255).any(0).sum())
    sides = np.array(sides)
    # U(0.1, 2.0): a share of 0.9 / 1.9 is smaller than the crop.
    assert np.mean(sides < size) == pytest.approx(0.9 / 1.9, abs=0.08)
    assert sides.min() <= 14


def test_without_jitter_it_is_detectron2s(records):
    from detectron2.data import DatasetMapper

    opts = ["INPUT.MIN_SIZE_TRAIN", "(64, 72)", "MODEL.MASK_ON", "True"]
    ours = mapper_for(*opts)
    theirs = DatasetMapper(load_config(None, opts).cfg, True)
    for position, record in enumerate(records):
        with seeded(3, position):
            first = ours(record)
        with seeded(3, position):
            second = theirs(record)
        assert (first["image"] == second["image"]).all()
        assert str(first["instances"]) == str(second["instances"])


@pytest.mark.parametrize("recompute", [True, False])
def test_bitmasks_are_detectron2s(records, recompute):
    """Drawn otherwise, the same to the last bit; crowds, codes and what is cropped away too."""
    from detectron2.data import DatasetMapper

    options = {
        "augmentations": large_scale_jitter(80, 0.1, 2.0),
        "image_format": "BGR",
        "use_instance_mask": True,
        "instance_mask_format": "bitmask",
        "recompute_boxes": recompute,
    }
    ours, theirs = TransferDatasetMapper(True, **options), DatasetMapper(True, **options)
    records = [record for record in records if record["annotations"]]
    codes = copy.deepcopy(records)
    for record in codes:
        for annotation in record["annotations"]:
            annotation["segmentation"] = code_of(annotation["segmentation"], record)
    max(codes, key=lambda r: len(r["annotations"]))["annotations"][0]["iscrowd"] = 1
    lost = 0
    for position, record in enumerate([*records, *codes] * 6):
        with seeded(3, position):
            first = ours(copy.deepcopy(record))["instances"]
        with seeded(3, position):
            second = theirs(copy.deepcopy(record))["instances"]
        assert first.get_fields().keys() == second.get_fields().keys()
        assert torch.equal(first.gt_masks.tensor, second.gt_masks.tensor)
        assert torch.equal(first.gt_boxes.tensor, second.gt_boxes.tensor)
        assert torch.equal(first.gt_classes, second.gt_classes)
        lost += sum(not a.get("iscrowd") for a in record["annotations"]) - len(first)
    assert lost


def code_of(polygons, record):
    size = record["height"], record["width"]
    return mask_util.merge(mask_util.frPyObjects(polygons, *size))


@pytest.mark.parametrize(("flip", "count"), [("none", 2), ("horizontal", 3), ("vertical", 3)])
def test_flip_follows_detectron2s_key(flip, count):
    assert len(large_scale_jitter(64, 0.5, 1.0, flip=flip)) == count


def test_a_thin_image_is_never_resized_to_nothing(tmp_path):
    from PIL import Image

    Image.new("RGB", (800, 4)).save(tmp_path / "thin.png")
    record = {"file_name": str(tmp_path / "thin.png"), "height": 4, "width": 800, "annotations": []}
    mapper = mapper_for(
        *("INPUT.LSJ.ENABLED", True, "INPUT.LSJ.SIZE", 64),
        *("INPUT.LSJ.MIN_SCALE", 0.1, "INPUT.LSJ.MAX_SCALE", 0.2),
    )
    assert tuple(mapper(record)["image"].shape) == (3, 64, 64)


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.MASK_ON", True],
        ["INPUT.LSJ.ENABLED", True, "INPUT.COPY_PASTE.ENABLED", True],
    ],
)
def test_an_object_without_a_mask_is_named(records, opts):
    record = copy.deepcopy(next(r for r in records if r["annotations"]))
    del record["annotations"][0]["segmentation"]
    with pytest.raises(UserError, match=rf"{record['file_name']}: 1 of \d+ objects have no mask"):
        mapper_for(*opts)(record)
    record["annotations"][0]["iscrowd"] = 1  # is left out anyway
    mapper_for(*opts)(record)
