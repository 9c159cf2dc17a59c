"""Small trunks of every kind, for tests of what is done to them."""

import torch
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    ResNet,
)
from torch import nn

from det_transfer.modeling.backbone.timm import TimmBackbone


def detectron2_resnet(block, norm="FrozenBN", **options):
    """Two stages of two blocks, narrow."""
    stages, channels = [], 16
    for stride, out in [(1, 32), (2, 64)]:
        strides = {"stride_per_block": [stride, 1]}
        stages.append(
            ResNet.make_stage(
                block, 2, in_channels=channels, out_channels=out, norm=norm, **strides, **options
            )
        )
        channels = out
    stem = BasicStem(out_channels=16, norm=norm)
    return ResNet(stem, stages, out_features=["res2", "res3"], freeze_at=0)


TRUNKS = {
    "detectron2 basic": lambda: detectron2_resnet(BasicBlock),
    "detectron2": lambda: detectron2_resnet(BottleneckBlock, bottleneck_channels=16),
    "detectron2 X": lambda: detectron2_resnet(
        BottleneckBlock, bottleneck_channels=16, num_groups=4
    ),
    "resnet": lambda: TimmBackbone("resnet14t", ["res2", "res3"]),
    "resnet-rs": lambda: TimmBackbone("resnetrs50", ["res2", "res3"]),
    "resnext": lambda: TimmBackbone("seresnext26ts", ["res2", "res3"]),
    "regnet": lambda: TimmBackbone("regnety_002", ["res2", "res3"]),
    "efficientnet": lambda: TimmBackbone("tf_efficientnet_lite0", ["res2", "res3"]),
    "convnext": lambda: TimmBackbone("convnext_tiny", ["res2", "res3"]),
    "mobilenet": lambda: TimmBackbone("mobilenetv3_small_050", ["res3", "res4"]),
}


def images(n=2, size=64):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def trunk_of_kind(kind):
    """A trunk as after a training: no branch that begins at zero, norms that have seen data."""
    torch.manual_seed(0)
    trunk = TRUNKS[kind]().eval()
    for parameter in trunk.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.2, 0.6)
    for name, tensor in trunk.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
        elif "running_mean" in name:
            tensor.uniform_(-0.2, 0.2)
    return trunk
