"""Activations by name, and how to give another one to a module of Detectron2's."""

from collections.abc import Callable
from functools import partial

from torch import nn

from ..errors import choice_problems, raise_all

__all__ = ["ACTIVATIONS", "set_activation"]

# "swish" is SiLU: x * sigmoid(x). A new activation is a new entry.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "swish": nn.SiLU,
}


def set_activation(module: nn.Module, name: str) -> nn.Module:
    """Replace every ReLU in `module`, in place; the state dict stays.

    Detectron2's heads have it built in: as a child, or as the ``activation`` that its Conv2d calls
    after its norm.

    Args:
        name: a key of :data:`ACTIVATIONS`; under "relu" all stays as it is

    Returns:
        `module`

    Raises:
        UserError: there is no such activation
    """
    raise_all(choice_problems("activation", name, ACTIVATIONS))
    if name == "relu":
        return module
    for parent in list(module.modules()):
        for key, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, key, ACTIVATIONS[name]())
    return module
