"""Trunks and the decoders on them."""

from .compose import DECODERS, build_reuse_backbone
from .conv_decoder import ConvDecoder
from .nasfpn import NASFPN
from .plain import PlainBackbone, build_plain_backbone
from .timm import TimmBackbone, build_timm_backbone

__all__ = [
    "DECODERS",
    "NASFPN",
    "ConvDecoder",
    "PlainBackbone",
    "TimmBackbone",
    "build_plain_backbone",
    "build_reuse_backbone",
    "build_timm_backbone",
]
