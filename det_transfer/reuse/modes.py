"""The ways of reusing a pretrained trunk, by name: ``MODEL.REUSE.MODE``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UserError, nearest
from .adapters import add_adapters
from .fast import make_fast
from .freeze import freeze
from .matching import matching
from .norms import train_norms
from .stages import LOAD_STAGES, first_stages

__all__ = ["MODES", "Mode", "apply_mode", "mode_of", "reuse", "trunk_of"]


def _as_built(trunk: nn.Module, **options: Any) -> None:
    """Leave the trunk to whoever built it, e.g. to Detectron2's MODEL.BACKBONE.FREEZE_AT."""


def _frozen(
    trunk: nn.Module,
    *,
    dropout: str = "off",
    fast: bool = False,
    compile: bool = False,
    **options: Any,
) -> None:
    """Freeze all of the trunk."""
    freeze(trunk, dropout=dropout)
    if fast:
        make_fast(trunk, compiled=compile)


def _trained(trunk: nn.Module, *, norm: str = "BN", **options: Any) -> None:
    """Train every stage, with norms that learn, whatever the builder froze.

    Detectron2's recipe keeps two stages and all norms frozen: no fair baseline for a frozen trunk.
    """
    train_norms(trunk, norm)
    trunk.requires_grad_(True)


def _partial(
    trunk: nn.Module,
    *,
    stages: int = 0,
    patterns: Sequence[str] = (),
    norm: str = "BN",
    dropout: str = "off",
    **options: Any,
) -> None:
    """Freeze the first `stages` stages and the modules that `patterns` match; train the rest."""
    _trained(trunk, norm=norm)
    still = first_stages(trunk, stages) if stages else []
    modules = {name: module for name, module in trunk.named_modules() if name}
    named = matching(modules, patterns, "MODEL.REUSE.PATTERNS", "module of the trunk")
    for module in [*still, *named.values()]:
        freeze(module, dropout=dropout)


def _adapted(trunk: nn.Module, *, dropout: str = "off", **options: Any) -> None:
    """Freeze the trunk and train adapters inside it."""
    freeze(trunk, dropout=dropout)
    _add_adapters(trunk, **options)


def _trained_with_adapters(trunk: nn.Module, **options: Any) -> None:
    """Train the trunk and adapters inside it."""
    _trained(trunk, **options)
    _add_adapters(trunk, **options)


def _add_adapters(
    trunk: nn.Module, *, adapters: Mapping[str, Any] | None = None, norm: str = "BN", **options: Any
) -> None:
    add_adapters(trunk, norm_type=norm, **(adapters or {}))


@dataclass(frozen=True)
class Mode:
    """A way of reuse.

    Attributes:
        apply: brings a trunk into the mode in place; takes the options that it knows by name and
            lets the others pass
        weights: what pretrained weights must give: "all" (every tensor of the trunk, since some
            will never be learned), "some", or "none" (the mode begins at random)
    """

    apply: Callable[..., None]
    weights: str = "some"


# A new mode is a new entry.
MODES: dict[str, Mode] = {
    "": Mode(_as_built),
    "frozen": Mode(_frozen, weights="all"),
    "adapters": Mode(_adapted, weights="all"),
    "partial": Mode(_partial, weights="all"),
    "finetune": Mode(_trained),
    "finetune_adapters": Mode(_trained_with_adapters),
    "scratch": Mode(_trained, weights="none"),
}


def apply_mode(trunk: nn.Module, mode: str, **options: Any) -> nn.Module:
    """Bring `trunk` into a mode of reuse, in place, before the optimizer and DDP see it.

    Applying the same mode again changes nothing.

    Args:
        mode: a key of :data:`MODES`
        options: the other keys of MODEL.REUSE, in lower case, e.g. ``dropout="kept"``; those of
            MODEL.ADAPTERS as a dict under ``adapters``

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
    MODES[mode].apply(trunk, **options)
    trunk._reuse_mode = mode
    return trunk


def reuse(trunk: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """:func:`apply_mode` as the REUSE and ADAPTERS of a config's MODEL say it."""
    options = {key.lower(): value for key, value in config["REUSE"].items()}
    cut = options.get("load_stages", -1)
    if cut > 0:  # said now, long before there are weights to load
        first_stages(trunk, cut, LOAD_STAGES)
    adapters = {key.lower(): value for key, value in config["ADAPTERS"].items()}
    return apply_mode(trunk, options.pop("mode"), adapters=adapters, **options)


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
