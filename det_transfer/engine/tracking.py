"""Weights & Biases and MLflow, where they are installed: ``TRACKING.SERVICES``.

They are given what the run folder has too: the config, every scalar of ``metrics.json``, and how
the run ended. A service is asked for by name, so that one that is not there stops the run at once;
one that is lost on the way only ends its own log.
"""

import contextlib
import importlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from .. import run_folder
from ..config import leaves
from ..errors import UserError
from .hooks import RunRecord

__all__ = ["SERVICES", "MlflowTracker", "Tracker", "WandbTracker", "build_trackers", "tracked"]

logger = logging.getLogger(__name__)

_SMOOTHED_OVER = 20  # values; as Detectron2's JSONWriter, so that the numbers are the same


class Tracker(EventWriter):
    """One run in one service: begun before training, written to as ``metrics.json`` is, ended.

    Args:
        package: the service's imported package
        project: what its run is filed under
        name: of its run
        folder: the run folder

    Attributes:
        id (str): of the run in the service; "" before it has begun
    """

    package: ClassVar[str]
    login: ClassVar[str]  # how one gets in, for the error of one who does not

    def __init__(self, package: Any, *, project: str, name: str, folder: str):
        self._package = package
        self._project = project
        self._name = name
        self._folder = folder
        self._last_write = -1
        self._lost = False
        self.id = ""

    def begin(self, config: Mapping[str, Any], before: str = "") -> None:
        """Open the service's run.

        Args:
            config: key -> value of the complete config
            before: id of the run that this one continues; "": a new one

        Raises:
            UserError: the service cannot be reached or does not let us in
        """
        try:
            self.id = self._begin(config, before)
        except Exception as error:  # of a package that is not ours: its own, of sockets, of files
            raise UserError(
                f"TRACKING.SERVICES has {self.package!r}, which does not begin: {_line(error)}; "
                f"{self.login}, or leave it out of TRACKING.SERVICES"
            ) from error

    def write(self) -> None:
        """Hand on the scalars that are new since the last time, by iteration."""
        rows: dict[int, dict[str, float]] = {}
        newest = get_event_storage().latest_with_smoothing_hint(_SMOOTHED_OVER)
        for name, (value, iteration) in newest.items():
            if iteration > self._last_write:
                rows.setdefault(iteration, {})[name] = value
        for iteration, values in sorted(rows.items()):
            self._attempt(self._log, values, iteration)
        self._last_write = max([self._last_write, *rows])

    def end(self, status: str, summary: Mapping[str, float]) -> None:
        """Close the service's run.

        Args:
            status: "finished", "failed" or "interrupted"
            summary: results and costs
        """
        self._attempt(self._end, status, summary)

    def _attempt(self, call: Any, *args: Any) -> None:
        if self._lost:
            return
        try:
            call(*args)
        except Exception as error:  # a training of days must not end for a log of it
            self._lost = True
            logger.warning(
                "%s is lost: %s; training goes on, %s has everything",
                self.package,
                _line(error),
                run_folder.METRICS,
            )

    def _begin(self, config: Mapping[str, Any], before: str) -> str:
        raise NotImplementedError

    def _log(self, values: Mapping[str, float], iteration: int) -> None:
        raise NotImplementedError

    def _end(self, status: str, summary: Mapping[str, float]) -> None:
        raise NotImplementedError


class WandbTracker(Tracker):
    """Weights & Biases; its own variables (WANDB_MODE=offline, WANDB_ENTITY, ...) count."""

    package = "wandb"
    login = "log in with `wandb login`, or set WANDB_MODE=offline"

    def _begin(self, config: Mapping[str, Any], before: str) -> str:
        self._run = self._package.init(
            project=self._project,
            name=self._name,
            dir=self._folder,
            config=dict(config),
            id=before or None,
            resume="allow",
        )
        # Not its own step, which never goes back, as a run that is resumed at a checkpoint does.
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def _log(self, values: Mapping[str, float], iteration: int) -> None:
        self._run.log({**values, "iteration": iteration})

    def _end(self, status: str, summary: Mapping[str, float]) -> None:
        self._run.summary.update({**summary, "status": status})
        self._run.finish(exit_code=0 if status == "finished" else 1)


class MlflowTracker(Tracker):
    """MLflow; MLFLOW_TRACKING_URI says where it is, and a folder or a file will do."""

    package = "mlflow"
    login = "set MLFLOW_TRACKING_URI"

    # Source: MLflow's REST API, "Log Batch": at most 100 parameters and 1,000 metrics.
    _params_at_once = 100
    _metrics_at_once = 1000
    # Characters of a parameter that every server takes; newer ones take 6,000.
    _longest_param = 500
    _forbidden = re.compile(r"[^\w\-./ ]")  # in the name of a metric
    _statuses = {"finished": "FINISHED", "interrupted": "KILLED"}

    def _begin(self, config: Mapping[str, Any], before: str) -> str:
        # Its client rather than its "active run", of which a process has one.
        self._client = self._package.MlflowClient()
        if before:
            self._client.update_run(before, status="RUNNING")
            return before  # its parameters cannot be written twice
        experiment = self._client.get_experiment_by_name(self._project)
        number = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(self._project)
        )
        run = self._client.create_run(number, run_name=self._name).info.run_id
        param = self._package.entities.Param
        params = [param(key, str(value)[: self._longest_param]) for key, value in config.items()]
        for some in _portions(params, self._params_at_once):
            self._client.log_batch(run, params=some)
        return run

    def _log(self, values: Mapping[str, float], iteration: int) -> None:
        now = int(time.time() * 1000)
        metric = self._package.entities.Metric
        metrics = [
            metric(self._forbidden.sub("_", name), float(value), now, iteration)
            for name, value in values.items()
        ]
        for some in _portions(metrics, self._metrics_at_once):
            self._client.log_batch(self.id, metrics=some)

    def _end(self, status: str, summary: Mapping[str, float]) -> None:
        self._log(summary, self._last_write)
        self._client.set_tag(self.id, "status", status)
        self._client.set_terminated(self.id, self._statuses.get(status, "FAILED"))


# TRACKING.SERVICES -> what serves it. A new service is a new entry.
SERVICES: dict[str, type[Tracker]] = {
    tracker.package: tracker for tracker in (WandbTracker, MlflowTracker)
}


def build_trackers(cfg: CfgNode) -> list[Tracker]:
    """One for each of TRACKING.SERVICES.

    Raises:
        UserError: one of them is not installed
    """
    name = cfg.TRACKING.NAME or Path(cfg.OUTPUT_DIR).resolve().name
    trackers = []
    for service in cfg.TRACKING.SERVICES:
        try:
            package = importlib.import_module(service)
        except ImportError as error:
            raise UserError(
                f"TRACKING.SERVICES has {service!r}, which cannot be imported here ({error}); "
                f"pip install {service}, or leave it out"
            ) from error
        trackers.append(
            SERVICES[service](
                package, project=cfg.TRACKING.PROJECT, name=name, folder=cfg.OUTPUT_DIR
            )
        )
    return trackers


def ids_before(output_dir: str) -> dict[str, str]:
    """Service -> id of the run that is in a run folder, to be continued."""
    path = os.path.join(output_dir, run_folder.RUN)
    return run_folder.read_json(path).get("tracking", {}) if os.path.exists(path) else {}


@contextlib.contextmanager
def tracked(
    trackers: Sequence[Tracker], record: RunRecord, cfg: CfgNode, before: Mapping[str, str]
) -> Iterator[None]:
    """Inside, the trackers have begun; after it they are told how the run ended.

    Args:
        record: keeps their ids, and knows the end
        before: service -> id of the run that is continued
    """
    begun: list[Tracker] = []
    try:
        for tracker in trackers:
            tracker.begin(dict(leaves(cfg)), before.get(tracker.package, ""))
            begun.append(tracker)
            record.add(tracking={each.package: each.id for each in begun})
        yield
    finally:
        for tracker in begun:
            tracker.end(record.status, record.summary())


def _portions(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _line(error: Exception) -> str:
    """An exception of another library in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
