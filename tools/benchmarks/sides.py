"""The sides of a comparison take turns, each in a process of its own.

So whatever else the machine does disturbs all alike, and each has its own peak of memory and its
own state of allocator and caches.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from measurements import Spread, spread
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from det_transfer.engine.hooks import peak_memory
from det_transfer.engine.launch import quiet

__all__ = [
    "Clock",
    "SideEndedError",
    "Turns",
    "operations",
    "take_turns",
    "watch",
]

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

    def summary(self) -> Spread:
        return spread(self.seconds)

    def gflops(self, operations: int) -> Spread:
        """GFLOP a second, of turns with so many operations."""
        return spread(operations / 1e9 / seconds for seconds in self.seconds)


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


def operations(step: Step) -> int:
    """Of a step, on floating-point numbers of whatever precision; a multiply-add counts 2."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


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
