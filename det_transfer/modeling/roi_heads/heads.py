"""Detectron2's box and mask head with an activation to choose."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    FastRCNNConvFCHead,
    MaskRCNNConvUpsampleHead,
)

from ..activations import set_activation

__all__ = ["TransferBoxHead", "TransferMaskHead"]


@ROI_BOX_HEAD_REGISTRY.register()
class TransferBoxHead(FastRCNNConvFCHead):
    """``MODEL.ROI_BOX_HEAD`` with its ``ACTIVATION``; under "relu" it is Detectron2's.

    Args:
        activation: a key of :data:`det_transfer.modeling.activations.ACTIVATIONS`
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, activation: str = "relu", **kwargs):
        super().__init__(input_shape, **kwargs)
        set_activation(self, activation)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        inherited = super().from_config(cfg, input_shape)
        return {**inherited, "activation": cfg.MODEL.ROI_BOX_HEAD.ACTIVATION}


@ROI_MASK_HEAD_REGISTRY.register()
class TransferMaskHead(MaskRCNNConvUpsampleHead):
    """``MODEL.ROI_MASK_HEAD`` with its ``ACTIVATION``; under "relu" it is Detectron2's."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, activation: str = "relu", **kwargs):
        super().__init__(input_shape, **kwargs)
        set_activation(self, activation)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        inherited = super().from_config(cfg, input_shape)
        return {**inherited, "activation": cfg.MODEL.ROI_MASK_HEAD.ACTIVATION}
