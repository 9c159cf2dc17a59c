"""Frozen means frozen: parameters, normalisation statistics, dropout and drop-path.

A frozen module keeps its layers, its keys and its class's methods; only its ``train()`` changes,
so that the module and all inside stay in evaluation mode. Layers are not converted: Detectron2's
``FrozenBatchNorm2d.convert_frozen_batchnorm`` drops the activation that timm's ``BatchNormAct2d``
carries.
"""

import functools
from typing import TypeVar

from timm.layers import DropBlock2d, DropPath, PatchDropout
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

__all__ = ["freeze", "is_frozen"]

# Layers that are random in training. A model that calls F.dropout or drop_path in its forward
# instead follows its own mode, and so is without dropout under "kept" too.
DROPOUTS = (_DropoutNd, DropPath, DropBlock2d, PatchDropout, StochasticDepth)

Module = TypeVar("Module", bound=nn.Module)


class _Frozen:
    """What :func:`freeze` mixes into the class of a module."""

    _thawed_class: type[nn.Module]
    _keep_dropout: bool

    def train(self, mode: bool = True):
        nn.Module.train(self, False)
        if self._keep_dropout:
            for module in self.modules():
                if isinstance(module, DROPOUTS):
                    module.train(mode)
        return self


def freeze(module: Module, *, dropout: str = "off") -> Module:
    """Freeze `module` in place: nothing that training does changes it.

    No parameter gets a gradient, statistics of normalisation layers stand still, and
    ``model.train()`` no longer reaches inside. The state dict, the outputs in evaluation mode,
    ``isinstance`` and ``copy.deepcopy`` are as before. Freeze when the model is built: before the
    optimizer collects parameters and before DistributedDataParallel looks for gradients.

    Args:
        dropout: "off", or "kept": dropout and drop-path layers inside follow the training mode,
            as in the transferability protocol. Source: Yosinski et al. 2014, whose frozen AlexNet
            layers were trained with dropout.

    Returns:
        `module`

    Raises:
        ValueError: another value of `dropout`
    """
    if dropout not in ("off", "kept"):
        raise ValueError(f"dropout is {dropout!r}; it can be 'off' or 'kept'")
    was_training = module.training
    thawed = module._thawed_class if isinstance(module, _Frozen) else type(module)
    module.__class__ = _frozen_class(thawed, dropout == "kept")
    module.requires_grad_(False)
    return module.train(was_training)


def is_frozen(module: nn.Module) -> bool:
    """Whether :func:`freeze` was applied to `module` itself (its children bear no mark)."""
    return isinstance(module, _Frozen)


@functools.cache
def _frozen_class(thawed: type[nn.Module], keep_dropout: bool) -> type[nn.Module]:
    # One class for each pair, so that two frozen ResNets are still of the same class. The name
    # stays: repr and error messages speak of the class that the user knows.
    return type(
        thawed.__name__,
        (_Frozen, thawed),
        {
            "__doc__": thawed.__doc__,
            "__module__": thawed.__module__,
            "__qualname__": thawed.__qualname__,
            "_thawed_class": thawed,
            "_keep_dropout": keep_dropout,
        },
    )
