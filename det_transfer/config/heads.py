"""What can be wrong with the decoder and the heads of a config."""

import itertools
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from ..errors import choice_problems

__all__ = ["head_problems"]

_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")  # of Detectron2
_POOLERS = ("ROIAlignV2", "ROIAlign", "ROIPool", "ROIAlignRotated")
_CHOICES = {
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": (*_POOLERS, ""),  # "": the head pools for itself
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": (*_POOLERS, ""),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
}
_AT_LEAST_1 = (
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
)
_AT_LEAST_0 = (
    "MODEL.RPN.SMOOTH_L1_BETA",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA",
    "MODEL.ROI_BOX_HEAD.NUM_CONV",
    "MODEL.ROI_BOX_HEAD.NUM_FC",
    "MODEL.ROI_MASK_HEAD.NUM_CONV",
)
_SHARES = (  # from 0 to 1
    "MODEL.RPN.POSITIVE_FRACTION",
    "MODEL.RPN.NMS_THRESH",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.RETINANET.NMS_THRESH_TEST",
)
_BOX_WEIGHTS = (
    "MODEL.RPN.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.RETINANET.BBOX_REG_WEIGHTS",
)
# Keys that only some heads of ours know: key -> (key of the head, the head).
_NEEDS = {
    "MODEL.RPN.NORM": ("MODEL.RPN.HEAD_NAME", "TransferRPNHead"),
    "MODEL.RPN.ACTIVATION": ("MODEL.RPN.HEAD_NAME", "TransferRPNHead"),
    "MODEL.ROI_BOX_HEAD.ACTIVATION": ("MODEL.ROI_BOX_HEAD.NAME", "TransferBoxHead"),
    "MODEL.ROI_MASK_HEAD.ACTIVATION": ("MODEL.ROI_MASK_HEAD.NAME", "TransferMaskHead"),
    "MODEL.ROI_BOX_HEAD.FC_NORM": ("MODEL.ROI_BOX_HEAD.NAME", "TransferBoxHead"),
    "MODEL.ROI_MASK_HEAD.DECONV_NORM": ("MODEL.ROI_MASK_HEAD.NAME", "TransferMaskHead"),
    "MODEL.ROI_BOX_CASCADE_HEAD.LOSS": ("MODEL.ROI_HEADS.NAME", "TransferCascadeROIHeads"),
    "MODEL.ROI_BOX_CASCADE_HEAD.ENSEMBLE": ("MODEL.ROI_HEADS.NAME", "TransferCascadeROIHeads"),
    "MODEL.ROI_BOX_CASCADE_HEAD.MASK_PROPOSALS": (
        "MODEL.ROI_HEADS.NAME",
        "TransferCascadeROIHeads",
    ),
}
# What these keys are where nobody has chosen anything.
_AS_DETECTRON2 = ("", "relu", "sum", "probabilities", "first")
_STOCK_HEADS = (
    "StandardRPNHead",
    "FastRCNNConvFCHead",
    "MaskRCNNConvUpsampleHead",
    "CascadeROIHeads",
)
_BOX_HEADS = ("FastRCNNConvFCHead", "TransferBoxHead")
# Where boxes or anchors are matched with objects, by Detectron2's Matcher.
_MATCHED = ("MODEL.RPN", "MODEL.ROI_HEADS", "MODEL.RETINANET")


def head_problems(cfg: CfgNode, values: dict[str, Any]) -> Iterator[str]:
    """A line for each key of the decoder or of a head that is wrong.

    Args:
        values: of every key, as :func:`~det_transfer.config.reading.leaves` gives them
    """
    for key, choices in _CHOICES.items():
        yield from choice_problems(key, values[key], choices)
    for key, (name_key, name) in _NEEDS.items():
        # A head of the user's own may well read the key.
        stock = values[name_key] in _STOCK_HEADS
        if values[key] not in _AS_DETECTRON2 and stock:
            yield f"{key} {values[key]!r} needs {name_key} {name}; it is {values[name_key]}"
    yield from (f"{k} is {values[k]}; it must be >= 1" for k in _AT_LEAST_1 if values[k] < 1)
    yield from (f"{k} is {values[k]}; it must be >= 0" for k in _AT_LEAST_0 if values[k] < 0)
    for key in _SHARES:
        if not 0 <= values[key] <= 1:
            yield f"{key} is {values[key]}; it must be from 0 to 1"
    offset = cfg.MODEL.ANCHOR_GENERATOR.OFFSET
    if not 0 <= offset < 1:
        yield f"MODEL.ANCHOR_GENERATOR.OFFSET is {offset}; it must be 0 <= OFFSET < 1"
    for key in _BOX_WEIGHTS:
        yield from _weight_problems(key, values[key])
    for group in _MATCHED:
        yield from _matcher_problems(group, values)
    yield from _layer_problems(cfg)
    yield from _drop_connect_problems(cfg)
    if "Cascade" in cfg.MODEL.ROI_HEADS.NAME and cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        yield from _cascade_problems(cfg)


def _matcher_problems(group: str, values: dict[str, Any]) -> Iterator[str]:
    thresholds, labels = values[f"{group}.IOU_THRESHOLDS"], values[f"{group}.IOU_LABELS"]
    key = f"{group}.IOU_THRESHOLDS {list(thresholds)}"
    if not thresholds or thresholds[0] <= 0 or list(thresholds) != sorted(thresholds):
        yield f"{key} must hold at least one, be above 0 and not fall"
    if len(labels) != len(thresholds) + 1 or not {-1, 0, 1}.issuperset(labels):
        yield (
            f"{key} cut IoU into {len(thresholds) + 1} parts; {group}.IOU_LABELS {list(labels)} "
            "must say -1 (ignored), 0 (background) or 1 (object) of each"
        )


def _weight_problems(key: str, weights: Any) -> Iterator[str]:
    listed = isinstance(weights, list | tuple) and len(weights) in (4, 5)
    if not listed or not all(isinstance(w, int | float) and w > 0 for w in weights):
        yield f"{key} {weights!r} must hold four numbers above 0, or five for rotated boxes"


def _layer_problems(cfg: CfgNode) -> Iterator[str]:
    widths = list(cfg.MODEL.RPN.CONV_DIMS)
    if any(width != -1 and (width < 1 or width != int(width)) for width in widths):
        yield (
            f"MODEL.RPN.CONV_DIMS is {widths}; it must hold the channels of each convolution, "
            "-1 for as many as come in"
        )
    head = cfg.MODEL.ROI_BOX_HEAD
    for key, width in (("NUM_CONV", "CONV_DIM"), ("NUM_FC", "FC_DIM")):
        if head[key] > 0 and head[width] < 1:
            yield f"MODEL.ROI_BOX_HEAD.{width} is {head[width]}; it must be > 0"
    if head.NAME in _BOX_HEADS and not head.NUM_CONV and not head.NUM_FC:
        yield (
            "MODEL.ROI_BOX_HEAD.NUM_CONV and NUM_FC are both 0: a box head has at least one "
            "layer; set NUM_FC to 2, or NUM_CONV to 4 and NUM_FC to 1"
        )


def _drop_connect_problems(cfg: CfgNode) -> Iterator[str]:
    drop = cfg.MODEL.NASFPN.DROP_CONNECT
    if not 0 <= drop < 1:
        yield f"MODEL.NASFPN.DROP_CONNECT is {drop}; it must be 0 <= rate < 1"
    if drop and cfg.MODEL.NASFPN.BLOCK == "plain" and cfg.MODEL.DECODER.NAME == "nasfpn":
        yield (
            f"MODEL.NASFPN.DROP_CONNECT {drop} drops the branch of a bottleneck, and "
            "MODEL.NASFPN.BLOCK is 'plain'; set that to 'bottleneck', or this to 0"
        )


def _cascade_problems(cfg: CfgNode) -> Iterator[str]:
    options = cfg.MODEL.ROI_BOX_CASCADE_HEAD
    ious = tuple(options.IOUS)
    key = f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS {ious}"
    if any(b <= a for a, b in itertools.pairwise(ious)):
        yield f"{key} must increase, as from (0.5, 0.6, 0.7)"
    if not all(0 < iou < 1 for iou in ious):
        yield f"{key} must lie between 0 and 1"
    if not ious:
        yield f"{key} must hold the threshold of each stage, as (0.5, 0.6, 0.7)"
        return
    for number, weights in enumerate(options.BBOX_REG_WEIGHTS):
        entry = f"MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS[{number}]"
        yield from _weight_problems(entry, weights)
    first = list(cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS)
    if list(ious[:1]) != first:
        yield (
            f"{key} must begin as MODEL.ROI_HEADS.IOU_THRESHOLDS {first}, by which proposals are "
            f"sampled; set that to {list(ious[:1])}, with IOU_LABELS [0, 1]"
        )
    if len(options.BBOX_REG_WEIGHTS) != len(ious):
        yield (
            f"{key} are {len(ious)} stages, MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS are for "
            f"{len(options.BBOX_REG_WEIGHTS)}; give four numbers for each stage"
        )
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        yield (
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False: the stages of a cascade hand on "
            "one box, whatever its class; set it to True"
        )
