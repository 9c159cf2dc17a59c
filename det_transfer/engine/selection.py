"""Which weights of a run are kept, and when more training is of no use."""

import logging
import math

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..errors import UserError, nearest
from .checkpoint import TransferCheckpointer
from .hooks import RunRecord, last_iteration

__all__ = ["EarlyStop", "KeepBest"]

logger = logging.getLogger(__name__)


class EarlyStop(Exception):
    """Ends training well before its last iteration."""


class KeepBest(HookBase):
    """After each evaluation: save the weights if they are the best so far; stop if none got better.

    What it knows is what the run record says of all evaluations so far, so that a resumed run goes
    on as the unbroken one.

    Args:
        record: of the run, with its evaluations
        checkpointer: writes ``model_best.pth``, and ``model_final.pth`` of a run that ends early
        metric: a key of the evaluation's results, e.g. "bbox/AP" or "validation/total_loss"
        mode: "max" or "min": which values are better
        patience: stop after so many evaluations without a better one; 0: never
        min_delta: what counts as better, in units of the metric
    """

    def __init__(
        self,
        record: RunRecord,
        checkpointer: TransferCheckpointer,
        *,
        metric: str,
        mode: str = "max",
        patience: int = 0,
        min_delta: float = 0.0,
    ):
        self.record, self.checkpointer = record, checkpointer
        self.metric, self.sign = metric, {"max": 1, "min": -1}[mode]
        self.patience, self.min_delta = patience, min_delta
        self._seen = -1

    def after_step(self) -> None:
        # Results are known to the main process alone, but all of them have to stop.
        if self._take_in() and comm.all_gather(self.exhausted)[0]:
            logger.info(
                "EARLY STOP at iteration %d: %s has not become better in %d evaluations",
                self.trainer.iter,
                self.metric,
                self.patience,
            )
            self.record.add(stopped_early=self.trainer.iter)
            self.checkpointer.save("model_final", iteration=self.trainer.iter)
            self.trainer.max_iter = self.trainer.iter + 1  # what follows is the end of a whole run
            raise EarlyStop

    def after_train(self) -> None:
        self._take_in()

    @property
    def best(self) -> tuple[int, float] | None:
        """(iteration, value) of the best evaluation so far."""
        best = None
        for iteration, value in self._values():
            better = best is None or self.sign * (value - best[1]) > self.min_delta
            if better and not math.isnan(value):
                best = iteration, value
        return best

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` evaluations brought nothing better."""
        if not self.patience or self.best is None:
            return False
        after = [iteration for iteration, _ in self._values() if iteration > self.best[0]]
        return len(after) >= self.patience

    def _values(self) -> list[tuple[int, float]]:
        return [
            (entry["iteration"], self._value(entry["metrics"]))
            for entry in self.record.evaluations
            if entry["metrics"]
        ]

    def _value(self, metrics: dict[str, float | None]) -> float:
        if self.metric not in metrics:
            near = nearest(self.metric, metrics) or sorted(metrics)[:5]
            raise UserError(
                f"TEST.BEST.METRIC is {self.metric!r}, which this run does not measure; "
                f"there is {', '.join(near)}"
            )
        value = metrics[self.metric]
        return math.nan if value is None else value

    def _take_in(self) -> bool:
        """Whether there was an evaluation at this iteration that was not looked at yet."""
        now = last_iteration(self.trainer)
        evaluations = self.record.evaluations
        if not evaluations or evaluations[-1]["iteration"] != now or self._seen == now:
            return False
        self._seen = now
        best = self.best
        if best:
            self.record.add(best={"metric": self.metric, "iteration": best[0], "value": best[1]})
        if best and best[0] == now:
            logger.info("best %s so far: %.4g at iteration %d", self.metric, best[1], now)
            with self.trainer.evaluated_weights():
                self.checkpointer.save("model_best", tag=False, iteration=now)
        return True
