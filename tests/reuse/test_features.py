"""Stages of real trunks: whose weights are whose, and that features are those of the stage."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from torch import nn

from det_transfer.errors import UserError
from det_transfer.modeling.backbone.timm import TimmBackbone
from det_transfer.reuse import add_adapters, apply_mode
from det_transfer.reuse.features import pooled_features, stage_names, stage_weights


def resnet():
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()


TRUNKS = {
    "timm": lambda: TimmBackbone("resnet10t", ["res3", "res4"]).eval(),
    "efficientnet": lambda: TimmBackbone("tf_efficientnet_lite0", ["res3", "res4", "res5"]).eval(),
    "transformer": lambda: TimmBackbone("swin_tiny_patch4_window7_224", ["res3", "res4"]).eval(),
    "detectron2": resnet,
}


@pytest.fixture(params=TRUNKS, scope="module")
def trunk(request):
    torch.manual_seed(0)
    return TRUNKS[request.param]()


def images(count=2, side=64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_each_weight_is_in_one_stage(trunk):
    weights = stage_weights(trunk)
    named = [name for stage in weights.values() for name in stage]
    expected = [n for n in trunk.state_dict() if not n.endswith(("mean", "var", "tracked"))]
    assert sorted(named) == sorted(set(named))
    assert set(named) <= set(expected)
    # What stands behind the last stage (a norm of each output) belongs to none.
    assert all("norm" in name for name in set(expected) - set(named))
    assert all(weights.values())


def test_features_are_those_that_the_trunk_gives(trunk):
    with torch.no_grad():
        given = trunk(images())
    found = pooled_features(trunk, images())
    assert list(found) == [name for name in stage_names(trunk).values() if name in found]
    for name, feature in given.items():
        assert torch.allclose(found[name], feature.mean(dim=(2, 3)))
    assert len(found) > len(given) - 1
    for feature in found.values():
        assert feature.shape[0] == 2
        assert feature.isfinite().all()


def test_a_stage_depends_on_its_own_weights_and_those_before(trunk):
    """Changing a stage's weights moves its features and those after it, none before."""
    before = pooled_features(trunk, images())
    weights = stage_weights(trunk)
    names = list(before)
    place = len(names) // 2
    with torch.no_grad():
        for tensor in weights[names[place]].values():
            tensor.mul_(1.5)
    after = pooled_features(trunk, images())
    with torch.no_grad():
        for tensor in weights[names[place]].values():
            tensor.div_(1.5)
    changed = [not torch.allclose(before[name], after[name]) for name in names]
    assert changed == [False] * place + [True] * (len(names) - place)


def test_adapters_are_no_weights_of_a_stage_but_in_its_features():
    torch.manual_seed(0)
    trunk = TRUNKS["timm"]()
    for name, parameter in trunk.named_parameters():
        if "bn" in name:  # timm lets branches begin at zero
            nn.init.constant_(parameter, 0.5)
    weights, features = stage_weights(trunk), pooled_features(trunk, images())
    adapted = add_adapters(apply_mode(trunk, "frozen"))
    assert {k: list(v) for k, v in stage_weights(adapted).items()} == {
        k: list(v) for k, v in weights.items()
    }
    same = pooled_features(adapted, images())
    assert all(torch.equal(same[name], features[name]) for name in features)
    for name, parameter in adapted.named_parameters():
        if "adapter" in name:
            nn.init.normal_(parameter, std=0.1)
    moved = pooled_features(adapted, images())
    assert not torch.allclose(moved["res4"], features["res4"])


def test_a_trunk_that_does_not_say_where_its_stages_end():
    with pytest.raises(UserError, match="does not say where its stages end"):
        pooled_features(nn.Conv2d(3, 4, 1), images())
