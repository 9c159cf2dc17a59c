"""The stages of a trunk one by one: their weights, and the features that come out of them."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .adapters import base_state
from .names import COUNTER
from .stages import first_stages, stage_ends

__all__ = ["pooled_features", "stage_names", "stage_weights"]

_STATISTICS = ("running_mean", "running_var", COUNTER)


def stage_names(trunk: nn.Module) -> dict[int, str]:
    """Stage -> its name: "stem" for 1, then "res2" (stride 4), "res3", ...

    Raises:
        UserError: the trunk does not say where its stages end
    """
    return {stage: "stem" if stage == 1 else f"res{stage}" for stage in sorted(stage_ends(trunk))}


def stage_weights(trunk: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Stage's name -> name -> tensor of its weights; statistics of norms and adapters left out."""
    state = base_state(trunk)
    place = {module: name for name, module in trunk.named_modules()}
    result: dict[str, dict[str, Tensor]] = {}
    before: set[str] = set()
    for stage, name in stage_names(trunk).items():
        prefixes = tuple(f"{place[module]}." for module in first_stages(trunk, stage))
        here = {k for k in state if k.startswith(prefixes) and not k.endswith(_STATISTICS)}
        result[name] = {k: state[k] for k in sorted(here - before)}
        before |= here
    return result


@torch.no_grad()
def pooled_features(trunk: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What comes out of each stage, averaged over the picture.

    A stage is left out where a trunk has it only in another form than a map of features.

    Args:
        trunk: in evaluation mode; its forward gives features by name
        images: (N, C, H, W), normalised, on the trunk's device

    Returns:
        name of the stage -> (N, channels) float32 on the CPU
    """
    with _outputs(trunk) as seen:
        features = trunk(images)
    channels_last = getattr(trunk, "_channels_last", False)
    result = {}
    for name in stage_names(trunk).values():
        if name in features:
            result[name] = features[name].float().mean(dim=(2, 3)).cpu()
        elif isinstance(out := seen.get(name), Tensor) and out.ndim == 4:
            result[name] = out.float().mean(dim=(1, 2) if channels_last else (2, 3)).cpu()
    return result


@contextlib.contextmanager
def _outputs(trunk: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside, a forward leaves what the last module of each stage gives."""
    modules = dict(trunk.named_modules())
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, inputs, output: seen.__setitem__(name, output)

    names = stage_names(trunk)
    handles = [
        modules[end].register_forward_hook(keep(names[stage]))
        for stage, end in stage_ends(trunk).items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
