"""TimmBackbone: the contract for every kind of model, and the reason for each refusal."""

import pytest
import timm
import torch
from detectron2.modeling import build_backbone

from det_transfer.config import load_config
from det_transfer.errors import UserError
from det_transfer.modeling import TimmBackbone
from det_transfer.testing import check_backbone

RES3_TO_5 = ["res3", "res4", "res5"]


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "mobilenetv3_small_050",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",  # channels-last, built for one size unless told otherwise
        "sam2_hiera_tiny",  # another of timm's ways to get at features
    ],
)
def test_contract(name):
    backbone = TimmBackbone(name, RES3_TO_5)
    check_backbone(backbone, sizes=[(96, 32), (32, 160)])
    assert backbone.size_divisibility == 32
    assert {k: v.stride for k, v in backbone.output_shape().items()} == {
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }


def test_features_are_those_of_the_whole_network():
    torch.manual_seed(0)
    whole = timm.create_model("regnety_002").eval()
    backbone = TimmBackbone("regnety_002", ["res2", "res5"]).eval()
    missing = backbone.net.load_state_dict(whole.state_dict(), strict=False).missing_keys
    assert not missing
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)
        found = backbone(images)
    torch.testing.assert_close(found["res2"], expected[1], rtol=0, atol=0)
    torch.testing.assert_close(found["res5"], expected[4], rtol=0, atol=0)


def test_channels_last_is_turned_not_reshaped():
    backbone = TimmBackbone("mambaout_femto", ["res2"]).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        (raw,) = backbone.net(images)
        found = backbone(images)["res2"]
    assert raw.shape == (1, 16, 24, 48)
    assert found.shape == (1, 48, 16, 24)
    assert torch.equal(found[0, :, 3, 5], raw[0, 3, 5])


def test_names_follow_the_stride_not_the_index():
    # the first of timm's features has stride 4 here, 2 there
    assert list(TimmBackbone("convnext_atto", ["res2"]).output_shape()) == ["res2"]
    backbone = TimmBackbone("tf_efficientnet_lite0", ["res5", "res1"])
    assert list(backbone.output_shape()) == ["res1", "res5"]
    assert backbone.output_shape()["res1"].stride == 2
    check_backbone(backbone, sizes=[(64, 32)])


def test_options_reach_the_network():
    backbone = TimmBackbone("regnety_002", ["res5"], in_channels=1, drop_path_rate=0.5)
    assert backbone.eval()(torch.zeros(1, 1, 64, 64))["res5"].shape == (1, 368, 2, 2)
    drops = [m for m in backbone.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(m.drop_prob for m in drops) == pytest.approx(0.5, rel=0.1)


def test_built_in_training_mode_and_without_cached_values():
    # timm's TinyViT keeps attention biases from an evaluation; trying out must leave none behind
    backbone = TimmBackbone("tiny_vit_5m_224", ["res5"])
    assert backbone.training
    assert all(module.training for module in backbone.modules())
    caches = [m.attention_bias_cache for m in backbone.modules() if hasattr(m, "attention_biases")]
    assert caches
    assert not any(caches)


@pytest.mark.parametrize(
    ("name", "features", "reason"),
    [
        ("resnet5", RES3_TO_5, "'resnet5' is not a model of timm .* did you mean resnet50"),
        ("", RES3_TO_5, "'' is not a model of timm"),
        ("vit_tiny_patch16_224", RES3_TO_5, "all its features have stride 16"),
        ("resnet18", ["res3", "res6"], r"has \['res1', 'res2', 'res3', 'res4', 'res5'\]"),
        ("resnet18", [], "MODEL.TIMM.OUT_FEATURES"),
        ("convnext_atto", ["res1"], r"has \['res2', 'res3', 'res4', 'res5'\]"),
        ("hiera_tiny_224", RES3_TO_5, "does not take images of 96 x 64 px"),
        ("mvitv2_tiny", RES3_TO_5, "does not take images of 32 x 1344 px"),
        ("crossvit_9_240", RES3_TO_5, "no powers of 2"),
    ],
)
def test_refused_with_the_reason(name, features, reason):
    with pytest.raises(UserError, match=reason):
        TimmBackbone(name, features)


def test_drop_path_where_there_is_none():
    with pytest.raises(UserError, match=r"MODEL.TIMM.DROP_PATH_RATE: vgg11 has no drop-path"):
        TimmBackbone("vgg11", ["res3"], drop_path_rate=0.1)


def test_wrong_metadata_are_found(monkeypatch):
    create = timm.create_model

    def lying(name, **options):
        model = create(name, **options)
        for level in model.feature_info.info:
            level["num_chs"] += 1
        return model

    monkeypatch.setattr(timm, "create_model", lying)
    with pytest.raises(UserError, match="its res3 is"):
        TimmBackbone("resnet18", RES3_TO_5)


def test_built_from_a_config():
    opts = ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "regnety_002"]
    opts += ["MODEL.TIMM.OUT_FEATURES", "['res4']"]
    backbone = build_backbone(load_config(None, opts).cfg)
    assert isinstance(backbone, TimmBackbone)
    assert list(backbone.output_shape()) == ["res4"]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenetv3_small_050", "hrnet_w18_small"])
def test_every_parameter_has_a_part_in_the_features(name):
    """Others would get no gradient, and DistributedDataParallel would wait for them."""
    names = ["res2", "res3", "res4", "res5"] if "hrnet" in name else ["res2", "res3"]
    trunk = TimmBackbone(name, names)
    sum(feature.sum() for feature in trunk(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [n for n, p in trunk.named_parameters() if p.grad is None] == []


def test_blocks_that_are_left_out_change_nothing():
    torch.manual_seed(0)
    whole = TimmBackbone("efficientnet_lite0", ["res2", "res3", "res4", "res5"]).eval()
    part = TimmBackbone("efficientnet_lite0", ["res2", "res3"]).eval()
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    x = torch.randn(1, 3, 64, 96)
    expected = whole(x)
    assert all(torch.equal(v, expected[k]) for k, v in part(x).items())
    assert part.stage_ends() == {1: "net.blocks.0", 2: "net.blocks.1", 3: "net.blocks.2"}
