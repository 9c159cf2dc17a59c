"""One or two convolutions in place of a pyramid."""

import pytest
import torch
from made_up_trunk import CHANNELS, MadeUpTrunk, features
from torch import nn
from torch.nn import functional as F

from det_transfer.errors import UserError
from det_transfer.modeling import ConvDecoder


def make(**options):
    torch.manual_seed(0)
    return ConvDecoder(MadeUpTrunk(), **{"in_features": ["res4"], "channels": 8, **options})


def test_one_convolution_is_one_convolution():
    decoder = make()
    inputs = features(64, 96)
    outputs = decoder(inputs)
    assert list(outputs) == ["p4"]
    conv = decoder.conv4[0]
    expected = F.conv2d(inputs["res4"], conv.weight, conv.bias, padding=1)
    assert torch.equal(outputs["p4"], expected)
    assert outputs["p4"].min() < 0  # no ReLU behind the last, as in FPN


def test_two_have_a_relu_between_them():
    decoder = make(num_conv=2, norm="GN", channels=32).eval()
    inputs = features(64, 96)
    first, second = decoder.conv4
    between = F.relu(F.group_norm(F.conv2d(inputs["res4"], first.weight, padding=1), 32))
    expected = F.group_norm(F.conv2d(between, second.weight, padding=1), 32)
    torch.testing.assert_close(decoder(inputs)["p4"], expected)
    assert first.bias is None


def test_levels_do_not_look_at_each_other():
    decoder = make(in_features=["res3", "res4", "res5"], num_conv=2)
    inputs = features(64, 96)
    before = decoder(inputs)
    inputs["res4"] = inputs["res4"] + 1
    after = decoder(inputs)
    assert torch.equal(before["p3"], after["p3"])
    assert torch.equal(before["p5"], after["p5"])
    assert not torch.equal(before["p4"], after["p4"])


@pytest.mark.parametrize(
    ("top", "names"),
    [("", ["p3", "p4"]), ("maxpool", ["p3", "p4", "p5"]), ("p6p7", ["p3", "p4", "p5", "p6"])],
)
def test_levels_above(top, names):
    decoder = make(in_features=["res3", "res4"], top_block=top)
    outputs = decoder(features(64, 96))
    assert list(outputs) == names == list(decoder.output_shape())
    for name, shape in decoder.output_shape().items():
        assert outputs[name].shape[1:] == (8, -(-64 // shape.stride), -(-96 // shape.stride))
    if top == "maxpool":
        assert torch.equal(outputs["p5"], outputs["p4"][..., ::2, ::2])


def test_images_are_padded_for_the_trunk():
    assert make().size_divisibility == 32


def test_parameters():
    count = sum(p.numel() for p in make(num_conv=2).parameters())
    assert count == 9 * CHANNELS["res4"] * 8 + 8 + 9 * 8 * 8 + 8
    assert not any(isinstance(m, nn.BatchNorm2d) for m in make().modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_features": ["res7"]}, r"CONV_DECODER.IN_FEATURES \['res7'\]: the trunk gives"),
        ({"in_features": []}, "CONV_DECODER.IN_FEATURES"),
        ({"norm": "GN"}, "CONV_DECODER.CHANNELS is 8"),
        ({"norm": "bn"}, "CONV_DECODER.NORM is 'bn'"),
        ({"top_block": "p9"}, "CONV_DECODER.TOP_BLOCK is 'p9'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)
