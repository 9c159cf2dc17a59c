"""Heads with a norm and an activation; the RetinaNet whose normaliser is saved."""

import pytest
import torch
from detectron2.layers import Conv2d
from small_detector import batch, build, gradients, losses
from torch import nn

from det_transfer.errors import UserError

OURS = {
    "MODEL__RPN__HEAD_NAME": "TransferRPNHead",
    "MODEL__ROI_BOX_HEAD__NAME": "TransferBoxHead",
    "MODEL__ROI_MASK_HEAD__NAME": "TransferMaskHead",
    "MODEL__ROI_BOX_HEAD__NUM_CONV": 1,
    "MODEL__ROI_BOX_HEAD__CONV_DIM": 32,
    "MODEL__MASK_ON": True,
}
STOCK = {
    "MODEL__RPN__HEAD_NAME": "StandardRPNHead",
    "MODEL__ROI_BOX_HEAD__NAME": "FastRCNNConvFCHead",
    "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
}
SWISH = {
    "MODEL__RPN__ACTIVATION": "swish",
    "MODEL__ROI_BOX_HEAD__ACTIVATION": "swish",
    "MODEL__ROI_MASK_HEAD__ACTIVATION": "swish",
}
PARTS = ("proposal_generator.rpn_head", "roi_heads.box_head", "roi_heads.mask_head")


def modules(model, kind):
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, kind) and name.startswith(PARTS)
    }


def test_with_defaults_they_are_detectron2s():
    ours, stock = build(**OURS), build(**{**OURS, **STOCK})
    assert all(torch.equal(a, stock.state_dict()[k]) for k, a in ours.state_dict().items())
    samples = batch(**OURS)
    a, b = losses(ours, samples), losses(stock, samples)
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_swish_takes_the_place_of_every_relu():
    relu, swish = build(**OURS), build(**OURS, **SWISH)
    assert modules(swish, nn.SiLU) == modules(relu, nn.ReLU) != set()
    assert not modules(swish, nn.ReLU)
    assert list(swish.state_dict()) == list(relu.state_dict())


@pytest.mark.parametrize("convs", [[-1], [16, 16]], ids=["one", "two"])
def test_norms_in_the_rpn(convs):
    model = build(**OURS, MODEL__RPN__NORM="BN", MODEL__RPN__CONV_DIMS=convs)
    head = model.proposal_generator.rpn_head
    hidden = [m for m in head.conv.modules() if isinstance(m, Conv2d)]
    assert len(hidden) == len(convs)
    assert all(isinstance(conv.norm, nn.BatchNorm2d) and conv.bias is None for conv in hidden)
    found = gradients(model, batch(**OURS))
    assert all(name in found for name, _ in model.named_parameters() if "rpn_head.conv" in name)
    # conv, norm, activation, in this order
    x = torch.randn(2, 16, 8, 8)
    expected = x
    for conv in hidden:
        plain = nn.functional.conv2d(expected, conv.weight, padding=1)
        expected = nn.functional.relu(conv.norm.eval()(plain))
    logits, _ = head.eval()([x])
    torch.testing.assert_close(logits[0], head.objectness_logits(expected))


def test_norms_in_box_and_mask_heads():
    options = {"MODEL__ROI_BOX_HEAD__NORM": "GN", "MODEL__ROI_MASK_HEAD__NORM": "GN"}
    model = build(**OURS, **options, **SWISH, MODEL__ROI_MASK_HEAD__CONV_DIM=32)
    assert len(modules(model, nn.GroupNorm)) == 3 + 1
    assert torch.isfinite(sum(losses(model, batch(**OURS)).values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"MODEL__RPN__NORM": "BN"}, "RPN.NORM 'BN' needs MODEL.RPN.HEAD_NAME TransferRPNHead"),
        ({"MODEL__ROI_BOX_HEAD__ACTIVATION": "swish"}, "needs MODEL.ROI_BOX_HEAD.NAME Transfer"),
        ({"MODEL__ROI_MASK_HEAD__ACTIVATION": "gelu"}, "is 'gelu'; it can be 'relu' or 'swish'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


RETINA = {
    "MODEL__META_ARCHITECTURE": "TransferRetinaNet",
    "MODEL__RETINANET__IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL__RETINANET__NUM_CLASSES": 5,
    "MODEL__FPN__TOP_BLOCK": "p6p7",
    "MODEL__ANCHOR_GENERATOR__SIZES": [[16], [32], [64], [128], [256]],
}


def test_retinanet_is_detectron2s_but_for_what_is_saved():
    ours = build(**RETINA)
    stock = build(**{**RETINA, "MODEL__META_ARCHITECTURE": "RetinaNet"})
    state = ours.state_dict()
    assert state.keys() - stock.state_dict().keys() == {"normalizer"}
    stock.load_state_dict({k: v for k, v in state.items() if k != "normalizer"})
    samples = batch(**RETINA)
    for _ in range(3):  # as the normaliser runs
        a, b = losses(ours, samples), losses(stock, samples)
        assert all(torch.equal(a[name], b[name]) for name in b)
    assert ours.normalizer.item() == stock.loss_normalizer != 100.0


def test_retinanets_normaliser_comes_back():
    model, resumed = build(**RETINA), build(**RETINA)
    samples = batch(**RETINA)
    for _ in range(2):
        losses(model, samples)
    resumed.load_state_dict(model.state_dict())
    a, b = losses(model, samples), losses(resumed, samples)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("decoder", ["fpn", "nasfpn", "conv"])
@pytest.mark.parametrize("mode", ["frozen", "adapters", "finetune", "finetune_adapters"])
def test_retinanet_on_every_decoder_in_every_mode(decoder, mode):
    options = {
        **RETINA,
        "MODEL__DECODER__NAME": decoder,
        "MODEL__REUSE__MODE": mode,
        "MODEL__CONV_DECODER__IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL__CONV_DECODER__CHANNELS": 16,
        "MODEL__CONV_DECODER__TOP_BLOCK": "p6p7",
    }
    model = build(**options)
    found = gradients(model, batch(**options))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(found) == trained
    in_trunk = {name for name in trained if name.startswith("backbone.bottom_up")}
    adapters = {name for name in in_trunk if ".adapter." in name}
    assert bool(adapters) == ("adapters" in mode)
    assert bool(in_trunk - adapters) == ("finetune" in mode)
    with torch.no_grad():
        assert "instances" in model.eval()(batch(**options))[0]
