"""Giving one module another method, without a wrapper that would rename its tensors."""

import functools
from typing import Any, TypeVar

from torch import nn

__all__ = ["mix_in", "unmix"]

Module = TypeVar("Module", bound=nn.Module)


def mix_in(module: Module, mixin: type, **attributes: Any) -> Module:
    """Put the methods of `mixin` before those of the module's own class, in place.

    The state dict, ``isinstance``, repr, ``copy.deepcopy`` and pickling are as before. Mixing the
    same in again only sets the attributes.

    Returns:
        `module`
    """
    if not isinstance(module, mixin):
        module.__class__ = _mixed(type(module), mixin)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def unmix(module: Module, mixin: type) -> Module:
    """Take `mixin` out of a module again; others that were mixed in stay."""
    plain, mixins = _ingredients(type(module))
    module.__class__ = _mixture(plain, [other for other in mixins if other is not mixin])
    return module


def _ingredients(mixed: type) -> tuple[type[nn.Module], list[type]]:
    """A class before anything was mixed in, and what was, first things first."""
    mixins: list[type] = []
    while hasattr(mixed, "_mixed_from"):
        mixed, mixin = mixed._mixed_from
        mixins.insert(0, mixin)
    return mixed, mixins


def _mixture(plain: type[nn.Module], mixins: list[type]) -> type[nn.Module]:
    return functools.reduce(_mixed, mixins, plain)


@functools.cache
def _mixed(plain: type[nn.Module], mixin: type) -> type[nn.Module]:
    # One class for each pair, so that two frozen ResNets are still of the same class. The name
    # stays: repr and error messages speak of the class that the user knows.
    return type(
        plain.__name__,
        (mixin, plain),
        {
            "__doc__": plain.__doc__,
            "__module__": plain.__module__,
            "__qualname__": plain.__qualname__,
            "__reduce__": _reduce,
            "_mixed_from": (plain, mixin),
        },
    )


def _reduce(self: nn.Module) -> tuple:
    """For pickle, which cannot find by name a class that was made here."""
    return _rebuild, _ingredients(type(self)), self.__dict__


def _rebuild(plain: type[nn.Module], mixins: list[type]) -> nn.Module:
    mixed = _mixture(plain, mixins)
    return mixed.__new__(mixed)
