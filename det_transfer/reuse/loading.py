"""Putting pretrained weights into a trunk, with a count of what matched; never in silence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .adapters import base_state
from .names import COUNTER, match_names
from .stages import LOAD_STAGES, tensors_up_to
from .weights import Weights

__all__ = ["LoadReport", "load_trunk"]

# Below this share of the trunk's tensors the file is taken for another architecture's.
_FEWEST = 0.5


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_trunk` did; names of the trunk's tensors, but for `unexpected`."""

    origin: str
    matched: int
    total: int  # tensors that were to be loaded, BatchNorm's step counters apart
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]  # of the file: its classifier, or heads of a detector
    shape_mismatch: tuple[str, ...]  # "name (64, 3, 7, 7) in the file, (64, 3, 3, 3) here"
    beyond: tuple[str, ...] = ()  # of the trunk behind the cut: these stay as initialised

    def __str__(self) -> str:
        parts = [f"{self.matched} of {self.total} tensors from {self.origin}"]
        for what, names in [
            ("missing", self.missing),
            ("of another shape", self.shape_mismatch),
            ("of the file left over", self.unexpected),
            (f"behind the cut ({LOAD_STAGES}) as initialised", self.beyond),
        ]:
            if names:
                parts.append(f"{len(names)} {what} ({_first(names)})")
        return "; ".join(parts)

    def counts(self) -> dict[str, Any]:
        """For json: what was read, and how many tensors were and were not loaded."""
        return {
            "origin": self.origin,
            "loaded": self.matched,
            "not_loaded": len(self.missing) + len(self.shape_mismatch),
            "left_as_initialised": len(self.beyond),
        }


def load_trunk(trunk: nn.Module, weights: Weights, *, strict: bool, stages: int = -1) -> LoadReport:
    """Copy weights into `trunk`, in its own dtype and on its own device.

    Args:
        trunk: the pretrained network without a decoder, e.g. a ResNet or a ``TimmBackbone``
        weights: see :func:`det_transfer.reuse.read_weights`
        strict: every tensor must be found, as a frozen trunk needs
        stages: the trunk is cut behind so many stages, see :mod:`.stages`: what lies beyond stays
            as it is; -1: no cut

    Raises:
        UserError: fewer than half of the trunk's tensors are there; with `strict` any is missing
            or of another shape; what the cut leaves at random stands still; or the weights are
            known to be of a variant of the architecture that has the same tensors and computes
            something else. The trunk is unchanged then.
    """
    _check_variant(trunk, weights)
    every = base_state(trunk)  # adapters are not in the weights of their base
    inside = set(every) if stages < 0 else tensors_up_to(trunk, stages)
    ours = {name: tensor for name, tensor in every.items() if name in inside}
    beyond = tuple(n for n in every if n not in inside and not n.endswith(COUNTER))
    _check_beyond(trunk, beyond, stages)
    # Names are matched as a whole: a part may look like another network's.
    found = {a: b for a, b in match_names(every, weights.state).items() if a in inside}
    learned = [name for name in ours if not name.endswith(COUNTER)]
    fitting = {a: b for a, b in found.items() if ours[a].shape == weights.state[b].shape}
    used = set(found.values())
    filled = _folded_statistics(trunk, fitting, weights.state)
    report = LoadReport(
        origin=weights.origin,
        matched=sum(name in fitting or name in filled for name in learned),
        total=len(learned),
        missing=tuple(n for n in learned if n not in found and n not in filled),
        unexpected=tuple(n for n in weights.state if n not in used and not n.endswith(COUNTER)),
        shape_mismatch=tuple(
            f"{a} {tuple(weights.state[b].shape)} in the file, {tuple(ours[a].shape)} here"
            for a, b in found.items()
            if a not in fitting and not a.endswith(COUNTER)
        ),
        beyond=beyond,
    )
    _check_report(report, strict)
    with torch.no_grad():
        for a, b in fitting.items():
            ours[a].copy_(weights.state[b])
        for name, value in filled.items():
            ours[name].copy_(value)
    _forget_caches(trunk)
    return report


def _check_beyond(trunk: nn.Module, beyond: tuple[str, ...], stages: int) -> None:
    """Refuse a cut that leaves at random what will never be learned."""
    frozen = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    still = [name for name in beyond if name in frozen]
    if still:
        raise UserError(
            f"{LOAD_STAGES} {stages} leaves {len(still)} frozen tensors of the trunk at random "
            f"({_first(still)}); take MODEL.REUSE.MODE 'partial' with MODEL.REUSE.STAGES {stages}, "
            "or 'finetune'"
        )


def _check_report(report: LoadReport, strict: bool) -> None:
    lacking = [*report.shape_mismatch, *report.missing]
    count = f"matched {report.matched} of {report.total} tensors of the trunk"
    if report.matched < _FEWEST * report.total:
        theirs = f"; the file has {_first(report.unexpected)}" if report.unexpected else ""
        raise UserError(
            f"{report.origin} {count} ({_first(lacking)} not found or of another shape{theirs}): "
            "these look like weights of another architecture; name others in MODEL.WEIGHTS, or "
            "the trunk that they belong to"
        )
    if strict and lacking:
        raise UserError(
            f"{report.origin} {count}, and a frozen trunk needs them all; missing or of another "
            f"shape: {_first(lacking)}"
        )


def _first(names: tuple[str, ...] | list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _check_variant(trunk: nn.Module, weights: Weights) -> None:
    """Refuse weights of a network with the same tensors that computes something else."""
    name = getattr(trunk, "timm_name", "")
    if weights.architecture and name:
        here = name.split(".")[0]
        if here != weights.architecture:
            raise UserError(
                f"{weights.origin} are weights of timm's {weights.architecture}, but "
                f"MODEL.TIMM.NAME is {name}; set MODEL.TIMM.NAME to {weights.architecture}"
            )
    here = getattr(trunk, "plain_name", "")
    if weights.plain and here and here != weights.plain:
        raise UserError(
            f"{weights.origin} are weights of {weights.plain}, but MODEL.PLAIN says {here}"
        )
    here = _stride_in_1x1(trunk)
    if None not in (here, weights.stride_in_1x1) and here != weights.stride_in_1x1:
        raise UserError(
            f"{weights.origin}: these weights belong to a ResNet whose bottlenecks have their "
            f"stride in the {'1x1' if weights.stride_in_1x1 else '3x3'} convolution; set "
            f"MODEL.RESNETS.STRIDE_IN_1X1 to {weights.stride_in_1x1} (timm's ResNets have it in "
            "the 3x3)"
        )


def _stride_in_1x1(trunk: nn.Module) -> bool | None:
    """Where the trunk's ResNet bottlenecks have their stride; None without such bottlenecks."""
    for module in trunk.modules():
        first, second = (getattr(module, name, None) for name in ("conv1", "conv2"))
        if (
            getattr(module, "conv3", None) is not None
            and getattr(first, "kernel_size", None) == (1, 1)
            and isinstance(second, nn.Conv2d)
            and (2, 2) in (first.stride, second.stride)
        ):
            return first.stride == (2, 2)
    return None


def _folded_statistics(
    trunk: nn.Module, found: Mapping[str, str], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Statistics for norms that a file holds as scale and shift alone, as Caffe2's do.

    Their statistics are folded into the scale; a mean of 0 and a variance of 1 - eps leave it so.
    Source: detectron2/layers/batch_norm.py, FrozenBatchNorm2d.__init__.
    """
    if any("running_" in name or name.endswith(("_rm", "_riv")) for name in state):
        return {}
    filled = {}
    for name, module in trunk.named_modules():
        is_there = f"{name}.weight" in found and f"{name}.bias" in found
        if is_there and isinstance(getattr(module, "running_var", None), Tensor):
            filled[f"{name}.running_mean"] = torch.zeros_like(module.running_mean)
            filled[f"{name}.running_var"] = torch.full_like(module.running_var, 1.0 - module.eps)
    return filled


def _forget_caches(trunk: nn.Module) -> None:
    """Let layers forget what they derived from the old weights.

    timm's LeViT, EfficientFormer and TinyViT keep attention biases computed in evaluation mode and
    drop them in ``train(True)`` alone, which a frozen trunk never passes on.
    """
    was_training = trunk.training
    nn.Module.train(trunk, True)
    trunk.train(was_training)
