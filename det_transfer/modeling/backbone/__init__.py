"""Trunks and the decoders on them."""

from .compose import DECODERS, build_reuse_backbone
from .timm import TimmBackbone, build_timm_backbone

__all__ = ["DECODERS", "TimmBackbone", "build_reuse_backbone", "build_timm_backbone"]
