"""A fully connected layer that reads several others, each with weights of its own."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Layer

__all__ = ["Dense"]


class Dense(nn.Module):
    """``relu(sum_k W_k x_k + b)``: one layer over the concatenation of what it reads.

    The weights of each layer that is read are a parameter of its own, ``weights.<name>``: another
    one can come without renaming or reshaping those that are there, and one can be left out.

    Where ``layer.reading`` normalises, x_k is ``scales.<name> * x_k / ||x_k||``: an L2 norm over
    the channels of that layer alone, and a learned factor a channel. Source: Growing a Brain,
    equations 1 and 2.

    Args:
        layer: its name, width and what it reads
        widths: of the layers that it reads
        dropout: name -> rate, of the layers that are dropped
        relu: False for a classifier
    """

    def __init__(
        self,
        layer: Layer,
        widths: Mapping[str, int],
        dropout: Mapping[str, float],
        *,
        relu: bool = True,
    ):
        super().__init__()
        self.width, self.relu = layer.width, relu
        self.weights = nn.ParameterDict()
        self.scales = nn.ParameterDict()
        self.bias = nn.Parameter(torch.zeros(layer.width))
        self.drop = nn.ModuleDict()
        self.rewire(layer, widths, dropout)

    def rewire(self, layer: Layer, widths: Mapping[str, int], dropout: Mapping[str, float]) -> None:
        """Read what `layer` says from now on; what is read already keeps its weights.

        New weights are 0 until somebody fills them.
        """
        self.inputs, self.reading = layer.inputs, layer.reading
        like = self.bias
        for table in (self.weights, self.scales, self.drop):
            for name in [name for name in table if name not in layer.inputs]:
                del table[name]
        for name in layer.inputs:
            if name not in self.weights:
                self.weights[name] = nn.Parameter(like.new_zeros(layer.width, widths[name]))
            if layer.reading.normalize and name not in self.scales:
                scale = torch.full_like(like.new_empty(widths[name]), layer.reading.scale)
                self.scales[name] = nn.Parameter(scale)
            if dropout.get(name):
                self.drop[name] = nn.Dropout(dropout[name])
        if not layer.reading.normalize:
            self.scales.clear()

    def forward(self, activations: Mapping[str, Tensor], only: Sequence[str] = ()) -> Tensor:
        """(N, width) of what it reads, each (N, channels); what is not in `only` counts as 0."""
        total = self.bias
        for name in only or self.inputs:
            total = total + F.linear(self.read(name, activations[name]), self.weights[name])
        return F.relu(total) if self.relu else total

    def read(self, name: str, activation: Tensor) -> Tensor:
        """The activation (N, channels) of one layer as this one sees it: dropped, normalised."""
        where = self.reading.dropout if self.reading.normalize else "before"
        drop = self.drop[name] if name in self.drop and where != "none" else nn.Identity()
        if where == "before":
            activation = drop(activation)
        if self.reading.normalize:
            activation = F.normalize(activation, dim=1) * self.scales[name]
        return drop(activation) if where == "after" else activation

    @torch.no_grad()
    def fill(self, name: str, std: float, generator: torch.Generator | None = None) -> None:
        """Draw the weights to one layer; with std 0 of variance 2 / (all inputs), He's."""
        if self.bias.is_meta:
            return
        fan_in = sum(weight.shape[1] for weight in self.weights.values())
        noise = torch.randn(self.weights[name].shape, generator=generator, device="cpu")
        self.weights[name].copy_(noise * (std or (2.0 / fan_in) ** 0.5))
