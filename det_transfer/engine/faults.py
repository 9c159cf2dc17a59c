"""What the machine did to a run, said in one line: memory, disk, or a process that is gone.

No bug of ours and no mistake in a config, so neither a traceback nor an exit code of these.
"""

import re
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException

from ..errors import machine_fault

__all__ = ["StepTooLargeError", "explain", "out_of_memory", "shown_batch"]

_SIZES = 6  # of a batch's images that are named

# What torch says of the machine in RuntimeErrors, the first that fits: words of its allocators, its
# file writer, its loader, CUDA, and gloo and NCCL -> what happened, and the way out.
_RESUME = "--resume goes on from the last checkpoint"
_NO_MEMORY = (
    r"can(?:'|no)t allocate memory|not enough memory|out of memory|bad alloc|STATUS_ALLOC_FAILED"
)
_OUT_OF_MEMORY = "out of memory ({line}); the last checkpoint is as it was"
_SAID = {
    r"Too many open files|received \d+ items of ancdata": (
        "too many files are open at once: raise ulimit -n, or lower DATALOADER.NUM_WORKERS; "
        f"{_RESUME}"
    ),
    # Where loading processes hand their images over; before memory and the disk, whose words its
    # errors have too.
    r"</torch_|shared memory object|unable to allocate shared memory": (
        "the shared memory that loading processes hand images over in is full (df -h /dev/shm): "
        "give it more (docker run --shm-size), or lower DATALOADER.NUM_WORKERS; "
        f"{_RESUME}"
    ),
    _NO_MEMORY: _OUT_OF_MEMORY,
    r"PytorchStreamWriter failed|file write failed|No space left on device": (
        "a checkpoint could not be written (disk full, or a limit on the size of files); what "
        "was written before is whole, --resume goes on"
    ),
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) is killed by signal: (?P<signal>\w+)": (
        "a process that loads data was killed (signal {signal}), most often for lack of memory: "
        f"lower DATALOADER.NUM_WORKERS; {_RESUME}"
    ),
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\)": (
        "a process that loads data ended without a word, most often for lack of memory: lower "
        f"DATALOADER.NUM_WORKERS; {_RESUME}"
    ),
    r"Connection (?:closed|reset) by peer|Socket closed|Broken pipe|Timed out waiting|"
    r"remote process (?:exited|has exited)|NCCL communicator was aborted|Connection refused": (
        f"another process of this run is gone ({{line}}); its own log says why; {_RESUME}"
    ),
    r"uncorrectable (?:ECC|NVLink) error|device\(s\) is/are busy": (
        f"the GPU has failed ({{line}}); nvidia-smi says more; {_RESUME}"
    ),
}


class StepTooLargeError(MemoryError):
    """A training step that does not fit; says which, and what would make it smaller."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(re.search(_NO_MEMORY, str(error), re.I))


def explain(error: BaseException) -> str:
    """What happened in one line, with the way out; "" where it is none of these."""
    text = str(error)
    if isinstance(error, ProcessExitedException):
        return _exited(error)
    if isinstance(error, StepTooLargeError):
        return f"out of memory {text}; the last checkpoint is as it was"
    if isinstance(error, MemoryError):
        return _OUT_OF_MEMORY.format(line=_first_line(text))
    if said := machine_fault(error):
        return f"{said}; what was written before is whole, --resume goes on"
    return _said_by_torch(text) if isinstance(error, RuntimeError) else ""


def _said_by_torch(text: str) -> str:
    for pattern, words in _SAID.items():
        if found := re.search(pattern, text, re.I):
            return words.format(line=_first_line(text), **found.groupdict())
    return ""


def shown_batch(batch: Sequence[Any]) -> str:
    """How many images there are, their sizes (height x width) and first names, for an error."""
    images = [sample for sample in batch if isinstance(sample, dict)]
    sizes = Counter(tuple(s["image"].shape[-2:]) for s in images if "image" in s)
    largest_first = sorted(sizes, key=lambda size: (-size[0] * size[1], size))
    named = [f"{sizes[h, w]} of {h} x {w}" for h, w in largest_first[:_SIZES]]
    if len(sizes) > _SIZES:
        left = sum(sizes[size] for size in largest_first[_SIZES:])
        named.append(f"{left} smaller ones")
    files = [str(s.get("file_name", s.get("image_id"))) for s in images]
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    shown = f" ({', '.join(named)} px)" if named else ""
    return f"{len(batch)} images{shown}: {', '.join(files[:3])}{more}"


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
