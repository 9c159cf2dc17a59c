"""Detectron2's RetinaNet, resumed exactly."""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet

__all__ = ["TransferRetinaNet"]

_START = 100.0  # Source: of Detectron2's RetinaNet.losses


@META_ARCH_REGISTRY.register()
class TransferRetinaNet(RetinaNet):
    """Detectron2's RetinaNet, whose checkpoints also hold its running loss normaliser.

    The losses are divided by a running mean of the number of positive anchors. Detectron2 keeps it
    in an attribute, so that a resumed run begins it anew and goes another way.
    """

    @configurable
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("normalizer", torch.tensor(_START, dtype=torch.float64))

    @property
    def loss_normalizer(self) -> float:
        return self.normalizer.item()

    @loss_normalizer.setter
    def loss_normalizer(self, value: float) -> None:
        self.normalizer.fill_(value)
