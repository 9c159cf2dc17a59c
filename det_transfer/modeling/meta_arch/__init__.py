"""Whole detectors, and several on one trunk."""

from .retinanet import TransferRetinaNet
from .shared import SharedBackboneDetector

__all__ = ["SharedBackboneDetector", "TransferRetinaNet"]
