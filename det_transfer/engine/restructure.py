"""A model that changes its parts while it is trained: what depends on them is built anew."""

import logging
from collections.abc import Callable, Mapping

import torch
from detectron2.engine import hooks
from torch import nn

from ..reuse import reuse_table
from .trainer import TransferTrainer

__all__ = ["carry_state", "restructure"]

logger = logging.getLogger(__name__)


def restructure(trainer: TransferTrainer, change: Callable[[nn.Module], None]) -> None:
    """Change the model of a trainer between two steps, and go on.

    Optimizer and schedule are those that the trainer builds for the changed model; the state of
    each parameter that is still there (momentum) is carried by its name, and the schedule goes on
    at its place. What is frozen, averaged and saved is taken anew.

    Args:
        change: adds, removes or freezes parts of the model in place, the same on every process
    """
    model, cfg = trainer.checkpointer.model, trainer.cfg
    inner, before = trainer._trainer, trainer.scheduler
    old = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inner.optimizer.zero_grad()
    change(model)
    optimizer = trainer.build_optimizer(cfg, model)
    carried = carry_state(inner.optimizer, old, optimizer, model)
    inner.model = trainer.distributed(model)
    inner.optimizer = optimizer
    trainer.scheduler = _go_on(trainer.build_lr_scheduler(cfg, optimizer), before.last_epoch)
    trainer.checkpointer.model_changed()
    for hook in trainer._hooks:
        if isinstance(hook, hooks.LRScheduler):
            hook._optimizer = None  # it takes the trainer's
            hook.before_train()
        elif hasattr(hook, "model_changed"):
            hook.model_changed()
    trainer.record.add(reuse=reuse_table(model))
    now = sum(p.requires_grad for p in model.parameters())
    logger.info("Optimizer: %d trained tensors, state of %d carried over", now, carried)


def carry_state(
    source: torch.optim.Optimizer,
    names: Mapping[str, nn.Parameter],
    target: torch.optim.Optimizer,
    model: nn.Module,
) -> int:
    """Copy the state of parameters with the same name and shape from one optimizer to another.

    Args:
        names: of the parameters of `source`

    Returns:
        of how many
    """
    carried = 0
    trained = {p for group in target.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        before = names.get(name)
        if before is None or parameter not in trained or before.shape != parameter.shape:
            continue
        if before in source.state:
            target.state[parameter] = source.state[before]
            carried += 1
    return carried


def _go_on(
    scheduler: torch.optim.lr_scheduler.LRScheduler, epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """A fresh schedule moved to where another one is."""
    scheduler.last_epoch = epoch
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
    return scheduler
