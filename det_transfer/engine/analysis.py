"""What a model costs: parameters, floating point operations, memory of activations.

Measured on one real training step, so that whatever a mode of reuse spares comes out by itself:
a frozen trunk has no backward pass and keeps nothing for one.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from ..reuse import reuse_table, trunk_of
from .hooks import RunRecord

__all__ = ["GROUPED", "Cost", "CountOperations", "measure", "settle"]


@dataclass(frozen=True)
class Cost:
    """What one training step on one batch takes.

    A multiplication with an addition counts as 2 operations; convolutions, matrix products and
    attention are counted, nothing else.

    Attributes:
        parameters, trained: numbers, not tensors, as in :func:`det_transfer.reuse.reuse_table`
        parts: "trunk", "decoder", "heads" -> [parameters, trained, operations of their forward]
        forward: operations of the forward pass in training
        step: operations of forward and backward
        activations: bytes that forward keeps for backward, parameters apart
    """

    parameters: int
    trained: int
    parts: dict[str, list[int]]
    forward: int
    step: int
    activations: int

    @property
    def trained_share(self) -> float:
        """Percent of the parameters."""
        return 100 * self.trained / self.parameters

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "trained_share": self.trained_share}


def measure(model: nn.Module, batch: Any) -> Cost:
    """Take one step of forward and backward on `batch` and count.

    Args:
        model: gives a dict of losses for `batch` in training; gradients are dropped afterwards,
            batch norms that are trained have seen the batch
    """
    model.train()
    saved = _SavedBytes(model)
    # Depth 3 reaches backbone.bottom_up.
    counter = FlopCounterMode(display=False, depth=3, custom_mapping=GROUPED)
    with counter, EventStorage():
        with saved:
            loss = sum(model(batch).values())
        forward, by_module = counter.get_total_flops(), counter.get_flop_counts()
        operations = {name: sum(counts.values()) for name, counts in by_module.items()}
        loss.backward()
    model.zero_grad(set_to_none=True)
    rows = reuse_table(model)
    return Cost(
        parameters=sum(row["parameters"] for row in rows),
        trained=sum(row["trainable"] for row in rows),
        parts=_parts(model, rows, forward, operations),
        forward=forward,
        step=counter.get_total_flops(),
        activations=saved.total,
    )


@torch.no_grad()
def settle(model: nn.Module, forward: Callable[[], object]) -> None:
    """Give every batch norm that `forward` runs the statistics of what it is given.

    With those of random weights features grow or vanish by orders of magnitude, boxes leave the
    image, and heads are counted and timed on next to none of them.
    """

    def measure_input(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        channels_last = inputs[0].movedim(1, -1).flatten(0, -2)
        norm.running_mean.copy_(channels_last.mean(0))
        norm.running_var.copy_(channels_last.var(0, correction=0))

    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    hooks = [norm.register_forward_pre_hook(measure_input) for norm in norms]
    forward()
    for hook in hooks:
        hook.remove()


def _parts(
    model: nn.Module, rows: list[dict[str, Any]], forward: int, operations: dict[str, int]
) -> dict[str, list[int]]:
    backbone = getattr(model, "backbone", model)
    trunk = trunk_of(model)
    trunk_name = next(name for name, module in model.named_modules() if module is trunk)
    parts = {"trunk": [0, 0, 0], "decoder": [0, 0, 0], "heads": [0, 0, 0]}
    for row in rows:
        name = row["module"].removesuffix(" (decoder)")
        part = "heads"
        if name.startswith(trunk_name):
            part = "trunk"
        elif hasattr(model, "backbone") and name.startswith("backbone"):
            part = "decoder"
        parts[part][0] += row["parameters"]
        parts[part][1] += row["trainable"]
    root = type(model).__name__
    of_trunk = operations.get(f"{root}.{trunk_name}", 0)
    of_backbone = operations.get(f"{root}.backbone", 0) if backbone is not trunk else of_trunk
    for part, count in zip(
        parts, (of_trunk, of_backbone - of_trunk, forward - of_backbone), strict=True
    ):
        parts[part][2] = count
    return parts


def _convolution_backward(
    grad_shape, x_shape, w_shape, _bias, _stride, _padding, _dilation, transposed, *rest, **kwargs
) -> int:
    """Each of the gradients of inputs and weight that is asked for costs what forward cost.

    torch's own count forgets about groups: of a depthwise convolution it has 100 times too many.
    """
    _output_padding, _groups, wanted = rest
    forward = conv_flop_count(x_shape, w_shape, grad_shape, transposed=transposed)
    return forward * (wanted[0] + wanted[1])


# For FlopCounterMode(custom_mapping=...).
GROUPED = {torch.ops.aten.convolution_backward: _convolution_backward}


class _SavedBytes(saved_tensors_hooks):
    """Inside, counts what autograd keeps for backward: each storage once, parameters not at all."""

    def __init__(self, model: nn.Module):
        self._known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._kept: list[Tensor] = []  # alive, so that no address is used twice
        self.total = 0
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self._kept.append(tensor.detach())
            self.total += storage.nbytes()
        return tensor


class CountOperations(HookBase):
    """Counts the operations of the first step, as :class:`Cost` does, for ``run.json``.

    It is a step of the training itself and only a little slower. Register it first, so that no
    other hook's work is counted.
    """

    def __init__(self, record: RunRecord):
        self._record = record
        self._counter: FlopCounterMode | None = None
        self._done = False

    def before_step(self) -> None:
        if not self._done:
            self._counter = FlopCounterMode(display=False, custom_mapping=GROUPED)
            self._counter.__enter__()

    def after_step(self) -> None:
        if self._counter is not None:
            self._record.add(step_operations=self._counter.get_total_flops())
            self._stop()

    def after_train(self) -> None:
        if self._counter is not None:  # the first step has failed
            self._stop()

    def _stop(self) -> None:
        self._counter.__exit__(None, None, None)
        self._counter, self._done = None, True
