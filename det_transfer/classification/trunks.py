"""From images to pool5: the convolutional part of a classifier, with its layers by name."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import timm
import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import Tensor, nn

from ..errors import UserError, nearest
from ..reuse.plain import PLAIN, Plain
from .columns import Conv

__all__ = [
    "FIRST_WEIGHTS",
    "TRUNKS",
    "WIDTHS",
    "TimmTrunk",
    "Trunk",
    "build_trunk",
    "sketch_trunk",
    "units",
]


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
        return self.with_map(images)[0]

    def with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """pool5 (N, width) and the map (N, C, h, w) that the last stage reads."""
        raise NotImplementedError

    def column(self, channels: int) -> Conv:
        """A convolution beside the last stage, which reads that map and is pooled as pool5 is."""
        raise NotImplementedError

    def last_conv(self) -> nn.Conv2d | None:
        """The last stage, where it is a single convolution."""
        return None


class PlainTrunk(Trunk):
    """Convolutions one after another under torchvision's names (``features.0.weight``, ...).

    Args:
        features: convolutions with what follows each of them
        side: pool5 is averaged to side x side cells, whatever the image's size
    """

    def __init__(self, features: nn.Sequential, channels: int, side: int, names: Sequence[str]):
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

    def with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last = self._last
        below = self.features[:last](images)
        return self.pool(self.features[last:](below)).flatten(1), below

    def column(self, channels: int) -> Conv:
        old = self.last_conv()
        bias = old.bias is not None
        made = nn.Conv2d(
            old.in_channels, channels, old.kernel_size, old.stride, old.padding, bias=bias
        )
        after = [
            nn.BatchNorm2d(channels) if isinstance(m, nn.BatchNorm2d) else copy.deepcopy(m)
            for m in self.features[self._last + 1 :]
        ]
        return Conv(made, *after, copy.deepcopy(self.pool))

    def last_conv(self) -> nn.Conv2d:
        return self.features[self._last]

    @property
    def _last(self) -> int:
        return max(k for k, m in enumerate(self.features) if isinstance(m, nn.Conv2d))


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

    def with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last, maps = self.net.forward_intermediates(images, indices=2)
        return self.net.forward_head(last), maps[0]

    def column(self, channels: int) -> Conv:
        levels = getattr(self.net, "feature_info", ())
        if len(levels) < 2 or not hasattr(self.net, "forward_intermediates"):
            raise UserError(
                f"MODEL.GROWTH.KIND channels: {self.timm_name} has no stages to stand beside"
            )
        below, last = levels[-2], levels[-1]
        stride = last["reduction"] // below["reduction"]
        made = nn.Conv2d(below["num_chs"], channels, 3, stride, 1, bias=False)
        after = (nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
        return Conv(made, *after)


class ResNetTrunk(Trunk):
    """Detectron2's ResNet and the mean of its last map; ``net`` has Detectron2's own names.

    For weights whose bottlenecks have their stride in the 1x1 convolution, as MSRA's have: timm's
    ResNets have it in the 3x3.

    Args:
        depth: 18, 34, 50, 101 or 152
        norm: see :func:`detectron2.layers.get_norm`
    """

    def __init__(self, depth: int, stride_in_1x1: bool, norm: str):
        options = {} if depth < 50 else {"stride_in_1x1": stride_in_1x1}
        stages = ResNet.make_default_stages(depth, norm=norm, **options)
        net = ResNet(BasicStem(norm=norm), stages, out_features=["res5"])
        groups = {name: [module] for name, module in net.named_children()}
        super().__init__(groups, net.output_shape()["res5"].channels)
        self.net = net

    def with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        below = self.net.stem(images)
        for stage in self.net.stages[:-1]:
            below = stage(below)
        return self.net.stages[-1](below).mean(dim=(2, 3)), below

    def column(self, channels: int) -> Conv:
        below = self.net.stages[-1][0].in_channels
        made = nn.Conv2d(below, channels, 3, 2, 1, bias=False)
        after = (nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
        return Conv(made, *after)


def learns(modules: Iterable[nn.Module]) -> bool:
    return any(True for module in modules for _ in module.parameters())


def _stages(net: nn.Module) -> dict[str, list[nn.Module]]:
    """ "stage1", ... by where timm says that the features of a stride end, and what follows."""
    ends = [level["module"] for level in getattr(net, "feature_info", ())]
    groups: dict[str, list[nn.Module]] = {}
    waiting: list[nn.Module] = []
    for name, module in units(net, "", ends):
        waiting.append(module)
        if name in ends and learns(waiting):  # a pooling by itself goes with what follows
            groups[f"stage{len(groups) + 1}"] = waiting
            waiting = []
    if learns(waiting) or not groups:
        groups[f"stage{len(groups) + 1}"] = waiting
    else:
        groups[f"stage{len(groups)}"] += waiting
    return groups


def units(module: nn.Module, prefix: str, ends: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of what runs one after another; no unit goes over one of `ends`."""
    for name, child in module.named_children():
        full = f"{prefix}{name}"
        if any(end.startswith(f"{full}.") for end in ends):
            yield from units(child, f"{full}.", ends)
        else:
            yield full, child


def _plain(build: Callable[..., Plain]) -> Callable[..., Trunk]:
    def trunk(**options: Any) -> Trunk:
        plain = build(**options)
        return PlainTrunk(plain.features, plain.channels, plain.side, plain.names)

    return trunk


# MODEL.CLASSIFIER.NETWORK -> builder of the options that it takes. A new network is a new entry.
TRUNKS: dict[str, Callable[..., Trunk]] = {
    **{name: _plain(build) for name, build in PLAIN.items()},
    "timm": TimmTrunk,
    "resnet": ResNetTrunk,
}
# The widths of FC6, FC7 that belong to it.
WIDTHS: dict[str, tuple[int, ...]] = {
    "alexnet": (4096, 4096),
    "vgg16": (4096, 4096),
    "caffenet": (4096, 4096),
    "compact_alexnet": (512, 512),
    "timm": (),
    "resnet": (),
}
# Standard deviation and bias of FC6, FC7 where the network's authors name them; else He's and 0.
# Source: BVLC/caffe, models/bvlc_reference_caffenet/train_val.prototxt.
FIRST_WEIGHTS: dict[str, tuple[float, float]] = {"caffenet": (0.005, 1.0)}


def build_trunk(network: str, options: dict[str, Any]) -> Trunk:
    return TRUNKS[network](**options)


def sketch_trunk(network: str, options: dict[str, Any]) -> Trunk:
    """One without memory, of which only names and widths are asked for, where it can be had."""
    try:
        with torch.device("meta"):
            return build_trunk(network, options)
    except (NotImplementedError, RuntimeError):  # an older timm reads numbers while it builds some
        return build_trunk(network, options)
