"""Detectron2's RPN head with a norm and an activation to choose."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import Tensor, nn

from ..activations import set_activation
from ..norms import check_norm

__all__ = ["TransferRPNHead"]


@RPN_HEAD_REGISTRY.register()
class TransferRPNHead(StandardRPNHead):
    """``MODEL.RPN`` with its ``NORM`` and ``ACTIVATION``; with their defaults it is Detectron2's.

    Levels share the convolutions, and each has norms of its own: their features differ in scale,
    and one norm for all would see other statistics in training, level by level, than the mixture
    that it keeps for inference. Source: official/vision/modeling/heads/dense_prediction_heads.py
    (RPNHead, a norm for each level and convolution).

    Args:
        norm: after each convolution, of Detectron2's ``get_norm``
        activation: a key of :data:`det_transfer.modeling.activations.ACTIVATIONS`
        levels: of the features

    Raises:
        UserError: an unknown norm or activation, or one that cannot take the channels
    """

    @configurable
    def __init__(self, *, norm: str = "", activation: str = "relu", levels: int = 1, **kwargs):
        super().__init__(**kwargs)
        set_activation(self, activation)
        for conv in self._convolutions():
            check_norm(norm, conv.out_channels, "MODEL.RPN.CONV_DIMS", "MODEL.RPN.NORM")
        if norm:
            self.norms = nn.ModuleList(
                nn.ModuleList(get_norm(norm, conv.out_channels) for conv in self._convolutions())
                for _ in range(levels)
            )
            for conv in self._convolutions():
                conv.bias = None  # the norm has one

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict:
        rpn = cfg.MODEL.RPN
        inherited = super().from_config(cfg, input_shape)
        own = {"norm": rpn.NORM, "activation": rpn.ACTIVATION, "levels": len(input_shape)}
        return {**inherited, **own}

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As Detectron2's: logits (N, A, H, W) and deltas (N, A * 4, H, W) of each level."""
        if not hasattr(self, "norms"):
            return super().forward(features)
        hidden = [self._hidden(x, norms) for x, norms in zip(features, self.norms, strict=True)]
        logits = [self.objectness_logits(x) for x in hidden]
        return logits, [self.anchor_deltas(x) for x in hidden]

    def _hidden(self, x: Tensor, norms: nn.ModuleList) -> Tensor:
        for conv, norm in zip(self._convolutions(), norms, strict=True):
            x = conv.activation(norm(nn.Conv2d.forward(conv, x)))
        return x

    def _convolutions(self) -> list[Conv2d]:
        return [self.conv] if isinstance(self.conv, Conv2d) else list(self.conv)
