"""New channels beside the last convolutional stage: a column from the map below it to pool5+."""

import torch
from torch import Tensor, nn

__all__ = ["Conv"]


class Conv(nn.Module):
    """Channels that read the map below a trunk's last stage, as FC7+ reads FC6 beside FC7.

    No old channel reads a new one, so pool5 is what it was, with its batch norms.

    Args:
        conv: with as many outputs as there are new channels
        after: what follows it up to pool5+: norm, activation, pooling
    """

    def __init__(self, conv: nn.Conv2d, *after: nn.Module):
        super().__init__()
        self.conv, self.after = conv, nn.Sequential(*after)

    def forward(self, below: Tensor) -> Tensor:
        """pool5+ (N, channels x cells) of the map below (N, C, H, W)."""
        return self.after(self.conv(below)).flatten(1)

    @torch.no_grad()
    def fill(self, std: float, generator: torch.Generator | None = None) -> None:
        """Draw the filters; with std 0 of variance 2 / inputs, He's. Biases are 0."""
        weight = self.conv.weight
        if weight.is_meta:
            return
        noise = torch.randn(weight.shape, generator=generator, device="cpu")
        weight.copy_(noise * (std or (2.0 / weight[0].numel()) ** 0.5))
        if self.conv.bias is not None:
            self.conv.bias.zero_()
