"""A trunk in its mode of reuse, with a decoder on it: ``build_reuse_backbone``."""

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ...errors import UserError, nearest
from ...reuse import reuse
from .conv_decoder import ConvDecoder
from .fpn import build_fpn
from .nasfpn import NASFPN

__all__ = ["DECODERS", "build_reuse_backbone"]


def _without(cfg: CfgNode, trunk: Backbone) -> Backbone:
    return trunk


# MODEL.DECODER.NAME -> builder(cfg, trunk). A new decoder is a new entry.
DECODERS: dict[str, Callable[[CfgNode, Backbone], Backbone]] = {
    "": _without,
    "fpn": build_fpn,
    "nasfpn": NASFPN,
    "conv": ConvDecoder,
}


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
