"""The training loss on data that is not trained on."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..reuse.freeze import DROPOUTS

__all__ = ["losing", "validation_losses"]


def validation_losses(model: nn.Module, loader: Iterable[list[dict]]) -> dict[str, float]:
    """Mean losses over the batches of all processes, and their sum as ``total_loss``.

    A detector gives losses in training mode alone; its norms and dropout stay in evaluation mode
    here, no statistic moves, and proposals are drawn alike at every evaluation.

    Args:
        model: gives a dict of losses in training mode, as Detectron2's models do
        loader: this process' share of the data, with annotations
    """
    sums: dict[str, float] = defaultdict(float)
    count = 0
    with losing(model), torch.no_grad(), EventStorage():
        for number, batch in enumerate(loader):
            seed_all_rng(number)
            for name, loss in model(batch).items():
                sums[name] += float(loss)
            count += 1
    shares = comm.all_gather((dict(sums), count))
    total = max(sum(n for _, n in shares), 1)
    names = dict.fromkeys(name for part, _ in shares for name in part)
    means = {name: sum(part.get(name, 0.0) for part, _ in shares) / total for name in names}
    return {**means, "total_loss": sum(means.values())}


@contextlib.contextmanager
def losing(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes losses, but nothing in it is random or moves."""
    # The mode, and what a model counts in passing, in attributes or in buffers, as the RetinaNets
    # do with their running mean of positive anchors.
    before = {
        module: {key: v for key, v in vars(module).items() if isinstance(v, bool | int | float)}
        for module in model.modules()
    }
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    for module in model.modules():
        if isinstance(module, (_BatchNorm, *DROPOUTS)):
            module.eval()
    try:
        yield
    finally:
        for module, numbers in before.items():
            vars(module).update(numbers)
        for buffer, value in buffers:
            buffer.copy_(value)
