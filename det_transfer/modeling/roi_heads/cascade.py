"""Cascade R-CNN with the choices in which the authors' code and Detectron2 differ.

Source of the authors' side: tensorflow/models official/vision (modeling/maskrcnn_model.py,
tasks/maskrcnn.py), with which "Proper Reuse of Image Classification Features Improves Object
Detection" was trained.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ...errors import choice_problems, raise_all

__all__ = ["ENSEMBLES", "TransferCascadeROIHeads"]

Features = dict[str, Tensor]


class _Stage(NamedTuple):
    """What one stage of the cascade was given and gave."""

    predictor: FastRCNNOutputLayers
    predictions: tuple[Tensor, Tensor]  # logits (R, classes + 1), box deltas (R, 4)
    proposals: list[Instances]


def _mean_probabilities(stages: list[_Stage]) -> list[Tensor]:
    each = [stage.predictor.predict_probs(stage.predictions, stage.proposals) for stage in stages]
    # In the order of Detectron2's own, so that the same comes out to the last bit.
    return [sum(list(image)) * (1.0 / len(stages)) for image in zip(*each, strict=True)]


def _mean_logits(stages: list[_Stage]) -> list[Tensor]:
    last = stages[-1]
    logits = torch.stack([stage.predictions[0] for stage in stages]).mean(dim=0)
    return last.predictor.predict_probs((logits, last.predictions[1]), last.proposals)


# MODEL.ROI_BOX_CASCADE_HEAD.ENSEMBLE -> scores (R_i, classes + 1) of each image. A new one is a
# new entry.
ENSEMBLES: dict[str, Callable[[list[_Stage]], list[Tensor]]] = {
    "probabilities": _mean_probabilities,
    "logits": _mean_logits,
}
_LOSSES = ("sum", "mean")
_MASK_PROPOSALS = ("first", "last")
_KEY = "MODEL.ROI_BOX_CASCADE_HEAD"


@ROI_HEADS_REGISTRY.register()
class TransferCascadeROIHeads(CascadeROIHeads):
    """``MODEL.ROI_BOX_CASCADE_HEAD``; with its defaults it is Detectron2's.

    Args:
        loss: "sum": losses of the stages are added and the gradient on the features divided by
            their number (Detectron2); "mean": losses are averaged (the authors), by which the
            features learn alike and the heads a third as fast
        ensemble: scores at inference: "probabilities" (Detectron2) or "logits" (the authors) of
            the stages are averaged
        mask_proposals: masks (and keypoints) are trained on the foreground among the proposals of
            the "first" stage (Detectron2) or of the "last" (the authors)

    Raises:
        UserError: any other word
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        loss: str = "sum",
        ensemble: str = "probabilities",
        mask_proposals: str = "first",
        **kwargs,
    ):
        super().__init__(box_in_features=box_in_features, box_pooler=box_pooler, **kwargs)
        raise_all(
            [
                *choice_problems(f"{_KEY}.LOSS", loss, _LOSSES),
                *choice_problems(f"{_KEY}.ENSEMBLE", ensemble, ENSEMBLES),
                *choice_problems(f"{_KEY}.MASK_PROPOSALS", mask_proposals, _MASK_PROPOSALS),
            ]
        )
        self.loss = loss
        self.ensemble = ensemble
        self.mask_proposals = mask_proposals

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape) -> dict:
        options = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "loss": options.LOSS,
            "ensemble": options.ENSEMBLE,
            "mask_proposals": options.MASK_PROPOSALS,
        }

    def forward(
        self,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As :class:`CascadeROIHeads`."""
        if not self.training:
            return super().forward(images, features, proposals, targets)
        proposals = self.label_and_sample_proposals(proposals, targets)
        stages = self._cascade(features, proposals, targets)
        losses = self._box_losses(stages)
        if self.mask_proposals == "last":
            proposals = self._foreground(stages[-1].proposals, targets)
        losses |= self._forward_mask(features, proposals)
        losses |= self._forward_keypoint(features, proposals)
        return proposals, losses

    def _forward_box(self, features, proposals, targets=None):
        stages = self._cascade(features, proposals, targets)
        return self._box_losses(stages) if self.training else self._detections(stages)

    def _cascade(
        self, features: Features, proposals: list[Instances], targets: list[Instances] | None
    ) -> list[_Stage]:
        """Run the stages one after the other, each on the boxes of the one before."""
        maps = [features[name] for name in self.box_in_features]
        sizes = [image.image_size for image in proposals]
        stages: list[_Stage] = []
        for k, predictor in enumerate(self.box_predictor):
            if stages:
                before = stages[-1]
                boxes = before.predictor.predict_boxes(before.predictions, before.proposals)
                proposals = self._create_proposals_from_boxes(boxes, sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, k, targets)
            stages.append(_Stage(predictor, self._run_stage(maps, proposals, k), proposals))
        return stages

    def _run_stage(self, features, proposals, stage):
        if self.loss == "sum":
            return super()._run_stage(features, proposals, stage)  # scales the gradient
        pooled = self.box_pooler(features, [image.proposal_boxes for image in proposals])
        return self.box_predictor[stage](self.box_head[stage](pooled))

    def _box_losses(self, stages: list[_Stage]) -> dict[str, Tensor]:
        weight = 1.0 if self.loss == "sum" else 1.0 / len(stages)
        losses = {}
        for k, stage in enumerate(stages):
            with get_event_storage().name_scope(f"stage{k}"):
                of_stage = stage.predictor.losses(stage.predictions, stage.proposals)
            losses |= {f"{name}_stage{k}": value * weight for name, value in of_stage.items()}
        return losses

    def _detections(self, stages: list[_Stage]) -> list[Instances]:
        last = stages[-1]
        instances, _ = fast_rcnn_inference(
            last.predictor.predict_boxes(last.predictions, last.proposals),
            ENSEMBLES[self.ensemble](stages),
            [image.image_size for image in last.proposals],
            last.predictor.test_score_thresh,
            last.predictor.test_nms_thresh,
            last.predictor.test_topk_per_image,
        )
        return instances

    @torch.no_grad()
    def _foreground(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """The foreground of a stage with all its ground truth, as many as the first may have."""
        limit = int(self.batch_size_per_image * self.positive_fraction)
        found = []
        for image, truth in zip(proposals, targets, strict=True):
            kept = (image.gt_classes != self.num_classes).nonzero().squeeze(1)
            kept = kept[torch.randperm(len(kept), device=kept.device)[:limit]]
            image = image[kept]
            if len(truth):
                overlaps = pairwise_iou(truth.gt_boxes, image.proposal_boxes)
                matched = overlaps.argmax(dim=0)
                for name, value in truth.get_fields().items():
                    if name.startswith("gt_") and not image.has(name):
                        image.set(name, value[matched])
            found.append(image)
        return found
