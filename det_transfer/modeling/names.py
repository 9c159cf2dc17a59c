"""Whether the parts that a config names are registered with Detectron2, before any is built."""

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY

from ..errors import nearest, raise_all

__all__ = ["check_names"]

# Keys of MODEL -> where their values must be registered.
_OF_ALL = {
    ("META_ARCHITECTURE",): META_ARCH_REGISTRY,
    ("BACKBONE", "NAME"): BACKBONE_REGISTRY,
}
_OF_RCNN = {
    ("ANCHOR_GENERATOR", "NAME"): ANCHOR_GENERATOR_REGISTRY,
    ("PROPOSAL_GENERATOR", "NAME"): PROPOSAL_GENERATOR_REGISTRY,
    ("RPN", "HEAD_NAME"): RPN_HEAD_REGISTRY,
    ("ROI_HEADS", "NAME"): ROI_HEADS_REGISTRY,
    ("ROI_BOX_HEAD", "NAME"): ROI_BOX_HEAD_REGISTRY,
    ("ROI_MASK_HEAD", "NAME"): ROI_MASK_HEAD_REGISTRY,
}
_NOT_BUILT = ("", "PrecomputedProposals")  # Detectron2 looks these up nowhere


def check_names(cfg: CfgNode) -> None:
    """Raises: UserError: a name that nobody has registered, with those near it."""
    raise_all(_problems(cfg))


def _problems(cfg: CfgNode) -> Iterator[str]:
    of_rcnn = _OF_RCNN if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" else {}
    for key, registry in {**_OF_ALL, **of_rcnn}.items():
        name = cfg.MODEL
        for part in key:
            name = name[part]
        if name not in registry and name not in _NOT_BUILT:
            known = [known for known, _ in registry]
            near = nearest(name, known) or known
            yield f"MODEL.{'.'.join(key)} {name!r} is not registered; there is {', '.join(near)}"
