"""What a run would cost, measured: ``--dry-run`` builds everything, takes a few steps and stops."""

import logging
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation import inference_context
from detectron2.utils.events import EventStorage
from torch import nn

from ..reuse import trainable_line
from .hooks import peak_memory
from .trainer import TransferTrainer

__all__ = ["DryRun", "dry_run"]

logger = logging.getLogger(__name__)

_STEPS = 5  # timed, after one that is not
_TEST_BATCHES = 3  # likewise
_ENOUGH_S = 30.0  # after so long no further one is begun


@dataclass(frozen=True)
class DryRun:
    """What was measured; :meth:`__str__` says it in lines.

    Attributes:
        trainable: see :func:`det_transfer.reuse.trainable_line`
        batch, precision, steps: of training; `steps` is SOLVER.MAX_ITER
        step_s: median seconds a step, data loading included
        evaluation_s: seconds of one evaluation of all test sets, from a few images
        evaluations: how many the run will make
        memory: peak bytes by kind, "host" and on a GPU "cuda"
        checkpoint_bytes: size of one on disk
        checkpoints: how many the run will keep
        frozen_bytes: size of what lies once beside slim checkpoints
        free_bytes: on the disk of the run folder
    """

    trainable: str
    batch: int
    precision: str
    steps: int
    step_s: float
    evaluation_s: float
    evaluations: int
    memory: dict[str, int]
    checkpoint_bytes: int
    checkpoints: int
    frozen_bytes: int
    free_bytes: int

    @property
    def disk_bytes(self) -> int:
        """What all checkpoints of the run take together, and the frozen part beside them."""
        return self.checkpoints * self.checkpoint_bytes + self.frozen_bytes

    @property
    def total_s(self) -> float:
        return self.steps * self.step_s + self.evaluations * self.evaluation_s

    def __str__(self) -> str:
        memory = ", ".join(f"{_size(n)} on the {kind}" for kind, n in self.memory.items())
        too_small = "  NOT ENOUGH SPACE" if self.disk_bytes > self.free_bytes else ""
        frozen = f" with the frozen part ({_size(self.frozen_bytes)})" if self.frozen_bytes else ""
        lines = {
            "Model": self.trainable,
            "Step": f"{self.step_s:.3g} s, batch {self.batch}, {self.precision}",
            "Memory": f"{memory} (peak so far)",
            "Time": f"{_duration(self.total_s)}: {self.steps} steps "
            f"{_duration(self.steps * self.step_s)}, {self.evaluations} x evaluation "
            f"{_duration(self.evaluation_s)}",
            "Disk": f"{_size(self.checkpoint_bytes)} a checkpoint, {self.checkpoints} of them "
            f"{_size(self.disk_bytes)}{frozen}; free {_size(self.free_bytes)}{too_small}",
        }
        width = max(map(len, lines)) + 2
        return "\n".join(f"{name:{width}}{text}" for name, text in lines.items())


def dry_run(trainer: TransferTrainer, output_dir: str) -> DryRun:
    """Take a few training steps, evaluate a few images, save one checkpoint; measure and log it.

    Args:
        trainer: built and loaded; it has been trained on afterwards and is of no further use.
            Its own OUTPUT_DIR, which gets the checkpoint, should be a temporary one
        output_dir: the folder of the run to come, for the space on its disk
    """
    cfg = trainer.cfg
    step_s, precision = _time_steps(trainer)
    evaluation_s = sum(
        _time_evaluation(trainer.model, trainer.build_test_loader(cfg, name))
        for name in cfg.DATASETS.TEST
    )
    memory = peak_memory()
    trainer.checkpointer.save("dry_run")
    saved = Path(trainer.checkpointer.get_checkpoint_file())
    report = DryRun(
        trainable=trainable_line(trainer.model),
        batch=cfg.SOLVER.IMS_PER_BATCH,
        precision=precision,
        steps=trainer.max_iter,
        step_s=step_s,
        evaluation_s=evaluation_s,
        evaluations=_times(trainer.max_iter, cfg.TEST.EVAL_PERIOD),
        memory=memory,
        checkpoint_bytes=saved.stat().st_size,
        # Detectron2 writes model_final.pth beside the checkpoint of the last period.
        checkpoints=trainer.max_iter // cfg.SOLVER.CHECKPOINT_PERIOD
        + 1
        + bool(cfg.TEST.BEST.METRIC)
        + cfg.SOLVER.EMA.ENABLED,
        frozen_bytes=sum(file.stat().st_size for file in saved.parent.glob("frozen-*.pth")),
        free_bytes=_free_bytes(Path(output_dir)),
    )
    logger.info("Dry run, nothing was written.\n%s", report)
    return report


def _time_steps(trainer: TransferTrainer) -> tuple[float, str]:
    """Median seconds of a whole step, with its data; and the precision "auto" came to."""
    inner = trainer._trainer
    inner.iter = trainer.start_iter
    with EventStorage(trainer.start_iter):
        inner.choose_precision()
        return _median_seconds(inner.run_step, _STEPS), inner.precision


def _time_evaluation(model: nn.Module, loader: Any) -> float:
    """Seconds for all of `loader`, from its first batches; 0 where it has none."""
    batches = iter(loader)

    def step() -> None:
        model(next(batches))
        _synchronize()

    if not len(loader):
        return 0.0
    with inference_context(model), torch.no_grad():
        return _median_seconds(step, min(_TEST_BATCHES, len(loader) - 1)) * len(loader)


def _median_seconds(step: Callable[[], None], most: int) -> float:
    """Median seconds of at most `most` calls after the first, which counts where it is alone."""
    first = _seconds(step)
    times: list[float] = []
    while len(times) < most and first + sum(times) < _ENOUGH_S:
        times.append(_seconds(step))
    return statistics.median(times or [first])


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _times(steps: int, period: int) -> int:
    """How often a hook with this period evaluates: every `period` steps, and at the end."""
    return -(-steps // period) if period > 0 else 1


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _free_bytes(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    """E.g. 45 s, 12 min, 3 h 20 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 120 else f"{minutes} min"
