"""Whether the heads of a config ask for features that its backbone has, before any data is read."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from torch import Tensor, nn

from ..config import group_problems
from ..errors import raise_all
from .names import has_rpn

__all__ = ["check_levels"]

# MODEL.META_ARCHITECTURE -> the parts of MODEL that name features of the backbone.
_TAKERS = {
    "GeneralizedRCNN": ("RPN", "ROI_HEADS"),
    "ProposalNetwork": ("RPN",),
    "RetinaNet": ("RETINANET",),
    "TransferRetinaNet": ("RETINANET",),
}
_ON_ANCHORS = ("RPN", "RETINANET")


def check_levels(cfg: CfgNode, processes: int = 1) -> None:
    """Build the backbone without memory and compare.

    Only for our builder and Detectron2's; what others do is theirs.

    Args:
        processes: that will train; several wait for a gradient of every trained parameter

    Raises:
        UserError: a feature that the backbone does not give; levels, channels or anchors that
            Detectron2's heads cannot take; trained parameters that no head depends on; also what
            building the backbone raises
    """
    if not _is_known(cfg.MODEL.BACKBONE.NAME):
        return
    with torch.device("meta"):
        shapes = build_backbone(cfg).output_shape()
    takers = _takers(cfg)
    raise_all(_unknown_features(cfg, takers, shapes))
    problems = [*_pooling_problems(cfg, takers, shapes)]
    for taker in (taker for taker in takers if taker in _ON_ANCHORS):
        problems += [*_anchor_problems(cfg, taker, shapes), *_norm_problems(cfg, taker, shapes)]
    raise_all(problems)
    if takers and processes > 1 and not cfg.MODEL.REUSE.TRAIN_ONLY:  # which leaves heads alone
        raise_all(_idle_parameters(cfg, takers))


def _takers(cfg: CfgNode) -> tuple[str, ...]:
    found = _TAKERS.get(cfg.MODEL.META_ARCHITECTURE, ())
    return tuple(taker for taker in found if taker != "RPN" or has_rpn(cfg))


def _is_known(builder: str) -> bool:
    """Whether it can be called on the meta device: others may read files, or look at values."""
    room = BACKBONE_REGISTRY.get(builder).__module__.split(".")[0]
    return room in ("det_transfer", "detectron2")


def _unknown_features(
    cfg: CfgNode, takers: Sequence[str], shapes: dict[str, ShapeSpec]
) -> Iterator[str]:
    for taker in takers:
        wanted = list(cfg.MODEL[taker].IN_FEATURES)
        if not wanted or set(wanted) - set(shapes):
            yield (
                f"MODEL.{taker}.IN_FEATURES {wanted}: {_backbone_of(cfg)} gives {list(shapes)}; "
                "take of these"
            )


def _backbone_of(cfg: CfgNode) -> str:
    if cfg.MODEL.BACKBONE.NAME != "build_reuse_backbone":
        return cfg.MODEL.BACKBONE.NAME
    return f"the decoder ({cfg.MODEL.DECODER.NAME or 'none'}) on {cfg.MODEL.TRUNK.NAME}"


def _pooling_problems(
    cfg: CfgNode, takers: Sequence[str], shapes: dict[str, ShapeSpec]
) -> Iterator[str]:
    """Detectron2's ROIPooler finds a box's level by counting from the finest."""
    if "ROI_HEADS" not in takers:
        return
    wanted = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    strides = [shapes[name].stride for name in wanted]
    if any(b != 2 * a for a, b in itertools.pairwise(strides)):
        yield (
            f"MODEL.ROI_HEADS.IN_FEATURES {wanted} have strides {strides}; each must be twice the "
            "one before it, fine to coarse, without a gap"
        )


def _anchor_problems(cfg: CfgNode, taker: str, shapes: dict[str, ShapeSpec]) -> Iterator[str]:
    wanted = list(cfg.MODEL[taker].IN_FEATURES)
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    given = {key: _of_levels(anchors[key], len(wanted)) for key in ("SIZES", "ASPECT_RATIOS")}
    wrong = {key: lists for key, lists in given.items() if len(lists) != len(wanted)}
    for key, lists in wrong.items():
        yield (
            f"MODEL.ANCHOR_GENERATOR.{key} has {len(lists)} lists for the {len(wanted)} levels of "
            f"MODEL.{taker}.IN_FEATURES; give one for each, or one for all"
        )
    if wrong or anchors.NAME != "DefaultAnchorGenerator":
        return
    counts = [len(s) * len(r) for s, r in zip(*given.values(), strict=True)]
    if len(set(counts)) > 1:
        yield (
            f"MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS make {counts} anchors at a place of "
            f"the levels of MODEL.{taker}.IN_FEATURES; its head needs as many on each"
        )
    strides = [shapes[name].stride for name in wanted]
    levels = sorted(zip(strides, given["SIZES"], strict=True))
    if all(given["SIZES"]) and any(
        max(coarse) < min(fine) for (_, fine), (_, coarse) in itertools.pairwise(levels)
    ):
        yield (
            f"MODEL.ANCHOR_GENERATOR.SIZES {anchors.SIZES} belong to MODEL.{taker}.IN_FEATURES "
            f"{wanted} of strides {strides} in this order, so that coarser levels have smaller "
            "anchors; list both fine to coarse"
        )


def _of_levels(lists: Any, levels: int) -> list:
    """A list for each level, as Detectron2's ``_broadcast_params`` reads them."""
    if lists and not isinstance(lists[0], list | tuple):
        lists = [lists]
    return list(lists) * levels if len(lists) == 1 else list(lists)


def _norm_problems(cfg: CfgNode, taker: str, shapes: dict[str, ShapeSpec]) -> Iterator[str]:
    """Of heads as wide as the decoder; the widths of others are in the config."""
    head = cfg.MODEL[taker]
    as_wide = taker == "RETINANET" or list(head.CONV_DIMS[:1]) == [-1]
    if as_wide:
        channels = shapes[head.IN_FEATURES[0]].channels
        what = f"the number of channels of MODEL.{taker}.IN_FEATURES"
        yield from group_problems(head.NORM, channels, f"MODEL.{taker}.NORM", what)


def _idle_parameters(cfg: CfgNode, takers: Sequence[str]) -> Iterator[str]:
    """DistributedDataParallel waits for a gradient of each trained parameter, and stops."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.REUSE.FAST = cfg.MODEL.REUSE.COMPILE = False  # other arithmetic, the same parameters
    with torch.device("meta"):
        backbone = build_backbone(cfg).eval()
        side = max(64, backbone.size_divisibility)
        try:
            features = backbone(torch.zeros(1, len(cfg.MODEL.PIXEL_MEAN), side, side))
        except (NotImplementedError, RuntimeError, AssertionError):
            return  # a trunk of the user's own that looks at values or sizes: it is not known
    taken = {name for taker in takers for name in cfg.MODEL[taker].IN_FEATURES}
    idle = _without_gradient(backbone, [features[name] for name in taken])
    if idle:
        keys = " and ".join(f"MODEL.{taker}.IN_FEATURES" for taker in takers)
        left = [name for name in features if name not in taken]
        yield (
            f"{keys} take {[n for n in features if n in taken]}, for which {len(idle)} trained "
            f"tensors of the backbone are not needed ({idle[0]} and on); several processes would "
            f"wait for their gradients: take more of {left}, have fewer made, or train in one "
            "process"
        )


def _without_gradient(network: nn.Module, outputs: Sequence[Tensor]) -> list[str]:
    """Names of the trained parameters on which none of the outputs depends."""
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    total = sum(output.sum() for output in outputs)
    if not total.requires_grad:
        return list(trained)
    found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    return [name for name, gradient in zip(trained, found, strict=True) if gradient is None]
