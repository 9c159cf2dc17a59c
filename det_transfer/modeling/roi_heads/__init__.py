"""Box and mask heads, and the cascade of them."""

from .cascade import TransferCascadeROIHeads
from .heads import TransferBoxHead, TransferMaskHead

__all__ = ["TransferBoxHead", "TransferCascadeROIHeads", "TransferMaskHead"]
