"""Checkpoints without their frozen part, which lies once beside them.

A slim checkpoint's "model" holds what was trained; "frozen" says what belongs to it::

    {"file": "frozen-3f2a....pth", "fingerprint": sha256, "origin": MODEL.WEIGHTS, "tensors": names}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..run_folder import replacing
from .fingerprint import digests, fingerprint

__all__ = [
    "check_frozen",
    "frozen_entry",
    "is_slim",
    "join",
    "split",
    "write_checkpoint",
    "write_frozen",
]


def frozen_entry(frozen: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    """What a checkpoint says of its frozen tensors."""
    digest = fingerprint(digests(frozen))
    return {
        "file": f"frozen-{digest[:12]}.pth",
        "fingerprint": digest,
        "origin": origin,
        "tensors": sorted(frozen),
    }


def split(
    state: Mapping[str, Tensor], entry: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's state in what was trained and what is frozen."""
    names = set(entry["tensors"])
    trained = {name: tensor for name, tensor in state.items() if name not in names}
    return trained, {name: state[name] for name in entry["tensors"]}


def write_frozen(
    folder: str | Path,
    frozen: Mapping[str, Tensor],
    entry: Mapping[str, Any],
    *,
    anew: bool = False,
) -> None:
    """Write the frozen part into a folder, once.

    Args:
        anew: the one that is there is damaged
    """
    path = Path(folder) / entry["file"]
    if anew or not path.exists():
        write_checkpoint(path, {"model": dict(frozen), **entry})


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write it whole or not at all; where the disk is full, the OSError says so."""
    # torch's own writer, which takes a path, says "iostream error" of that.
    with replacing(path, lasting=True) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def join(content: dict[str, Any], frozen: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Complete a slim checkpoint's "model" with the frozen part.

    Args:
        frozen: what lies beside it, of the file `source`

    Returns:
        a whole checkpoint, whose "frozen" is marked as joined

    Raises:
        UserError: the file beside it holds something else
    """
    tensors = {name: value for name, value in frozen.items() if isinstance(value, Tensor)}
    check_frozen(tensors, content["frozen"], source)
    whole = {**content["model"], **tensors}
    return {**content, "model": whole, "frozen": {**content["frozen"], "joined": True}}


def is_slim(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's frozen part is still missing."""
    entry = content.get("frozen")
    return isinstance(entry, dict) and "tensors" in entry and not entry.get("joined")


def check_frozen(frozen: Mapping[str, Tensor], entry: Mapping[str, Any], source: str) -> None:
    """Refuse tensors that are not those that a slim checkpoint was trained with."""
    found = fingerprint(digests(frozen))
    if found != entry["fingerprint"]:
        raise UserError(
            f"{source} is not the frozen part that this checkpoint was trained with: fingerprint "
            f"{found[:12]}, not {entry['fingerprint'][:12]}"
        )
