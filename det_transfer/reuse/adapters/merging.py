"""Folding adapters into the layers that they adapt, so that inference costs nothing more."""

import torch
from torch import nn

from ..mixin import unmix
from .insertion import Adapted, adapters_of
from .layers import CannotMerge

__all__ = ["merge_adapters"]


@torch.no_grad()
def merge_adapters(module: nn.Module) -> dict[str, str]:
    """Fold every adapter in `module` into its layer, in place, as it acts in evaluation.

    A parallel 1x1 becomes part of the kernel beside it, a series 1x1 of the one before it.

    Returns:
        name of the layer -> why its adapter stays, for those that cannot be merged
    """
    stay = {}
    for name, adapter in adapters_of(module).items():
        owner = name.rpartition(".")[0]
        layer = module.get_submodule(owner)
        try:
            adapter.merge_into(layer)
        except CannotMerge as reason:
            stay[owner] = str(reason)
            continue
        del layer.adapter
        unmix(layer, Adapted)
    return stay
