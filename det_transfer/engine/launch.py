"""Starting a program in one process or many, and ending it with the right word and exit code."""

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..errors import USER_ERROR, UserError, own_words
from .allocator import keep_freed_memory
from .faults import explain
from .selection import EarlyStop

__all__ = ["MACHINE_FAULT", "launch", "quiet", "run"]

# What torch says of Detectron2's code, of which a user can do nothing.
_NOISY_LOGGERS = ("torch.fx._symbolic_trace", "torch.utils.cpp_extension")
_NOISY_WARNINGS = (
    "torch.meshgrid",
    "`torch.jit.script` is deprecated",
    "`broadcast_buffers` is deprecated",  # its successor is too new for our floor
)

# Exit codes; of a mistake it is USER_ERROR, of a bug of ours 1, after a traceback.
MACHINE_FAULT = 3  # memory, disk or a process gave out: the same command may go well again


def run(main: Callable[..., object], *args: object) -> int:
    """Call `main`; say a mistake of the user or a fault of the machine on stderr in plain lines.

    Returns:
        the exit code
    """
    quiet()
    keep_freed_memory()
    try:
        main(*args)
    except UserError as error:
        if comm.is_main_process():
            _say(f"error: {own_words(error)}")
        return USER_ERROR
    except KeyboardInterrupt:
        _say("stopped by hand")
        return 130
    except Exception as error:
        if said := explain(error):
            _say(f"error: {said}")
            return MACHINE_FAULT
        if isinstance(error, ProcessExitedException):  # it has said itself what was wrong
            return error.exit_code
        raise
    return 0


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr)  # noqa: T201


def quiet() -> None:
    """Leave out of this process's log what a user can do nothing about."""
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in _NOISY_WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(message))
    # Detectron2's loop logs a traceback of whatever ends it; for a user's mistake, a fault of the
    # machine, and where a run ends early as it was told to, that is noise.
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_a_bug)


def launch(
    main: Callable[[argparse.Namespace], object],
    args: argparse.Namespace,
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> int:
    """Run ``main(args)`` in all processes; returns the exit code.

    Under ``torchrun`` (recognised by its environment) this process is one of them; otherwise
    Detectron2's launcher starts ``args.num_gpus`` processes on this machine. Without CUDA the
    processes talk over gloo.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return run(_under_torchrun, main, args, timeout)
    return run(
        detectron2_launch,
        _child if args.num_gpus * args.num_machines > 1 else main,
        args.num_gpus,
        args.num_machines,
        args.machine_rank,
        args.dist_url,
        (main, args) if args.num_gpus * args.num_machines > 1 else (args,),
        timeout,
    )


def _child(main: Callable, args: argparse.Namespace) -> None:
    # A spawned process can hand its parent an exit code, but no exception without its traceback.
    code = run(main, args)
    if code:
        sys.exit(code)


def _under_torchrun(main: Callable, args: argparse.Namespace, timeout: timedelta) -> None:
    cuda = torch.cuda.is_available()
    local_rank = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        main(args)
    finally:
        dist.destroy_process_group()


def _is_a_bug(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (error and (isinstance(error, UserError | EarlyStop) or explain(error)))
