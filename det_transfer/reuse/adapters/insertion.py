"""Putting adapters into a trunk, finding them again, and doing without them for a while."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..mixin import mix_in
from .layers import KINDS, Adapter, TaskNorm
from .targets import following_norm, target_layers

__all__ = [
    "Adapted",
    "Adapter",
    "adapter_tensors",
    "adapters_of",
    "add_adapters",
    "without_adapters",
]


class Adapted:
    """What :func:`add_adapters` mixes into the class of a layer."""

    adapter: Adapter

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.adapter.enabled:
            return super().forward(inputs)
        if isinstance(self.adapter, TaskNorm):
            return self.adapter(inputs, inputs)
        if not hasattr(self, "activation"):
            return self.adapter(inputs, super().forward(inputs))
        # Detectron2's Conv2d holds the norm and the activation that come after it.
        outputs = self.adapter(inputs, nn.Conv2d.forward(self, inputs))
        outputs = outputs if self.norm is None else self.norm(outputs)
        return outputs if self.activation is None else self.activation(outputs)


def add_adapters(
    trunk: nn.Module,
    *,
    kind: str = "parallel",
    norm: str = "none",
    norm_type: str = "BN",
    layers: str = "spatial",
    grouped: str = "pointwise",
    stages: Sequence[int] = (),
    patterns: Sequence[str] = (),
) -> nn.Module:
    """Give layers of `trunk` an adapter each, in place; the outputs stay what they were.

    The adapters train also where the trunk is frozen. Add them before the optimizer and
    DistributedDataParallel collect parameters.

    Args:
        kind: "parallel" or "series", see :data:`KINDS`
        norm: "none"; "own": a norm inside the branch; "task": the norm after the layer is copied
            and trained, with statistics of the batch, so that outputs in training are other ones
        norm_type: of "own" and "task": "BN", "SyncBN" or "GN"
        layers, grouped, stages, patterns: see :func:`.targets.target_layers`

    Returns:
        `trunk`

    Raises:
        UserError: no layer is found
        ValueError: the trunk has adapters already
    """
    if adapters_of(trunk):
        raise ValueError("the trunk has adapters already")
    targets = target_layers(trunk, layers=layers, grouped=grouped, stages=stages, patterns=patterns)
    norms = [following_norm(trunk, name) for name in targets] if norm == "task" else []
    # What is initialised after this is the same with and without adapters.
    with torch.random.fork_rng(devices=[]):
        made = [KINDS[kind](layer, norm, norm_type) for layer in targets.values()]
    for layer, adapter in zip(targets.values(), made, strict=True):
        mix_in(layer, Adapted, adapter=adapter.train(trunk.training))
    for module in norms:
        adapter = TaskNorm(copy.deepcopy(module), norm_type).train(trunk.training)
        mix_in(module, Adapted, adapter=adapter)
    return trunk


def adapters_of(module: nn.Module) -> dict[str, Adapter]:
    """Name -> adapter of all adapters in `module`."""
    return {name: child for name, child in module.named_modules() if isinstance(child, Adapter)}


def adapter_tensors(module: nn.Module) -> set[str]:
    """Names in the state dict of `module` that belong to adapters."""
    prefixes = tuple(f"{name}." for name in adapters_of(module))
    return {name for name in module.state_dict() if name.startswith(prefixes)}


@contextlib.contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Inside, `module` computes what it would without its adapters."""
    enabled = [adapter for adapter in adapters_of(module).values() if adapter.enabled]
    for adapter in enabled:
        adapter.enabled = False
    try:
        yield
    finally:
        for adapter in enabled:
            adapter.enabled = True
