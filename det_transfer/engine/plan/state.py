"""How far the runs of a plan are, seen from their folders; and their results as tables."""

import csv
import io
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ... import run_folder
from ...config import leaves
from .spec import Plan, PlannedRun

__all__ = ["RunState", "Status", "look_at", "orphans", "remember", "write_tables"]

_PLAN = "plan.json"  # in a run folder: what was asked for, and how the last try ended


class Status(Enum):
    TODO = "to do"
    INTERRUPTED = "interrupted"  # will be resumed
    FINISHED = "finished"
    FAILED = "failed"
    CHANGED = "changed"  # the plan asks for something else than what the folder was made for


@dataclass(frozen=True)
class RunState:
    """Attributes:
    status: of the run
    why: of a failure, or what has changed
    iterations: trained so far
    """

    status: Status
    why: str = ""
    iterations: int = 0


def look_at(run: PlannedRun) -> RunState:
    """The state of a run, from what is in its folder alone."""
    asked = run.folder / _PLAN
    if not asked.is_file():
        if run.folder.is_dir() and any(run.folder.iterdir()):
            return RunState(Status.CHANGED, "the folder holds something that no plan has made")
        return RunState(Status.TODO)
    before = run_folder.read_json(asked)
    changes = _changes(run, before["request"])
    if changes:
        return RunState(Status.CHANGED, "; ".join(changes))
    record = _record(run)
    rows = run_folder.read_metrics(run.folder)
    # Detectron2 writes once more after the last iteration, as if there were another.
    iterations = min(int(rows[-1]["iteration"]) + 1, run.cfg.SOLVER.MAX_ITER) if rows else 0
    if record.get("status") == "finished":
        return RunState(Status.FINISHED, iterations=iterations)
    if before.get("error"):
        return RunState(Status.FAILED, before["error"], iterations)
    return RunState(Status.INTERRUPTED, iterations=iterations)


def remember(run: PlannedRun, error: str = "") -> None:
    """Write down what the folder is made for, and how the last try failed if it did."""
    run_folder.write_json(run.folder / _PLAN, {"request": _request(run), "error": error})


def orphans(plan: Plan) -> list[str]:
    """Runs that an earlier version of the plan has made and that it no longer names."""
    known = {run.folder.resolve() for run in plan.runs}
    made = sorted(plan.output.glob(f"*/{_PLAN}"))
    return [path.parent.name for path in made if path.parent.resolve() not in known]


def _request(run: PlannedRun) -> dict[str, Any]:
    config = {key: _plain(value) for key, value in leaves(run.cfg)}
    return {"program": run.program, "config": config}


def _plain(value: Any) -> Any:
    """As it comes back from json."""
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _changes(run: PlannedRun, before: dict[str, Any]) -> list[str]:
    """What is asked for now and was not then. Keys of a newer version than the folder's are new."""
    now = _request(run)
    old, new = before["config"], now["config"]
    changes = [
        f"{key} was {old[key]!r} and is {new[key]!r}"
        for key in new
        if key in old and old[key] != new[key] and key != "OUTPUT_DIR"
    ]
    if before["program"] != now["program"]:
        changes.append(f"program was {before['program']} and is {now['program']}")
    return changes


def _record(run: PlannedRun) -> dict[str, Any]:
    path = run.folder / run_folder.RUN
    return run_folder.read_json(path) if path.is_file() else {}


# Tables ------------------------------------------------------------------------------------------


def write_tables(plan: Plan) -> tuple[Path, Path]:
    """Write ``results.csv`` and ``times.csv`` into the plan's folder, a row a run in its order.

    Of a part of a plan (:meth:`Plan.only`) too, so that no row of the other runs is lost.

    The results of a plan that was broken off and gone on with are those of an unbroken one, to the
    byte; times never are, and so stand in a file of their own.
    """
    axes = list(dict.fromkeys(axis for run in plan.listed for axis in run.labels))
    results, times = [], []
    for run in plan.listed:
        record, state = _record(run), look_at(run)
        finished = state.status is Status.FINISHED
        head = {"run": run.name, **{axis: run.labels.get(axis, "") for axis in axes}}
        metrics = run_folder.flat_metrics(record.get("results", {})) if finished else {}
        results.append({**head, "status": state.status.value, **metrics})
        if finished:
            memory = record.get("peak_memory_bytes", {})
            costs = {
                **{f"{name}_s": value for name, value in record["seconds"].items()},
                **{f"peak_memory_{kind}_bytes": value for kind, value in memory.items()},
            }
            times.append({**head, **costs})
    paths = plan.output / "results.csv", plan.output / "times.csv"
    for path, rows in zip(paths, (results, times), strict=True):
        _write_csv(path, rows)
    return paths


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with run_folder.replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
