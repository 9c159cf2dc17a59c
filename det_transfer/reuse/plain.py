"""Plain networks: convolutions one after another, each with what follows it, and no branches.

A classifier's trunk and a detector's are made of the same layers under the same names, so that the
weights of one are those of the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchvision.models.vgg import cfgs as vgg_plans
from torchvision.models.vgg import make_layers

__all__ = ["PLAIN", "Plain", "plain_name"]


@dataclass(frozen=True)
class Plain:
    """Attributes:
    features: the layers under torchvision's names (``0``, ``1``, ...), at random
    channels: of the last one
    side: a classifier on it reads so many cells in height and width
    names: of the convolutions, in their order, e.g. "conv1"
    """

    features: nn.Sequential
    channels: int
    side: int
    names: tuple[str, ...]


def _alexnet(side: int = 6) -> Plain:
    """Source: torchvision.models.alexnet (Krizhevsky 2014, "One weird trick"); no groups."""
    plan = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1)]
    plan.append((256, 256, 3, 1, 1))
    layers: list[nn.Module] = []
    for number, (*channels, kernel, stride, padding) in enumerate(plan, start=1):
        layers += [nn.Conv2d(*channels, kernel, stride, padding), nn.ReLU(inplace=True)]
        if number in (1, 2, 5):
            layers.append(nn.MaxPool2d(3, 2))
    return Plain(nn.Sequential(*layers), 256, side, _numbered(5))


def _caffenet(side: int = 6) -> Plain:
    """Caffe's AlexNet, for images of 227 px: pools before norms, conv2, 4 and 5 in two groups.

    Source: BVLC/caffe, models/bvlc_reference_caffenet/train_val.prototxt; weights of standard
    deviation 0.01, biases 0 in conv1 and conv3 and 1 in the others (Yosinski et al.'s too).
    """
    # Inputs, outputs, kernel, stride, padding, groups, and the bias.
    plan = [(3, 96, 11, 4, 0, 1, 0.0), (96, 256, 5, 1, 2, 2, 1.0), (256, 384, 3, 1, 1, 1, 0.0)]
    plan += [(384, 384, 3, 1, 1, 2, 1.0), (384, 256, 3, 1, 1, 2, 1.0)]
    layers: list[nn.Module] = []
    for number, (inputs, outputs, kernel, step, padding, groups, bias) in enumerate(plan, start=1):
        conv = nn.Conv2d(inputs, outputs, kernel, step, padding, groups=groups)
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.constant_(conv.bias, bias)
        layers += [conv, nn.ReLU(inplace=True)]
        if number in (1, 2, 5):
            layers.append(nn.MaxPool2d(3, 2))
        if number in (1, 2):
            layers.append(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75))
    return Plain(nn.Sequential(*layers), 256, side, _numbered(5))


def _vgg16(side: int = 7) -> Plain:
    """Source: torchvision.models.vgg16 (Simonyan and Zisserman 2015, D)."""
    names, block, number = [], 1, 0
    for entry in vgg_plans["D"]:
        block, number = (block + 1, 0) if entry == "M" else (block, number + 1)
        if entry != "M":
            names.append(f"conv{block}_{number}")
    return Plain(make_layers(vgg_plans["D"]), 512, side, tuple(names))


def _compact(width: int, stride: int, side: int = 4, norm: bool = False) -> Plain:
    """AlexNet's five convolutions for images of 32 to 64 px; pool5 is 4 x 4.

    Args:
        width: channels of the first convolution; the others follow
        stride: of the first convolution
        norm: a batch norm behind each convolution, which then has no bias
    """
    plan = [(3, width, 5, stride, 2), (width, 2 * width, 3, 1, 1), (2 * width, 4 * width, 3, 1, 1)]
    plan += [(4 * width, 4 * width, 3, 1, 1), (4 * width, 3 * width, 3, 1, 1)]
    layers: list[nn.Module] = []
    for number, (*channels, kernel, step, padding) in enumerate(plan, start=1):
        layers.append(nn.Conv2d(*channels, kernel, step, padding, bias=not norm))
        layers += [nn.BatchNorm2d(channels[1])] if norm else []
        layers.append(nn.ReLU(inplace=True))
        if number in (1, 2, 5):
            layers.append(nn.MaxPool2d(2))
    features = nn.Sequential(*layers)
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return Plain(features, 3 * width, side, _numbered(5))


def plain_name(name: str, options: Mapping[str, Any]) -> str:
    """What computes the same features has the same, e.g. "compact_alexnet (stride 2, width 32)".

    How many cells a classifier reads of them ("side") is no part of it.
    """
    said = {key: value for key, value in options.items() if value and key != "side"}
    words = ", ".join(f"{key} {value}" for key, value in sorted(said.items()))
    return f"{name} ({words})" if words else name


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"conv{number}" for number in range(1, count + 1))


# Name -> builder of the options that it takes. A new plain network is a new entry.
PLAIN: dict[str, Callable[..., Plain]] = {
    "alexnet": _alexnet,
    "caffenet": _caffenet,
    "vgg16": _vgg16,
    "compact_alexnet": _compact,
}
