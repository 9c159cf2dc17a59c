"""Learning without forgetting: old classifiers keep their answers on new images."""

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..reuse import freeze
from .building import build_source
from .checkpoint import ClassifierCheckpointer
from .classifier import Activations, ImageClassifier

__all__ = ["Teacher", "distillation_loss"]


def distillation_loss(logits: Tensor, recorded: Tensor, temperature: float) -> Tensor:
    """Cross entropy of two softened distributions, the mean over images.

    Source: Li and Hoiem 2016, equations 2 and 3.

    Args:
        logits, recorded: (N, classes) of the network that learns, and of the one that is kept
    """
    target = (recorded / temperature).softmax(dim=1)
    return -(target * (logits / temperature).log_softmax(dim=1)).sum(dim=1).mean()


class Teacher:
    """The network that a run began with, standing still; not part of the model that learns.

    Args:
        cfg: MODEL.WEIGHTS is a checkpoint of a classifier, or others' weights with WEIGHTS_TASK
    """

    def __init__(self, cfg: CfgNode):
        self._weight = cfg.MODEL.CLASSIFIER.DISTILL_WEIGHT
        self._temperature = cfg.MODEL.CLASSIFIER.DISTILL_TEMPERATURE
        model = build_source(cfg)
        model.to(torch.device(cfg.MODEL.DEVICE))
        model.new = set()
        self.model: ImageClassifier = freeze(model)  # before: nothing of it may lack weights
        ClassifierCheckpointer(model, cfg=cfg).load_classifier(cfg.MODEL.WEIGHTS)

    def losses(
        self, model: ImageClassifier, activations: Activations, trained: set[str]
    ) -> dict[str, Tensor]:
        """{"loss_keep_<task>"} of the old tasks that this batch has no labels for.

        Args:
            activations: of the batch in the network that learns
            trained: tasks that have labels in this run
        """
        tasks = [t for t in self.model.classifiers if t in model.classifiers and t not in trained]
        known = Activations(self.model, activations.given)
        found = {}
        for task in tasks:
            with torch.no_grad():
                recorded = self.model.logits(known, task)
            loss = distillation_loss(model.logits(activations, task), recorded, self._temperature)
            found[f"loss_keep_{task}"] = self._weight * loss
        return found
