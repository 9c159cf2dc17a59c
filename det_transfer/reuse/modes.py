"""The ways of reusing a pretrained trunk, by name: ``MODEL.REUSE.MODE``."""

from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import UserError, nearest
from .freeze import freeze

__all__ = ["MODES", "apply_mode", "mode_of", "trunk_of"]


def _as_built(trunk: nn.Module, **options: Any) -> None:
    """Leave the trunk to whoever built it, e.g. to Detectron2's MODEL.BACKBONE.FREEZE_AT."""


def _frozen(trunk: nn.Module, *, dropout: str = "off", **options: Any) -> None:
    """Freeze all of the trunk."""
    freeze(trunk, dropout=dropout)


# Mode -> what it does to a trunk in place. A function takes the options that it knows by name and
# lets the others pass. A new mode is a new entry.
MODES: dict[str, Callable[..., None]] = {"": _as_built, "frozen": _frozen}


def apply_mode(trunk: nn.Module, mode: str, **options: Any) -> nn.Module:
    """Bring `trunk` into a mode of reuse, in place, before the optimizer and DDP see it.

    Applying the same mode again changes nothing.

    Args:
        mode: a key of :data:`MODES`
        options: the other keys of MODEL.REUSE, in lower case, e.g. ``dropout="kept"``

    Returns:
        `trunk`

    Raises:
        UserError: there is no such mode
        ValueError: the trunk is in another mode already
    """
    if mode not in MODES:
        near = nearest(mode, MODES) or MODES
        raise UserError(
            f"MODEL.REUSE.MODE is {mode!r}, which does not exist; "
            f"did you mean {' or '.join(map(repr, near))}?"
        )
    already = mode_of(trunk)
    if already == mode:
        return trunk
    if already:
        raise ValueError(f"the trunk is in mode {already!r} already; build it anew for {mode!r}")
    MODES[mode](trunk, **options)
    trunk._reuse_mode = mode
    return trunk


def mode_of(trunk: nn.Module) -> str:
    """The mode that :func:`apply_mode` brought the trunk into; "" for none."""
    return getattr(trunk, "_reuse_mode", "")


def trunk_of(model: nn.Module) -> nn.Module:
    """The pretrained network inside a detector, without the decoder on it.

    Detectron2's ``model.backbone`` includes the FPN, whose ``bottom_up`` is the trunk. A model
    without ``backbone`` is its own trunk.
    """
    backbone = getattr(model, "backbone", model)
    return getattr(backbone, "bottom_up", backbone)
