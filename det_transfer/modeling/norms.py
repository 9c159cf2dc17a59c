"""Norms by the names of Detectron2's ``get_norm``, and its synchronised batch norm in bfloat16."""

from collections.abc import Callable

import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn

from ..config import NORMS, group_problems
from ..errors import choice_problems, raise_all

__all__ = ["Float32SyncBatchNorm", "check_norm", "float32_statistics"]


class Float32SyncBatchNorm(NaiveSyncBatchNorm):
    """Detectron2's ``naiveSyncBN``, whose statistics are float32 whatever the input is.

    It takes the variance as E[x^2] - E[x]^2 and casts float16 alone. The 8 bits of a bfloat16 do
    not hold that difference: where the mean of a channel is 10 times its deviation, the variance is
    off by a factor, zero or negative (NaN). The input's dtype comes out, where Detectron2's gives
    float32 for bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of any dtype to the same."""
        by_hand = self.training and comm.get_world_size() > 1
        if not by_hand or torch.finfo(x.dtype).bits >= 32:
            return super().forward(x)  # torch's own sums in float32
        return super().forward(x.float()).to(x.dtype)


def float32_statistics(model: nn.Module) -> nn.Module:
    """Make every ``naiveSyncBN`` of Detectron2's a :class:`Float32SyncBatchNorm`, in place.

    Tensors and their names stay. ``DetectionTrainer.build_model`` does it; a loop of your own that
    trains in bfloat16 with several processes calls it on what ``build_model`` gives.

    Returns:
        `model`
    """
    for module in model.modules():
        if type(module) is NaiveSyncBatchNorm:
            module.__class__ = Float32SyncBatchNorm
    return model


def check_norm(
    norm: str | Callable | None, channels: int, channels_key: str, norm_key: str
) -> None:
    """Refuse a name that Detectron2's ``get_norm`` has not, and channels that its "GN" cannot take.

    Args:
        norm: a name, None for none, or what makes a norm of a number of channels
        channels_key, norm_key: of the config, for errors

    Raises:
        UserError: see above
    """
    if isinstance(norm, str):
        raise_all(choice_problems(norm_key, norm, NORMS))
        raise_all(group_problems(norm, channels, norm_key, channels_key))
