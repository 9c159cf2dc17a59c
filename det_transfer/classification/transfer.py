"""Transferring the first n layers of a classifier: cutting, copying, freezing, and the treatments.

Source: Yosinski et al. 2014, "How transferable are features in deep neural networks?", section 3.
A network of L layers is trained on half of the classes; its first n layers are copied into a new
one, whose other layers are drawn anew, and which is trained on the same or on the other half.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import nn

from ..errors import UserError, nearest
from ..reuse import REDRAWN, freeze
from .classifier import ImageClassifier

__all__ = [
    "CLASSIFIER",
    "TREATMENTS",
    "Transfer",
    "Treatment",
    "check_complete",
    "check_layers",
    "cut",
]

logger = logging.getLogger(__name__)

CLASSIFIER = "classifier"  # the last layer, FC8 of the paper's network


@dataclass(frozen=True)
class Treatment:
    """How a network of one half begins, and what of it is trained.

    Attributes:
        name: the paper's; A and B stand for source and target
        source: whose layers are copied: the target's own base ("own"), the other half's ("other"),
            nobody's: they stay "random"; None: nothing is copied
        frozen: whether the first n layers are kept as they begin
    """

    name: str
    source: str | None
    frozen: bool

    def label(self, target: str, n: int) -> str:
        """E.g. "baseB", "A3B+" or, with random layers, "R3B"."""
        if self.source is None:
            return f"base{target}"
        other = "B" if target == "A" else "A"
        letter = {"own": target, "other": other, "random": "R"}[self.source]
        return f"{letter}{n}{target}{'' if self.frozen else '+'}"


# Source: Yosinski et al. 2014, section 3 and, for random layers, section 4.3.
TREATMENTS = {
    treatment.name: treatment
    for treatment in (
        Treatment("base", None, False),
        Treatment("BnB", "own", True),
        Treatment("BnB+", "own", False),
        Treatment("AnB", "other", True),
        Treatment("AnB+", "other", False),
        Treatment("random", "random", True),
    )
}


@dataclass(frozen=True)
class Transfer:
    """MODEL.TRANSFER.

    Attributes: the config's keys, in lower case.
    """

    layers: tuple[str, ...]
    up_to: int
    frozen: bool
    extra: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Transfer | None":
        """None where the run is no part of such an experiment."""
        options = cfg.MODEL.TRANSFER
        if options.UP_TO < 0:
            return None
        return cls(tuple(options.LAYERS), options.UP_TO, options.FROZEN, options.EXTRA)

    def first_seed(self, seed: int) -> int:
        """Of the first weights: the base's own, or another draw."""
        return seed + REDRAWN if self.up_to else seed

    def apply(self, model: ImageClassifier, *, dropout: str) -> None:
        """Freeze the first layers, if they are to be, in place.

        Args:
            dropout: of frozen layers, see :func:`det_transfer.reuse.freeze`

        Raises:
            UserError: the network has not so many layers, or not those of LAYERS
        """
        layers = cut(model, self.layers)
        check_depth(self.up_to, self.extra, list(layers))
        if not self.frozen:
            return
        frozen = [m for name in list(layers)[: self.up_to] for m in layers[name]]
        trunk = [m for modules in model.backbone.named_layers().values() for m in modules]
        if {id(m) for m in trunk} <= {id(m) for m in frozen}:
            frozen.append(model.backbone)  # as a whole, with what may lie between its layers
        for module in frozen:
            freeze(module, dropout=dropout)

    @torch.no_grad()
    def copy(self, source: ImageClassifier, target: ImageClassifier, origin: str) -> list[str]:
        """Copy the first ``up_to + extra`` layers, parameters and statistics; gives their names.

        Args:
            origin: what `source` was read from, for errors

        Raises:
            UserError: the source lacks one of them, or has one of another shape
        """
        theirs, ours = cut(source, self.layers), cut(target, self.layers)
        names = list(ours)[: self.up_to + self.extra]
        for name in names:
            if name not in theirs:
                raise UserError(f"{origin} has no layer {name}; it has {', '.join(theirs)}")
            if name == CLASSIFIER and set(source.classifiers) != set(target.classifiers):
                raise UserError(
                    f"MODEL.TRANSFER.UP_TO {self.up_to} takes the classifier too, but {origin} has "
                    f"one of {', '.join(source.classifiers) or 'no task'}, and "
                    f"{', '.join(target.classifiers)} is trained"
                )
            try:
                for theirs_part, ours_part in zip(theirs[name], ours[name], strict=True):
                    ours_part.load_state_dict(theirs_part.state_dict())
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"layer {name} of {origin} is not the one here: "
                    f"{str(error).splitlines()[-1].strip()}"
                ) from error
        return names


def cut(model: ImageClassifier, layers: Sequence[str] = ()) -> dict[str, list[nn.Module]]:
    """A classifier in layers from below: name -> modules; the last is "classifier".

    Args:
        layers: the names to cut behind, in their order; a layer then reaches from the one before to
            this one. Empty: all of :meth:`.ImageClassifier.named_layers`

    Raises:
        UserError: the network lacks one of them, has it elsewhere, or has weights in no layer
    """
    named = {**model.named_layers(), CLASSIFIER: tuple(model.classifiers.values())}
    check_complete(model, named)
    ends = check_layers(layers, list(named))
    found: dict[str, list[nn.Module]] = {}
    waiting: list[nn.Module] = []
    for name, modules in named.items():
        waiting += modules
        if name in ends:
            found[name], waiting = waiting, []
    return found


def check_layers(layers: Sequence[str], known: Sequence[str]) -> list[str]:
    """MODEL.TRANSFER.LAYERS as a full list: all of `known` where it is empty, else with the last.

    Raises:
        UserError: the network lacks one of them, or has them in another order
    """
    if not layers:
        return list(known)
    strangers = [name for name in layers if name not in known]
    if strangers:
        near = nearest(strangers[0], known)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"MODEL.TRANSFER.LAYERS: there is no layer {', '.join(strangers)}; {hint}This network "
            f"has {', '.join(known)}"
        )
    places = [known.index(name) for name in layers]
    if places != sorted(set(places)):
        raise UserError(
            f"MODEL.TRANSFER.LAYERS {list(layers)} is not in the network's order: "
            f"{', '.join(known)}"
        )
    return [*layers, *(known[-1:] if layers[-1] != known[-1] else ())]


def check_depth(up_to: int, extra: int, layers: Sequence[str]) -> None:
    """Refuse to copy more layers than there are.

    Raises:
        UserError: it is more
    """
    if up_to + extra > len(layers):
        more = f" and EXTRA {extra}" if extra else ""
        raise UserError(
            f"MODEL.TRANSFER.UP_TO is {up_to}{more}, but the network has {len(layers)} layers: "
            f"{', '.join(layers)}"
        )


def check_complete(model: nn.Module, named: Mapping[str, Sequence[nn.Module]]) -> None:
    """Refuse a network that has weights in none of its layers, as a ViT's positions are.

    Raises:
        UserError: it has
    """
    inside = {id(t) for modules in named.values() for m in modules for t in _tensors(m)}
    stray = [name for name, t in model.named_parameters() if id(t) not in inside]
    if stray:
        raise UserError(
            f"this network cannot be cut: {', '.join(stray[:3])} belongs to none of its layers "
            f"{', '.join(named)}; take one whose stages hold all weights, as ResNets do"
        )


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
