"""A finished plan of "Growing a Brain" as a json of results, for ``docs/results``.

Beside title, question, notes, machine, versions, day and commands it has::

    kind        "growth"
    table       the paper's
    cells       the table, as :func:`.growth.gather` gives it
    values      the same before it is averaged: row, column, block, percent by seed
    relations   each comparison within the table: its numbers, and what became of it
    runs        a row for each: seed, top-1 by test set, seconds, command
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..formats import FINISHED_RUN, check
from ..run_folder import CONFIG, RUN, read_json
from .conditions import Said, relative, shown
from .growth import PAPER, entries, gather, table_number
from .growth_relations import SIGNS, Found, examine, values, verdict_of

__all__ = ["GROWTH", "collect_analysis", "collect_growth"]

GROWTH = "growth"


def collect_growth(folder: str | Path, root: str | Path, said: Said) -> dict[str, Any]:
    """Read a plan's folder into the content of a json of results.

    Args:
        folder: of a plan, with "table<N>" in its name; its finished runs count
        root: the checkout; paths are written relative to it

    Raises:
        UserError: nothing in it is finished, a finished run has lost its folder, or its name has no
            table
    """
    folder, root = Path(folder), Path(root).resolve()
    number = table_number(folder.resolve().name)
    if number not in PAPER:
        raise UserError(f"{folder} has no table of the paper in its name, as growth_table1 has")
    cells = gather(folder / "results.csv")
    done = [e for e in entries(folder / "results.csv") if e["status"] == "finished"]
    found = examine([folder])
    records = [_record(folder / entry["run"]) for entry in done]
    return {
        "kind": GROWTH,
        "table": number,
        **said.head(records, root, [folder]),
        "cells": cells,
        "values": values(folder, number),
        "relations": [_relation(one, found) for one in found if one.n],
        "runs": [
            _row(folder / entry["run"], entry, record, root)
            for entry, record in zip(done, records, strict=True)
        ],
    }


def collect_analysis(folder: str | Path, root: str | Path, said: Said) -> dict[str, Any]:
    """What tools/analyze_growth.py wrote, as the content of a json of results: a column a run.

    Args:
        folder: with analysis.json
        root: the checkout; paths are written relative to it

    Raises:
        UserError: it has no such json, or a run of it has lost its folder
    """
    path, root = Path(folder) / "analysis.json", Path(root).resolve()
    if not path.is_file():
        raise UserError(f"{path} does not exist: tools/analyze_growth.py writes it")
    content = read_json(path)
    records = [_record(Path(run)) for run in content["folders"].values()]
    return {
        **said.head(records, root, [folder]),
        "results": [{"side": name, **_flat(found)} for name, found in content["runs"].items()],
        # Of the pictures, in the order of their files.
        "captions": [p.stem.replace("_", " ") for p in sorted(Path(folder).glob("pictures/*.jpg"))],
    }


def _flat(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one run of an analysis under words for the page."""
    numbers = {
        "5 nearest neighbours, %": found["separation"]["knn"],
        "silhouette": found["separation"]["silhouette"],
    }
    for block, value in found.get("blocks", {}).items():
        numbers["top-1" if block == "all" else f"top-1 of {block} alone"] = value
    for units, value in found.get("diversity", {}).items():
        numbers[f"mean correlation, {units}"] = value
    return numbers | {f"moved, {name}": v for name, v in found.get("movement", {}).items()}


def _record(run: Path) -> dict[str, Any]:
    missing = [name for name in (RUN, CONFIG) if not (run / name).is_file()]
    if missing:
        raise UserError(f"{run} has no {missing[0]}: results.csv names a run that is not there")
    record = read_json(run / RUN)
    check(record, FINISHED_RUN, str(run / RUN))
    return record


def _row(
    run: Path, entry: Mapping[str, str], record: Mapping[str, Any], root: Path
) -> dict[str, Any]:
    end = "accuracy/top1"
    return {
        "run": shown(run, root),
        "seed": record["seed"],
        "iterations": record["max_iteration"],
        "weights": relative(record["weights"], root),
        "device": record["device"],
        "top1": {
            c.removesuffix(end).strip("/"): float(entry[c])
            for c in entry
            if c.endswith(end) and entry[c]
        },
        "training_s": record["seconds"]["training"],
        "evaluation_s": record["seconds"]["evaluation"],
        "command": relative(record["command"], root, (str(run), str(run.resolve()))),
    }


def _relation(one: Found, all_found: Sequence[Found]) -> dict[str, Any]:
    group = [f for f in all_found if f.relation is one.relation]
    return {
        "relation": one.relation.number,
        "words": one.relation.words,
        "verdict": verdict_of(group),
        "left": str(one.comparison.left),
        "order": SIGNS[one.comparison.order],
        "right": str(one.comparison.right),
        "seeds": one.n,
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
        "paper": round(one.paper, 2),
        "comparison": one.verdict,
    }
