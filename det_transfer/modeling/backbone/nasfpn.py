"""NAS-FPN, the searched feature pyramid, on any trunk.

Source: Ghiasi et al. 2019 (arXiv 1904.07392); the wiring and every operation are those of the
authors' code (tensorflow/tpu models/official/detection/modeling/architecture/nasfpn.py and
tensorflow/models official/vision/modeling/decoders/nasfpn.py), which other re-implementations
change: attention takes the maximum over positions, gates the finer input, and P6 and P7 are pooled
without a convolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone
from fvcore.nn.weight_init import c2_msra_fill
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UserError, choice_problems, raise_all
from ..activations import ACTIVATIONS
from ..norms import check_norm
from .decoder import trunk_levels

__all__ = ["BLOCKS", "CELL", "LEVELS", "NASFPN", "Merge", "attention", "wiring"]

# Of the pyramid, which is also the cell's input nodes 0 to 4.
LEVELS = (3, 4, 5, 6, 7)


class Merge(NamedTuple):
    """A merging cell: it makes a node of the given level out of two earlier ones.

    Attributes:
        combine: "attention" or "sum"
        inputs: numbers of nodes; 0 to 4 are P3 to P7, 5 is the first merge's
        is_output: whether the node leaves the cell. To one that does, the nodes of its level that
            nothing has taken so far are added.
    """

    level: int
    combine: str
    inputs: tuple[int, int]
    is_output: bool


# Source: NASFPN_BLOCK_SPECS of both code bases; figure 6 (i) of the paper.
CELL = (
    Merge(4, "attention", (1, 3), False),
    Merge(4, "sum", (1, 5), False),
    Merge(3, "sum", (0, 6), True),
    Merge(4, "sum", (6, 7), True),
    Merge(5, "attention", (7, 8), True),
    Merge(7, "attention", (6, 9), True),
    Merge(6, "attention", (9, 10), True),
)


def wiring(cell: Sequence[Merge] = CELL) -> list[tuple[int, ...]]:
    """For each merge the nodes it takes: its two inputs, then those added for want of a taker."""
    levels = [*LEVELS, *(merge.level for merge in cell)]
    taken: set[int] = set()
    wires = []
    for number, merge in enumerate(cell, start=len(LEVELS)):
        taken |= set(merge.inputs)
        left = [n for n in range(number) if n not in taken and levels[n] == merge.level]
        added = left if merge.is_output else []
        taken |= set(added)
        wires.append((*merge.inputs, *added))
    return wires


def attention(coarse: Tensor, fine: Tensor) -> Tensor:
    """``coarse + fine * sigmoid(max over positions of coarse)``, (N, C, H, W) each."""
    gate = coarse.amax(dim=(2, 3), keepdim=True).sigmoid()
    return torch.addcmul(coarse, fine, gate)


class NASFPN(Backbone):
    """NAS-FPN with features ``p3`` to ``p7`` of strides 8 to 128.

    Images need no certain size: where maps do not divide, pooling rounds up and upsampling is cut.
    ``size_divisibility`` is 128, so that Detectron2's padding makes them divide.

    Args:
        bottom_up: the trunk
        in_features: its features from stride 8 on, fine to coarse; levels above are pooled
        channels: of all nodes
        repeats: how often the cell is repeated. Source: 7 in the paper; 5 in the recipes of
            "Proper Reuse ..." (official/projects/backbone_reuse), which its 71.3 M trained
            parameters confirm.
        norm: of Detectron2's ``get_norm``
        activation: a key of :data:`ACTIVATIONS`
        block: what follows a merge, a key of :data:`BLOCKS`: "plain" (3x3) or "bottleneck"
            (1x1, 3x3, 1x1 to four times the channels, as in the EfficientNet-B7 recipe)
        sum_only: add where the cell has attention (also that recipe's)
        drop_connect: rate at which the bottleneck's branch is dropped in training, per image

    Raises:
        UserError: features that the trunk does not have or that do not begin at stride 8; an
            unknown norm, activation or block
    """

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        *,
        in_features: Sequence[str],
        channels: int = 256,
        repeats: int = 5,
        norm: str = "BN",
        activation: str = "relu",
        block: str = "plain",
        sum_only: bool = False,
        drop_connect: float = 0.0,
    ):
        super().__init__()
        shapes = trunk_levels(bottom_up, in_features, "MODEL.NASFPN.IN_FEATURES")
        if min(shapes) != LEVELS[0] or max(shapes) > LEVELS[-1]:
            strides = [shape.stride for shape in shapes.values()]
            raise UserError(
                f"MODEL.NASFPN.IN_FEATURES {list(in_features)} have strides {strides}; NAS-FPN "
                "begins at stride 8 (res3) and ends at 128"
            )
        raise_all(
            [
                *choice_problems("MODEL.NASFPN.ACTIVATION", activation, ACTIVATIONS),
                *choice_problems("MODEL.NASFPN.BLOCK", block, BLOCKS),
            ]
        )
        check_norm(norm, channels, "MODEL.NASFPN.CHANNELS", "MODEL.NASFPN.NORM")
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        for level, shape in shapes.items():
            self.add_module(f"lateral{level}", _projection(shape.channels, channels, norm))
        width = channels * BLOCKS[block].expansion
        self.cells = nn.ModuleList(
            _Cell(
                channels if number == 0 else width,
                channels,
                norm=norm,
                activation=activation,
                block=block,
                sum_only=sum_only,
                drop_connect=drop_connect,
            )
            for number in range(repeats)
        )
        self._levels = tuple(shapes)
        self._out_feature_strides = {f"p{level}": 2**level for level in LEVELS}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, width)
        self._size_divisibility = max(2 ** LEVELS[-1], bottom_up.size_divisibility)

    @classmethod
    def from_config(cls, cfg: CfgNode, bottom_up: Backbone) -> dict:
        options = {key.lower(): value for key, value in cfg.MODEL.NASFPN.items()}
        return {"bottom_up": bottom_up, **options}

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images.

        Args:
            images: (N, C, H, W), as the trunk takes them

        Returns:
            "p3" to "p7" -> (N, channels, ceil(H / stride), ceil(W / stride))
        """
        features = self.bottom_up(images)
        nodes = [
            getattr(self, f"lateral{level}")(features[name])
            for level, name in zip(self._levels, self.in_features, strict=True)
        ]
        while len(nodes) < len(LEVELS):
            nodes.append(_resample(nodes[-1], -1))
        for cell in self.cells:
            nodes = cell(nodes)
        return dict(zip(self._out_features, nodes, strict=True))


class _Cell(nn.Module):
    """P3 to P7 to P3 to P7, through the merges of :data:`CELL`."""

    def __init__(self, in_channels: int, channels: int, *, block: str, **options):
        super().__init__()
        width = channels * BLOCKS[block].expansion
        levels = [*LEVELS, *(merge.level for merge in CELL)]
        widths = [in_channels] * len(LEVELS) + [width] * len(CELL)
        self.merges = nn.ModuleList(
            _Merge(
                merge,
                [levels[n] for n in wires],
                [widths[n] for n in wires],
                channels,
                block=block,
                **options,
            )
            for merge, wires in zip(CELL, wiring(), strict=True)
        )
        self._wiring = wiring()
        number_of = {m.level: n for n, m in enumerate(CELL, start=len(LEVELS)) if m.is_output}
        self._outputs = [number_of[level] for level in LEVELS]

    def forward(self, nodes: list[Tensor]) -> list[Tensor]:
        sizes = [node.shape[-2:] for node in nodes]
        nodes = list(nodes)
        for merge, wires in zip(self.merges, self._wiring, strict=True):
            size = sizes[merge.level - LEVELS[0]]
            nodes.append(merge([nodes[n] for n in wires], size))
        return [nodes[n] for n in self._outputs]


class _Merge(nn.Module):
    def __init__(
        self,
        merge: Merge,
        levels: Sequence[int],
        widths: Sequence[int],
        channels: int,
        *,
        norm: str,
        activation: str,
        block: str,
        sum_only: bool,
        drop_connect: float,
    ):
        super().__init__()
        self.level = merge.level
        self.project = nn.ModuleList(_projection(width, channels, norm) for width in widths)
        self._steps = [level - merge.level for level in levels]
        self._attends = merge.combine == "attention" and not sum_only
        self._coarse_first = levels[0] >= levels[1]
        self.activation = ACTIVATIONS[activation]()
        self.block = BLOCKS[block](channels, norm, activation, drop_connect)

    def forward(self, inputs: list[Tensor], size: tuple[int, int]) -> Tensor:
        a, b, *added = (
            _resample(project(node), steps, size)
            for project, node, steps in zip(self.project, inputs, self._steps, strict=True)
        )
        if self._attends:
            node = attention(a, b) if self._coarse_first else attention(b, a)
        else:
            node = a + b
        for other in added:
            node = node + other
        return self.block(self.activation(node))


def _resample(features: Tensor, steps: int, size: tuple[int, int] | None = None) -> Tensor:
    """To a level that is `steps` finer (nearest neighbour) or, below 0, coarser (max-pooled).

    Args:
        size: height and width of the finer level
    """
    if steps > 0:
        finer = F.interpolate(features, scale_factor=float(2**steps), mode="nearest")
        return finer[..., : size[0], : size[1]] if finer.shape[-2:] != size else finer
    if steps < 0:
        return F.max_pool2d(features, kernel_size=2**-steps, ceil_mode=True)
    return features


def _projection(in_channels: int, channels: int, norm: str) -> nn.Module:
    """1x1 with a norm, only where the channels differ."""
    if in_channels == channels:
        return nn.Identity()
    return _conv(in_channels, channels, norm, kernel_size=1)


def _conv(in_channels: int, channels: int, norm: str, *, kernel_size: int, **options) -> Conv2d:
    conv = Conv2d(
        in_channels,
        channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, channels),
        **options,
    )
    c2_msra_fill(conv)  # Source: VarianceScaling(2, fan_out) of official/vision's nasfpn.py
    return conv


class _Plain(nn.Module):
    expansion = 1

    def __init__(self, channels: int, norm: str, activation: str, drop_connect: float):
        super().__init__()
        self.conv = _conv(channels, channels, norm, kernel_size=3)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


class _Bottleneck(nn.Module):
    """A residual block whose shortcut is projected. Source: nn_blocks.py, ``bottleneck_block``."""

    expansion = 4

    def __init__(self, channels: int, norm: str, activation: str, drop_connect: float):
        super().__init__()
        width = self.expansion * channels
        act = ACTIVATIONS[activation]
        self.shortcut = _conv(channels, width, norm, kernel_size=1)
        self.conv1 = _conv(channels, channels, norm, kernel_size=1, activation=act())
        self.conv2 = _conv(channels, channels, norm, kernel_size=3, activation=act())
        self.conv3 = _conv(channels, width, norm, kernel_size=1)
        self.drop_path = DropPath(drop_connect)
        self.activation = act()

    def forward(self, features: Tensor) -> Tensor:
        branch = self.drop_path(self.conv3(self.conv2(self.conv1(features))))
        return self.activation(branch + self.shortcut(features))


# MODEL.NASFPN.BLOCK -> what a merged node goes through. A new one is a new entry.
BLOCKS: dict[str, type[nn.Module]] = {"plain": _Plain, "bottleneck": _Bottleneck}
