"""The trainer: Detectron2's, with mixed precision on any device, an exact stream and a run record.

Subclasses say what is trained by overriding ``build_model``, ``build_train_loader``,
``build_test_loader`` and ``build_evaluator``, as with Detectron2's ``DefaultTrainer``.
"""

import contextlib
import itertools
import logging
import time
import weakref
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError, own_words
from ..reuse import frozen_tensors, reuse_table
from ..run_folder import remove_leftovers
from .average import WeightAverage
from .checkpoint import TransferCheckpointer
from .faults import StepTooLargeError, explain, out_of_memory, shown_batch
from .guard import FrozenGuard
from .hooks import (
    PeriodicCheckpointer,
    RunRecord,
    SameStatistics,
    SeedEachStep,
    last_iteration,
    progress_bar,
    writers,
)
from .optimizer import build_optimizer
from .precision import AUTO, autocast, choose, precision_of
from .selection import EarlyStop, KeepBest
from .tracking import build_trackers, ids_before, tracked
from .validation import validation_losses

__all__ = ["StepTrainer", "TransferTrainer"]

logger = logging.getLogger(__name__)


class StepTrainer(SimpleTrainer):
    """One optimisation step, in the chosen precision, that stops at a loss that is not finite.

    Args:
        precision: "fp32", "bf16", "fp16" or "auto" (chosen on the first batch)
        accumulate: parts that a batch is cut into; their gradients are added up, so that a batch
            needs the memory of a part
        after_backward: called between backward and the optimizer's step
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str = "fp32",
        accumulate: int = 1,
        after_backward: Any = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.accumulate = accumulate
        self.device = next(model.parameters()).device
        # Enabled for fp16 alone: bf16 has the range of fp32.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        if after_backward is not None:
            self.after_backward = after_backward

    def choose_precision(self) -> None:
        """Settle "auto" on the first batch of the stream, which is then trained on as ever."""
        if self.precision == AUTO:
            batch = next(self._data_loader_iter)
            self._data_loader_iter_obj = itertools.chain([batch], self._data_loader_iter)
            part = batch[:: self.accumulate]
            if self.device.type == "cpu":  # a step takes seconds there, and a part tells as much
                part = part[: max(2, len(part) // 4)]
            # Detectron2's heads put their counts somewhere.
            with self._telling_what_is_too_large(batch), EventStorage():
                self.precision = choose(
                    self.model, lambda: sum(self.model(part).values()), self.device
                )

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with self._telling_what_is_too_large(batch):
            self._take_step(batch, data_time)

    @contextlib.contextmanager
    def _telling_what_is_too_large(self, batch: list[dict]) -> Iterator[None]:
        """Raises: StepTooLargeError where memory runs out on this batch, or on a part of it."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            more = 2 * self.accumulate
            raise StepTooLargeError(
                f"at iteration {self.iter}; the batch was {shown_batch(batch)}. Lower "
                f"SOLVER.IMS_PER_BATCH, or keep it and set SOLVER.ACCUMULATE {more}; smaller "
                "images (INPUT.MAX_SIZE_TRAIN) and SOLVER.AMP.ENABLED True help too"
            ) from error

    def _take_step(self, batch: list[dict], data_time: float) -> None:
        self.optimizer.zero_grad()
        parts = [batch[k :: self.accumulate] for k in range(self.accumulate)]
        means: dict[str, torch.Tensor] = {}
        for index, part in enumerate(parts):
            # DDP exchanges gradients once, in the last backward.
            with self._no_exchange() if index + 1 < len(parts) else contextlib.nullcontext():
                losses, total = self._losses(part)
                self._check_finite(total, losses, part)
                self.scaler.scale(total / len(parts)).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0.0) + loss.detach() / len(parts)
        self.after_backward()
        self._write_metrics(means, data_time)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _no_exchange(self) -> contextlib.AbstractContextManager:
        return getattr(self.model, "no_sync", contextlib.nullcontext)()

    def _losses(self, batch: list[dict]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The losses by name and their sum, which is NaN where the model itself gave up."""
        try:
            with autocast(self.precision, self.device):
                losses = self.model(batch)
        except (FloatingPointError, AssertionError) as error:
            # Detectron2's proposal generator and Boxes.clip, where boxes are not finite.
            if "Inf/NaN" not in str(error) and "infinite or NaN" not in str(error):
                raise
            return {}, torch.tensor(torch.nan, device=self.device)
        return losses, sum(losses.values())

    def _check_finite(self, total: torch.Tensor, losses: dict, batch: list[dict]) -> None:
        """Stop on all processes before the step is taken if one of them has lost its loss."""
        finite = torch.isfinite(total.detach()).float().reshape(1)
        if comm.get_world_size() > 1:
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if finite.item():
            return
        values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
        values = values or "the proposals are not"
        raise UserError(
            f"the loss is not finite at iteration {self.iter} ({values}); the batch was "
            f"{shown_batch(batch)}. Most often SOLVER.BASE_LR is too high (SOLVER.CLIP_GRADIENTS "
            "helps) or a box of these images is broken; checkpoints are as they were"
        )

    def state_dict(self) -> dict:
        return {
            **super().state_dict(),
            "precision": self.precision,
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        # What "auto" chose stays chosen: a resumed run is the same run.
        if self.precision == AUTO:
            self.precision = state.get("precision", AUTO)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])


class TransferTrainer(DefaultTrainer):
    """Detectron2's ``DefaultTrainer`` with our step, checkpoints and hooks.

    Attributes:
        model, optimizer, data_loader, scheduler, checkpointer, start_iter, max_iter, cfg: as in
            ``DefaultTrainer``
        record (RunRecord): what ``run.json`` will say
        restructures (bool): the model may change its parts on the way, see :mod:`.restructure`
    """

    restructures = False

    def __init__(self, cfg: CfgNode):
        # The steps of DefaultTrainer.__init__ in their order; it builds its own step trainer and
        # checkpointer inside, which cannot be exchanged after the hooks have taken hold of them.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        # First: what is not installed is known before anything takes time.
        self.trackers = build_trackers(cfg) if comm.is_main_process() else []
        self._tracked_before: dict[str, str] = {}
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        self.record = RunRecord(cfg, reuse_table(model))
        model = self.distributed(model)
        proxy = weakref.proxy(self)
        self._trainer = StepTrainer(
            model,
            data_loader,
            optimizer,
            precision=precision_of(cfg),
            accumulate=cfg.SOLVER.ACCUMULATE,
            # Hooks are registered here, but Detectron2's inner trainer walks a list of its own.
            after_backward=lambda: proxy.after_backward(),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = self.build_checkpointer(cfg, model, trainer=proxy)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._evaluated_at = -1
        self.average = self.build_average(cfg, model)
        self.selection = self.build_selection(cfg)
        self.register_hooks(self.build_hooks())

    def distributed(self, model: nn.Module) -> nn.Module:
        """The model in Detectron2's DDP wrapper, where there are several processes."""
        return create_ddp_model(model, broadcast_buffers=False, **_ddp_devices(self.cfg))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_checkpointer(
        cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any
    ) -> TransferCheckpointer:
        return TransferCheckpointer(model, cfg.OUTPUT_DIR, cfg=cfg, **checkpointables)

    def build_average(self, cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
        """The running mean of the weights that SOLVER.EMA asks for."""
        ema = cfg.SOLVER.EMA
        return WeightAverage(model, ema.DECAY, self.checkpointer) if ema.ENABLED else None

    def build_selection(self, cfg: CfgNode) -> KeepBest | None:
        """What keeps the best weights and ends training, as TEST.BEST asks for."""
        best = cfg.TEST.BEST
        if not best.METRIC:
            return None
        return KeepBest(
            self.record,
            self.checkpointer,
            metric=best.METRIC,
            mode=best.MODE,
            patience=best.PATIENCE,
            min_delta=best.MIN_DELTA,
        )

    @classmethod
    def build_validation_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Batches of test data with annotations, for TEST.VALIDATION_LOSS."""
        raise NotImplementedError(f"{cls.__name__} has no build_validation_loader")

    def evaluated_weights(self) -> contextlib.AbstractContextManager:
        """Inside, the model has the weights that are evaluated: its own, or their mean."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def build_hooks(self) -> list[HookBase]:
        cfg = self.cfg
        result = [
            # First, so that whatever another hook draws before a step cannot shift the step's own.
            SeedEachStep(cfg.SEED),
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            # Before the checkpointer, which has to save what these make of this very step.
            *([SameStatistics()] if _has_statistics(self.model) else ()),
            *([self.average] if self.average else ()),
        ]
        if cfg.TEST.PRECISE_BN.ENABLED and hooks.get_bn_modules(self.model):
            # Before the checkpointer, which has to save what it changes.
            loader = self.build_train_loader(cfg)
            result.append(
                hooks.PreciseBN(
                    cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER
                )
            )
        if frozen_tensors(model := self.checkpointer.model) or self.restructures:
            # On every process, and before the checkpointer, which must not save what has changed.
            result.append(FrozenGuard(model, self.record, cfg.SOLVER.CHECKPOINT_PERIOD))
        if comm.is_main_process():
            result.append(PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        # After the checkpointer: where evaluation fails, the weights are there to look at.
        result.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._test_and_keep))
        result += [self.selection] if self.selection else []
        # The record counts evaluation too; the writers come last to write what all others put.
        result.append(self.record)
        if comm.is_main_process():
            everyone = [*self.build_writers(), *self.trackers]
            result.append(hooks.PeriodicWriter(everyone, period=20))
            result += progress_bar(self.max_iter)
        return result

    def build_writers(self) -> list:
        return writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def _test_and_keep(self) -> dict:
        if self._evaluated_at == last_iteration(self):
            return self._last_eval_results  # a run that ended early has just been evaluated
        start = time.perf_counter()
        with self.evaluated_weights():
            results = self.test(self.cfg, self.model)
            if self.cfg.TEST.VALIDATION_LOSS:
                results = {**results, "validation": self._validation_losses()}
        self._last_eval_results = results
        self._evaluated_at = last_iteration(self)
        self.record.evaluated(results, time.perf_counter() - start)
        return results

    def _validation_losses(self) -> dict[str, Any]:
        names = self.cfg.DATASETS.TEST
        losses = {
            name: validation_losses(self.model, self.build_validation_loader(self.cfg, name))
            for name in names
        }
        return losses if len(names) > 1 else losses[names[0]]

    def resume_or_load(self, resume: bool = True) -> None:
        if resume and comm.is_main_process() and (left := remove_leftovers(self.cfg.OUTPUT_DIR)):
            logger.info("Deleted %d files that were half written, e.g. %s", len(left), left[0])
        super().resume_or_load(resume)
        if resume:
            self._tracked_before = ids_before(self.cfg.OUTPUT_DIR)
        self.record.weights = self.checkpointer.origin
        if self.checkpointer.trunk_report is not None:
            self.record.add(trunk=self.checkpointer.trunk_report.counts())
        self.record.carry_over(self.start_iter)
        if self.selection and self.selection.exhausted:
            logger.info("this run has ended early: nothing is left to train")
            self.record.add(stopped_early=self.start_iter - 1)
            self.max_iter = self.start_iter
        if self.start_iter:
            logger.info("RESUME at iteration %d from %s", self.start_iter, self.checkpointer.origin)
        else:
            logger.info("FRESH START from %s", self.checkpointer.origin)
        if hasattr(self.data_loader, "start_at"):
            self.data_loader.start_at(self.start_iter)

    def train(self) -> dict | None:
        """Run training; whatever ends it early is written into the run's record first."""
        trackers = tracked(self.trackers, self.record, self.cfg, self._tracked_before)
        with trackers, self._recorded():
            self._trainer.iter = self.start_iter
            self._trainer.choose_precision()
            self.record.precision = self._trainer.precision
            with contextlib.suppress(EarlyStop):
                super().train()
        return getattr(self, "_last_eval_results", None)

    def before_train(self) -> None:
        if 0 < self.max_iter <= self.start_iter:
            # Nothing is left to train: what is written now is to be what the last step left, and a
            # run that goes on from it for longer is not to miss an iteration.
            self.iter = self._trainer.iter = self.max_iter - 1
        super().before_train()

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.record.ended("interrupted", f"by hand at iteration {self.iter}")
            raise
        except UserError as error:
            self.record.ended("failed", own_words(error))
            raise
        except BaseException as error:
            self.record.ended("failed", explain(error) or f"{type(error).__name__}: {error}")
            if "deterministic" in str(error) and torch.are_deterministic_algorithms_enabled():
                first = str(error).split(". ")[0]  # torch names the operation
                raise UserError(f"{first}; train it with DETERMINISTIC False") from error
            raise


def _has_statistics(model: nn.Module) -> bool:
    """Whether several processes train batch norms, each on its own images."""
    norms = (m for m in model.modules() if isinstance(m, _BatchNorm))
    return comm.get_world_size() > 1 and any(norm.training for norm in norms)


def _ddp_devices(cfg: CfgNode) -> dict[str, Any]:
    # DDP on the CPU must not be told of devices.
    return {} if cfg.MODEL.DEVICE.startswith("cuda") else {"device_ids": None}
