"""One or two convolutions in place of a feature pyramid.

Source: the ablation of "Proper Reuse of Image Classification Features Improves Object Detection"
(CVPR 2022), which trains a detector on one or two convolutions over frozen, fine-tuned and random
features. Its text gives no details; 3x3 with ReLU between them is ours.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from ..norms import check_norm
from . import decoder
from .decoder import trunk_levels

__all__ = ["ConvDecoder"]


class ConvDecoder(Backbone):
    """Each of the trunk's features through convolutions of its own; none looks at another level.

    Args:
        bottom_up: the trunk
        in_features: its features, fine to coarse; ["res4"] makes a single-level detector
        channels: of the features, which are named ``p<level>``
        num_conv: 3x3 convolutions on each, ReLU between them
        norm: after each, of Detectron2's ``get_norm``
        top_block: levels above, a name of TOP_BLOCKS

    Raises:
        UserError: features that the trunk does not have
    """

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        *,
        in_features: Sequence[str],
        channels: int = 256,
        num_conv: int = 1,
        norm: str = "",
        top_block: str = "",
    ):
        super().__init__()
        key = "MODEL.CONV_DECODER"
        shapes = trunk_levels(bottom_up, in_features, f"{key}.IN_FEATURES")
        check_norm(norm, channels, f"{key}.CHANNELS", f"{key}.NORM")
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        for level, shape in shapes.items():
            self.add_module(f"conv{level}", _convs(shape.channels, channels, num_conv, norm))
        self._levels = tuple(shapes)
        coarsest = max(shapes)
        self.top_block = decoder.top_block(
            top_block,
            in_features[-1],
            shapes[coarsest],
            channels,
            f"{key}.TOP_BLOCK",
            norm=norm,
        )
        levels = [*shapes, *range(coarsest + 1, coarsest + 1 + self._levels_on_top())]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, channels)
        self._size_divisibility = max(2**coarsest, bottom_up.size_divisibility)

    @classmethod
    def from_config(cls, cfg: CfgNode, bottom_up: Backbone) -> dict:
        options = {key.lower(): value for key, value in cfg.MODEL.CONV_DECODER.items()}
        return {"bottom_up": bottom_up, **options}

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images (N, C, H, W): "p<level>" -> (N, channels, H / stride, W / stride)."""
        features = self.bottom_up(images)
        outputs = {
            f"p{level}": getattr(self, f"conv{level}")(features[name])
            for level, name in zip(self._levels, self.in_features, strict=True)
        }
        if self.top_block is not None:
            source = self.top_block.in_feature
            coarser = self.top_block(outputs[source] if source in outputs else features[source])
            outputs |= dict(zip(self._out_features[len(outputs) :], coarser, strict=True))
        return outputs

    def _levels_on_top(self) -> int:
        return 0 if self.top_block is None else self.top_block.num_levels


def _convs(in_channels: int, channels: int, number: int, norm: str) -> nn.Sequential:
    convs = nn.Sequential()
    for k in range(number):
        conv = Conv2d(
            in_channels if k == 0 else channels,
            channels,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, channels),
            activation=nn.ReLU(inplace=True) if k < number - 1 else None,
        )
        c2_msra_fill(conv)
        convs.append(conv)
    return convs
