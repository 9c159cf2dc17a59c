"""PlainBackbone: AlexNet, VGG16 and the compact network as trunks of detectors."""

import pytest
import torch
import torchvision
from detectron2.modeling import build_backbone
from torch import nn

from det_transfer.config import load_config
from det_transfer.errors import UserError
from det_transfer.modeling import PlainBackbone
from det_transfer.reuse import Weights, apply_mode, frozen_tensors, load_trunk, tensors_up_to
from det_transfer.testing import check_backbone, check_frozen

COMPACT = {"width": 4, "stride": 2}
PLAIN = {
    "MODEL.BACKBONE.NAME": "build_reuse_backbone",
    "MODEL.TRUNK.NAME": "build_plain_backbone",
    "MODEL.PLAIN.NAME": "compact_alexnet",
    "MODEL.PLAIN.COMPACT_WIDTH": 4,
    "MODEL.PLAIN.OUT_FEATURES": "['res2', 'res3', 'res4']",
    "MODEL.FPN.IN_FEATURES": "['res2', 'res3', 'res4']",
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.REUSE.MODE": "frozen",
}


def build(**more):
    opts = PLAIN | {key.replace("__", "."): value for key, value in more.items()}
    return build_backbone(load_config(None, [str(x) for pair in opts.items() for x in pair]).cfg)


def compact(features=("res2", "res3", "res4"), **options):
    torch.manual_seed(0)
    return PlainBackbone("compact_alexnet", features, **{**COMPACT, **options})


# The contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("alexnet", {}, {"res2": 64, "res3": 192, "res4": 256, "res5": 256}),
        ("caffenet", {}, {"res2": 96, "res3": 256, "res4": 256}),
        ("compact_alexnet", {**COMPACT, "norm": True}, {"res2": 8, "res3": 12}),
        ("compact_alexnet", COMPACT, {"res1": 4, "res2": 8, "res3": 12, "res4": 12}),
        ("compact_alexnet", {**COMPACT, "stride": 1}, {"res1": 8, "res2": 12, "res3": 12}),
        ("compact_alexnet", {**COMPACT, "stride": 4}, {"res2": 4, "res3": 8, "res4": 12}),
    ],
)
def test_contract(name, options, shapes):
    trunk = PlainBackbone(name, list(shapes), **options)
    assert {k: (v.channels, v.stride) for k, v in trunk.output_shape().items()} == {
        k: (channels, 2 ** int(k[3:])) for k, channels in shapes.items()
    }
    assert trunk.size_divisibility == max(v.stride for v in trunk.output_shape().values())
    check_backbone(trunk)


def test_contract_of_vgg16():
    trunk = PlainBackbone("vgg16", ["res2", "res3"])  # the rest would take seconds
    check_backbone(trunk, sizes=[(16, 24)])
    with torch.device("meta"):
        whole = PlainBackbone("vgg16", ["res1", "res2", "res3", "res4", "res5"])
        outputs = whole(torch.empty(1, 3, 96, 64))
    assert {k: tuple(v.shape[1:]) for k, v in outputs.items()} == {
        "res1": (128, 48, 32),
        "res2": (256, 24, 16),
        "res3": (512, 12, 8),
        "res4": (512, 6, 4),
        "res5": (512, 3, 2),
    }
    assert whole.stage_ends() == {
        k + 1: f"features.{index}" for k, index in enumerate((8, 15, 22, 29, 30))
    }


def test_layers_that_no_feature_needs_are_left_out():
    trunk = compact(["res2"])
    assert list(trunk.state_dict()) == [
        f"features.{k}.{w}" for k in (0, 3) for w in ("weight", "bias")
    ]
    assert trunk.stage_ends() == {1: "features.1", 2: "features.4"}
    whole = compact(["res2", "res4"])
    images = torch.randn(1, 3, 32, 48)
    assert torch.equal(trunk(images)["res2"], whole(images)["res2"])


# What it computes --------------------------------------------------------------------------------


def test_vgg16_computes_what_torchvisions_does():
    torch.manual_seed(0)
    theirs = torchvision.models.vgg16(init_weights=False).features[:17].eval()
    ours = PlainBackbone("vgg16", ["res2", "res3"]).eval()
    images = torch.randn(1, 3, 32, 48)
    ours.features[:17].load_state_dict(theirs.state_dict())
    with torch.no_grad():
        # [16] pools conv3_3, which is res2.
        assert torch.equal(nn.functional.max_pool2d(ours(images)["res2"], 2), theirs(images))


def test_alexnet_sees_another_grid_and_is_the_same_network():
    """Its convolution pads by 2 px more and its first pooling by a cell more, at each side.

    So where no border is near, a cell is torchvision's of the image moved by so much.
    """
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet().features.eval()
    ours = PlainBackbone("alexnet", ["res2", "res3"]).eval()
    kept = ours.features.state_dict()
    ours.features.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in kept})
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        found = ours(images)
        # Cell i begins at 4 i - 4 here and at 4 i - 2 there.
        moved = nn.functional.pad(images, (2, 0, 2, 0))
        expected = theirs[:2](moved)
        torch.testing.assert_close(
            found["res2"][..., 2:29, 2:29], expected[..., 2:29, 2:29], rtol=1e-4, atol=1e-4
        )
        # Pooled cell i begins at cell 2 i - 1 here and at 2 i there.
        moved = nn.functional.pad(images, (6, 0, 6, 0))
        expected = theirs[:5](moved)
        torch.testing.assert_close(
            found["res3"][..., 4:12, 4:12], expected[..., 4:12, 4:12], rtol=1e-4, atol=1e-4
        )


# Under a decoder, in a mode ----------------------------------------------------------------------


def test_under_fpn():
    backbone = build()
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5"]
    check_backbone(backbone, sizes=[(64, 96)])


def test_under_convolutions():
    conv = {"MODEL__DECODER__NAME": "conv", "MODEL__CONV_DECODER__IN_FEATURES": "['res3', 'res4']"}
    backbone = build(**conv, MODEL__CONV_DECODER__CHANNELS=8, MODEL__REUSE__MODE="finetune")
    assert list(backbone.output_shape()) == ["p3", "p4"]
    check_backbone(backbone, sizes=[(32, 48)])


def step(backbone):
    def run():
        trained = [p for p in backbone.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        backbone.train()
        sum((f * f).mean() for f in backbone(torch.randn(2, 3, 32, 32)).values()).backward()
        optimizer.step()

    return run


def test_frozen_and_fast():
    backbone = build()
    check_frozen(backbone.bottom_up, step(backbone))
    fast = build(MODEL__REUSE__FAST=True)
    fast.load_state_dict(backbone.state_dict())
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        expected, found = backbone.eval()(images), fast.eval()(images)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_finetuned():
    trunk = build(MODEL__REUSE__MODE="finetune").bottom_up
    assert all(p.requires_grad for p in trunk.parameters())


def test_partly_frozen():
    trunk = build(MODEL__REUSE__MODE="partial", MODEL__REUSE__STAGES=3).bottom_up
    # Stage 3 ends behind conv5, and then there is only the pooling.
    assert set(frozen_tensors(trunk)) == set(trunk.state_dict())
    trunk = build(MODEL__REUSE__MODE="partial", MODEL__REUSE__STAGES=2).bottom_up
    assert set(frozen_tensors(trunk)) == tensors_up_to(trunk, 2)
    assert {name.split(".")[1] for name in frozen_tensors(trunk)} == {"0", "3"}


def test_adapters_begin_as_the_network_itself():
    trunk, images = compact(), torch.randn(2, 3, 32, 32)
    expected = trunk(images)
    apply_mode(trunk, "adapters", adapters={})
    found = trunk(images)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(p.requires_grad for p in trunk.parameters())
    step(trunk)()


# Weights and mistakes ----------------------------------------------------------------------------


def test_torchvisions_weights():
    torch.manual_seed(1)
    theirs = torchvision.models.alexnet().state_dict()
    trunk = PlainBackbone("alexnet", ["res3", "res4"])
    report = load_trunk(trunk, Weights(theirs, "x"), strict=True)
    assert report.matched == report.total == 10
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in trunk.state_dict().items())


def test_weights_of_another_stride_are_refused():
    """The same tensors, and another network."""
    weights = Weights(compact().state_dict(), "x", plain="compact_alexnet (stride 4, width 4)")
    message = r"are weights of compact_alexnet \(stride 4, width 4\), but MODEL.PLAIN says .* 2, w"
    with pytest.raises(UserError, match=message):
        load_trunk(compact(), weights, strict=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"MODEL__PLAIN__OUT_FEATURES": "['res5']"}, r"\(stride 2, width 4\) has \['res1', 'res2"),
        ({"MODEL__PLAIN__OUT_FEATURES": "[]"}, r"MODEL.PLAIN.OUT_FEATURES \[\]"),
        ({"MODEL__PLAIN__COMPACT_STRIDE": 3}, r"has a stride of 3 px, no power of 2"),
        ({"MODEL__PIXEL_MEAN": "[1.0]"}, r"MODEL.PIXEL_MEAN has 1 channels"),
        ({"MODEL__FPN__IN_FEATURES": "['res1']"}, r"the trunk gives \['res2', 'res3', 'res4'\]"),
    ],
)
def test_refused_with_the_reason(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_no_such_network():
    with pytest.raises(UserError, match=r"MODEL.PLAIN.NAME is 'alexnt'; there is alexnet"):
        PlainBackbone("alexnt", ["res3"])
