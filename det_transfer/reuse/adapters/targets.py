"""Which layers of a trunk get an adapter."""

import re
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from ...errors import UserError
from ..matching import matching
from ..stages import first_stages, stage_ends

__all__ = ["LAYERS", "following_norm", "target_layers"]

Layers = dict[str, nn.Module]


def target_layers(
    trunk: nn.Module,
    *,
    layers: str = "spatial",
    grouped: str = "pointwise",
    stages: Sequence[int] = (),
    patterns: Sequence[str] = (),
) -> Layers:
    """Name -> layer of a trunk that gets an adapter, in the order of the trunk.

    Args:
        layers: a key of :data:`LAYERS`
        grouped: for "spatial" and "all", where the adapter of a grouped or depthwise convolution
            sits: "pointwise", on the dense 1x1 layer after it, or "alike", on itself with groups
        stages: only these, counted as in :mod:`..stages`; (): all after the stem
        patterns: regular expressions on whole names; they decide alone where they are given
    Raises:
        UserError: nothing matches, or a grouped convolution has no pointwise layer after it
    """
    known = _layers(trunk)
    if patterns:
        return matching(known, patterns, "MODEL.ADAPTERS.PATTERNS", "convolution of the trunk")
    inside = _within_stages(trunk, known, stages)
    chosen = {name: layer for name, layer in inside.items() if LAYERS[layers](layer)}
    if grouped == "pointwise":
        chosen = dict(_ungrouped(chosen, known))
    if not chosen:
        raise UserError(
            f"MODEL.ADAPTERS.LAYERS {layers!r} (STAGES {list(stages)}) matches no layer of the "
            f"trunk; it has {', '.join(list(known)[:3])} ...; name some in MODEL.ADAPTERS.PATTERNS"
        )
    return chosen


def _is_spatial(layer: nn.Module) -> bool:
    # Patch stems and downsampling layers have even kernels, as large as their stride.
    return isinstance(layer, nn.Conv2d) and all(k > 1 and k % 2 for k in layer.kernel_size)


def _is_pointwise(layer: nn.Module) -> bool:
    dense = isinstance(layer, nn.Linear) or layer.groups == 1
    return dense and getattr(layer, "kernel_size", (1, 1)) == (1, 1)


# MODEL.ADAPTERS.LAYERS -> which layers. "spatial" are the 3x3 convolutions of the papers, one or
# two a residual block. A new choice is a new entry.
LAYERS: dict[str, Callable[[nn.Module], bool]] = {
    "spatial": _is_spatial,
    "pointwise": _is_pointwise,
    "all": lambda layer: _is_spatial(layer) or _is_pointwise(layer),
}


def _layers(trunk: nn.Module) -> Layers:
    """All convolutions and linear layers but those of squeeze-and-excitation gates."""
    gates = tuple(f"{name}." for name, module in trunk.named_modules() if hasattr(module, "gate"))
    return {
        name: module
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not name.startswith(gates)
    }


def _within_stages(trunk: nn.Module, layers: Layers, stages: Sequence[int]) -> Layers:
    ends = stage_ends(trunk)
    wanted = list(stages) or [stage for stage in ends if stage > 1]
    unknown = [stage for stage in wanted if stage not in ends]
    if unknown:
        raise UserError(
            f"MODEL.ADAPTERS.STAGES has {unknown[0]}, but the trunk's stages are "
            f"{', '.join(map(str, ends))} (stage k ends at stride 2**k)"
        )
    inside = set()
    for stage in wanted:
        before = max((s for s in ends if s < stage), default=None)
        earlier = set(_modules_up_to(trunk, before)) if before is not None else set()
        inside |= set(_modules_up_to(trunk, stage)) - earlier
    return {name: layer for name, layer in layers.items() if layer in inside}


def _modules_up_to(trunk: nn.Module, stage: int) -> Iterator[nn.Module]:
    for module in first_stages(trunk, stage):
        yield from module.modules()


def _ungrouped(chosen: Layers, known: Layers) -> Iterator[tuple[str, nn.Module]]:
    names = list(known)
    for name, layer in chosen.items():
        if getattr(layer, "groups", 1) == 1:
            yield name, layer
            continue
        later = names[names.index(name) + 1 :]
        found = next((n for n in later if _takes_over(known[n], layer)), None)
        if found is None:
            raise UserError(
                f"no pointwise layer follows the grouped convolution {name}; set "
                "MODEL.ADAPTERS.GROUPED 'alike'"
            )
        yield found, known[found]


def _takes_over(layer: nn.Module, grouped: nn.Conv2d) -> bool:
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    return _is_pointwise(layer) and inputs == grouped.out_channels


def following_norm(trunk: nn.Module, name: str) -> nn.Module:
    """The norm that a layer's outputs go through: its own, as in Detectron2, or the next one.

    Raises:
        UserError: another layer comes first
    """
    own = getattr(trunk.get_submodule(name), "norm", None)
    if own is not None:
        return own
    after = False
    for other, module in trunk.named_modules():
        if after and isinstance(module, nn.Conv2d | nn.Linear):
            break
        if after and re.search("Norm", type(module).__name__) and not list(module.children()):
            return module
        if after and hasattr(module, "running_mean"):  # timm's has its activation as a child
            return module
        after = after or other == name
    raise UserError(
        f"MODEL.ADAPTERS.NORM 'task': no norm follows {name}; use 'none' or 'own', or choose other "
        "layers in MODEL.ADAPTERS.PATTERNS"
    )
