"""The experiment as tables for other programs: a line a run, and a line a difference."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...run_folder import replacing
from .differences import CONTRASTS, at_each_cut, differences
from .reading import METRIC, Experiment

__all__ = ["difference_rows", "run_rows", "write_csv"]

_ABOUT = ("split", "kind", "target", "seed", "treatment", "source", "n", "extra", "shots", "label")
RUN_COLUMNS = (
    *("name", *_ABOUT, METRIC, "base", "difference", "iterations", "training_s"),
    "why",
)
DIFFERENCE_COLUMNS = (
    *("minuend", "subtrahend", "kind", "split", "target", "seed", "n"),
    *("pairs", "difference", "low", "high"),
)


def run_rows(experiment: Experiment) -> Iterable[dict[str, Any]]:
    """Every run, its accuracy, that of its base, and the difference; or why there is none."""
    bases = {
        (*run.unit, run.shots): run.top1 for run in experiment.finished if run.treatment == "base"
    }
    for run in experiment.runs:
        base = bases.get((*run.unit, run.shots))
        known = run.top1 is not None and base is not None and run.treatment != "base"
        yield {
            "name": run.name,
            **{key: getattr(run, key) for key in _ABOUT},
            METRIC: run.top1,
            "base": base,
            "difference": run.top1 - base if known else None,
            "iterations": run.record.get("max_iteration"),
            "training_s": run.record.get("seconds", {}).get("training"),
            "why": run.why,
        }


def difference_rows(experiment: Experiment) -> Iterable[dict[str, Any]]:
    """Every pair, and after those of a treatment their mean at each n: without split, target, seed.

    Of the figures' runs: no further layers, one number of examples.
    """
    everything = differences(experiment)
    order = [(t, o, kind) for t, o in CONTRASTS for kind in experiment.kinds]
    for key in (key for key in order if key in everything):
        pairs = everything[key]
        head = dict(zip(("minuend", "subtrahend", "kind"), key, strict=True))
        for pair in sorted(pairs, key=lambda p: (p.run.n, p.run.unit)):
            place = dict(zip(("split", "target", "seed"), pair.run.unit, strict=True))
            yield {**head, **place, "n": pair.run.n, "pairs": 1, "difference": pair.value}
        for n, estimate in at_each_cut(pairs, experiment).items():
            found = {"pairs": estimate.count, "difference": estimate.mean}
            yield {**head, "n": n, **found, "low": estimate.low, "high": estimate.high}


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
