"""What frozen tensors are, in a few digits: to prove that they stood still, and to know them."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from .names import COUNTER

__all__ = ["changed", "digests", "fingerprint"]


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> sha256 of dtype, shape and every bit; BatchNorm's step counters are left out.

    Two files of the same weights may differ in the counters, which compute nothing.
    """
    return {name: _digest(tensor) for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def fingerprint(digests: Mapping[str, str]) -> str:
    """One sha256 over what :func:`digests` gave, whatever its order."""
    lines = (f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names that have another digest now, or that one of the two has not."""
    return sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))


def _digest(tensor: Tensor) -> str:
    tensor = tensor.detach().cpu().contiguous()
    sha256 = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    # As bytes, since NumPy has no bfloat16.
    sha256.update(tensor.flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()
