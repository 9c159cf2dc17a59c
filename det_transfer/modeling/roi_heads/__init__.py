"""Box and mask heads, and the cascade of them."""

from .balance import balance_classes, class_weights
from .cascade import TransferCascadeROIHeads
from .heads import TransferBoxHead, TransferMaskHead

__all__ = [
    "TransferBoxHead",
    "TransferCascadeROIHeads",
    "TransferMaskHead",
    "balance_classes",
    "class_weights",
]
