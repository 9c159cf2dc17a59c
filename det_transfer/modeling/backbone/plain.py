"""AlexNet, VGG16 and other plain networks behind Detectron2's Backbone contract."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import UserError, nearest
from ...reuse.plain import PLAIN, plain_name

__all__ = ["PlainBackbone", "build_plain_backbone"]


class PlainBackbone(Backbone):
    """The features of a plain network, named by stride: res2 (4 px), res3 (8), res4 (16), ...

    A feature is the last of its stride: behind a convolution's ReLU, or where no convolution
    follows, of the pooling (pool5). The layers lie in ``features`` under torchvision's names, as in
    a classifier of ``tools/train_classifier.py``, whose weights fit; they are at random.

    Layers pad so that a stride of s divides the sides by s exactly, as a detector needs: AlexNet's
    first convolution by 4 px, not 2, and its poolings by 1, not 0. The filters are the same and see
    the image at other places of the grid; VGG16 and the compact network are as they were.

    Args:
        name: a key of :data:`~det_transfer.reuse.plain.PLAIN`
        out_features: the features to return; layers that only others would need are left out
        options: that its builder takes

    Raises:
        UserError: there is no such network, it lacks a feature that is asked for, or its strides
            are no powers of 2
    """

    def __init__(self, name: str, out_features: Sequence[str], **options: Any):
        super().__init__()
        if name not in PLAIN:
            near = nearest(name, PLAIN) or list(PLAIN)
            raise UserError(f"MODEL.PLAIN.NAME is {name!r}; there is {', '.join(near)}")
        layers = PLAIN[name](**options).features
        self.plain_name = plain_name(name, options)
        ends, channels = _levels(layers, self.plain_name)
        known = [f"res{level}" for level in ends]
        if not out_features or set(out_features) - set(known):
            raise UserError(
                f"MODEL.PLAIN.OUT_FEATURES {list(out_features)}: {self.plain_name} has {known}"
            )
        taken = [level for level in ends if f"res{level}" in out_features]
        self._out_features = [f"res{level}" for level in taken]
        self._out_feature_strides = {f"res{level}": 2**level for level in taken}
        self._out_feature_channels = {f"res{level}": channels[level] for level in taken}
        self._ends = {level: index for level, index in ends.items() if level <= taken[-1]}
        self.features = layers[: ends[taken[-1]] + 1]

    @property
    def size_divisibility(self) -> int:
        return 2 ** max(self._ends)

    def stage_ends(self) -> dict[int, str]:
        """Stage k -> name of the module that ends it, see :mod:`det_transfer.reuse.stages`."""
        return {level: f"features.{index}" for level, index in self._ends.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images.

        Args:
            images: (N, 3, H, W) float, H and W multiples of ``size_divisibility``

        Returns:
            feature name -> (N, channels, H / stride, W / stride), fine to coarse
        """
        names = {index: f"res{level}" for level, index in self._ends.items()}
        outputs = {}
        for index, layer in enumerate(self.features):
            images = layer(images)
            if names.get(index) in self._out_features:
                outputs[names[index]] = images
        return outputs


@BACKBONE_REGISTRY.register()
def build_plain_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PlainBackbone:
    """Build ``MODEL.PLAIN.NAME`` with the other keys of ``MODEL.PLAIN``.

    Raises:
        UserError: also where images have not three channels
    """
    plain = cfg.MODEL.PLAIN
    if input_shape.channels != 3:
        raise UserError(
            f"MODEL.PIXEL_MEAN has {input_shape.channels} channels; {plain.NAME} takes images of 3"
        )
    options: dict[str, Any] = {}
    if plain.NAME == "compact_alexnet":
        keys = ("width", "stride", "norm")
        options = {key: plain[f"COMPACT_{key.upper()}"] for key in keys}
    return PlainBackbone(plain.NAME, plain.OUT_FEATURES, **options)


def _levels(layers: nn.Sequential, name: str) -> tuple[dict[int, int], dict[int, int]]:
    """Let layers keep sizes, and find where features have stride 2**k.

    Returns:
        k -> index of the last layer of that stride, and k -> channels, from stride 2 on
    """
    ends: dict[int, int] = {}
    channels: dict[int, int] = {}
    stride, width = 1, 3
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            stride *= _keep_sizes(layer)
        width = getattr(layer, "out_channels", width)
        if stride & (stride - 1):
            raise UserError(f"MODEL.PLAIN: {name} has a stride of {stride} px, no power of 2")
        if stride > 1:
            level = stride.bit_length() - 1
            ends[level], channels[level] = index, width
    return ends, channels


def _keep_sizes(layer: nn.Conv2d | nn.MaxPool2d) -> int:
    """Pad so that a side of n strides gives n outputs; the stride.

    With padding p there are floor((n s + 2 p - k) / s) + 1 of them, which is n for 2 p = k - s or
    k - s + 1.
    """
    whole = isinstance(layer, nn.Conv2d)  # whose sizes are pairs
    kernel, stride = (
        size[0] if isinstance(size, tuple) else size for size in (layer.kernel_size, layer.stride)
    )
    padding = (kernel - stride + 1) // 2
    layer.padding = (padding, padding) if whole else padding
    return stride
