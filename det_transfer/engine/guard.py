"""Proof that what was declared frozen stood still."""

import logging

from detectron2.engine import HookBase
from torch import nn

from ..reuse import changed, digests, fingerprint, frozen_tensors
from .hooks import RunRecord, last_iteration

__all__ = ["FrozenChanged", "FrozenGuard"]

logger = logging.getLogger(__name__)


class FrozenChanged(RuntimeError):
    """Something in the run has changed tensors that were declared frozen."""


class FrozenGuard(HookBase):
    """Takes the fingerprint of all that is frozen at the start and holds the run to it.

    Looks again before each checkpoint is written and at the end; ``run.json`` says what it saw,
    under "frozen". Register it before the checkpointer, so that no changed tensor is saved.

    Args:
        model: without its DDP wrapper
        record: of the run
        period: iterations between checkpoints
    """

    def __init__(self, model: nn.Module, record: RunRecord, period: int):
        self._model = model
        self._record = record
        self._period = period

    def before_train(self) -> None:
        self._start = digests(frozen_tensors(self._model))
        self._note("not looked at again yet", self.trainer.iter)
        logger.info(
            "Guard: %d frozen tensors, fingerprint %s",
            len(self._start),
            fingerprint(self._start)[:12],
        )

    def model_changed(self) -> None:
        """What is frozen from now on is held to what it is now."""
        self._check()
        self.before_train()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            self._check()

    def after_train(self) -> None:
        # Also where training ended early or failed: what it left behind is known then too.
        self._check()
        logger.info("Guard: the frozen tensors are unchanged to the last bit")

    def _check(self) -> None:
        iteration = last_iteration(self.trainer)
        names = changed(self._start, digests(frozen_tensors(self._model)))
        if not names:
            self._note("unchanged", iteration)
            return
        self._note("changed", iteration, changed=names)
        raise FrozenChanged(
            f"{len(names)} tensors that were declared frozen have changed by iteration "
            f"{iteration}, e.g. {', '.join(names[:3])}; a hook or an optimizer that was built "
            "before the freezing may have done it. No checkpoint was written since"
        )

    def _note(self, verdict: str, iteration: int, **more) -> None:
        self._record.add(
            frozen={
                "fingerprint": fingerprint(self._start),
                "tensors": len(self._start),
                "verdict": verdict,
                "iteration": iteration,
                **more,
            }
        )
