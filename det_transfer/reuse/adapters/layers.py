"""The adapters themselves: what is computed beside a convolution, and what it folds into."""

import torch
from torch import Tensor, nn

from ..freeze import TrainsInside
from ..norms import NORMS

__all__ = ["KINDS", "Adapter", "CannotMerge", "Parallel", "Series", "TaskNorm"]


class CannotMerge(Exception):
    """Why an adapter cannot become part of the layer that it adapts."""


class Adapter(nn.Module, TrainsInside):
    """A trained child of a layer.

    Attributes:
        enabled: without, the layer computes what it computed before it had an adapter
    """

    enabled = True

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """What the adapted layer gives.

        Args:
            inputs: of the layer
            outputs: what the layer makes of them by itself; same shape as the result
        """
        raise NotImplementedError

    def merge_into(self, layer: nn.Module) -> None:
        """Change the layer's own tensors so that it computes the same in evaluation alone.

        Raises:
            CannotMerge: it cannot; nothing is changed then
        """
        raise NotImplementedError


class Parallel(Adapter):
    """``outputs + pointwise(inputs)``, or with a norm ``outputs + norm(pointwise(inputs))``.

    Source: Rebuffi et al. 2018, figure 1 (c); facts of the authors' code: a 1x1 convolution
    without bias and with the stride of the layer. Unlike theirs it begins at zero: its weight, or
    with a norm the norm's scale.

    Args:
        layer: a convolution or a linear layer; a grouped one gets a branch that is grouped alike
        norm: "none", or "own": a norm inside the branch
        norm_type: of "own": see :data:`det_transfer.reuse.norms.NORMS`
    """

    def __init__(self, layer: nn.Module, norm: str = "none", norm_type: str = "BN"):
        super().__init__()
        self.pointwise = _pointwise(layer, *_channels(layer), stride=getattr(layer, "stride", 1))
        self.norm = _own_norm(layer, norm_type) if norm == "own" else nn.Identity()
        # With a norm behind it, a weight of zero would have a variance of zero to divide by.
        nn.init.zeros_(self.norm.weight if norm == "own" else self.pointwise.weight)

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return outputs + self.norm(self.pointwise(inputs))

    def merge_into(self, layer: nn.Module) -> None:
        tap = _tap(layer)
        scale, shift = _as_affine(self.norm, _channels(layer)[1])
        weight = self.pointwise.weight.double().flatten(1) * scale[:, None]
        _add_to_bias(layer, shift)
        layer.weight.data[tap] += weight.to(layer.weight)


class Series(Adapter):
    """``outputs + pointwise(outputs)``, or with a norm ``outputs + pointwise(norm(outputs))``.

    Source: Rebuffi et al. 2017, equation 2, where the layer's own norm comes after. On a network
    that was not pretrained with adapters the authors' README has it 10 points below parallel.
    Arguments as for :class:`Parallel`.
    """

    def __init__(self, layer: nn.Module, norm: str = "none", norm_type: str = "BN"):
        super().__init__()
        _, channels = _channels(layer)
        self.norm = _own_norm(layer, norm_type) if norm == "own" else nn.Identity()
        self.pointwise = _pointwise(layer, channels, channels)
        nn.init.zeros_(self.pointwise.weight)

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return outputs + self.pointwise(self.norm(outputs))

    def merge_into(self, layer: nn.Module) -> None:
        _check_computes_with_its_weight(layer)
        groups = getattr(layer, "groups", 1)
        channels = _channels(layer)[1]
        scale, shift = _as_affine(self.norm, channels)
        branch = self.pointwise.weight.double().reshape(groups, channels // groups, -1)
        after = torch.eye(channels // groups, dtype=torch.float64, device=branch.device)
        after = after + branch * scale.reshape(groups, 1, -1)
        shift = (branch @ shift.reshape(groups, -1, 1)).flatten()
        if layer.bias is not None:
            bias = layer.bias.double().reshape(groups, -1, 1)
            layer.bias.data.copy_((after @ bias).flatten())
        weight = layer.weight.double()
        merged = after @ weight.reshape(groups, channels // groups, -1)
        layer.weight.data.copy_(merged.reshape(weight.shape))
        _add_to_bias(layer, shift)


class TaskNorm(Adapter):
    """A trained copy of the norm that follows an adapted layer, used in its place.

    Source: the authors' code trains a batch norm of each task, which starts from the source's;
    by srebuffi/residual_adapters#2 the parallel adapter needs it where the data differ much. In
    training it takes statistics of the batch, so that outputs there are other ones from step 0.
    """

    def __init__(self, norm: nn.Module, norm_type: str):
        super().__init__()
        self.norm = NORMS[norm_type](norm) if _has_statistics(norm) else norm
        self.norm.requires_grad_(True)

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return self.norm(inputs)

    def merge_into(self, layer: nn.Module) -> None:
        names = set(dict(layer.named_parameters()) | dict(layer.named_buffers()))
        state = {k: v for k, v in self.norm.state_dict().items() if k in names}
        if _has_statistics(layer) and "running_mean" not in state:
            raise CannotMerge(f"a {type(self.norm).__name__} has no statistics to put there")
        layer.load_state_dict(state, strict=False)


# MODEL.ADAPTERS.KIND -> class. A new kind is a new entry.
KINDS: dict[str, type[Adapter]] = {"parallel": Parallel, "series": Series}


def _channels(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _pointwise(layer: nn.Module, inputs: int, outputs: int, stride=1) -> nn.Module:
    options = {"bias": False, "device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, outputs, **options)
    return nn.Conv2d(inputs, outputs, 1, stride=stride, groups=layer.groups, **options)


def _own_norm(layer: nn.Module, norm_type: str) -> nn.Module:
    """A norm over a layer's outputs; LayerNorm for linear layers, whose channels come last."""
    channels = _channels(layer)[1]
    if isinstance(layer, nn.Linear):
        return nn.LayerNorm(channels, device=layer.weight.device)
    return NORMS[norm_type](nn.BatchNorm2d(channels, device=layer.weight.device))


def _has_statistics(norm: nn.Module) -> bool:
    return isinstance(getattr(norm, "running_var", None), Tensor)


def _as_affine(norm: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Scale and shift by which a norm acts in evaluation, (channels,) float64 each."""
    if isinstance(norm, nn.Identity):
        return torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    if not _has_statistics(norm):
        raise CannotMerge(f"its {type(norm).__name__} depends on the image")
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _tap(layer: nn.Module) -> tuple:
    """The part of a layer's weight that a branch beside it, without padding, folds into.

    Raises:
        CannotMerge: the layer computes with something else than its weight, or where its kernel
            lies depends on the size of the image
    """
    _check_computes_with_its_weight(layer)
    if isinstance(layer, nn.Linear):
        return (slice(None), slice(None))
    dynamic = type(layer).__name__ == "Conv2dSame" or isinstance(layer.padding, str)
    if dynamic and tuple(layer.stride) != (1, 1):
        raise CannotMerge("its padding depends on the size of the image")
    taps = []
    for axis in range(2):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        padding = span // 2 if dynamic else layer.padding[axis]
        tap, rest = divmod(padding, layer.dilation[axis])
        if rest or tap >= layer.kernel_size[axis]:
            raise CannotMerge("its kernel does not touch the pixel that it stands on")
        taps.append(tap)
    return (slice(None), slice(None), *taps)


def _check_computes_with_its_weight(layer: nn.Module) -> None:
    # Of timm's convolutions some standardise or scale it first.
    if type(layer).__name__ not in ("Linear", "Conv2d", "Conv2dSame"):
        raise CannotMerge(f"a {type(layer).__name__} changes its weight before it uses it")


def _add_to_bias(layer: nn.Module, shift: Tensor) -> None:
    if not shift.any():
        return
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0, 0, 0]), requires_grad=False)
    layer.bias.data += shift.to(layer.bias)
