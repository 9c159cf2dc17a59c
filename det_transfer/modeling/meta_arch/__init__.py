"""Whole detectors."""

from .retinanet import TransferRetinaNet

__all__ = ["TransferRetinaNet"]
