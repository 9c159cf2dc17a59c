"""A frozen trunk as the inference network that it is: MODEL.REUSE.FAST.

The trunk computes with a twin of itself, made at the first forward: without a graph, norms folded
into the convolutions before them, channels last, weights in the precision of the run. The trunk's
own tensors stay what and where they are, so that checkpoints, fingerprints and other modules see no
difference. When they change (weights are loaded, the model moves to another device), a new twin is
made.
"""

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .mixin import mix_in, unmix

__all__ = ["channels_last", "fold_norms", "make_fast"]

logger = logging.getLogger(__name__)

# Of the largest value of a feature: above this, folding has changed what the network computes.
# Folding reorders roundings, which costs some 1e-6 in fp32.
_TOLERANCE = 1e-3
# Side of the image on which convolutions and norms are seen at work, where the trunk names no unit.
_SIDE = 64


def make_fast(trunk: nn.Module, *, compiled: bool = False) -> nn.Module:
    """Let a frozen trunk compute with its twin, in place.

    Args:
        trunk: wholly frozen; images (N, C, H, W) to a dict of features
        compiled: also by ``torch.compile``; where that does not work the log says so and the twin
            runs as it is

    Returns:
        `trunk`
    """
    return mix_in(trunk, _Fast, _twins=_Twins(), _compiled=compiled)


def channels_last(model: nn.Module) -> nn.Module:
    """Lay out the weights of convolutions like a fast trunk's features, in place; values stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return model


class _Fast:
    """What :func:`make_fast` mixes into the class of a trunk."""

    _twins: "_Twins"
    _compiled: bool

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        device = images.device.type
        low = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if low else torch.float32
        twin = self._twins.get(self, dtype)
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=low):
            return twin(images.contiguous(memory_format=torch.channels_last))


class _Twins:
    """The twins of a trunk by precision. Copies and pickles of it are empty."""

    def __init__(self) -> None:
        self._made: dict[torch.dtype, tuple[tuple, Any]] = {}

    def __reduce__(self) -> tuple:
        return _Twins, ()

    def get(self, trunk: nn.Module, dtype: torch.dtype) -> Any:
        state = _state_of(trunk)
        made = self._made.get(dtype)
        if made is None or made[0] != state:
            made = self._made[dtype] = (state, _twin(trunk, dtype))
        return made[1]


def _state_of(trunk: nn.Module) -> tuple:
    """Changes whenever a tensor of the trunk is written to or replaced."""
    tensors = (*trunk.parameters(), *trunk.buffers())
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)


@torch.no_grad()
def _twin(trunk: nn.Module, dtype: torch.dtype) -> Any:
    twin = unmix(copy.deepcopy(trunk), _Fast).eval().requires_grad_(False)
    fold_norms(twin)
    for module in twin.modules():
        # Norms stay in fp32, as under autocast.
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.to(dtype)
    channels_last(twin)
    return _compile(twin) if trunk._compiled else twin


def _compile(twin: nn.Module) -> Any:
    try:
        # Sizes of images change from batch to batch.
        compiled = torch.compile(twin, dynamic=True)
        compiled(_image(twin))
    except Exception as error:  # of many kinds: no C++ compiler, an operation it does not know
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        logger.warning("MODEL.REUSE.COMPILE: torch.compile does not work here (%s)", reason)
        return twin
    return compiled


# Folding -----------------------------------------------------------------------------------------


@torch.no_grad()
def fold_norms(network: nn.Module) -> int:
    """Fold every batch norm that stands still into the convolution before it, in place.

    Pairs are found by running `network` once and watching which convolution's outputs a norm takes,
    so that it works whatever the network calls its layers. Where the features are no longer the
    same afterwards, because something else takes those outputs too, nothing is folded.

    Args:
        network: in evaluation mode; images to a dict of features

    Returns:
        how many were folded
    """
    image = _image(network)
    before = network(image)
    kept = copy.deepcopy(network.__dict__["_modules"])
    pairs = _pairs(network, image)
    for convolution, norm, owner, name in pairs:
        _fold(convolution, norm)
        setattr(owner, name, _what_remains(norm))
    after = network(image)
    if all(_close(after[name], before[name]) for name in before):
        return len(pairs)
    network.__dict__["_modules"] = kept
    logger.info("The norms of %s cannot be folded: they stay", type(network).__name__)
    return 0


def _image(network: nn.Module) -> Tensor:
    unit = getattr(network, "size_divisibility", 0) or _SIDE
    weight = next(m.weight for m in network.modules() if isinstance(m, nn.Conv2d))
    side = max(2 * unit, _SIDE)
    channels = weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, side, side, generator=generator).to(weight.device)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _TOLERANCE * b.abs().max().clamp(min=1e-12))


def _pairs(network: nn.Module, image: Tensor) -> list[tuple[nn.Module, nn.Module, nn.Module, str]]:
    """(convolution, norm that it feeds, module that holds the norm, its name there)."""
    made_by: dict[int, nn.Module] = {}
    alive: list[Tensor] = []  # so that no id is used twice
    fed_by: dict[nn.Module, nn.Module] = {}

    def convolved(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        made_by[id(output)] = module
        alive.append(output)

    def normed(module: nn.Module, inputs: tuple) -> None:
        if id(inputs[0]) in made_by:
            fed_by[module] = made_by[id(inputs[0])]

    hooks = []
    for module in network.modules():
        inner = getattr(module, "norm", None)
        if isinstance(module, nn.Conv2d) and inner is not None:
            if _computes_plainly(module) and _stands_still(inner):  # Detectron2's carries its norm
                fed_by[inner] = module
        elif isinstance(module, nn.Conv2d) and _computes_plainly(module):
            hooks.append(module.register_forward_hook(convolved))
        elif _stands_still(module):
            hooks.append(module.register_forward_pre_hook(normed))
    network(image)
    for hook in hooks:
        hook.remove()
    return [
        (fed_by[norm], norm, owner, name)
        for owner in list(network.modules())
        for name, norm in list(owner.named_children())
        if norm in fed_by
    ]


def _computes_plainly(convolution: nn.Module) -> bool:
    # Of timm's convolutions some standardise or scale their weight first.
    return type(convolution).__name__ in ("Conv2d", "Conv2dSame")


def _stands_still(module: nn.Module) -> bool:
    names = ("weight", "bias", "running_mean", "running_var")
    return all(isinstance(getattr(module, name, None), Tensor) for name in names)


def _fold(convolution: nn.Conv2d, norm: nn.Module) -> None:
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.weight, convolution.bias = weight, bias


def _what_remains(norm: nn.Module) -> nn.Module | None:
    """timm's norms have dropout and activation inside; a Detectron2 convolution's may be None."""
    if hasattr(norm, "act"):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()
