"""Starting a program in one process or many, and ending it with the right word and exit code."""

import argparse
import contextlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..errors import MACHINE_FAULT, USER_ERROR, UserError, machine_fault, own_words
from ..garbage import keep_imports
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


def run(main: Callable[..., object], *args: object) -> int:
    """Call `main`; say a mistake of the user or a fault of the machine on stderr in plain lines.

    Returns:
        the exit code
    """
    quiet()
    keep_imports()
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
            _end_logs()
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
    # Where the disk does not take a line of a log, tracebacks of it are of no use: what the run
    # cannot do without ends it with a word of its own.
    logging.Handler.handleError = _handle_error
    threading.excepthook = _end_thread  # of TensorBoard's writer


_loggings_own, _threads_own = logging.Handler.handleError, threading.excepthook


def _handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
    if not machine_fault(sys.exc_info()[1]):
        _loggings_own(handler, record)


def _end_thread(ended: threading.ExceptHookArgs) -> None:
    if not machine_fault(ended.exc_value):
        _threads_own(ended)


def _end_logs() -> None:
    """Close the log files, so that they are not tried again, in tracebacks, as Python ends."""
    for logger in (logging.getLogger(), *logging.Logger.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", [])[:]:
            stream = getattr(handler, "stream", None)
            if os.path.isfile(str(getattr(stream, "name", ""))):
                logger.removeHandler(handler)
                with contextlib.suppress(OSError):
                    stream.close()


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
