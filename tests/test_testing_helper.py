"""The shipped helpers: what they make is valid, and what they check can fail."""

import copy
import hashlib
import json

import numpy as np
import pytest
import torch
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from lvis import LVIS
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from det_transfer.testing import check_backbone, check_frozen, make_tiny_dataset

# The dataset --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["coco", "lvis"])
def test_dataset_is_what_it_says(tmp_path, style):
    path, images = make_tiny_dataset(tmp_path, style=style, images=6, classes=4, size=(64, 96))
    coco = COCO(str(path))
    assert len(coco.imgs) == 6
    assert {a["category_id"] for a in coco.anns.values()} == {1, 2, 3, 4}
    for record in coco.imgs.values():
        with Image.open(images / record["file_name"]) as image:
            assert image.size == (96, 64) == (record["width"], record["height"])
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.15)
        rows, columns = np.nonzero(mask)
        x, y, w, h = annotation["bbox"]
        assert abs(columns.min() - x) <= 1.5
        assert abs(columns.max() + 1 - (x + w)) <= 1.5
        assert abs(rows.min() - y) <= 1.5
        assert abs(rows.max() + 1 - (y + h)) <= 1.5


def test_objects_have_the_colour_of_their_class(tmp_path):
    path, images = make_tiny_dataset(tmp_path, classes=3)
    coco = COCO(str(path))
    for annotation in coco.anns.values():
        image = np.asarray(Image.open(images / coco.imgs[annotation["image_id"]]["file_name"]))
        inside = image[coco.annToMask(annotation) == 1].mean(0)
        assert inside.argmax() == annotation["category_id"] - 1  # red, green, blue


def test_detectron2_reads_both_styles(tmp_path):
    path, images = make_tiny_dataset(tmp_path / "coco")
    assert len(load_coco_json(str(path), str(images))) == 8
    path, images = make_tiny_dataset(tmp_path / "lvis", style="lvis")
    records = load_lvis_json(str(path), f"{images.parent}/")
    assert [r["file_name"] for r in records] == sorted(map(str, images.glob("*.png")))


def test_lvis_fields_agree_with_the_annotations(tmp_path):
    path, _ = make_tiny_dataset(tmp_path, style="lvis", images=12, classes=6)
    lvis = LVIS(str(path))
    assert {c["frequency"] for c in lvis.cats.values()} == set("rcf")
    for image in lvis.imgs.values():
        present = {a["category_id"] for a in lvis.img_ann_map[image["id"]]}
        assert not present & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= present
    for category in lvis.cats.values():
        mine = [a for a in lvis.anns.values() if a["category_id"] == category["id"]]
        assert category["instance_count"] == len(mine)
        assert category["image_count"] == len({a["image_id"] for a in mine})
    assert any(i["not_exhaustive_category_ids"] for i in lvis.imgs.values())
    assert any(i["neg_category_ids"] for i in lvis.imgs.values())


def test_same_seed_same_bytes(tmp_path):
    def digest(name, seed):
        make_tiny_dataset(tmp_path / name, seed=seed)
        files = sorted(f for f in (tmp_path / name).rglob("*") if f.is_file())
        return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()

    assert digest("a", 1) == digest("b", 1)
    assert digest("c", 2) != digest("b", 1)


def test_boxes_only_and_wrong_arguments(tmp_path):
    path, _ = make_tiny_dataset(tmp_path, masks=False)
    assert all("segmentation" not in a for a in json.loads(path.read_text())["annotations"])
    with pytest.raises(ValueError, match="style is 'voc'"):
        make_tiny_dataset(tmp_path, style="voc")
    with pytest.raises(ValueError, match="2 images show 1 to 8 classes, not 9"):
        make_tiny_dataset(tmp_path, images=2, classes=9)


# The backbone's contract --------------------------------------------------------------------------


class Tiny(Backbone):
    """A sound backbone with two levels, to be broken in one way at a time."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)

    size_divisibility = 8

    def output_shape(self):
        return {"res2": ShapeSpec(channels=4, stride=4), "res3": ShapeSpec(channels=6, stride=8)}

    def forward(self, x):
        first = self.norm(self.first(x))
        return {"res2": first, "res3": self.second(first)}


def broken(**methods) -> Tiny:
    return type("Broken", (Tiny,), methods)()


def test_a_sound_backbone_passes_and_is_left_as_it_was():
    backbone = Tiny().train()
    before = copy.deepcopy(backbone.state_dict())
    random_state = torch.get_rng_state()
    check_backbone(backbone)
    check_backbone(backbone, sizes=[(8, 40)])
    assert backbone.training
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(p.grad is None for p in backbone.parameters())


def shapes(res2=(4, 4), res3=(6, 8)):
    named = {"res2": res2, "res3": res3}
    return {k: ShapeSpec(channels=c, stride=s) for k, (c, s) in named.items()}


def as_nhwc(self, x):
    return {k: v.permute(0, 2, 3, 1) for k, v in Tiny.forward(self, x).items()}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"output_shape": lambda self: shapes(res2=(5, 4))}, "res2 is .* 5 channels"),
        ({"output_shape": lambda self: shapes(res3=(6, 16))}, "res3 is .* stride 16"),
        ({"output_shape": lambda self: {}}, "output_shape.* is empty"),
        ({"size_divisibility": 6}, "size_divisibility 6 does not suit the stride 4"),
        ({"forward": as_nhwc}, "res2 is "),
        (
            {"forward": lambda self, x: {"res3": Tiny.forward(self, x)["res3"]}},
            r"outputs \['res3'\]",
        ),
        (
            {"forward": lambda self, x: dict(reversed(Tiny.forward(self, x).items()))},
            r"outputs \['res3', 'res2'\]",
        ),
        (
            {"forward": lambda self, x: {k: v / 0 for k, v in Tiny.forward(self, x).items()}},
            "res2 is not finite",
        ),
        (
            {"forward": lambda self, x: {k: v.detach() for k, v in Tiny.forward(self, x).items()}},
            "no gradient flows through res2",
        ),
        ({"forward": lambda self, x: Tiny.forward(self, x.detach())}, "does not reach the image"),
    ],
)
def test_a_broken_backbone_is_found(methods, message):
    with pytest.raises(AssertionError, match=message):
        check_backbone(broken(**methods))


def test_a_parameter_without_a_part_is_found():
    backbone = Tiny()
    backbone.idle = nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="2 parameters have no part in the outputs"):
        check_backbone(backbone)


def test_a_size_that_no_image_has():
    with pytest.raises(ValueError, match="multiples of 8 pixels"):
        check_backbone(Tiny(), sizes=[(8, 12)])


# Standing still -----------------------------------------------------------------------------------


def test_check_frozen_sees_parameters_and_buffers():
    module = Tiny().requires_grad_(False)

    def move(tensor):
        with torch.no_grad():
            tensor.add_(1)

    check_frozen(module, lambda: None)
    with pytest.raises(AssertionError, match=r"1 of 9 tensors moved: \['second.bias'\]"):
        check_frozen(module, lambda: move(module.second.bias))
    with pytest.raises(AssertionError, match=r"norm.running_mean"):
        check_frozen(module, lambda: module.train()(torch.randn(2, 3, 8, 8)))
    module.first.weight.requires_grad_(True)
    with pytest.raises(AssertionError, match="1 parameters can get a gradient"):
        check_frozen(module, lambda: None)
