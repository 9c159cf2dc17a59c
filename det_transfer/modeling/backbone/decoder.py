"""What decoders have in common: they stand on a trunk and give features of several strides."""

import itertools
from collections.abc import Sequence

from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from ...errors import UserError

__all__ = ["TOP_BLOCKS", "level_of", "top_block", "trunk_levels"]

TOP_BLOCKS = ("maxpool", "p6", "p6p7", "p6p7_of_p5", "")


def level_of(stride: int) -> int:
    """Features of stride 2**k pixels are of level k."""
    return stride.bit_length() - 1


def trunk_levels(trunk: Backbone, in_features: Sequence[str], key: str) -> dict[int, ShapeSpec]:
    """Level -> shape of the features of a trunk that a decoder takes.

    Args:
        in_features: their names, fine to coarse
        key: of the config, for errors

    Raises:
        UserError: the trunk lacks one of them, or a level is missing between two
    """
    shapes = trunk.output_shape()
    if not in_features or set(in_features) - set(shapes):
        raise UserError(f"{key} {list(in_features)}: the trunk gives {list(shapes)}")
    strides = [shapes[name].stride for name in in_features]
    if any(b != 2 * a for a, b in itertools.pairwise(strides)):
        raise UserError(
            f"{key} {list(in_features)} have strides {strides}; each must be twice the one before "
            "it, fine to coarse, without a gap"
        )
    return {level_of(shapes[name].stride): shapes[name] for name in in_features}


def top_block(
    name: str, coarsest: str, shape: ShapeSpec, channels: int, key: str, *, norm: str = ""
) -> nn.Module | None:
    """The levels above a decoder's coarsest, by a name of :data:`TOP_BLOCKS`.

    Args:
        coarsest: the trunk's feature of the decoder's coarsest level, and its shape
        channels: of the decoder's features
        key: of the config, for errors
        norm: of the decoder, which the levels of "p6" and "p6p7_of_p5" have too
    """
    if name == "maxpool":  # Source: Lin et al. 2017 (FPN), section 4.1, footnote on P6
        block = LastLevelMaxPool()
        block.in_feature = f"p{level_of(shape.stride)}"  # Detectron2 takes p5 for granted
        return block
    if name in ("p6", "p6p7_of_p5"):
        count = 1 if name == "p6" else 2
        return _StridedConvs(level_of(shape.stride), channels, count, norm)
    if name == "p6p7":  # Source: Lin et al. 2017 (RetinaNet), section 4
        return LastLevelP6P7(shape.channels, channels, in_feature=coarsest)
    if name == "":
        return None
    raise UserError(f"{key} is {name!r}; it can be {' or '.join(map(repr, TOP_BLOCKS))}")


class _StridedConvs(nn.Module):
    """Levels by convolutions of stride 2, each on the one below and a ReLU between two.

    Each has a norm of its own, behind which the next one does not look. The first looks at the
    decoder's coarsest level as it comes out, with its norm; the authors' looks before it. Source:
    official/vision/modeling/decoders/fpn.py, but for that.
    """

    def __init__(self, level: int, channels: int, count: int, norm: str):
        super().__init__()
        self.in_feature = f"p{level}"
        self.num_levels = count
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=not norm)
            for _ in range(count)
        )
        self.norms = nn.ModuleList(get_norm(norm, channels) or nn.Identity() for _ in self.convs)
        for conv in self.convs:
            c2_xavier_fill(conv)

    def forward(self, features: Tensor) -> list[Tensor]:
        outputs = []
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            features = conv(features.relu() if number else features)
            outputs.append(norm(features))
        return outputs
