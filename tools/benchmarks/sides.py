"""The sides of a comparison take turns, each in a process of its own.

So whatever else the machine does disturbs all alike, and each has its own peak of memory and its
own state of allocator and caches.
"""

import contextlib
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from det_transfer.engine.hooks import peak_memory
from det_transfer.engine.launch import quiet

__all__ = ["Turns", "machine", "take_turns"]

Step = Callable[[], None]


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
    pipes = {}
    for name, make in makers.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=_serve, args=(make, device, theirs), daemon=True).start()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in pipes}
    for round_ in range(rounds + 2):
        for name, pipe in pipes.items():
            pipe.send(True)
            both = pipe.recv()
            if round_ >= 2:
                taken[name].append(both)
    peaks = {}
    for name, pipe in pipes.items():
        pipe.send(False)
        peaks[name] = pipe.recv()
    return {
        name: Turns([wall for wall, _ in taken[name]], [cpu for _, cpu in taken[name]], peaks[name])
        for name in pipes
    }


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


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a benchmark's json says of the machine."""
    found = {"cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()
