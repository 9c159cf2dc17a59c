"""Files that hold the adapters alone: a few MB that belong to one base network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..files import read_checkpoint
from ..fingerprint import digests, fingerprint
from ..slim import write_checkpoint
from .insertion import adapter_tensors, adapters_of, add_adapters

__all__ = ["adapter_state", "load_adapters", "save_adapters"]


def adapter_state(trunk: nn.Module) -> dict[str, Tensor]:
    """The adapters' part of the trunk's state dict."""
    names = adapter_tensors(trunk)
    return {name: tensor for name, tensor in trunk.state_dict().items() if name in names}


def base_state(trunk: nn.Module) -> dict[str, Tensor]:
    """The rest: the state dict of the trunk as it was before it had adapters."""
    names = adapter_tensors(trunk)
    return {name: tensor for name, tensor in trunk.state_dict().items() if name not in names}


def save_adapters(trunk: nn.Module, path: str | Path, **options: Any) -> None:
    """Write the adapters of `trunk` and the fingerprint of the network that they belong to.

    Args:
        options: with which :func:`add_adapters` made them, so that :func:`load_adapters` can
            make them again

    Raises:
        ValueError: the trunk has no adapters
    """
    if not adapters_of(trunk):
        raise ValueError("the trunk has no adapters to save")
    content = {
        "adapters": adapter_state(trunk),
        "base": fingerprint(digests(base_state(trunk))),
        "options": options,
    }
    write_checkpoint(path, content)


def load_adapters(trunk: nn.Module, path: str | Path) -> nn.Module:
    """Put adapters of a file into a trunk, which gets them first if it has none yet.

    Returns:
        `trunk`

    Raises:
        UserError: no file of adapters, another base network, or adapters of another kind
    """
    content = read_checkpoint(path)
    if not {"adapters", "base"} <= content["model"].keys():
        raise UserError(f"{path} holds no adapters; it has {', '.join(list(content['model'])[:3])}")
    content = content["model"]
    here = fingerprint(digests(base_state(trunk)))
    if content["base"] != here:
        raise UserError(
            f"{path}: these adapters belong to another base network, with fingerprint "
            f"{content['base'][:12]}; the trunk here has {here[:12]}: load the weights first that "
            "they were trained on"
        )
    if not adapters_of(trunk):
        add_adapters(trunk, **content["options"])
    ours = adapter_state(trunk)
    state = content["adapters"]
    wrong = sorted(
        name
        for name in ours.keys() | state.keys()
        if name not in ours or name not in state or ours[name].shape != state[name].shape
    )
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} tensors of the adapters are not alike here, e.g. "
            f"{', '.join(wrong[:3])}; MODEL.ADAPTERS must be as it was"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            ours[name].copy_(tensor)
    return trunk
