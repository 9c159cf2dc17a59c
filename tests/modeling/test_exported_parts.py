"""Exported parts against the parts themselves, and what cannot be exported."""

import importlib.util
import itertools

import pytest
import torch
from small_detector import build, config
from timm.layers import create_conv2d
from timm.layers.padding import pad_same
from torch import nn

from det_transfer.api import Detector
from det_transfer.errors import UserError
from det_transfer.export import TOLERANCE, OneImage, export_part, largest_difference
from det_transfer.modeling.fixed_sizes import _pad_same, fixed_sizes, whole_strides
from det_transfer.reuse import adapters_of, trunk_of

KINDS = {
    "frozen": {},
    "adapters": {"MODEL__REUSE__MODE": "adapters"},
    "nasfpn": {"MODEL__DECODER__NAME": "nasfpn", "MODEL__NASFPN__NORM": "BN"},
    "retinanet": {
        "MODEL__META_ARCHITECTURE": "TransferRetinaNet",
        "MODEL__RETINANET__IN_FEATURES": ["p3", "p4", "p5", "p6"],
        "MODEL__RETINANET__NUM_CLASSES": 3,
        "MODEL__RETINANET__SCORE_THRESH_TEST": 0.0,
        "MODEL__RETINANET__NUM_CONVS": 1,
    },
    "masks, class by class": {
        "MODEL__MASK_ON": True,
        "MODEL__ROI_HEADS__NAME": "StandardROIHeads",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": False,
    },
}


def detector(kind, **options):
    options = {"MODEL__REUSE__MODE": "frozen", **KINDS[kind], **options}
    model = build(0, **options).eval()
    for adapter in adapters_of(trunk_of(model)).values():  # which begin at zero
        for parameter in adapter.parameters():
            nn.init.normal_(parameter, std=0.05)
    return Detector(model, config(**options), ["a", "b", "c"])


def image(*size, seed=0):
    return 255 * torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


def compared(exported, path, form="torch"):
    """Largest difference over several images, of the file that was written."""
    loaded = exported.save(path, form)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    pairs = [(loaded(x), exported.original(x)) for x in exported.inputs()]
    assert all(tensor.numel() for _, expected in pairs for tensor in expected.values())
    return max(largest_difference(*pair) for pair in pairs)


def slow(*values):
    """What another case shows almost as well, and takes seconds."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("part", "kind", "size", "multiple"),
    [
        ("trunk", "frozen", (64, 96), 32),
        ("trunk", "adapters", (64, 96), 32),
        slow("trunk", "nasfpn", (64, 96), 32),
        slow("trunk", "retinanet", (64, 96), 32),
        ("backbone", "frozen", (128, 192), 64),
        slow("backbone", "adapters", (128, 192), 64),
        slow("backbone", "nasfpn", (256, 384), 128),
        slow("backbone", "retinanet", (128, 192), 64),
        ("backbone", "frozen", (64, 96), 0),
    ],
)
def test_features(tmp_path, part, kind, size, multiple):
    exported = export_part(detector(kind), part, size)
    assert exported.multiple == multiple
    assert len({x.shape for x in exported.inputs()}) == (3 if multiple else 1)
    assert compared(exported, tmp_path / "part.pt2") <= TOLERANCE


@pytest.mark.parametrize("kind", [slow("frozen"), slow("adapters"), slow("nasfpn"), "retinanet"])
def test_detectors(tmp_path, kind):
    exported = export_part(detector(kind), "detector", (60, 90))
    assert exported.multiple == 0
    assert compared(exported, tmp_path / "detector.pt2") <= TOLERANCE


@pytest.mark.parametrize(
    ("kind", "threshold"),
    [("frozen", 0.3), *((kind, 0.0) for kind in ("retinanet", "masks, class by class"))],
)
def test_selection_in_fixed_sizes_is_that_of_detectron2(kind, threshold):
    """Of the model as people call it, with padding, clipping and empty boxes."""
    keys = ["MODEL__ROI_HEADS__SCORE_THRESH_TEST", "MODEL__RETINANET__SCORE_THRESH_TEST"]
    limits = {"MODEL__RPN__POST_NMS_TOPK_TEST": 300, "MODEL__RPN__PRE_NMS_TOPK_TEST": 60}
    made = detector(kind, **dict.fromkeys(keys, threshold), **limits)
    one, seen = OneImage(made.model, (60, 90)), []
    for seed in range(2):
        with torch.no_grad(), fixed_sizes():
            found = one(image(60, 90, seed=seed))
        with torch.no_grad():
            sample = {"image": image(60, 90, seed=seed), "height": 60, "width": 90}
            (output,) = made.model([sample])
        expected = output["instances"]
        seen.append(len(expected))
        tensors = {"boxes": expected.pred_boxes.tensor, "scores": expected.scores}
        tensors["classes"] = expected.pred_classes
        assert largest_difference(found, tensors) <= 1e-5
        assert ("masks" in found) == (kind == "masks, class by class")
    assert threshold or min(seen) > 10


def test_nothing_found():
    found = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "classes": torch.zeros(0)}
    assert largest_difference(found, found) == 0
    one = {"boxes": torch.ones(1, 4), "scores": torch.ones(1), "classes": torch.ones(1)}
    assert largest_difference(found, one) == float("inf")


@pytest.mark.parametrize("kind", ["retinanet", slow("frozen")])
def test_an_exported_detector_may_find_nothing(kind):
    """torchvision tells torch.export that NMS leaves two boxes at least."""
    keys = ["MODEL__ROI_HEADS__SCORE_THRESH_TEST", "MODEL__RETINANET__SCORE_THRESH_TEST"]
    exported = export_part(detector(kind, **dict.fromkeys(keys, 0.999)), "detector", (60, 90))
    found = exported.program.module()(image(60, 90))
    assert {name: len(tensor) for name, tensor in found.items()} == dict.fromkeys(found, 0)
    assert largest_difference(found, exported.original(image(60, 90))) == 0.0


@pytest.mark.parametrize("name", ["p3", "p4"])
def test_a_number_that_is_none_is_a_difference(name):
    expected = {key: torch.ones(1, 2, 2, 2) for key in ("p3", "p4")}
    found = {**expected, name: expected[name] * torch.nan}
    assert largest_difference(found, expected) == float("inf")
    assert largest_difference(expected, found) == float("inf")


def test_detections_are_compared_whatever_their_order():
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 100, 100]])
    expected = {"boxes": boxes, "scores": torch.tensor([0.5, 0.5]), "classes": torch.tensor([0, 1])}
    turned = {name: tensor.flip(0) for name, tensor in expected.items()}
    assert largest_difference(turned, expected) == 0
    turned["boxes"] = turned["boxes"] + torch.tensor([1.0, 0, 0, 0])
    assert largest_difference(turned, expected) == pytest.approx(0.01)
    other = {**expected, "classes": torch.tensor([1, 0])}
    assert largest_difference(other, expected) > TOLERANCE


@pytest.mark.parametrize(
    ("kind", "options", "part", "size", "message"),
    [
        ("frozen", {}, "trunk", (64, 100), "--size 64 100: the trunk takes multiples of 32 px"),
        ("frozen", {}, "detector", (0, 64), "--size 0 64: sides of an image in pixels"),
        ("nasfpn", {}, "backbone", (256, 320), "the backbone takes multiples of 128"),
        ("frozen", {"MODEL__REUSE__FAST": True}, "trunk", (64, 64), "the fast twin of a trunk"),
        ("frozen", {}, "head", (64, 64), "part 'head': there is trunk, backbone, detector"),
    ],
)
def test_what_cannot_be_exported(kind, options, part, size, message):
    with pytest.raises(UserError, match=message):
        export_part(detector(kind, **options), part, size)


def test_what_torch_cannot_take():
    made = detector("frozen")

    class Odd(type(made.model.backbone)):
        def forward(self, images):
            found = super().forward(images)
            return found if images.sum() > 0 else dict(itertools.islice(found.items(), 1))

    made.model.backbone.__class__ = Odd
    with pytest.raises(UserError, match=r"torch\.export cannot take this Odd: "):
        export_part(made, "backbone", (64, 64))


@pytest.mark.parametrize(
    ("part", "kind", "size"),
    [
        ("trunk", "adapters", (64, 96)),
        slow("backbone", "nasfpn", (256, 384)),
        slow("detector", "frozen", (60, 90)),
        slow("detector", "retinanet", (60, 90)),
        slow("detector", "masks, class by class", (60, 90)),
    ],
)
def test_onnx(tmp_path, part, kind, size):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported = export_part(detector(kind), part, size)
    assert compared(exported, tmp_path / "part.onnx", "onnx") <= TOLERANCE


def test_onnx_needs_more(tmp_path, monkeypatch):
    lacking = {"onnxscript", "onnxruntime"}
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in lacking else find(name)
    )
    exported = export_part(detector("frozen"), "trunk", (64, 64))
    with pytest.raises(UserError, match=r"--format onnx needs .*: pip install .*onnxscript"):
        exported.save(tmp_path / "trunk.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_what_onnx_cannot_take(tmp_path):
    pytest.importorskip("onnxscript")
    made = detector("frozen")

    class Odd(type(made.model.backbone)):
        def forward(self, images):
            found = super().forward(images)
            return {name: torch.special.airy_ai(tensor) for name, tensor in found.items()}

    made.model.backbone.__class__ = Odd
    exported = export_part(made, "backbone", (64, 64))
    with pytest.raises(UserError, match=r"ONNX exporter cannot take this part: .*airy_ai"):
        exported.save(tmp_path / "backbone.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_same_padding_is_a_constant_where_sizes_are_whole_strides():
    """For every window and stride, against what timm computes from the size."""
    x = torch.rand(1, 2, 32, 48)
    for kernel, stride, dilation in itertools.product(range(1, 8), (1, 2, 4), (1, 2)):
        arguments = x, (kernel, 1), (stride, stride), (dilation, dilation), -1.0
        expected = pad_same(*arguments)
        assert torch.equal(_pad_same(*arguments), expected)
    conv = create_conv2d(2, 2, 5, stride=2, padding="same")
    expected = conv(x)
    with whole_strides():
        assert torch.equal(conv(x), expected)
        assert conv(x[..., 1:]).shape[-1] == 23  # what it is not for: 24 with timm's own
    assert conv(x[..., 1:]).shape[-1] == 24
