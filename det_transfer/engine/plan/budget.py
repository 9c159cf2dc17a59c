"""A budget for a run, in time or in iterations, and the schedule that fills it."""

import re
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ...errors import UserError

__all__ = ["FEWEST_ITERATIONS", "Budget", "scaled_schedule"]

FEWEST_ITERATIONS = 20  # below, warm-up and steps of a schedule fall together
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|it)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """What each run may use: ``seconds`` of training, or ``iterations``; the other is 0."""

    text: str
    seconds: float = 0.0
    iterations: int = 0

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """From "90s", "20m", "2h" or "500it".

        Raises:
            UserError: it is none of these
        """
        found = _BUDGET.fullmatch(text)
        if not found or not float(found[1]):
            raise UserError(f"budget {text!r}: write 90s, 20m, 1.5h or 500it")
        number, unit = float(found[1]), found[2]
        if unit in _SECONDS:
            return cls(text, seconds=number * _SECONDS[unit])
        if number != int(number):
            raise UserError(f"budget {text!r}: iterations are whole")
        return cls(text, iterations=int(number))

    def iterations_at(self, step_s: float) -> int:
        """How many iterations of so many seconds it is; at least one."""
        return self.iterations or max(int(self.seconds / step_s), 1)


def scaled_schedule(cfg: CfgNode, iterations: int) -> dict[str, Any]:
    """Options under which the config's run has so many iterations and its schedule its form.

    Warm-up, steps, and the periods of evaluations and checkpoints keep their shares of the run.
    """
    solver = cfg.SOLVER
    factor = iterations / solver.MAX_ITER
    steps = sorted({max(round(step * factor), 1) for step in solver.STEPS})
    period = cfg.TEST.EVAL_PERIOD
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": [step for step in steps if step < iterations],
        "SOLVER.WARMUP_ITERS": round(solver.WARMUP_ITERS * factor),
        "SOLVER.CHECKPOINT_PERIOD": max(round(solver.CHECKPOINT_PERIOD * factor), 1),
        "TEST.EVAL_PERIOD": max(round(period * factor), 1) if period else 0,
    }
