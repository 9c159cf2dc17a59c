"""Carrying out a plan: what is ready is started, what fails is reported, the rest goes on."""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from ...errors import USER_ERROR, UserError
from ..launch import MACHINE_FAULT
from .spec import Plan, PlannedRun
from .state import RunState, Status, look_at, remember, write_tables

__all__ = [
    "THREADS",
    "LocalSlots",
    "Outcome",
    "Slots",
    "carry_out",
    "execute",
    "last_words",
    "unchanged",
]

THREADS = "OMP_NUM_THREADS"
_CONSOLE = "console.txt"  # in a run folder: what the program said
_LOCK = ".lock"  # in the plan's folder
_POLL_S = 1.0
_CODES = {USER_ERROR: "a mistake", MACHINE_FAULT: "a fault of the machine"}


class Outcome(NamedTuple):
    """How a run's process ended: its exit code, and if it failed the last thing that it said."""

    code: int
    last_words: str


class Slots(Protocol):
    """Where runs are carried out, ``count`` at a time."""

    count: int

    def submit(self, run: PlannedRun, command: list[str]) -> Future[Outcome]:
        """Start a run; the future is done when its process has ended."""
        ...


class LocalSlots:
    """One process at a time on the CPU, or one a GPU.

    Args:
        gpus: how many there are
        lock: a file descriptor that the processes keep open, so that the plan's folder stays
            locked while one of them lives
        each: how many processes at a time share the CPU, or a GPU

    Where there are several at a time each computes with its share of the cores, unless
    ``OMP_NUM_THREADS`` says how many: with all of them each would wait for the others' threads.
    """

    def __init__(self, gpus: int = 0, lock: int | None = None, *, each: int = 1):
        self.count = max(gpus, 1) * each
        self._lock = lock
        self._free: SimpleQueue[dict[str, str]] = SimpleQueue()
        threads = {}
        if self.count > 1 and THREADS not in os.environ:
            threads = {THREADS: str(max(len(os.sched_getaffinity(0)) // self.count, 1))}
        for index in range(self.count):
            device = {"CUDA_VISIBLE_DEVICES": str(index % gpus)} if gpus else {}
            self._free.put(device | threads)
        self._threads = ThreadPoolExecutor(self.count)

    def submit(self, run: PlannedRun, command: list[str]) -> Future[Outcome]:
        return self._threads.submit(self._execute, run, command)

    def _execute(self, run: PlannedRun, command: list[str]) -> Outcome:
        device = self._free.get()
        try:
            return self._start(command, run.folder / _CONSOLE, device)
        finally:
            self._free.put(device)

    def _start(self, command: list[str], console: Path, environment: dict[str, str]) -> Outcome:
        """Run a program to its end."""
        return execute(command, console, environment, self._lock)


def execute(
    command: list[str], console: Path, environment: dict[str, str], lock: int | None = None
) -> Outcome:
    """Run a Python program to its end; what it says goes into the file `console`."""
    with console.open("a", encoding="utf-8") as file:
        start = file.tell()
        code = subprocess.run(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            pass_fds=() if lock is None else (lock,),
        ).returncode
    return Outcome(code, last_words(console, start) if code else "")


def last_words(console: Path, start: int) -> str:
    """What a program has said last after byte `start` of a file; a user's mistake before all."""
    said = console.read_bytes()[start:].decode(errors="replace").splitlines()
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or [line for line in said if line.strip()] or [""])[-1]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the plan's folder for this process and those that it starts; gives the descriptor.

    Raises:
        UserError: another process holds it
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is in use: another tools/run_plan.py works on it, or a run that it has "
                "started is still alive"
            ) from None
        yield file.fileno()


def carry_out(
    plan: Plan,
    slots: Slots,
    *,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[dict[str, RunState]], None] = lambda _: None,
) -> dict[str, RunState]:
    """Start every run whose needs are met, in the plan's order, until nothing can be started.

    Args:
        retry_failed: failed runs are tried again; else they and what needs them are left
        say: is told in a line what begins and ends
        progress: is called about once a second with the states

    Returns:
        the state of every run
    Raises:
        UserError: runs in the folder were made for something else; nothing is started
    """
    states = unchanged(plan)
    tried: set[str] = set()
    running: dict[Future[Outcome], PlannedRun] = {}

    def ready(run: PlannedRun) -> bool:
        status = states[run.name].status
        again = status is Status.FAILED and retry_failed
        needs_met = all(states[need].status is Status.FINISHED for need in run.needs)
        open_ = status in (Status.TODO, Status.INTERRUPTED) or again
        return open_ and needs_met and run.name not in tried

    write_tables(plan)
    while True:
        for run in plan.runs:
            if len(running) < slots.count and ready(run):
                tried.add(run.name)
                resume = states[run.name].status is not Status.TODO
                say(f"{'resumes' if resume else 'begins'}  {run.name}")
                remember(run)
                running[slots.submit(run, run.command(resume=resume))] = run
        if not running:
            return states
        done, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            run = running.pop(future)
            states[run.name] = _ended(run, future.result(), say)
            write_tables(plan)
        for run in running.values():
            states[run.name] = look_at(run)
        progress(states)


def _ended(run: PlannedRun, outcome: Outcome, say: Callable[[str], None]) -> RunState:
    interrupted = outcome.code in (130, -2)  # by hand
    state = look_at(run)
    if state.status is not Status.FINISHED and not interrupted:
        code = _CODES.get(outcome.code, f"exit code {outcome.code}")
        remember(run, f"{code}: {outcome.last_words}")
        state = look_at(run)
    say(f"{state.status.value:8} {run.name}{': ' * bool(state.why)}{state.why}")
    return state


def unchanged(plan: Plan) -> dict[str, RunState]:
    """The state of every run, none of which was made for something else.

    Raises:
        UserError: the names of those that were, and what is different
    """
    states = {run.name: look_at(run) for run in plan.runs}
    changed = {name: s.why for name, s in states.items() if s.status is Status.CHANGED}
    if changed:
        lines = [f"{name}: {why}" for name, why in changed.items()]
        raise UserError(
            "\n".join(lines)
            + f"\n{len(changed)} runs were made for something else than the plan asks now, and "
            "nothing is overwritten: set the plan back, give it another output, or move their "
            "folders away"
        )
    return states


def blocked(plan: Plan, states: dict[str, RunState]) -> dict[str, list[str]]:
    """Runs that cannot be started -> the failed ones that they need, over any number of steps."""
    found: dict[str, list[str]] = {}
    for run in plan.runs:
        causes = [n for n in run.needs if states[n].status is Status.FAILED]
        causes += [cause for need in run.needs for cause in found.get(need, ())]
        if causes:
            found[run.name] = list(dict.fromkeys(causes))
    return found
