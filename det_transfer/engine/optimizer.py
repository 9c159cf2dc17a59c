"""Optimizers beside Detectron2's SGD, on Detectron2's parameter groups and gradient clipping."""

from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import (
    build_optimizer as build_sgd,
)
from detectron2.solver.build import (
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)
from torch import nn

from ..errors import UserError, nearest
from .parts import set_parts

__all__ = ["OPTIMIZERS", "build_optimizer"]


def build_optimizer(
    cfg: CfgNode,
    model: nn.Module,
    *,
    lr_mult: Sequence[tuple[str, float]] = (),
    weight_decay: Sequence[tuple[str, float]] = (),
) -> torch.optim.Optimizer:
    """The optimizer that SOLVER.OPTIMIZER names, over the parameters that are trained.

    Args:
        lr_mult, weight_decay: as MODEL.REUSE.LR_MULT and WEIGHT_DECAY, which come after them

    Raises:
        UserError: there is no such optimizer, or no such part in LR_MULT or WEIGHT_DECAY
    """
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZERS:
        near = nearest(name, OPTIMIZERS) or sorted(OPTIMIZERS)
        raise UserError(f"SOLVER.OPTIMIZER is {name!r}; it can be {' or '.join(near)}")
    optimizer = OPTIMIZERS[name](cfg, model)
    reuse = cfg.MODEL.REUSE
    set_parts(
        optimizer,
        model,
        lr_mult=[*lr_mult, *reuse.LR_MULT],
        weight_decay=[*weight_decay, *reuse.WEIGHT_DECAY],
    )
    return optimizer


def _adamw(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with Detectron2's groups: norms and biases have their own decay and rate."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


# SOLVER.OPTIMIZER -> builder(cfg, model). A new optimizer is a new entry.
OPTIMIZERS: dict[str, Callable[[CfgNode, nn.Module], torch.optim.Optimizer]] = {
    "SGD": build_sgd,
    "AdamW": _adamw,
}
