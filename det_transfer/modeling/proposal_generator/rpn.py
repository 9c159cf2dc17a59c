"""Detectron2's RPN head with a norm and an activation to choose."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import nn

from ..activations import set_activation

__all__ = ["TransferRPNHead"]


@RPN_HEAD_REGISTRY.register()
class TransferRPNHead(StandardRPNHead):
    """``MODEL.RPN`` with its ``NORM`` and ``ACTIVATION``; with their defaults it is Detectron2's.

    Args:
        norm: after each convolution, of Detectron2's ``get_norm``; its statistics are those of all
            levels together
        activation: a key of :data:`det_transfer.modeling.activations.ACTIVATIONS`
    """

    @configurable
    def __init__(self, *, norm: str = "", activation: str = "relu", **kwargs):
        super().__init__(**kwargs)
        if norm:
            for conv in _convolutions(self.conv):
                conv.norm = get_norm(norm, conv.out_channels)
                conv.bias = None  # the norm has one
        set_activation(self, activation)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape) -> dict:
        rpn = cfg.MODEL.RPN
        inherited = super().from_config(cfg, input_shape)
        return {**inherited, "norm": rpn.NORM, "activation": rpn.ACTIVATION}


def _convolutions(hidden: nn.Module) -> list[Conv2d]:
    return [hidden] if isinstance(hidden, Conv2d) else list(hidden)
