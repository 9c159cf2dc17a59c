"""Detectron2 modules: importing this registers them."""

from .backbone import (
    DECODERS,
    NASFPN,
    ConvDecoder,
    PlainBackbone,
    TimmBackbone,
    build_plain_backbone,
    build_reuse_backbone,
    build_timm_backbone,
)
from .meta_arch import SharedBackboneDetector, TransferRetinaNet
from .norms import Float32SyncBatchNorm, float32_statistics
from .proposal_generator import TransferRPNHead
from .roi_heads import TransferBoxHead, TransferCascadeROIHeads, TransferMaskHead

__all__ = [
    "DECODERS",
    "NASFPN",
    "ConvDecoder",
    "Float32SyncBatchNorm",
    "PlainBackbone",
    "SharedBackboneDetector",
    "TimmBackbone",
    "TransferBoxHead",
    "TransferCascadeROIHeads",
    "TransferMaskHead",
    "TransferRPNHead",
    "TransferRetinaNet",
    "build_plain_backbone",
    "build_reuse_backbone",
    "build_timm_backbone",
    "float32_statistics",
]
