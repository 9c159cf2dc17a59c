"""Detectron2's box and mask head with an activation, and norms where Detectron2 has none."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    FastRCNNConvFCHead,
    MaskRCNNConvUpsampleHead,
)
from torch import Tensor, nn

from ..activations import set_activation
from ..norms import check_norm

__all__ = ["TransferBoxHead", "TransferMaskHead"]


@ROI_BOX_HEAD_REGISTRY.register()
class TransferBoxHead(FastRCNNConvFCHead):
    """``MODEL.ROI_BOX_HEAD`` with ``ACTIVATION`` and ``FC_NORM``; by default it is Detectron2's.

    Args:
        activation: a key of :data:`det_transfer.modeling.activations.ACTIVATIONS`
        fc_norm: after each fully connected layer, of Detectron2's ``get_norm``. Source:
            official/vision/modeling/heads/instance_heads.py (DetectionHead, _fc_norms)

    Raises:
        UserError: an unknown norm or activation, or one that cannot take the channels
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, activation: str = "relu", fc_norm: str = "", **kwargs
    ):
        super().__init__(input_shape, **kwargs)
        if fc_norm:
            key = "MODEL.ROI_BOX_HEAD"
            for number, fc in enumerate(self.fcs, start=1):
                check_norm(fc_norm, fc.out_features, f"{key}.FC_DIM", f"{key}.FC_NORM")
                norm = _VectorNorm(fc_norm, fc.out_features)
                _insert_after(self, f"fc{number}", f"fc_norm{number}", norm)
        set_activation(self, activation)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        head = cfg.MODEL.ROI_BOX_HEAD
        inherited = super().from_config(cfg, input_shape)
        return {**inherited, "activation": head.ACTIVATION, "fc_norm": head.FC_NORM}


@ROI_MASK_HEAD_REGISTRY.register()
class TransferMaskHead(MaskRCNNConvUpsampleHead):
    """``MODEL.ROI_MASK_HEAD`` with ``ACTIVATION`` and ``DECONV_NORM``; by default Detectron2's.

    Args:
        activation: a key of :data:`det_transfer.modeling.activations.ACTIVATIONS`
        deconv_norm: after the deconvolution, of Detectron2's ``get_norm``. Source:
            official/vision/modeling/heads/instance_heads.py (MaskHead, _deconv_bn)

    Raises:
        UserError: an unknown norm or activation, or one that cannot take the channels
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, activation: str = "relu", deconv_norm: str = "", **kwargs
    ):
        super().__init__(input_shape, **kwargs)
        if deconv_norm:
            key, channels = "MODEL.ROI_MASK_HEAD", self.deconv.out_channels
            check_norm(deconv_norm, channels, f"{key}.CONV_DIM", f"{key}.DECONV_NORM")
            norm = get_norm(deconv_norm, channels)
            _insert_after(self, "deconv", "deconv_norm", norm)
        set_activation(self, activation)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        head = cfg.MODEL.ROI_MASK_HEAD
        inherited = super().from_config(cfg, input_shape)
        return {**inherited, "activation": head.ACTIVATION, "deconv_norm": head.DECONV_NORM}


class _VectorNorm(nn.Module):
    """A norm for images on vectors (N, C)."""

    def __init__(self, norm: str, channels: int):
        super().__init__()
        self.norm = get_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x[:, :, None, None]).flatten(1)


def _insert_after(sequence: nn.Sequential, name: str, new: str, module: nn.Module) -> None:
    """Put a module into a sequence, whose forward follows the order of its children."""
    children = dict(sequence.named_children())
    for child in children:
        del sequence._modules[child]
    for child, old in children.items():
        sequence.add_module(child, old)
        if child == name:
            sequence.add_module(new, module)
