"""The sides of a comparison take turns, each in a process of its own.

So whatever else the machine does disturbs all alike, and each has its own peak of memory and its
own state of allocator and caches.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from det_transfer.engine.hooks import peak_memory
from det_transfer.engine.launch import quiet

__all__ = ["Clock", "SideEndedError", "Turns", "machine_rates", "take_turns", "watch"]

Step = Callable[[], None]

# What a step's time goes to, in the order of the step: part -> module of the detector.
PARTS = {
    "trunk": "backbone.bottom_up",
    "backbone": "backbone",
    "proposals": "proposal_generator",
    "RoI heads": "roi_heads",
}


@dataclass(frozen=True)
class Turns:
    """What a side did.

    Attributes:
        seconds: of each turn
        cpu: seconds that the process computed in each, over its threads; what else the machine
            does is hardly in them
        peak: bytes of the process
    """

    seconds: list[float]
    cpu: list[float]
    peak: int

    def summary(self) -> dict[str, float]:
        return {
            "median": statistics.median(self.seconds),
            "min": min(self.seconds),
            "max": max(self.seconds),
        }


def take_turns(
    makers: Mapping[str, Callable[[], Step]], *, rounds: int, device: str = "cpu"
) -> dict[str, Turns]:
    """Let each side make its step in a new process, and then take one after the other.

    Args:
        makers: can be pickled; called in the side's process
        rounds: that count; two before them warm up (compilation, oneDNN's caches)
    """
    context = multiprocessing.get_context("spawn")
    sides = {name: _Side(name, make, device, context) for name, make in makers.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for round_ in range(rounds + 2):
        for name, side in sides.items():
            both = side.ask(True)
            if round_ >= 2:
                taken[name].append(both)
    peaks = {name: side.ask(False) for name, side in sides.items()}
    return {
        name: Turns([wall for wall, _ in taken[name]], [cpu for _, cpu in taken[name]], peaks[name])
        for name in sides
    }


class _Side:
    """The process of a side, which answers or has ended."""

    def __init__(self, name: str, make: Callable[[], Step], device: str, context: Any):
        self._name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, device, theirs), daemon=True)
        self._process.start()
        theirs.close()  # now the pipe ends with the process

    def ask(self, more: bool) -> Any:
        try:
            self._pipe.send(more)
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise SideEndedError(
                f"{self._name} ended with exit code {self._process.exitcode}; what it said stands "
                "above (-9: killed, for memory most likely)"
            ) from None


class SideEndedError(RuntimeError):
    """A side of a comparison has ended before its turns were over."""


def _serve(make: Callable[[], Step], device: str, pipe: Connection) -> None:
    quiet()
    step = make()
    while pipe.recv():
        start, computed = time.perf_counter(), time.process_time()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        pipe.send((time.perf_counter() - start, time.process_time() - computed))
    pipe.send(peak_memory()[device.replace("cpu", "host")])


def machine_rates(device: str = "cpu", size: int = 2048, repeats: int = 7) -> dict[str, float]:
    """What bounds a step: GFLOP a second of matrix products, GB a second of copies; medians."""
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = _median_seconds(lambda a=a, b=b: a @ b, device, repeats)
        rates[f"GFLOP/s of {str(dtype).removeprefix('torch.')} products"] = 2e-9 * size**3 / seconds
    source = torch.zeros(64 * size, size // 2, device=device)  # larger than any cache
    target = torch.empty_like(source)
    seconds = _median_seconds(lambda: target.copy_(source), device, repeats)
    rates["GB/s of copies"] = 2e-9 * source.nbytes / seconds  # read and written
    return rates


def _median_seconds(step: Step, device: str, repeats: int) -> float:
    taken = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])


class Clock:
    """Times parts, which may lie inside each other."""

    def __init__(self, device: str, note: Callable[[str, float], None]):
        self.cuda = device == "cuda"
        self.note = note
        self.began: dict[str, float] = {}

    def start(self, part: str) -> None:
        self.began[part] = self._now()

    def stop(self, name: str, part: str) -> None:
        self.note(name, self._now() - self.began[part])

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def watch(model: nn.Module, start: Callable[[str], None], stop: Callable[[str], None]) -> None:
    """Call `start` and `stop` around the forward pass of each part of a detector."""
    for part, path in PARTS.items():
        module = model.get_submodule(path)
        module.register_forward_pre_hook(partial(_tell, start, part))
        module.register_forward_hook(partial(_tell, stop, part))


def _tell(whom: Callable[[str], object], part: str, *_: object) -> None:
    whom(part)  # what a hook returns would take the place of what the module gave
