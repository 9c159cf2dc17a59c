"""Whether the parts that a config names are registered with Detectron2, before any is built."""

from collections.abc import Callable, Iterator

from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY
from fvcore.common.registry import Registry

from ..errors import nearest, raise_all

__all__ = ["check_names", "has_rpn"]

_RCNN = ("GeneralizedRCNN", "PanopticFPN")
_RETINANET = ("RetinaNet", "TransferRetinaNet")


def has_rpn(cfg: CfgNode) -> bool:
    """Whether Detectron2's own RPN, on anchors, makes the proposals."""
    of_rcnn = cfg.MODEL.META_ARCHITECTURE in (*_RCNN, "ProposalNetwork")
    return of_rcnn and cfg.MODEL.PROPOSAL_GENERATOR.NAME in ("RPN", "RRPN")


def _has_anchors(cfg: CfgNode) -> bool:
    return has_rpn(cfg) or cfg.MODEL.META_ARCHITECTURE in _RETINANET


def _has_proposals(cfg: CfgNode) -> bool:
    precomputed = cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals"
    return cfg.MODEL.META_ARCHITECTURE in (*_RCNN, "ProposalNetwork") and not precomputed


def _has_rois(cfg: CfgNode) -> bool:
    return cfg.MODEL.META_ARCHITECTURE in _RCNN


def _has_box_head(cfg: CfgNode) -> bool:
    return _has_rois(cfg) and cfg.MODEL.ROI_HEADS.NAME != "Res5ROIHeads"  # res5 is its own


# Key of MODEL, where its value must be registered, and whether it is built at all: a part that is
# not may have any name.
_NAMES: tuple[tuple[str, Registry, Callable[[CfgNode], bool]], ...] = (
    ("META_ARCHITECTURE", META_ARCH_REGISTRY, lambda cfg: True),
    ("BACKBONE.NAME", BACKBONE_REGISTRY, lambda cfg: True),
    ("ANCHOR_GENERATOR.NAME", ANCHOR_GENERATOR_REGISTRY, _has_anchors),
    ("PROPOSAL_GENERATOR.NAME", PROPOSAL_GENERATOR_REGISTRY, _has_proposals),
    ("RPN.HEAD_NAME", RPN_HEAD_REGISTRY, has_rpn),
    ("ROI_HEADS.NAME", ROI_HEADS_REGISTRY, _has_rois),
    ("ROI_BOX_HEAD.NAME", ROI_BOX_HEAD_REGISTRY, _has_box_head),
    (
        "ROI_MASK_HEAD.NAME",
        ROI_MASK_HEAD_REGISTRY,
        lambda cfg: _has_rois(cfg) and cfg.MODEL.MASK_ON,
    ),
    (
        "ROI_KEYPOINT_HEAD.NAME",
        ROI_KEYPOINT_HEAD_REGISTRY,
        lambda cfg: _has_rois(cfg) and cfg.MODEL.KEYPOINT_ON,
    ),
    (
        "SEM_SEG_HEAD.NAME",
        SEM_SEG_HEADS_REGISTRY,
        lambda cfg: cfg.MODEL.META_ARCHITECTURE in ("PanopticFPN", "SemanticSegmentor"),
    ),
)


def check_names(cfg: CfgNode) -> None:
    """Ask for the parts of Detectron2's own architectures; what a user's own builds is not known.

    Raises:
        UserError: a name that nobody has registered, with those near it
    """
    raise_all(_problems(cfg))


def _problems(cfg: CfgNode) -> Iterator[str]:
    for key, registry, is_built in _NAMES:
        name = cfg.MODEL
        for part in key.split("."):
            name = name[part]
        if is_built(cfg) and name not in registry:
            known = [known for known, _ in registry]
            near = nearest(name, known) or known
            yield f"MODEL.{key} {name!r} is not registered; there is {', '.join(near)}"
