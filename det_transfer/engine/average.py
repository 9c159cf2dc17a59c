"""A running mean of the weights, which often does better than the last of them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from .checkpoint import TransferCheckpointer
from .hooks import last_iteration

__all__ = ["WeightAverage"]


class WeightAverage(HookBase):
    """An exponential moving average of what training changes: parameters and float buffers.

    After step n the mean moves by ``1 - min(decay, (1 + n) / (10 + n))`` towards the weights: a
    short run forgets its random start. The running statistics of batch norms are averaged too, so
    that they belong to the averaged weights; frozen parameters need no copy.

    Source of the warm-up: TensorFlow's ``tf.train.ExponentialMovingAverage(num_updates=...)``.

    Args:
        model: unwrapped or wrapped in DDP
        decay: of the mean, a step
        checkpointer: writes ``model_final_ema.pth`` at the end; None: nothing is written
    """

    def __init__(
        self, model: nn.Module, decay: float, checkpointer: TransferCheckpointer | None = None
    ):
        self.decay, self.checkpointer = decay, checkpointer
        self.steps = 0
        self._model = model
        self._weights = _changing(model)
        self._mean = {name: tensor.detach().clone() for name, tensor in self._weights.items()}

    def model_changed(self) -> None:
        """What is new begins with its own value as the mean."""
        self._weights = _changing(self._model)
        self._mean = {
            name: self._mean[name] if name in self._mean else tensor.detach().clone()
            for name, tensor in self._weights.items()
        }

    def before_train(self) -> None:
        if not self.steps:  # the weights have been loaded since
            self._copy(self._weights, self._mean)

    @torch.no_grad()
    def after_step(self) -> None:
        step = 1.0 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(list(self._mean.values()), list(self._weights.values()), step)

    def after_train(self) -> None:
        if self.checkpointer is not None and self.trainer.iter + 1 >= self.trainer.max_iter:
            with self.applied():
                self.checkpointer.save(
                    "model_final_ema", tag=False, iteration=last_iteration(self.trainer)
                )

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; after, its own again to the last bit."""
        own = {name: tensor.detach().clone() for name, tensor in self._weights.items()}
        self._copy(self._mean, self._weights)
        try:
            yield
        finally:
            self._copy(own, self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Goes into every checkpoint with the trainer's state."""
        return {"steps": self.steps, "mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self._copy(state["mean"], self._mean)

    @torch.no_grad()
    def _copy(self, source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
        for name, tensor in target.items():
            tensor.copy_(source[name])


def _changing(model: nn.Module) -> dict[str, Tensor]:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    buffers = {n: b for n, b in model.named_buffers() if b.is_floating_point()}
    return parameters | buffers
