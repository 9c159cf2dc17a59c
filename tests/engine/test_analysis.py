"""Counts of a step against cases worked out by hand, and against fvcore's."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from fvcore.nn import FlopCountAnalysis
from torch import nn

from det_transfer.config import load_config
from det_transfer.data.synthetic import synthetic_batch
from det_transfer.engine.analysis import measure, settle
from det_transfer.modeling import TimmBackbone
from det_transfer.reuse import freeze


class Chain(nn.Module):
    """Two layers on a batch of one, with the mean of the outputs as the loss."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return {"loss": self.second(self.first(x)).mean()}


def chain():
    return Chain(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 1))


X = torch.randn(2, 3, 8, 8)
FIRST = 2 * (2 * 8 * 8) * 4 * 3 * 9  # multiply and add, at each of the pixels
SECOND = 2 * (2 * 8 * 8) * 6 * 4


def test_all_is_trained():
    cost = measure(chain(), X)
    assert cost.forward == FIRST + SECOND
    # The weights of both and the inputs of the second; those of the first need no gradient.
    assert cost.step == 2 * FIRST + 3 * SECOND
    assert cost.parameters == cost.trained == 3 * 4 * 9 + 4 + 24 + 6
    # The images and what the first layer gives.
    assert cost.activations == 4 * (X.numel() + 2 * 4 * 8 * 8)


def test_frozen_in_front_costs_its_forward_alone():
    model = chain()
    freeze(model.first)
    cost = measure(model, X)
    assert cost.step == FIRST + 2 * SECOND
    assert cost.activations == 4 * 2 * 4 * 8 * 8
    assert cost.trained == 30


def test_frozen_behind_passes_gradients_on():
    model = chain()
    freeze(model.second)
    cost = measure(model, X)
    assert cost.step == 2 * FIRST + 2 * SECOND
    # torch's convolutions keep their inputs also where no weight needs them.
    assert cost.activations == 4 * (X.numel() + 2 * 4 * 8 * 8)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_and_transposed(groups):
    model = Chain(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, padding=1, groups=groups))
    cost = measure(model, X)
    first, second = 2 * 128 * 12, 2 * 128 * 8 * 4 * 9 // groups
    assert cost.step == 2 * first + 3 * second
    model = Chain(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 8, 2, stride=2, groups=groups))
    cost = measure(model, X)
    assert cost.step == 2 * first + 3 * (2 * 128 * 4 * 8 * 4 // groups)


def test_linear_and_shared_storage():
    model = Chain(nn.Linear(5, 7), nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Linear(7, 2)))
    cost = measure(model, torch.randn(3, 5))
    assert cost.step == 2 * (2 * 3 * 5 * 7) + 3 * (2 * 3 * 7 * 2)
    # Images; each ReLU's outputs, of which the last serve the linear layer too.
    assert cost.activations == 4 * (3 * 5 + 2 * 3 * 7)


class Loss(nn.Module):
    def __init__(self, trunk):
        super().__init__()
        self.backbone = trunk

    def forward(self, x):
        return {"loss": sum(f.mean() for f in self.backbone(x).values())}


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_lite0", "regnety_002"])
def test_forward_against_fvcore(name):
    trunk = TimmBackbone(name, ["res3", "res4", "res5"])
    x = torch.randn(2, 3, 64, 64)
    reference = FlopCountAnalysis(trunk.eval(), x).unsupported_ops_warnings(False)
    by_operator = reference.by_operator()
    expected = 2 * (by_operator["conv"] + by_operator.get("linear", 0))  # fvcore counts 1
    cost = measure(Loss(trunk), x)
    assert cost.forward == expected
    assert cost.parts["trunk"][2] == expected
    assert 2.8 * expected < cost.step < 3 * expected


def test_a_synthetic_batch_is_what_a_mapper_gives():
    cfg = load_config(None, ["MODEL.MASK_ON", "True", "INPUT.MASK_FORMAT", "bitmask"]).cfg
    a, b = synthetic_batch(cfg, 2, 96), synthetic_batch(cfg, 2, 96)
    assert torch.equal(a[1]["image"], b[1]["image"])
    instances = a[0]["instances"]
    boxes = instances.gt_boxes.tensor
    assert (boxes >= 0).all()
    assert (boxes <= 96).all()
    assert instances.gt_boxes.nonempty().all()
    assert instances.gt_classes.max() < 80
    found = instances.gt_masks.get_bounding_boxes().tensor
    assert (found - boxes).abs().max() <= 1


def test_settled_norms_keep_features_at_unit_size():
    trunk = nn.Sequential(
        *(module for _ in range(6) for module in (nn.Conv2d(3, 3, 1), FrozenBatchNorm2d(3)))
    )
    for conv in trunk[::2]:
        nn.init.normal_(conv.weight, std=30.0)  # six of them: far out of what heads can take
    settle(trunk, lambda: trunk(X))
    values = trunk(X).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.var(1, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert not trunk[1]._forward_pre_hooks
