"""Whether the heads of a config ask for features that its backbone has, before any data is read."""

from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from ..errors import raise_all

__all__ = ["check_levels"]

# MODEL.META_ARCHITECTURE -> the parts of MODEL that name features of the backbone; on those of the
# first lie the anchors.
_TAKERS = {
    "GeneralizedRCNN": ("RPN", "ROI_HEADS"),
    "ProposalNetwork": ("RPN",),
    "RetinaNet": ("RETINANET",),
    "TransferRetinaNet": ("RETINANET",),
}


def check_levels(cfg: CfgNode) -> None:
    """Build the backbone without memory and compare.

    Only for ``build_reuse_backbone``; what other builders do is theirs.

    Raises:
        UserError: a feature that the backbone does not give, or anchors for another number of
            levels; also what building it raises
    """
    if cfg.MODEL.BACKBONE.NAME != "build_reuse_backbone":
        return
    with torch.device("meta"):
        shapes = build_backbone(cfg).output_shape()
    raise_all(_problems(cfg, shapes))


def _problems(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> Iterator[str]:
    takers = _TAKERS.get(cfg.MODEL.META_ARCHITECTURE, ())
    decoder = cfg.MODEL.DECODER.NAME or "none"
    for taker in takers:
        wanted = list(cfg.MODEL[taker].IN_FEATURES)
        if not wanted or set(wanted) - set(shapes):
            yield (
                f"MODEL.{taker}.IN_FEATURES {wanted}: the decoder ({decoder}) on "
                f"{cfg.MODEL.TRUNK.NAME} gives {list(shapes)}"
            )
    if takers:
        levels = len(cfg.MODEL[takers[0]].IN_FEATURES)
        for key in ("SIZES", "ASPECT_RATIOS"):
            given = len(cfg.MODEL.ANCHOR_GENERATOR[key])
            if given not in (1, levels):  # one serves for all
                yield (
                    f"MODEL.ANCHOR_GENERATOR.{key} has {given} lists for the {levels} levels of "
                    f"MODEL.{takers[0]}.IN_FEATURES; give one for each, or one for all"
                )
