"""A second stage: some layers of a trained model go on learning, all others stand still."""

from collections.abc import Sequence

from torch import nn

from ..errors import UserError
from .freeze import TrainsInside, freeze, frozen_tensors
from .matching import matching
from .mixin import mix_in

__all__ = ["train_only"]


def train_only(model: nn.Module, patterns: Sequence[str]) -> nn.Module:
    r"""Freeze all of `model` but some modules, in place, before the optimizer and DDP see it.

    Whatever a mode of reuse has decided: trunk, adapters and norms stand still too. The backbone is
    frozen as a whole; of the rest each layer by itself, so that heads still follow the training
    mode (Detectron2's give losses in it).

    Args:
        patterns: regular expressions on whole names of modules, e.g. ``.*\.cls_score``

    Returns:
        `model`

    Raises:
        UserError: a pattern matches no module, or none has a parameter
    """
    known = {name: module for name, module in model.named_modules() if name}
    trained = matching(known, patterns, "MODEL.REUSE.TRAIN_ONLY", "module of the model")
    if not any(True for module in trained.values() for _ in module.parameters()):
        raise UserError(
            f"MODEL.REUSE.TRAIN_ONLY {list(patterns)}: nothing can be trained in "
            f"{', '.join(list(trained)[:3])}; name modules with weights, e.g. .*\\.cls_score"
        )
    for module in trained.values():
        mix_in(module, TrainsInside)
    freeze(getattr(model, "backbone", nn.Identity()))
    still = {id(tensor) for tensor in frozen_tensors(model).values()}
    inside = {m for module in trained.values() for m in module.modules()}
    for module in model.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if _is_layer(module) and module not in inside and not still.issuperset(map(id, own)):
            freeze(module)
    for module in trained.values():
        module.requires_grad_(True)
    return model.train(model.training)


def _is_layer(module: nn.Module) -> bool:
    """Whether it holds tensors itself; not a model that counts something in a buffer."""
    if next(module.parameters(recurse=False), None) is not None:
        return True
    buffers = any(True for _ in module.buffers(recurse=False))
    return buffers and not any(True for _ in module.children())
