"""The filters of a network's first convolution, before and after training."""

from pathlib import Path

import numpy as np
from detectron2.engine import HookBase
from torch import nn

from ..errors import UserError
from ..run_folder import filters_file, replacing

__all__ = ["FirstFilters", "first_convolution"]


def first_convolution(trunk: nn.Module) -> nn.Conv2d:
    """The first convolution that sees colours.

    Raises:
        UserError: there is none
    """
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            return module
    raise UserError("MODEL.TRANSFER: this network has no convolution over the colours of an image")


class FirstFilters(HookBase):
    """Keeps ``filters.npz``: "initial" and, when training has ended, "trained".

    Both (N, 3, h, w) float32, in RGB. A resumed run keeps what it began with.

    Args:
        trunk: whose first convolution it is
        folder: of the run
        bgr: whether the network reads BGR
    """

    def __init__(self, trunk: nn.Module, folder: str | Path, *, bgr: bool = False):
        self._filters, self._path, self._bgr = first_convolution(trunk), filters_file(folder), bgr

    def before_train(self) -> None:
        if self.trainer.start_iter == 0:  # later ones are not initial any more
            self._write(initial=self._now())

    def after_train(self) -> None:
        if not self._path.is_file():  # what came before training has failed, and is to be said
            return
        with np.load(self._path) as found:
            initial = found["initial"]
        self._write(initial=initial, trained=self._now())

    def _now(self) -> np.ndarray:
        weights = self._filters.weight.detach().float().cpu().numpy()
        return weights[:, ::-1].copy() if self._bgr else weights.copy()

    def _write(self, **arrays: np.ndarray) -> None:
        with replacing(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
