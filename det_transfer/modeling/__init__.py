"""Detectron2 modules: importing this registers them."""

from .backbone import DECODERS, TimmBackbone, build_reuse_backbone, build_timm_backbone

__all__ = ["DECODERS", "TimmBackbone", "build_reuse_backbone", "build_timm_backbone"]
