"""The class-balanced loss on box heads: rare classes weigh as much as their few objects tell.

Source: Cui et al. 2019 (Class-Balanced Loss Based on Effective Number of Samples), section 4. It
names image classifiers alone; what it says for detectors is ours, see :func:`class_weights`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from ...errors import UserError
from ...reuse import mix_in

__all__ = ["balance_classes", "class_weights"]


def class_weights(counts: Sequence[int], beta: float, background: float = 0.0) -> Tensor:
    """Weights of the classes and of the background.

    A class of n objects weighs the inverse of its effective number, (1 - beta) / (1 - beta**n);
    the mean over the classes that have objects is 1. One that has none weighs as one of a single
    object and is not in the mean; no region is labelled with it, so that its weight is never used.

    The background has no number. Where `background` gives no weight it is taken as a class of very
    many objects, as which it weighs (1 - beta) before the mean: as much as a frequent class. With
    beta 0 all weigh 1.

    Args:
        counts: objects of each class in training
        beta: in [0, 1); about so many objects as 1 / (1 - beta) are many
        background: weight of the background, where the classes' mean is 1; 0: see above

    Returns:
        (len(counts) + 1,) float32, the background last

    Raises:
        UserError: no class has an object
    """
    numbers = torch.as_tensor(counts, dtype=torch.float64)
    if not (numbers > 0).any():
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA {beta}: DATASETS.TRAIN has no object by which "
            "classes could be weighed; set it to 0"
        )
    weights = (1 - beta) / (1 - beta ** numbers.clamp(min=1))
    mean = weights[numbers > 0].mean()
    last = torch.tensor([background or (1 - beta) / mean], dtype=torch.float64)
    return torch.cat([weights / mean, last]).float()


def balance_classes(
    model: nn.Module, counts: Sequence[int], beta: float, background: float = 0.0
) -> None:
    """Give the classification losses of all box heads in `model` class weights, in place.

    The loss becomes the sum over the regions of weight times loss, divided by their number:
    softmax and sigmoid, with the federated choice of classes or without. Saved weights, inference
    and what is logged beside the losses stay as they are.

    Args:
        counts: objects of each class in training
        beta, background: see :func:`class_weights`

    Raises:
        UserError: `counts` are not of the heads' classes, or there is no such head

    Source: the division is that of Cui et al.'s code, richardaecn/class-balanced-loss,
    src/cifar_main.py: by the number of examples, not by the batch's sum of weights, which would
    undo the weights of a batch of rare classes alone.
    """
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]
    key = f"MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA {beta}"
    if not predictors:
        raise UserError(
            f"{key}: the model has no FastRCNNOutputLayers whose loss could be balanced; set it "
            "to 0, or take a meta architecture and heads that have them"
        )
    weights = class_weights(counts, beta, background)
    for predictor in predictors:
        if len(counts) != predictor.num_classes:
            raise UserError(
                f"{key}: DATASETS.TRAIN gives {len(counts)} counts for {predictor.num_classes} "
                "classes; set MODEL.ROI_HEADS.NUM_CLASSES to the classes of the data, and name "
                "them all in its metadata's thing_classes"
            )
        device = predictor.cls_score.weight.device
        mix_in(predictor, _Balanced, _class_weights=weights.to(device))


class _Balanced:
    """What :func:`balance_classes` mixes into the class of a predictor."""

    _class_weights: Tensor

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        losses = super().losses(predictions, proposals)
        logits, _ = predictions
        classes = torch.cat([image.gt_classes for image in proposals])
        loss = self._balanced_loss(logits, classes)
        losses["loss_cls"] = loss * self.loss_weight.get("loss_cls", 1.0)
        return losses

    def _balanced_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Of regions with `logits` (N, classes + 1) and labels `classes` (N,); 0 where N is 0."""
        if not len(classes):
            return logits.sum() * 0
        each = self._sigmoid_losses if self.use_sigmoid_ce else self._softmax_losses
        return (self._class_weights[classes] * each(logits, classes)).sum() / len(classes)

    def _softmax_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(logits, classes, reduction="none")

    def _sigmoid_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        target = F.one_hot(classes, self.num_classes + 1)[:, :-1].to(logits)
        losses = F.binary_cross_entropy_with_logits(logits[:, :-1], target, reduction="none")
        if self.use_fed_loss:
            losses = losses[:, self._federated(classes)]
        return losses.sum(dim=1)

    def _federated(self, classes: Tensor) -> Tensor:
        """The foreground classes that Detectron2's federated loss looks at, each once."""
        chosen = self.get_fed_loss_classes(
            classes,
            num_fed_loss_classes=self.fed_loss_num_classes,
            num_classes=self.num_classes,
            weight=self.fed_loss_cls_weights,
        )
        chosen = torch.unique(chosen)  # where too few classes can be drawn, it repeats some
        return chosen[chosen < self.num_classes]
