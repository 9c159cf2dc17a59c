"""The class-balanced loss on box heads: rare classes weigh as much as their few objects tell.

Source: Cui et al. 2019 (Class-Balanced Loss Based on Effective Number of Samples), section 4. It
names image classifiers alone; what it says for detectors is ours, see :func:`class_weights`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import cross_entropy
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from ...reuse import mix_in

__all__ = ["balance_classes", "class_weights"]


def class_weights(counts: Sequence[int], beta: float) -> Tensor:
    """Weights of the classes and of the background.

    A class of n objects weighs the inverse of its effective number, (1 - beta) / (1 - beta**n);
    the mean over the classes is 1. A class without objects weighs as one of a single object.

    The background has no number; it is taken as a class of very many, as which it weighs
    (1 - beta) before the mean: as much as a frequent class. With beta 0 all weigh 1.

    Args:
        counts: objects of each class in training
        beta: in [0, 1); about so many objects as 1 / (1 - beta) are many

    Returns:
        (len(counts) + 1,) float32, the background last
    """
    numbers = torch.as_tensor(counts, dtype=torch.float64).clamp(min=1)
    weights = (1 - beta) / (1 - beta**numbers)
    background = torch.tensor([1 - beta], dtype=torch.float64)
    return (torch.cat([weights, background]) / weights.mean()).float()


def balance_classes(model: nn.Module, counts: Sequence[int], beta: float) -> None:
    """Give the classification losses of all box heads in `model` class weights, in place.

    The loss becomes the weighted mean over the regions instead of the mean: softmax and sigmoid,
    with the federated choice of classes or without. Saved weights, inference and what is logged
    beside the losses stay as they are.

    Args:
        counts: objects of each class in training
        beta: see :func:`class_weights`

    Raises:
        ValueError: `counts` are not of the heads' classes, or there is no such head
    """
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]
    if not predictors:
        raise ValueError("the model has no FastRCNNOutputLayers whose loss could be balanced")
    for predictor in predictors:
        if len(counts) != predictor.num_classes:
            raise ValueError(f"{len(counts)} counts for {predictor.num_classes} classes")
        weights = class_weights(counts, beta).to(predictor.cls_score.weight.device)
        mix_in(predictor, _Balanced, _class_weights=weights)


class _Balanced:
    """What :func:`balance_classes` mixes into the class of a predictor."""

    _class_weights: Tensor

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        losses = super().losses(predictions, proposals)
        logits, _ = predictions
        classes = torch.cat([image.gt_classes for image in proposals])
        loss = self._sigmoid_loss if self.use_sigmoid_ce else self._softmax_loss
        losses["loss_cls"] = loss(logits, classes) * self.loss_weight.get("loss_cls", 1.0)
        return losses

    def _softmax_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        return cross_entropy(logits, classes, reduction="mean", weight=self._class_weights)

    def _sigmoid_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        if not len(classes):
            return logits.sum() * 0
        target = F.one_hot(classes, self.num_classes + 1)[:, :-1].to(logits)
        losses = F.binary_cross_entropy_with_logits(logits[:, :-1], target, reduction="none")
        if self.use_fed_loss:
            losses = losses[:, self._federated(classes)]
        weights = self._class_weights[classes]
        return (losses.sum(dim=1) * weights).sum() / weights.sum()

    def _federated(self, classes: Tensor) -> Tensor:
        """The foreground classes that Detectron2's federated loss looks at."""
        chosen = self.get_fed_loss_classes(
            classes,
            num_fed_loss_classes=self.fed_loss_num_classes,
            num_classes=self.num_classes,
            weight=self.fed_loss_cls_weights,
        )
        return chosen[chosen < self.num_classes]
