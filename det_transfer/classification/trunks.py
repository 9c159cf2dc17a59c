"""From images to pool5: the convolutional part of a classifier, with its layers by name."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import timm
from torch import Tensor, nn
from torchvision.models.vgg import cfgs as vgg_plans
from torchvision.models.vgg import make_layers

from ..errors import UserError, nearest

__all__ = ["TRUNKS", "WIDTHS", "TimmTrunk", "Trunk", "build_trunk", "units"]


class Trunk(nn.Module):
    """A network without its fully connected layers; gives pool5.

    Args:
        groups: name -> modules, in the order in which they run, e.g. "conv1"; what a network is cut
            and frozen by

    Attributes:
        width (int): channels of pool5
    """

    def __init__(self, groups: dict[str, list[nn.Module]], width: int):
        super().__init__()
        # A tuple in a dict, so that torch does not take the modules for children once more.
        self._groups = {name: tuple(modules) for name, modules in groups.items()}
        self.width = width

    def named_layers(self) -> dict[str, tuple[nn.Module, ...]]:
        return dict(self._groups)

    def forward(self, images: Tensor) -> Tensor:
        """pool5 (N, width) of images (N, 3, H, W)."""
        raise NotImplementedError


class PlainTrunk(Trunk):
    """Convolutions one after another under torchvision's names (``features.0.weight``, ...).

    Args:
        features: convolutions with what follows each of them
        side: pool5 is averaged to side x side cells, whatever the image's size
    """

    def __init__(self, features: nn.Sequential, channels: int, side: int, names: list[str]):
        groups: dict[str, list[nn.Module]] = {}
        for module in features:
            if isinstance(module, nn.Conv2d):
                groups[names[len(groups)]] = []
            groups[names[len(groups) - 1]].append(module)
        super().__init__(groups, channels * side * side)
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(side)

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.features(images)).flatten(1)


class TimmTrunk(Trunk):
    """A timm classifier without its last layer; ``net`` has timm's own names.

    Raises:
        UserError: there is no such model
    """

    def __init__(self, name: str):
        if not timm.is_model(name):
            near = nearest(name, timm.list_models())
            hint = f"; did you mean {' or '.join(near)}?" if near else "; see timm.list_models()"
            raise UserError(f"MODEL.TIMM.NAME {name!r} is not a model of timm{hint}")
        net = timm.create_model(name, pretrained=False, num_classes=0)
        super().__init__(_stages(net), net.head_hidden_size or net.num_features)
        self.net = net
        self.timm_name = name

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def _stages(net: nn.Module) -> dict[str, list[nn.Module]]:
    """ "stage1", ... by where timm says that the features of a stride end, and what follows."""
    ends = [level["module"] for level in getattr(net, "feature_info", ())]
    groups: dict[str, list[nn.Module]] = {}
    waiting: list[nn.Module] = []
    for name, module in units(net, "", ends):
        waiting.append(module)
        if name in ends:
            groups[f"stage{len(groups) + 1}"] = waiting
            waiting = []
    if any(True for module in waiting for _ in module.parameters()) or not groups:
        groups[f"stage{len(groups) + 1}"] = waiting
    return groups


def units(module: nn.Module, prefix: str, ends: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of what runs one after another; no unit goes over one of `ends`."""
    for name, child in module.named_children():
        full = f"{prefix}{name}"
        if any(end.startswith(f"{full}.") for end in ends):
            yield from units(child, f"{full}.", ends)
        else:
            yield full, child


def _alexnet() -> Trunk:
    """Source: torchvision.models.alexnet (Krizhevsky 2014, "One weird trick"); no groups."""
    plan = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1)]
    plan.append((256, 256, 3, 1, 1))
    layers: list[nn.Module] = []
    for number, (*channels, kernel, stride, padding) in enumerate(plan, start=1):
        layers += [nn.Conv2d(*channels, kernel, stride, padding), nn.ReLU(inplace=True)]
        if number in (1, 2, 5):
            layers.append(nn.MaxPool2d(3, 2))
    return PlainTrunk(nn.Sequential(*layers), 256, 6, _numbered(5))


def _vgg16() -> Trunk:
    """Source: torchvision.models.vgg16 (Simonyan and Zisserman 2015, D)."""
    names, block, number = [], 1, 0
    for entry in vgg_plans["D"]:
        block, number = (block + 1, 0) if entry == "M" else (block, number + 1)
        if entry != "M":
            names.append(f"conv{block}_{number}")
    return PlainTrunk(make_layers(vgg_plans["D"]), 512, 7, names)


def _compact(width: int, stride: int) -> Trunk:
    """AlexNet's five convolutions for images of 32 to 64 px; pool5 is 4 x 4."""
    plan = [(3, width, 5, stride, 2), (width, 2 * width, 3, 1, 1), (2 * width, 4 * width, 3, 1, 1)]
    plan += [(4 * width, 4 * width, 3, 1, 1), (4 * width, 3 * width, 3, 1, 1)]
    layers: list[nn.Module] = []
    for number, (*channels, kernel, step, padding) in enumerate(plan, start=1):
        layers += [nn.Conv2d(*channels, kernel, step, padding), nn.ReLU(inplace=True)]
        if number in (1, 2, 5):
            layers.append(nn.MaxPool2d(2))
    trunk = PlainTrunk(nn.Sequential(*layers), 3 * width, 4, _numbered(5))
    for module in trunk.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return trunk


def _numbered(count: int) -> list[str]:
    return [f"conv{number}" for number in range(1, count + 1)]


# MODEL.CLASSIFIER.NETWORK -> builder of the options that it takes. A new network is a new entry.
TRUNKS: dict[str, Callable[..., Trunk]] = {
    "alexnet": _alexnet,
    "vgg16": _vgg16,
    "compact_alexnet": _compact,
    "timm": TimmTrunk,
}
# The widths of FC6, FC7 that belong to it.
WIDTHS: dict[str, tuple[int, ...]] = {
    "alexnet": (4096, 4096),
    "vgg16": (4096, 4096),
    "compact_alexnet": (512, 512),
    "timm": (),
}


def build_trunk(network: str, options: dict[str, Any]) -> Trunk:
    return TRUNKS[network](**options)
