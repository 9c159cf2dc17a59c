"""Sides measured against one of them: means over seeds, differences, intervals over images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, raise_all
from .analysis import analyse, truth_of
from .by_class import ClassRow
from .conditions import machine
from .gallery import Side as Shown
from .paired import Interval, draw_weights, intervals, prepare
from .parts import class_rows
from .runs import Run
from .sides import Side, common_dataset, comparable, group
from .truth import Truth

__all__ = ["Comparison", "compare", "joined", "numbers_json"]

DRAWS = 1000


@dataclass
class Comparison:
    """Attributes:
    sides: the first is the base, to which all others are held
    differences: name of a side -> metric -> its difference to the base
    shown: name of a side -> what its first run found; empty where predictions are not here
    scores: name of a side -> (I,) F1 of the images, mean over seeds
    missing: sentences about what could not be read
    """

    dataset: str
    task: str
    draws: int
    sides: list[Side]
    images: int | None = None
    truth: Truth | None = None
    differences: dict[str, dict[str, Interval]] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def base(self) -> Side:
        return self.sides[0]

    @property
    def others(self) -> list[Side]:
        return self.sides[1:]

    def values(self, side: Side, metric: str) -> list[float]:
        """A metric of each seed, from its results.json."""
        found = [run.evaluations[self.dataset].metrics(self.task).get(metric) for run in side.runs]
        return [value for value in found if value is not None]

    def mean(self, side: Side, metric: str) -> float | None:
        values = self.values(side, metric)
        return float(np.mean(values)) if values else None

    def classes(self, side: Side) -> list[ClassRow]:
        """AP by class, mean over the seeds."""
        each = [class_rows(run, run.evaluations[self.dataset], self.task) for run in side.runs]
        rows = []
        for same in zip(*each, strict=True):
            values = [row.value for row in same if row.value is not None]
            mean = float(np.mean(values)) if values else None
            rows.append(ClassRow(**{**vars(same[0]), "value": mean}))
        return rows

    def class_differences(self, side: Side) -> list[ClassRow]:
        """AP by class, minus that of the base."""
        rows = []
        for mine, base in zip(self.classes(side), self.classes(self.base), strict=True):
            known = mine.value is not None and base.value is not None
            value = mine.value - base.value if known else None
            rows.append(ClassRow(**{**vars(mine), "value": value}))
        return rows


def compare(
    runs: Sequence[Run],
    *,
    sides: Sequence[str] = (),
    base: str = "",
    dataset: str = "",
    task: str = "bbox",
    draws: int = DRAWS,
    watch: Callable[[Sequence[Run]], Iterable[Run]] = iter,
) -> Comparison:
    """Compare runs.

    Args:
        sides: "NAME=GLOB" each; without any, runs that differ in their seed alone are a side
        base: name of the side to which the others are held; default the first
        dataset: where the runs were evaluated on several
        draws: how often the images are drawn again
        watch: what the runs are taken through, e.g. a progress bar

    Raises:
        UserError: fewer than two sides were evaluated, or they cannot be compared
    """
    dataset = common_dataset(runs, dataset)
    missing = list(_missing(runs))
    evaluated = [run for run in runs if dataset in run.evaluations]
    found = group(evaluated, sides)
    if len(found) < 2:
        raise UserError(
            f"there is only one side with an evaluation, {found[0].name}: a comparison needs two "
            "recipes (or name sides with --side NAME=GLOB)"
        )
    comparable(evaluated, dataset, task)
    result = Comparison(dataset, task, draws, _based(found, base), missing=missing)
    result.images = evaluated[0].evaluations[dataset].results.get("images")
    _measure(result, watch)
    return result


def _missing(runs: Sequence[Run]) -> Iterable[str]:
    """What the runs lack; what all of them lack is said once."""
    shared = set.intersection(*(set(run.missing) for run in runs))
    yield from (f"all runs: {line}" for line in runs[0].missing if line in shared)
    yield from (f"{r.name}: {line}" for r in runs for line in r.missing if line not in shared)


def _based(sides: list[Side], base: str) -> list[Side]:
    if not base:
        return sides
    first = [side for side in sides if side.name == base]
    if not first:
        names = ", ".join(side.name for side in sides)
        raise UserError(f"--base {base}: there is no such side; there are {names}")
    return first + [side for side in sides if side is not first[0]]


def _measure(result: Comparison, watch: Callable[[Sequence[Run]], Iterable[Run]]) -> None:
    """Match all predictions, draw the images again, and keep what pictures need."""
    masks = result.task == "segm"
    try:
        evaluations = [
            run.evaluations[result.dataset] for side in result.sides for run in side.runs
        ]
        here = [evaluation for evaluation in evaluations if evaluation.json_file]
        result.truth = truth_of((here or evaluations)[0], masks=masks)
        weights = draw_weights(len(result.truth.image_ids), result.draws)
        side_of = {id(run): side for side in result.sides for run in side.runs}
        metrics: dict[str, list[NDArray]] = {side.name: [] for side in result.sides}
        scores: dict[str, list[NDArray]] = {side.name: [] for side in result.sides}
        for run in watch([run for side in result.sides for run in side.runs]):
            side = side_of[id(run)]
            found = analyse(run, run.evaluations[result.dataset], result.truth, masks=masks)
            metrics[side.name].append(prepare(found.matches).metrics(weights))
            scores[side.name].append(found.scores)
            if side.name not in result.shown:
                kept = found.matches.above(found.min_score)
                result.shown[side.name] = Shown(side.name, kept, found.min_score, found.scores)
    except UserError as error:
        result.shown.clear()
        result.missing.append(f"intervals and pictures: {error}")
        return
    means = {name: np.mean(found, axis=0) for name, found in metrics.items()}
    result.scores = {name: np.mean(found, axis=0) for name, found in scores.items()}
    result.differences = {
        side.name: intervals(means[side.name], means[result.base.name]) for side in result.others
    }


def numbers_json(result: Comparison, *, title: str, command: str) -> dict[str, Any]:
    """The differences as a json of results (tools/make_results.py shows it)."""
    return {
        "title": title or f"Compared on {result.dataset}",
        "note": f"Differences to {result.base.name} in AP, with 95 % intervals over images "
        f"({result.draws} draws, the mean over seeds on each side).",
        "command": command,
        "machine": machine("", [run.record for side in result.sides for run in side.runs]),
        "results": {
            f"{other} - {result.base.name}": {
                metric: {"median": i.difference, "min": i.low, "max": i.high}
                for metric, i in found.items()
            }
            for other, found in result.differences.items()
        },
    }


def joined(
    parts: Mapping[str, Mapping[str, Any]],
    *,
    title: str,
    note: str = "",
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Differences of several comparisons as one json of results.

    Args:
        parts: label -> what :func:`numbers_json` gives
        note: stands before theirs
        metrics: that are kept; all where none is named

    Raises:
        UserError: a part is no such thing, or lacks a metric
    """
    raise_all(
        f"{label} has not what tools/compare_runs.py --output-json writes"
        for label, part in parts.items()
        if not _is_differences(part)
    )
    rows = {
        f"{label}: {name}": row
        for label, part in parts.items()
        for name, row in part["results"].items()
    }
    raise_all(
        f"{name} has no {metric}; it has {', '.join(row)}"
        for name, row in rows.items()
        for metric in metrics
        if metric not in row
    )
    machines = [part["machine"] for part in parts.values()]
    notes = [note, *(part["note"] for part in parts.values())]
    return {
        "title": title,
        "note": " ".join(filter(None, dict.fromkeys(notes))),
        "command": "\n".join(part["command"] for part in parts.values()),
        "machine": machines[0] if all(m == machines[0] for m in machines) else _either(machines),
        "results": {
            name: {metric: row[metric] for metric in metrics or row} for name, row in rows.items()
        },
    }


def _is_differences(part: Any) -> bool:
    wanted = {"note": str, "command": str, "machine": dict, "results": dict}
    return (
        isinstance(part, dict)
        and all(isinstance(part.get(key), kind) for key, kind in wanted.items())
        and {"cpu", "devices"} <= part["machine"].keys()
        and all(
            isinstance(row, dict)
            and all(isinstance(v, dict) and "median" in v for v in row.values())
            for row in part["results"].values()
        )
    )


def _either(machines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several machines; what only one of them has is left out."""
    return {
        "cpu": ", ".join(dict.fromkeys(m["cpu"] for m in machines)),
        "devices": list(dict.fromkeys(d for m in machines for d in m["devices"])),
    }
