"""Frozen means frozen, for every kind of trunk, while everything around it trains."""

import copy

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from timm.layers import DropPath
from torch import nn

from det_transfer.reuse import freeze, is_frozen
from det_transfer.testing import check_frozen


def timm_trunk(name):
    return timm.create_model(name, features_only=True, drop_path_rate=0.5)


def detectron2_trunk(norm):
    stages = ResNet.make_default_stages(18, norm=norm)
    return ResNet(BasicStem(norm=norm), stages, out_features=["res2", "res5"])


TRUNKS = {
    "efficientnet": lambda: timm_trunk("efficientnet_b0"),
    "mobilenetv3": lambda: timm_trunk("mobilenetv3_small_050"),
    "regnet": lambda: timm_trunk("regnety_002"),
    "resnet": lambda: timm_trunk("resnet18"),
    "convnext": lambda: timm_trunk("convnext_atto"),
    "detectron2-BN": lambda: detectron2_trunk("BN"),
    "detectron2-FrozenBN": lambda: detectron2_trunk("FrozenBN"),
    "detectron2-SyncBN": lambda: detectron2_trunk("SyncBN"),
    "dropout": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5)),
}


def last_feature(trunk, images):
    out = trunk(images)
    out = list(out.values()) if isinstance(out, dict) else out
    return out[-1] if isinstance(out, list | tuple) else out


class Detector(nn.Module):
    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk
        self.head = nn.LazyConv2d(1, 1)

    def forward(self, images):
        return self.head(last_feature(self.trunk, images))


def images(n=2):
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dropout", ["off", "kept"])
@pytest.mark.parametrize("kind", TRUNKS)
def test_stands_still_while_the_head_learns(kind, dropout):
    torch.manual_seed(0)
    detector = Detector(TRUNKS[kind]())
    detector.eval()(images())  # the lazy layer takes its shape
    # Frozen after the optimizer has every parameter: momentum and weight decay must not move them.
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    freeze(detector.trunk, dropout=dropout)
    head = detector.head.weight.detach().clone()

    def steps():
        for _ in range(2):
            detector.train()
            optimizer.zero_grad()
            detector(images()).square().mean().backward()
            optimizer.step()

    check_frozen(detector.trunk, steps)
    assert not torch.equal(head, detector.head.weight)


@pytest.mark.parametrize("kind", TRUNKS)
def test_outputs_and_keys_are_as_before(kind):
    torch.manual_seed(0)
    trunk = TRUNKS[kind]().eval()
    with torch.no_grad():
        before = last_feature(trunk, images())
        keys = list(trunk.state_dict())
        cls = type(trunk)
        assert freeze(trunk) is trunk
        assert list(trunk.state_dict()) == keys
        assert torch.equal(last_feature(trunk, images()), before)
        # and also while the model around it trains
        assert torch.equal(last_feature(trunk.train(), images()), before)
    assert isinstance(trunk, cls)
    assert type(trunk).__name__ == cls.__name__


def test_an_unfrozen_trunk_moves():
    """The test above can fail: without freezing, statistics and drop-path are live."""
    trunk = TRUNKS["efficientnet"]()
    for p in trunk.parameters():
        p.requires_grad_(False)
    with pytest.raises(AssertionError, match="running_mean"):
        check_frozen(trunk, lambda: trunk.train()(images()))


def test_dropout_kept_follows_training_and_nothing_else_does():
    trunk = freeze(TRUNKS["efficientnet"](), dropout="kept")
    model = nn.Sequential(trunk).train()
    live = {type(m) for m in trunk.modules() if m.training}
    assert live == {DropPath}
    assert any(isinstance(m, nn.BatchNorm2d) for m in trunk.modules())
    with torch.no_grad():
        assert not torch.equal(last_feature(trunk, images()), last_feature(trunk, images()))
        model.eval()
        assert torch.equal(last_feature(trunk, images()), last_feature(trunk, images()))
    assert not any(m.training for m in trunk.modules())


def test_freezing_again_takes_the_new_option():
    trunk = TRUNKS["dropout"]()
    cls = type(trunk)
    freeze(freeze(trunk, dropout="kept").train())
    assert not any(m.training for m in trunk.train().modules())
    assert type(trunk).__mro__[2] is cls  # not one frozen class upon another
    freeze(trunk, dropout="kept")
    assert trunk.train()[1].training
    with pytest.raises(ValueError, match="dropout is 'on'"):
        freeze(trunk, dropout="on")


def test_deepcopy_is_frozen_and_apart():
    trunk = freeze(TRUNKS["detectron2-BN"]())
    twin = copy.deepcopy(trunk).train()
    assert type(twin) is type(trunk)
    assert is_frozen(twin)
    assert isinstance(twin, ResNet)
    assert not any(m.training for m in twin.modules())
    with torch.no_grad():
        twin.stem.conv1.weight.zero_()
    assert trunk.stem.conv1.weight.any()


def test_frozen_class_is_shared_and_methods_are_kept():
    a, b = (freeze(TRUNKS["detectron2-BN"]()) for _ in range(2))
    assert type(a) is type(b)
    assert a.output_shape()["res2"] == ShapeSpec(channels=64, stride=4)
    assert repr(a).startswith("ResNet(")
