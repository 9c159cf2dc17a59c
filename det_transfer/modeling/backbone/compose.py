"""A trunk in its mode of reuse, with a decoder on it: ``build_reuse_backbone``."""

import itertools
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ...errors import UserError, nearest
from ...reuse import reuse

__all__ = ["DECODERS", "build_reuse_backbone"]


@BACKBONE_REGISTRY.register()
def build_reuse_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The trunk ``MODEL.TRUNK.NAME`` in mode ``MODEL.REUSE``, under ``MODEL.DECODER.NAME``.

    A decoder has the trunk as its ``bottom_up``, as Detectron2's FPN does.

    Raises:
        UserError: an unknown trunk, mode or decoder, or a feature that the trunk has not
    """
    trunk = _entry(_trunk_builders(), cfg.MODEL.TRUNK.NAME, "MODEL.TRUNK.NAME")(cfg, input_shape)
    reuse(trunk, cfg.MODEL)
    return _entry(DECODERS, cfg.MODEL.DECODER.NAME, "MODEL.DECODER.NAME")(cfg, trunk)


def _trunk_builders() -> dict[str, Callable]:
    # A trunk is not made of itself.
    return {name: build for name, build in BACKBONE_REGISTRY if build is not build_reuse_backbone}


def _entry(table: dict[str, Callable], name: str, key: str) -> Callable:
    if name not in table:
        known = nearest(name, table) or sorted(table)
        raise UserError(f"{key} is {name!r}, which does not exist; there is {', '.join(known)}")
    return table[name]


def _without(cfg: CfgNode, trunk: Backbone) -> Backbone:
    return trunk


def _fpn(cfg: CfgNode, trunk: Backbone) -> FPN:
    """Detectron2's FPN with ``MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}``."""
    in_features = cfg.MODEL.FPN.IN_FEATURES
    shapes = trunk.output_shape()
    unknown = [name for name in in_features if name not in shapes]
    if unknown or not in_features:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES {list(in_features)}: the trunk "
            f"({cfg.MODEL.TRUNK.NAME}) gives {list(shapes)}"
        )
    strides = [shapes[name].stride for name in in_features]
    if any(b != 2 * a for a, b in itertools.pairwise(strides)):
        raise UserError(
            f"MODEL.FPN.IN_FEATURES {list(in_features)} have strides {strides}; FPN needs each "
            "twice the one before it, fine to coarse, without a gap"
        )
    fpn = FPN(
        bottom_up=trunk,
        in_features=in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=_top_block(cfg, in_features[-1], shapes[in_features[-1]]),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    # Detectron2 takes the coarsest stride in use; a trunk with coarser layers inside needs more.
    fpn._size_divisibility = max(fpn.size_divisibility, trunk.size_divisibility)
    return fpn


def _top_block(cfg: CfgNode, coarsest: str, shape: ShapeSpec) -> nn.Module | None:
    """The levels above the FPN's coarsest."""
    name = cfg.MODEL.FPN.TOP_BLOCK
    if name == "maxpool":  # Source: Lin et al. 2017 (FPN), section 4.1, footnote on P6
        block = LastLevelMaxPool()
        block.in_feature = f"p{shape.stride.bit_length() - 1}"  # Detectron2 takes p5 for granted
        return block
    if name == "p6p7":  # Source: Lin et al. 2017 (RetinaNet), section 4
        return LastLevelP6P7(shape.channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature=coarsest)
    if name == "":
        return None
    raise UserError(f"MODEL.FPN.TOP_BLOCK is {name!r}; it can be 'maxpool', 'p6p7' or ''")


# MODEL.DECODER.NAME -> builder(cfg, trunk). A new decoder is a new entry.
DECODERS: dict[str, Callable[[CfgNode, Backbone], Backbone]] = {"": _without, "fpn": _fpn}
