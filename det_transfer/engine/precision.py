"""Mixed precision on CPU and GPU. Detectron2's own trainer knows fp16 on CUDA alone."""

import contextlib
import logging
import statistics
import time
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

__all__ = ["AUTO", "autocast", "bf16_is_hopeless", "choose", "precision_of"]

logger = logging.getLogger(__name__)

AUTO = "auto"
# Slower by this factor in one product of matrices is slower for good: a CPU without bf16
# instructions needs a hundred times as long.
_HOPELESS = 4.0
_PRODUCT = 256  # side of these matrices: milliseconds on any machine

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(cfg: CfgNode) -> str:
    """ "fp32", "bf16", "fp16" or "auto", as SOLVER.AMP says."""
    return cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else "fp32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """torch's autocast for "bf16" and "fp16"; nothing for "fp32"."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def bf16_is_hopeless(device: torch.device) -> float:
    """How many times as long as in fp32 a product takes in bf16, where nothing else need be tried;
    else 0."""
    times_slower = _product_seconds("bf16", device) / _product_seconds("fp32", device)
    return times_slower if times_slower > _HOPELESS else 0.0


def choose(
    model: nn.Module,
    loss: Callable[[], torch.Tensor],
    device: torch.device,
    *,
    rounds: int = 2,
) -> str:
    """Time forward and backward in bf16 and fp32, interleaved; the faster of the two.

    Where a product of matrices says that bf16 is hopeless, no step is tried. The model is left as
    it was: gradients are dropped, buffers and random states put back.

    Args:
        loss: runs one forward pass of `model` and returns the summed loss
        rounds: timed steps of each kind, after one that is not counted
    """
    # All processes must agree; the first one's clock decides.
    times_slower = comm.all_gather(bf16_is_hopeless(device))[0]
    if times_slower:
        logger.info("Precision fp32: a product in bf16 takes %.0f times as long here", times_slower)
        return "fp32"
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for _ in range(rounds + 1):
            for name, times in seconds.items():
                times.append(_step_seconds(model, loss, name, device))
    with torch.no_grad():
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
    medians = comm.all_gather({n: statistics.median(t[1:]) for n, t in seconds.items()})[0]
    chosen = min(medians, key=medians.get)
    logger.info(
        "Precision %s: the trial took %.3f s in bf16 and %.3f s in fp32",
        chosen,
        medians["bf16"],
        medians["fp32"],
    )
    return chosen


def _product_seconds(precision: str, device: torch.device) -> float:
    """The shortest of several: the first pays for warming up."""
    matrix = torch.ones(_PRODUCT, _PRODUCT, dtype=DTYPES[precision], device=device)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for a GPU
        taken.append(time.perf_counter() - start)
    return min(taken)


def _step_seconds(
    model: nn.Module, loss: Callable[[], torch.Tensor], precision: str, device: torch.device
) -> float:
    start = time.perf_counter()
    with autocast(precision, device):
        total = loss()
    total.backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds
