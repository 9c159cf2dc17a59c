"""Detectron2's FPN on any trunk."""

from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone

from ..norms import check_norm
from .decoder import top_block, trunk_levels

__all__ = ["build_fpn"]


def build_fpn(cfg: CfgNode, trunk: Backbone) -> FPN:
    """Detectron2's FPN with ``MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE, TOP_BLOCK}``.

    Raises:
        UserError: levels that the trunk does not have
    """
    options = cfg.MODEL.FPN
    in_features = options.IN_FEATURES
    shapes = trunk_levels(trunk, in_features, "MODEL.FPN.IN_FEATURES")
    check_norm(options.NORM, options.OUT_CHANNELS, "MODEL.FPN.OUT_CHANNELS", "MODEL.FPN.NORM")
    coarsest = shapes[max(shapes)]
    fpn = FPN(
        bottom_up=trunk,
        in_features=in_features,
        out_channels=options.OUT_CHANNELS,
        norm=options.NORM,
        top_block=top_block(
            options.TOP_BLOCK,
            in_features[-1],
            coarsest,
            options.OUT_CHANNELS,
            "MODEL.FPN.TOP_BLOCK",
            norm=options.NORM,
        ),
        fuse_type=options.FUSE_TYPE,
    )
    # Detectron2 takes the coarsest stride in use; a trunk with coarser layers inside needs more.
    fpn._size_divisibility = max(fpn.size_divisibility, trunk.size_divisibility)
    return fpn
