"""What the machine did to a run, said in one line: memory, disk, or a process that is gone.

No bug of ours and no mistake in a config, so neither a traceback nor an exit code of these.
"""

import errno
import re
import signal
from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException

__all__ = ["StepTooLargeError", "explain", "out_of_memory", "shown_batch"]

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file grew over the size that is allowed here (ulimit -f)",
}
# What torch says, in RuntimeErrors, of its own: on the CPU, in its file writer, of its loader, and
# in gloo and NCCL.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|bad alloc", re.I)
_NO_DISK = re.compile(r"PytorchStreamWriter failed|file write failed|No space left on device")
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: (\w+))?")
_LOST = re.compile(
    r"Connection (?:closed|reset) by peer|Socket closed|Broken pipe|Timed out waiting|"
    r"remote process (?:exited|has exited)|NCCL communicator was aborted|Connection refused",
    re.I,
)


class StepTooLargeError(MemoryError):
    """A training step that does not fit; says which, and what would make it smaller."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def explain(error: BaseException) -> str:
    """What happened in one line, with the way out; "" where it is none of these."""
    text = str(error)
    if isinstance(error, ProcessExitedException):
        return _exited(error)
    if isinstance(error, StepTooLargeError):
        return f"out of memory {text}; the last checkpoint is as it was"
    if out_of_memory(error):
        return f"out of memory ({_first_line(text)}); the last checkpoint is as it was"
    if isinstance(error, OSError) and error.errno in _DISK:
        file = f" at {error.filename}" if error.filename else ""
        return f"{_DISK[error.errno]}{file}; what was written before is whole, --resume goes on"
    if not isinstance(error, RuntimeError):
        return ""
    if _NO_DISK.search(text):
        return (
            "a checkpoint could not be written (disk full, or a limit on the size of files); what "
            "was written before is whole, --resume goes on"
        )
    if worker := _WORKER.search(text):
        how = f"was killed (signal {worker[1]})" if worker[1] else "ended without a word"
        return (
            f"a process that loads data {how}, most often for lack of memory: lower "
            "DATALOADER.NUM_WORKERS; --resume goes on from the last checkpoint"
        )
    if _LOST.search(text):
        return (
            f"another process of this run is gone ({_first_line(text)}); its own log says why; "
            "--resume goes on from the last checkpoint"
        )
    return ""


def shown_batch(batch: Sequence[Any]) -> str:
    """How many images there are, their sizes and the first names, for an error."""
    sizes = [tuple(s["image"].shape[-2:]) for s in batch if isinstance(s, dict) and "image" in s]
    files = [str(s.get("file_name", s.get("image_id"))) for s in batch if isinstance(s, dict)]
    largest = " x ".join(map(str, max(sizes, key=lambda size: size[0] * size[1]))) if sizes else "?"
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"{len(batch)} images, the largest {largest} px: {', '.join(files[:3])}{more}"


def _exited(error: ProcessExitedException) -> str:
    """One of several processes on this machine; one that ended by itself has said why."""
    if error.exit_code >= 0:
        return ""
    name = signal.Signals(-error.exit_code).name
    return (
        f"process {error.error_index} of this run was killed ({name}), and the others were "
        "stopped; --resume goes on from the last checkpoint"
    )


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "no word about it"
    return line if len(line) < 200 else f"{line[:200]}..."
