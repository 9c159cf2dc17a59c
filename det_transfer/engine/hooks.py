"""Hooks and writers of every run: seeds, the run's record, progress."""

import logging
import os
import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.engine.hooks import PeriodicWriter
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from .. import run_folder
from ..machine import cpu_name, now, versions

__all__ = [
    "PeriodicCheckpointer",
    "ProgressBar",
    "RunRecord",
    "SameStatistics",
    "SeedEachStep",
    "console_handlers",
    "device_name",
    "last_iteration",
    "peak_memory",
    "progress_bar",
    "writers",
]

logger = logging.getLogger(__name__)


class SeedEachStep(HookBase):
    """Seed all global generators before each step by (seed, process, iteration).

    So a step draws the same whatever came before it, and a resumed run needs no saved generator
    states: sampling of proposals, dropout and drop-path go on as in the unbroken run.
    """

    def __init__(self, seed: int):
        self._seed = max(seed, 0)

    def before_step(self) -> None:
        key = (self._seed, comm.get_rank(), self.trainer.iter)
        seed_all_rng(int(np.random.SeedSequence(key).generate_state(1)[0]) % 2**31)


class SameStatistics(HookBase):
    """After each step, give all processes the mean of their batch norms' running statistics.

    Each process has seen other images. What is evaluated, saved and resumed is then one model, and
    not a different one in each process.
    """

    def after_step(self) -> None:
        buffers = [
            buffer
            for module in self.trainer.model.modules()
            if isinstance(module, _BatchNorm) and module.training
            for buffer in module.buffers(recurse=False)
            if buffer.is_floating_point()
        ]
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.all_reduce(flat)
        flat /= comm.get_world_size()
        parts = flat.split([buffer.numel() for buffer in buffers])
        for buffer, mean in zip(buffers, parts, strict=True):
            buffer.copy_(mean.view_as(buffer))


class RunRecord(HookBase):
    """Keeps ``run.json``: what was run on what, how it went and what it took.

    Args:
        cfg: the complete config
        reuse: rows of :func:`det_transfer.reuse.reuse_table`
    """

    def __init__(self, cfg: CfgNode, reuse: list[dict[str, Any]]):
        self._path = os.path.join(cfg.OUTPUT_DIR, run_folder.RUN)
        self._period = cfg.SOLVER.CHECKPOINT_PERIOD
        self._step_times: list[float] = []
        self._content: dict[str, Any] = {
            "status": "built",
            "command": shlex.join(sys.argv),
            "seed": cfg.SEED,
            "processes": comm.get_world_size(),
            "device": device_name(cfg.MODEL.DEVICE),
            "versions": versions(),
            "reuse": reuse,
            "seconds": {"training": 0.0, "evaluation": 0.0},
            "evaluations": [],
        }
        self.weights = ""
        self.precision = ""

    def add(self, **entries: Any) -> None:
        """Add to what ``run.json`` will say."""
        self._content |= entries

    @property
    def status(self) -> str:
        """One of "built", "running", "finished", "failed", "interrupted"."""
        return self._content["status"]

    def summary(self) -> dict[str, float]:
        """Results, seconds and peak bytes as they are now, each under one name."""
        entries = {
            **self._content.get("results", {}),
            **{key: self._content.get(key, {}) for key in ("seconds", "peak_memory_bytes")},
        }
        return {k: v for k, v in run_folder.flat_metrics(entries).items() if v is not None}

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Of all evaluations so far ``iteration`` and ``metrics``, without those by class."""
        return self._content["evaluations"]

    def carry_over(self, start_iter: int) -> None:
        """Take over what the run before the resumption at `start_iter` had recorded."""
        if start_iter and os.path.exists(self._path):
            before = run_folder.read_json(self._path)
            self._content["seconds"] |= before.get("seconds", {})
            self._content["peak_memory_bytes"] = before.get("peak_memory_bytes", {})
            self.weights = before.get("weights") or self.weights
            if "trunk" in before:  # what was loaded when it began
                self._content["trunk"] = before["trunk"]
            self._content["evaluations"] = [
                entry for entry in before.get("evaluations", ()) if entry["iteration"] < start_iter
            ]

    def before_train(self) -> None:
        self._start = time.perf_counter()
        self._evaluation_before = self._content["seconds"]["evaluation"]
        self._training_before = self._content["seconds"]["training"]
        self._content |= {
            "status": "running",
            "started": now(),
            "start_iteration": self.trainer.start_iter,
            "max_iteration": self.trainer.max_iter,
            "weights": self.weights,
            "precision": self.precision,
        }
        self._write()

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        self._step_times.append(time.perf_counter() - self._step_start)
        if (self.trainer.iter + 1) % self._period == 0:  # so that a run that is killed has them
            self._write_costs()

    def evaluated(self, results: dict, seconds: float) -> None:
        """Take in an evaluation's results; EvalHook calls it through the trainer."""
        self._content["seconds"]["evaluation"] += seconds
        if results:
            self._content["results"] = results
        metrics = run_folder.flat_metrics(results)
        entry = {"iteration": last_iteration(self.trainer), "metrics": metrics}
        others = [e for e in self.evaluations if e["iteration"] != entry["iteration"]]
        self._content["evaluations"] = [*others, entry]
        self._write()

    def after_train(self) -> None:
        # Detectron2 calls after_train of all hooks also when training failed.
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self.ended("finished")

    def ended(self, status: str, reason: str = "") -> None:
        """Write how the run ended: "finished", "failed" or "interrupted"."""
        self._content |= {"status": status, "ended": now()}
        if reason:
            self._content["reason"] = reason
        self._write_costs()

    def _write_costs(self) -> None:
        before = self._content.get("peak_memory_bytes", {})
        now = peak_memory()
        self._content["peak_memory_bytes"] = {k: max(n, before.get(k, 0)) for k, n in now.items()}
        seconds = self._content["seconds"]
        if hasattr(self, "_start"):
            evaluation = seconds["evaluation"] - self._evaluation_before
            seconds["training"] = (
                self._training_before + time.perf_counter() - self._start - evaluation
            )
        if self._step_times:
            seconds["step_median"] = float(np.median(self._step_times))
        self._write()

    def _write(self) -> None:
        if comm.is_main_process():
            run_folder.write_json(self._path, self._content)


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's, which writes the last iteration's weights twice: numbered, then as final.

    A run that was killed between the two has nothing left to train when it is resumed, and writes
    the second then.
    """

    def before_train(self) -> None:
        super().before_train()
        final = os.path.join(self.checkpointer.save_dir, "model_final.pth")
        if self.trainer.start_iter >= self.max_iter and not os.path.exists(final):
            self.checkpointer.save("model_final", iteration=self.max_iter - 1)


def last_iteration(trainer: TrainerBase) -> int:
    """The iteration that was trained last; after the loop Detectron2 counts one more."""
    return min(trainer.iter, trainer.max_iter - 1)


class ProgressBar(EventWriter):
    """A bar with loss, learning rate and time to go, for a person at a terminal."""

    def __init__(self, max_iter: int):
        self._max_iter = max_iter
        self._bar: tqdm | None = None

    def write(self) -> None:
        storage = get_event_storage()
        if self._bar is None:
            self._bar = tqdm(
                total=self._max_iter,
                initial=storage.iter,
                unit="it",
                dynamic_ncols=True,
                smoothing=0.1,
            )
        values = {
            name: f"{storage.history(key).median(20):.3g}"
            for name, key in (("loss", "total_loss"), ("lr", "lr"))
            if key in storage.histories()
        }
        self._bar.set_postfix(values, refresh=False)
        # Detectron2 writes once more after the last step.
        self._bar.update(min(storage.iter + 1, self._max_iter) - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """Detectron2's writers; TensorBoard's where it is installed."""
    result: list[EventWriter] = [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, run_folder.METRICS)),
    ]
    try:
        from torch.utils import tensorboard  # noqa: F401
    except ImportError:
        logger.info("tensorboard is not installed: its log is left out")
    else:
        result.append(TensorboardXWriter(output_dir))
    return result


def progress_bar(max_iter: int) -> list[HookBase]:
    """On a terminal a bar, in place of Detectron2's lines, which go to the file; else nothing."""
    if not sys.stderr.isatty():
        return []
    _file_only(logging.getLogger("detectron2.utils.events"))
    return [PeriodicWriter([ProgressBar(max_iter)], period=1)]


def console_handlers(name: str = "detectron2") -> list[logging.Handler]:
    """The handlers of a logger that Detectron2 set up that write to a console, not into a file.

    Detectron2 writes its files through plain stream handlers, so that the type does not tell.
    """
    handlers = logging.getLogger(name).handlers
    return [h for h in handlers if not os.path.isfile(str(getattr(h.stream, "name", "")))]


def _file_only(child: logging.Logger) -> None:
    """Keep the records of `child` off the console, by a filter on the console's handlers."""
    for handler in console_handlers():
        handler.addFilter(lambda record: record.name != child.name)


def device_name(device: str) -> str:
    """What runs on "cpu" or "cuda" are said to have run on."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def peak_memory() -> dict[str, int]:
    """Peak bytes of this process, "host" and, where there is CUDA, "cuda"."""
    peak = {"host": _peak_host_memory()}
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def _peak_host_memory() -> int:
    # Not ru_maxrss, which on Linux begins with the peak of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024  # kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
