"""From a command line to a checked config, a run folder and a log: the first minute of every run.

Everything that can be known to be wrong is said here, before a model is built.
"""

import argparse
import errno
import logging
import multiprocessing.util
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from .. import run_folder
from ..config import Config, differences, load_config, scale_learning_rate, validate
from ..errors import UserError, machine_fault
from ..reuse import MODES
from .hooks import console_handlers

__all__ = ["Advice", "argument_parser", "setup"]

logger = logging.getLogger(__name__)

_said = logging.getLogger(f"{__name__}.said")  # on the console, before there was a file
_opening = logging.getLogger(f"{__name__}.opening")
# What would bury the lines that a person needs, such as a line a class, 1,203 of them for LVIS.
_FILE_ONLY = ("detectron2.data.samplers.distributed_sampler", _said.name, _opening.name)


class Advice(str):
    """A line of `prepare` that it has logged itself, as a warning, before it read any data."""


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Detectron2's flags, with the words of one of our programs below them."""
    parser = default_argument_parser(epilog=description)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, take a few steps, say what the run would cost; write nothing",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="write ordinary checkpoints, which stock Detectron2 loads too",
    )
    return parser


def setup(
    args: argparse.Namespace, prepare: Callable[[Config], Iterable[str | None]] = lambda _: ()
) -> CfgNode:
    """Read, complete and check the config of a run; open its folder and its log.

    Args:
        args: as from :func:`argument_parser`. With `dry_run` all is checked for the config's
            OUTPUT_DIR, but the one that is returned is a temporary one, gone with the process
        prepare: completes the config with what follows from the data; gives lines for the log,
            each an :class:`Advice` where it has been said
    Raises:
        UserError: whatever is wrong with config, data or output folder
    """
    _end_earlier_logs()
    config = load_config(args.config_file, args.opts or ())
    cfg = config.cfg
    lines = [_take_device(config), _take_seed(cfg, args.resume)]
    if getattr(args, "full", False):
        cfg.SOLVER.SLIM_CHECKPOINTS = False
    validate(cfg, config.explicit)
    _check_weights_named(config)
    lines += [*prepare(config), scale_learning_rate(config)]
    dry = getattr(args, "dry_run", False)  # Detectron2's own parser does not know it
    if dry and (args.resume or args.eval_only):
        raise UserError("--dry-run stands alone: leave out --resume and --eval-only")
    if not args.eval_only:
        _refuse_other_run(cfg.OUTPUT_DIR, args.resume)
    if dry:
        cfg.OUTPUT_DIR = tempfile.mkdtemp(dir=multiprocessing.util.get_temp_dir())
    cfg.freeze()
    if cfg.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(cfg.DETERMINISTIC)
    _open_log(cfg, args)
    seed_all_rng(cfg.SEED + comm.get_rank())
    if not args.eval_only:  # a test set is too small to look for the fastest kernels
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    changed = differences(cfg, config.from_file)
    if changed:
        table = tabulate(changed, headers=["key", "config file", "this run"], tablefmt="simple")
        logger.info("Differs from %s:\n%s", args.config_file or "Detectron2's defaults", table)
    for line in filter(None, lines):
        if isinstance(line, Advice):
            _said.warning(line)
        else:
            logger.info(line)
    return cfg


def _check_weights_named(config: Config) -> None:
    """A mode that keeps pretrained weights has some, unless the user asks for none by name."""
    mode, weights = config.cfg.MODEL.REUSE.MODE, config.cfg.MODEL.WEIGHTS
    keeps = mode in MODES and MODES[mode].weights == "all"
    if keeps and not weights and "MODEL.WEIGHTS" not in config.explicit:
        raise UserError(
            f"MODEL.REUSE.MODE is {mode!r} but MODEL.WEIGHTS is empty: a frozen random trunk; "
            "name the weights, or ask for it with MODEL.WEIGHTS ''"
        )


def _take_device(config: Config) -> str | None:
    """Without CUDA the CPU is taken, unless the config asks for CUDA by name."""
    model = config.cfg.MODEL
    if not model.DEVICE.startswith("cuda") or torch.cuda.is_available():
        return None
    if "MODEL.DEVICE" in config.explicit:
        raise UserError(f"MODEL.DEVICE is {model.DEVICE!r} but torch finds no CUDA device here")
    model.DEVICE = "cpu"
    return "MODEL.DEVICE: cpu, because torch finds no CUDA device"


def _take_seed(cfg: CfgNode, resume: bool) -> str | None:
    """Draw a seed where none is given, so that every run can be repeated and resumed exactly."""
    if cfg.SEED >= 0:
        return None
    saved = Path(cfg.OUTPUT_DIR) / run_folder.RUN
    if resume and saved.is_file():
        cfg.SEED = run_folder.read_json(saved)["seed"]
        return f"SEED: {cfg.SEED}, of the run that is resumed"
    drawn = comm.all_gather(random.SystemRandom().randrange(2**31))[0]
    cfg.SEED = drawn
    return f"SEED: {cfg.SEED}, drawn"


def _refuse_other_run(output_dir: str, resume: bool) -> None:
    """An output folder with a run in it is continued with --resume or left alone."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"OUTPUT_DIR {output_dir} is a file")
    has_steps = bool(run_folder.read_metrics(folder))
    has_weights = (folder / "last_checkpoint").is_file()
    if resume and has_steps and not has_weights:
        logger.warning("%s has no checkpoint to resume from: starting afresh", output_dir)
    if not resume and (has_steps or has_weights):
        status = "a run"
        if (folder / run_folder.RUN).is_file():
            status = f"a run ({run_folder.read_json(folder / run_folder.RUN)['status']})"
        raise UserError(
            f"OUTPUT_DIR {output_dir} already holds {status}; continue it with --resume, "
            "or name another folder with OUTPUT_DIR"
        )


def _open_log(cfg: CfgNode, args: argparse.Namespace) -> None:
    """As Detectron2's default_setup, which parses the config three times over, opens it."""
    cfg = cfg.clone()
    cfg.defrost()
    if args.eval_only:  # a run keeps the config and the log that it was trained with
        cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / run_folder.EVAL)
    if comm.is_main_process():
        _check_writable(cfg.OUTPUT_DIR)
    comm.synchronize()
    rank = comm.get_rank()
    for name in ("det_transfer", "detectron2", "fvcore"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name)
    for handler in (*console_handlers(), *console_handlers("det_transfer")):
        handler.addFilter(lambda record: record.name not in _FILE_ONLY)
    _opening.info("Rank %d of %d", rank, comm.get_world_size())
    _opening.info("Environment info:\n%s", collect_env_info())
    _opening.info("Command line arguments: %s", args)
    if comm.is_main_process():
        text = cfg.dump()
        _opening.info("Running with full config:\n%s", text)
        (Path(cfg.OUTPUT_DIR) / run_folder.CONFIG).write_text(text)


def _end_earlier_logs() -> None:
    """A run before this one in the same process, in a notebook, has its own log file."""
    for name in ("det_transfer", "detectron2", "fvcore"):
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()


def _check_writable(output_dir: str) -> None:
    try:
        os.makedirs(output_dir, exist_ok=True)
        probe = Path(output_dir) / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if machine_fault(error) and error.errno != errno.EROFS:
            raise
        raise UserError(f"OUTPUT_DIR {output_dir} cannot be written: {error.strerror}") from error
