"""Steps of fixed size, for ``torch.export``: selections of boxes, and padding.

Detectron2 looks at numbers to decide how many boxes go on ("are all finite?", "is any empty?"),
which a graph cannot hold. Inside :func:`fixed_sizes` the same is selected otherwise: what is left
over is ranked below all others (-inf) and stays, so that every step has as many rows as it could
have. For one image of finite predictions the answers are those of Detectron2, but for rounding.

timm's convolutions and poolings of TensorFlow's padding ("SAME") compute from each input's size how
much to pad, which over a whole trunk becomes formulas that take torch minutes to simplify. Inside
:func:`whole_strides` it is what it always is where sizes are multiples of the stride: a constant.
"""

import contextlib
import importlib
import math
from collections.abc import Iterator, Sequence
from unittest import mock

import torch
from detectron2.modeling import RetinaNet, poolers
from detectron2.modeling.proposal_generator import rpn
from detectron2.modeling.roi_heads import fast_rcnn
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

__all__ = ["fixed_sizes", "whole_strides"]

# timm's modules that pad as TensorFlow does.
_PADDED = ("timm.layers.conv2d_same", "timm.layers.pool2d_same")


@contextlib.contextmanager
def fixed_sizes() -> Iterator[None]:
    """Inside, detectors select with fixed sizes; of detections, rows with score -inf are none."""
    with (
        mock.patch.object(Boxes, "clip", _clip),
        mock.patch.object(poolers, "convert_boxes_to_pooler_format", _pooler_format),
        mock.patch.object(rpn, "find_top_rpn_proposals", _proposals),
        mock.patch.object(fast_rcnn, "fast_rcnn_inference_single_image", _detections),
        mock.patch.object(RetinaNet, "inference_single_image", _dense_detections),
    ):
        yield


@contextlib.contextmanager
def whole_strides() -> Iterator[None]:
    """Inside, images are multiples of the coarsest stride, and so padding depends on no size."""
    with contextlib.ExitStack() as stack:
        for module in map(importlib.import_module, _PADDED):
            stack.enter_context(mock.patch.object(module, "pad_same", _pad_same))
        yield


def _pad_same(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    value: float = 0,
) -> Tensor:
    """In place of timm's function: a window of k px every s px over a multiple of s lacks k - s."""
    sides = []
    for kernel, step, spread in zip(kernel_size, stride, dilation, strict=True):
        lacking = max((kernel - 1) * spread + 1 - step, 0)
        sides.append([lacking // 2, lacking - lacking // 2])
    return F.pad(x, sides[1] + sides[0], value=value)


def _clip(self: Boxes, box_size: tuple[int, int]) -> None:
    """In place of Detectron2's ``Boxes.clip``, which first asks whether all are finite."""
    height, width = box_size
    x = self.tensor[:, 0::2].clamp(min=0, max=width)
    y = self.tensor[:, 1::2].clamp(min=0, max=height)
    self.tensor = torch.stack([x, y], dim=2).flatten(1)


def _pooler_format(box_lists: Sequence[Boxes]) -> Tensor:
    """In place of Detectron2's, which repeats each image's number so often as it has boxes."""
    (boxes,) = box_lists
    return F.pad(boxes.tensor, (1, 0))  # (N, 5): number 0, corners


def _best(
    boxes: Tensor, scores: Tensor, groups: Tensor, count: int, rows: Tensor, threshold: float
) -> Tensor:
    """`scores` (N,) of what NMS leaves, -inf elsewhere.

    Args:
        boxes: (n, 4) of the candidates
        groups: (n,) int64, below `count`; boxes of two groups leave each other alone
        rows: (n,) int64, the candidates' places among the N
    """
    # To torch.export torchvision says that NMS leaves two boxes at least, and the graph insists on
    # it: two that touch no other stand behind all, and are cut off again.
    total = len(scores)
    apart = _apart(boxes, groups, count)
    low = torch.cat([apart.flatten(), apart.new_zeros(1)]).min()
    lone = low - torch.tensor([[2.0, 2, 1, 1], [4, 4, 3, 3]]).to(apart)
    scores = torch.cat([scores, (scores.min() - 1).expand(2)])
    rows = torch.cat([rows, torch.arange(total, total + 2, device=rows.device)])
    kept = rows[nms(torch.cat([apart, lone]), scores[rows], threshold)]
    return torch.full_like(scores, -torch.inf).index_copy(0, kept, scores[kept])[:total]


def _apart(boxes: Tensor, groups: Tensor, count: int) -> Tensor:
    """`boxes`, each group moved into a square of its own, so that one NMS serves all.

    The squares form a square: float32, which is all that ONNX's NMS takes, resolves the 1,203
    classes of LVIS at 1,333 px to 1/256 px, and in one row it would to 1/8 px.
    """
    columns = math.isqrt(count - 1) + 1
    corners = torch.cat([boxes.flatten(), boxes.new_zeros(1)])  # there may be no box
    side = corners.max() - corners.min() + 1
    place = torch.stack([groups % columns, groups // columns], dim=1)
    return boxes + (side * place).repeat(1, 2)


def _proposals(
    proposals: Sequence[Tensor],
    pred_objectness_logits: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """In place of Detectron2's ``find_top_rpn_proposals``.

    Where fewer are left than `post_nms_topk`, the best stands in for those that lack: its doubles
    are detected as it is, and the last NMS takes them out.
    """
    (size,) = image_sizes
    found = []
    for level, (boxes, logits) in enumerate(zip(proposals, pred_objectness_logits, strict=True)):
        scores, index = logits[0].topk(min(logits.shape[1], pre_nms_topk))
        found.append((boxes[0][index], scores, torch.full_like(index, level)))
    tensor, scores, levels = (torch.cat(parts) for parts in zip(*found, strict=True))
    boxes = Boxes(tensor)
    boxes.clip(size)
    rows = boxes.nonempty(threshold=min_box_size).nonzero()[:, 0]
    left = _best(boxes.tensor[rows], scores, levels[rows], len(proposals), rows, nms_thresh)
    best, index = left.topk(min(post_nms_topk, len(left)))
    index = torch.where(best > -torch.inf, index, index[:1])
    result = Instances(size)
    result.proposal_boxes = Boxes(boxes.tensor[index])
    result.objectness_logits = scores[index]
    return [result]


def _detections(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, Tensor]:
    """In place of Detectron2's ``fast_rcnn_inference_single_image``."""
    classes = scores.shape[1] - 1
    per_box = 1 if boxes.shape[1] == 4 else classes
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_shape)
    flat = scores[:, :-1].reshape(-1)  # of box r and class k at r * classes + k
    rows = (flat > score_thresh).nonzero()[:, 0]
    of_row = rows // classes if per_box == 1 else rows
    left = _best(clipped.tensor[of_row], flat, rows % classes, classes, rows, nms_thresh)
    most = len(left) if topk_per_image < 0 else min(topk_per_image, len(left))
    best, index = left.topk(most)
    of_best = index // classes if per_box == 1 else index
    return _instances(image_shape, clipped.tensor[of_best], best, index % classes), index // classes


def _dense_detections(
    self: RetinaNet,
    anchors: Sequence[Boxes],
    box_cls: Sequence[Tensor],
    box_delta: Sequence[Tensor],
    image_size: tuple[int, int],
) -> Instances:
    """In place of Detectron2's ``RetinaNet.inference_single_image``."""
    found = []
    for level, scores, deltas in zip(anchors, box_cls, box_delta, strict=True):
        best, index = scores.flatten().topk(min(scores.numel(), self.test_topk_candidates))
        anchor = index // scores.shape[1]
        boxes = self.box2box_transform.apply_deltas(deltas[anchor], level.tensor[anchor])
        found.append((boxes, best, index % scores.shape[1]))
    boxes, scores, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
    rows = (scores > self.test_score_thresh).nonzero()[:, 0]
    left = _best(boxes[rows], scores, classes[rows], self.num_classes, rows, self.test_nms_thresh)
    best, index = left.topk(min(self.max_detections_per_image, len(left)))
    return _instances(image_size, boxes[index], best, classes[index])


def _instances(size: tuple[int, int], boxes: Tensor, scores: Tensor, classes: Tensor) -> Instances:
    return Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
