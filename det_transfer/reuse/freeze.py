"""Frozen means frozen: parameters, normalisation statistics, dropout and drop-path.

A frozen module keeps its layers, its keys and its class's methods; only its ``train()`` changes,
so that the module and all inside stay in evaluation mode. Layers are not converted: Detectron2's
``FrozenBatchNorm2d.convert_frozen_batchnorm`` drops the activation that timm's ``BatchNormAct2d``
carries.
"""

from collections.abc import Iterator
from typing import TypeVar

from timm.layers import DropBlock2d, DropPath, PatchDropout
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from .mixin import mix_in

__all__ = ["TrainsInside", "freeze", "frozen_tensors", "is_frozen"]

# Layers that are random in training. A model that calls F.dropout or drop_path in its forward
# instead follows its own mode, and so is without dropout under "kept" too.
DROPOUTS = (_DropoutNd, DropPath, DropBlock2d, PatchDropout, StochasticDepth)

Module = TypeVar("Module", bound=nn.Module)


class TrainsInside:
    """Marks a module that follows the training mode also where it lies inside a frozen one.

    Unless it is itself what :func:`freeze` is applied to.
    """


class _Frozen:
    """What :func:`freeze` mixes into the class of a module."""

    _keep_dropout: bool

    def train(self, mode: bool = True):
        nn.Module.train(self, False)
        alive = (TrainsInside, *DROPOUTS) if self._keep_dropout else TrainsInside
        for module in self.modules():
            if isinstance(module, alive):
                module.train(mode)
        return self


def freeze(module: Module, *, dropout: str = "off") -> Module:
    """Freeze `module` in place: nothing that training does changes it.

    No parameter gets a gradient, statistics of normalisation layers stand still, and
    ``model.train()`` no longer reaches inside; what is marked :class:`TrainsInside` goes on. The
    state dict, the outputs in evaluation mode, ``isinstance``, ``copy.deepcopy`` and pickling are
    as before. Freeze when the model is built: before the optimizer collects parameters and before
    DistributedDataParallel looks for gradients.

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
    mix_in(module, _Frozen, _keep_dropout=dropout == "kept")
    for tensor in frozen_tensors(module).values():
        tensor.requires_grad_(False)
    return module.train(was_training)


def is_frozen(module: nn.Module) -> bool:
    """Whether :func:`freeze` was applied to `module` itself (its children bear no mark)."""
    return isinstance(module, _Frozen)


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or saved buffer of all that is declared frozen in `model`.

    That is what lies in modules that :func:`freeze` was applied to, without what trains
    inside. Names are those of ``model.state_dict()``.
    """
    return {
        name: tensor
        for prefix, module in _modules(model, "", frozen=False)
        for name, tensor in _own_tensors(module, prefix)
    }


def _modules(module: nn.Module, prefix: str, *, frozen: bool) -> Iterator[tuple[str, nn.Module]]:
    """("prefix.", module) of all modules that stand still."""
    # What trains inside a frozen module has parts that are frozen only if it says so itself.
    frozen = is_frozen(module) or (frozen and not isinstance(module, TrainsInside))
    if frozen:
        yield prefix, module
    for name, child in module.named_children():
        yield from _modules(child, f"{prefix}{name}.", frozen=frozen)


def _own_tensors(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    hidden = module._non_persistent_buffers_set
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter
    for name, buffer in module.named_buffers(recurse=False):
        if name not in hidden:
            yield prefix + name, buffer
