"""Region proposals."""

from .rpn import TransferRPNHead

__all__ = ["TransferRPNHead"]
