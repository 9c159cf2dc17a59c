"""Heads with a norm and an activation; the RetinaNet whose normaliser is saved."""

import pytest
import torch
from detectron2.layers import Conv2d, ShapeSpec
from small_detector import batch, build, gradients, losses
from torch import nn

from det_transfer.errors import UserError
from det_transfer.modeling import TransferBoxHead, TransferMaskHead, TransferRPNHead

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
    assert all(conv.norm is None and conv.bias is None for conv in hidden)
    assert [len(norms) for norms in head.norms] == [len(convs)] * 4  # p3 to p6
    found = gradients(model, batch(**OURS))
    assert all(name in found for name, _ in model.named_parameters() if "rpn_head" in name)
    # conv, norm, activation, in this order
    features = [torch.randn(2, 16, 8 // 2**level, 8) for level in range(4)]
    logits, deltas = head.eval()(features)
    for level, x in enumerate(features):
        for conv, norm in zip(hidden, head.norms[level], strict=True):
            x = nn.functional.relu(norm(nn.functional.conv2d(x, conv.weight, padding=1)))
        torch.testing.assert_close(logits[level], head.objectness_logits(x))
        torch.testing.assert_close(deltas[level], head.anchor_deltas(x))


def test_levels_of_other_scales_are_in_the_rpn_the_same_for_training_and_inference():
    torch.manual_seed(0)
    head = build(**OURS, MODEL__RPN__NORM="BN").proposal_generator.rpn_head
    features = [scale * torch.randn(8, 16, 16, 16) for scale in (1, 4, 16, 64)]
    for _ in range(100):
        trained, _ = head.train()(features)
    used, _ = head.eval()(features)
    for a, b in zip(trained, used, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.002)


def test_norms_of_vectors_and_of_the_deconvolution():
    options = {"MODEL__ROI_BOX_HEAD__FC_NORM": "BN", "MODEL__ROI_MASK_HEAD__DECONV_NORM": "BN"}
    options["MODEL__ROI_BOX_HEAD__NUM_FC"] = 2
    model = build(**OURS, **options)
    box, mask = model.roi_heads.box_head[0], model.roi_heads.mask_head
    found = gradients(model, batch(**OURS))
    assert all(name in found for name, _ in model.named_parameters() if "norm" in name)
    model.eval()
    for norm in (box.fc_norm2.norm, mask.deconv_norm):
        norm.running_mean.normal_()
        norm.bias.data.normal_()
    x = torch.randn(3, 32)
    norm = box.fc_norm2.norm
    expected = (box.fc2(x) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    expected = (expected * norm.weight + norm.bias).relu()
    names = list(dict(box.named_children()))
    assert names[-3:] == ["fc2", "fc_norm2", "fc_relu2"]
    torch.testing.assert_close(box.fc_relu2(box.fc_norm2(box.fc2(x))), expected)
    names = list(dict(mask.named_children()))
    assert names.index("deconv_norm") == names.index("deconv") + 1
    assert names[-1] == "predictor"


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
        (
            {**OURS, "MODEL__RPN__NORM": "GN", "MODEL__RPN__CONV_DIMS": [48, 32]},
            "MODEL.RPN.CONV_DIMS is 48; under MODEL.RPN.NORM 'GN' it must be a multiple of 32",
        ),
        (
            {**OURS, "MODEL__ROI_BOX_HEAD__NORM": "GN", "MODEL__ROI_BOX_HEAD__CONV_DIM": 48},
            "ROI_BOX_HEAD.CONV_DIM is 48; under MODEL.ROI_BOX_HEAD.NORM 'GN'",
        ),
        (
            {**OURS, "MODEL__ROI_BOX_HEAD__FC_NORM": "GN", "MODEL__ROI_BOX_HEAD__FC_DIM": 48},
            "ROI_BOX_HEAD.FC_DIM is 48; under MODEL.ROI_BOX_HEAD.FC_NORM 'GN'",
        ),
        (
            {**OURS, "MODEL__ROI_MASK_HEAD__NORM": "GN"},
            "ROI_MASK_HEAD.CONV_DIM is 16; under MODEL.ROI_MASK_HEAD.NORM 'GN'",
        ),
        (
            {**OURS, "MODEL__ROI_MASK_HEAD__DECONV_NORM": "GN"},
            "ROI_MASK_HEAD.CONV_DIM is 16; under MODEL.ROI_MASK_HEAD.DECONV_NORM 'GN'",
        ),
        (
            {"MODEL__DECODER__NAME": "nasfpn", "MODEL__NASFPN__DROP_CONNECT": 0.5},
            "DROP_CONNECT 0.5 drops the branch of a bottleneck, and MODEL.NASFPN.BLOCK is 'plain'",
        ),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"MODEL__ROI_MASK_HEAD__NORM": "GN"},  # of masks that are off
        {"MODEL__ROI_BOX_HEAD__NORM": "GN", "MODEL__ROI_BOX_HEAD__CONV_DIM": 48},  # of no layer
        {"MODEL__NASFPN__DROP_CONNECT": 0.5},  # of another decoder
    ],
)
def test_what_is_not_in_use_is_not_refused(options):
    build(**options)


def test_mistakes_in_python_are_said_too():
    shape = ShapeSpec(channels=8, height=4, width=4)
    box = {"input_shape": shape, "conv_dims": [], "fc_dims": [48]}
    mask = {"input_shape": shape, "num_classes": 2, "conv_dims": [48]}
    rpn = {"in_channels": 8, "num_anchors": 3, "conv_dims": [-1]}
    with pytest.raises(UserError, match="FC_NORM is 'bn'; it can be '' or 'BN'"):
        TransferBoxHead(**box, fc_norm="bn")
    with pytest.raises(UserError, match="FC_DIM is 48"):
        TransferBoxHead(**box, fc_norm="GN")
    with pytest.raises(UserError, match="CONV_DIM is 48"):
        TransferMaskHead(**mask, deconv_norm="GN")
    with pytest.raises(UserError, match="CONV_DIMS is 8"):
        TransferRPNHead(**rpn, norm="GN")
    for make, options in ((TransferBoxHead, box), (TransferMaskHead, mask), (TransferRPNHead, rpn)):
        with pytest.raises(UserError, match="activation is 'gelu'; it can be 'relu' or 'swish'"):
            make(**options, activation="gelu")


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
@pytest.mark.parametrize(
    "mode", ["frozen", "adapters", "partial", "finetune", "finetune_adapters", "scratch"]
)
def test_retinanet_on_every_decoder_in_every_mode(decoder, mode):
    options = {
        **RETINA,
        "MODEL__DECODER__NAME": decoder,
        "MODEL__REUSE__MODE": mode,
        "MODEL__CONV_DECODER__IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL__CONV_DECODER__CHANNELS": 16,
        "MODEL__CONV_DECODER__TOP_BLOCK": "p6p7",
    }
    if mode == "partial":
        options["MODEL__REUSE__STAGES"] = 3
    model = build(**options)
    found = gradients(model, batch(**options))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(found) == trained
    in_trunk = {name for name in trained if name.startswith("backbone.bottom_up")}
    adapters = {name for name in in_trunk if ".adapter." in name}
    assert bool(adapters) == ("adapters" in mode)
    assert bool(in_trunk - adapters) == (mode not in ("frozen", "adapters"))
    with torch.no_grad():
        assert "instances" in model.eval()(batch(**options))[0]
