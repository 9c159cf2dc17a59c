"""Runs forked from one process that has imported everything, for plans of many short runs.

A run that trains for seconds would spend as long on importing torch and Detectron2. Python's fork
server imports them once, in a process of its own that computes nothing and so has no threads, and
forks a copy for each run. A run is the same program with the same command line as ever, in a
process of its own, which nothing of another run reaches.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import torch

from .runner import THREADS, LocalSlots, Outcome, last_words

__all__ = ["ForkedSlots"]


class ForkedSlots(LocalSlots):
    """As its base, without the time that a new interpreter and its imports take.

    One in a process: the fork server is Python's, and imports what the first one has named.

    Args:
        modules: what the runs import
    """

    def __init__(
        self, modules: Sequence[str], gpus: int = 0, lock: int | None = None, *, each: int = 1
    ):
        super().__init__(gpus, lock, each=each)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(modules))

    def _start(self, command: list[str], console: Path, environment: dict[str, str]) -> Outcome:
        console.touch()
        start = console.stat().st_size
        kept = None if self._lock is None else _Kept(self._lock)
        process = self._context.Process(
            target=_work, args=(command, str(console), environment, os.getcwd(), kept)
        )
        process.start()
        process.join()
        code = process.exitcode
        process.close()
        return Outcome(code, last_words(console, start) if code else "")


class _Kept:
    """A file descriptor that a process inherits, and keeps open as long as it lives."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.descriptor),)


def _received(duplicate: Any) -> _Kept:
    return _Kept(duplicate.detach())


def _work(
    command: list[str], console: str, environment: dict[str, str], folder: str, kept: _Kept | None
) -> None:
    """In the process of a run."""
    os.chdir(folder)
    os.environ.update(environment)
    if THREADS in environment:  # torch read it when it was imported, before the fork
        torch.set_num_threads(int(environment[THREADS]))
    output = os.open(console, os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in enumerate((nothing, output, output)):
        os.dup2(source, number)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
