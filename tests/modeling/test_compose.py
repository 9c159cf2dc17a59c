"""build_reuse_backbone: trunk, mode and decoder in one."""

import math

import pytest
import torch
from detectron2.modeling import FPN, build_backbone
from detectron2.modeling.backbone.resnet import ResNet

from det_transfer.config import load_config
from det_transfer.errors import UserError
from det_transfer.modeling import TimmBackbone
from det_transfer.reuse import is_frozen, mode_of, trunk_of
from det_transfer.testing import check_backbone

TIMM = {
    "MODEL.TRUNK.NAME": "build_timm_backbone",
    "MODEL.TIMM.NAME": "tf_efficientnet_lite0",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.FPN.IN_FEATURES": "['res3', 'res4', 'res5']",
}
RESNET = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.OUT_FEATURES": "['res2', 'res3', 'res4', 'res5']",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.FPN.IN_FEATURES": "['res2', 'res3', 'res4', 'res5']",
}


def build(options, **more):
    opts = {"MODEL.BACKBONE.NAME": "build_reuse_backbone", **options}
    opts |= {key.replace("__", "."): value for key, value in more.items()}
    return build_backbone(load_config(None, [str(x) for pair in opts.items() for x in pair]).cfg)


def test_timm_under_fpn():
    backbone = build(TIMM)
    assert isinstance(backbone, FPN)
    assert isinstance(backbone.bottom_up, TimmBackbone)
    assert list(backbone.output_shape()) == ["p3", "p4", "p5", "p6"]
    check_backbone(backbone, sizes=[(64, 96)])


def test_resnet_under_fpn():
    backbone = build(RESNET)
    assert isinstance(backbone.bottom_up, ResNet)
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert {spec.channels for spec in backbone.output_shape().values()} == {16}
    assert trunk_of(backbone) is backbone.bottom_up


@pytest.mark.parametrize(
    ("top", "levels"),
    [("", 0), ("maxpool", 1), ("p6", 1), ("p6p7", 2), ("p6p7_of_p5", 2)],
    ids=["none", "maxpool", "p6", "p6p7", "p6p7_of_p5"],
)
@pytest.mark.parametrize("coarsest", ["res4", "res5"])
def test_top_blocks_follow_the_coarsest_level(top, levels, coarsest):
    names = ["res3", "res4", "res5"][: int(coarsest[-1]) - 2]
    backbone = build({**TIMM, "MODEL.FPN.TOP_BLOCK": top, "MODEL.FPN.IN_FEATURES": names})
    last = int(coarsest[-1]) + levels
    assert list(backbone.output_shape()) == [f"p{level}" for level in range(3, last + 1)]
    # A network with stride 32 inside needs multiples of 32, whatever is taken from it.
    assert backbone.size_divisibility == 32
    outputs = backbone.eval()(torch.zeros(1, 3, 64, 96))
    assert {k: tuple(v.shape[2:]) for k, v in outputs.items()} == {
        k: (math.ceil(64 / v.stride), math.ceil(96 / v.stride))
        for k, v in backbone.output_shape().items()
    }


def test_the_mode_is_applied_to_the_trunk_alone():
    backbone = build(TIMM, MODEL__REUSE__MODE="frozen")
    assert is_frozen(backbone.bottom_up)
    assert mode_of(backbone.bottom_up) == "frozen"
    assert not any(p.requires_grad for p in backbone.bottom_up.parameters())
    decoder = [p for n, p in backbone.named_parameters() if not n.startswith("bottom_up.")]
    assert decoder
    assert all(p.requires_grad for p in decoder)


def test_dropout_option_reaches_the_mode():
    backbone = build(
        TIMM,
        MODEL__REUSE__MODE="frozen",
        MODEL__REUSE__DROPOUT="kept",
        MODEL__TIMM__DROP_PATH_RATE=0.5,
    ).train()
    trunk = backbone.bottom_up
    assert not trunk.training
    assert any(module.training for module in trunk.modules())


def test_no_decoder():
    backbone = build({**TIMM, "MODEL.DECODER.NAME": ""}, MODEL__REUSE__MODE="frozen")
    assert isinstance(backbone, TimmBackbone)
    assert is_frozen(trunk_of(backbone))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"MODEL.DECODER.NAME": "fpm"}, "MODEL.DECODER.NAME is 'fpm'.*there is fpn"),
        (
            {"MODEL.TRUNK.NAME": "build_tim_backbone"},
            "MODEL.TRUNK.NAME is 'build_tim_backbone'.*build_timm_backbone",
        ),
        ({"MODEL.TRUNK.NAME": "build_reuse_backbone"}, "MODEL.TRUNK.NAME"),
        (
            {"MODEL.FPN.IN_FEATURES": ["res3", "res6"]},
            r"the trunk gives \['res2', 'res3', 'res4', 'res5'\]",
        ),
        ({"MODEL.FPN.IN_FEATURES": []}, "MODEL.FPN.IN_FEATURES"),
        ({"MODEL.FPN.IN_FEATURES": ["res3", "res5"]}, "without a gap"),
        ({"MODEL.FPN.IN_FEATURES": ["res4", "res3"]}, "fine to coarse"),
        ({"MODEL.FPN.TOP_BLOCK": "p8"}, "MODEL.FPN.TOP_BLOCK is 'p8'"),
        ({"MODEL.REUSE.MODE": "frozn"}, "MODEL.REUSE.MODE is 'frozn'.*'frozen'"),
    ],
)
def test_wrong_keys(wrong, message):
    with pytest.raises(UserError, match=message):
        build({**TIMM, **wrong})


def test_coarser_levels_by_convolutions_have_norms():
    fpn = build(TIMM, MODEL__FPN__NORM="BN", MODEL__FPN__TOP_BLOCK="p6p7_of_p5").eval()
    with torch.no_grad():
        features = fpn(torch.rand(1, 3, 128, 128))
        six = fpn.top_block.convs[0](features["p5"])
        seven = fpn.top_block.convs[1](six.relu())
        for conv, norm, x, name in zip(
            fpn.top_block.convs, fpn.top_block.norms, (six, seven), ("p6", "p7"), strict=True
        ):
            assert conv.bias is None
            torch.testing.assert_close(features[name], norm(x))
