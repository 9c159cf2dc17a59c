"""How fast old and new layers learn, over the time of a run."""

import torch
from detectron2.engine import HookBase
from torch import Tensor

from .classifier import ImageClassifier

__all__ = ["Pace"]


class Pace(HookBase):
    """Writes into ``metrics.json`` how each layer above pool5 does, every so many iterations.

    ``pace/<layer>/norm``: the L2 norm of its activation, before norm and scale, the mean over the
    batch. ``pace/<layer>/update``: ||change|| / ||weights|| of one step, and of the classifier's
    weights to each layer ``pace/<task> on <layer>/update``. That old and new layers learn at the
    same pace is what Growing a Brain normalises for; by these it can be seen.

    Register it before the writers.

    Args:
        model: without its DDP wrapper
        period: iterations
    """

    def __init__(self, model: ImageClassifier, period: int):
        self._model, self._period = model, period
        self._before: dict[str, Tensor] = {}

    def before_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0:
            self._before = self._weights()
            self._model.watched = {}

    def after_step(self) -> None:
        if self._model.watched is None:
            return
        values = {f"pace/{name}/norm": norm for name, norm in self._model.watched.items()}
        now = self._weights()
        for name, before in self._before.items():
            change = (now[name] - before).norm() / before.norm().clamp(1e-12)
            values[f"pace/{name}/update"] = change.item()
        self.trainer.storage.put_scalars(smoothing_hint=False, **values)
        self._model.watched, self._before = None, {}

    @torch.no_grad()
    def _weights(self) -> dict[str, Tensor]:
        """Of each trained layer, all its weights in one vector; a classifier's by what it reads."""
        found = {
            name: torch.cat([weight.flatten() for weight in layer.weights.values()])
            for name, layer in self._model.layers.items()
            if any(weight.requires_grad for weight in layer.weights.values())
        }
        for task, classifier in self._model.classifiers.items():
            for name, weight in classifier.weights.items():
                if weight.requires_grad:
                    found[f"{task} on {name}"] = weight.clone()
        return found
