"""What a run does to the tasks that the network knew before."""

import logging
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm
from tabulate import tabulate

from .. import run_folder
from ..engine.hooks import RunRecord

__all__ = ["Forgetting"]

logger = logging.getLogger(__name__)

_METRIC = "top1"


class Forgetting(HookBase):
    """Evaluates old tasks before the first step, and says at the end what became of them.

    ``run.json`` gets, by dataset, "before", "after" and their difference "forgetting" (positive:
    something was lost), in points of top-1, and "backward_transfer", the mean of after - before.
    Source of the names: Lopez-Paz and Ranzato 2017; Chaudhry et al. 2018.

    Register it after the evaluation at the end and before the record.

    Args:
        record: of the run
        datasets: test sets of tasks that the network had a classifier for
    """

    def __init__(self, record: RunRecord, datasets: tuple[str, ...]):
        self._record, self._datasets = record, datasets
        self._before: dict[str, float] = {}

    def before_train(self) -> None:
        cfg = self.trainer.cfg
        saved = Path(cfg.OUTPUT_DIR) / run_folder.RUN
        if self.trainer.start_iter and saved.is_file():
            self._before = run_folder.read_json(saved).get("before", {})
        if not self._before:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.DATASETS.TEST = self._datasets
            self._before = self._accuracies(self.trainer.test(cfg, self.trainer.model))
        self._record.add(before=self._before)

    def after_train(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter or not comm.is_main_process():
            return
        found = self._accuracies(self.trainer._last_eval_results)
        rows = [
            (name, before, found[name], before - found[name])
            for name, before in self._before.items()
            if name in found
        ]
        if not rows:
            return
        transfer = sum(after - before for _, before, after, _ in rows) / len(rows)
        self._record.add(
            forgetting={
                name: {"before": before, "after": after, "forgetting": lost}
                for name, before, after, lost in rows
            },
            backward_transfer=transfer,
        )
        head = ["dataset", "top1 before", "after", "forgetting"]
        table = tabulate(rows, head, tablefmt="simple", floatfmt=".2f")
        logger.info("Old tasks:\n%s\nbackward transfer %.2f", table, transfer)

    def _accuracies(self, results: dict) -> dict[str, float]:
        if "accuracy" in results:  # of one dataset, which Detectron2 then does not name
            names = self._datasets
            if len(self.trainer.cfg.DATASETS.TEST) == 1:
                names = tuple(self.trainer.cfg.DATASETS.TEST)
            results = {names[0]: results}
        return {
            name: results[name]["accuracy"][_METRIC] for name in self._datasets if name in results
        }
