"""Which runs are seeds of one recipe, what the recipes are called, and whether they compare."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import UserError, raise_all
from .runs import Evaluation, Run, recipe

__all__ = ["Side", "common_dataset", "comparable", "differing", "group"]

# What tells recipes apart in the first place; other keys often follow from these.
_FIRST = (
    "MODEL.REUSE.MODE",
    "MODEL.DECODER.NAME",
    "MODEL.TRUNK.NAME",
    "MODEL.TIMM.NAME",
    "MODEL.WEIGHTS",
    "SOLVER.MAX_ITER",
    "DATASETS.TRAIN_FRACTION",
    "DATASETS.TRAIN_SHOTS",
    "INPUT.COPY_PASTE.ENABLED",
    "SOLVER.BASE_LR",
)
_STOCK = {"MODEL.REUSE.MODE": "as Detectron2", "MODEL.WEIGHTS": "no weights"}  # for ""


@dataclass
class Side:
    """Seeds of one recipe.

    Attributes:
        name: what tells it from the other sides
        colour: of its figures
    """

    name: str
    runs: list[Run]
    colour: int = 0

    @property
    def config(self) -> dict[str, Any]:
        return self.runs[0].config

    @property
    def label(self) -> str:
        n = len(self.runs)
        return self.name if n == 1 else f"{self.name} ({n} seeds)"


def group(runs: Sequence[Run], named: Sequence[str] = ()) -> list[Side]:
    """Put runs into sides: those whose configs differ in nothing but their seed.

    Args:
        named: "NAME=GLOB" each, held against a run's path and name; if any is given they alone
            decide

    Raises:
        UserError: a run that no glob fits, a glob that fits no run, or two runs of a side with the
            same seed
    """
    sides = _named(runs, named) if named else _found(runs)
    for colour, side in enumerate(sides):
        side.colour = colour
    raise_all(problem for side in sides for problem in _same_seed(side))
    return sides


def _named(runs: Sequence[Run], named: Sequence[str]) -> list[Side]:
    pairs = [text.partition("=") for text in named]
    raise_all(
        f"--side {text!r} is not of the form NAME=GLOB"
        for text, pair in zip(named, pairs, strict=True)
        if not all(pair)
    )
    members: dict[str, list[Run]] = {name: [] for name, _, _ in pairs}
    strangers = []
    for run in runs:
        fitting = [n for n, _, glob in pairs if _fits(run.folder, glob)]
        if fitting:
            members[fitting[0]].append(run)
        else:
            strangers.append(f"{run.folder}: no --side fits it")
    raise_all(strangers)
    raise_all(f"--side {name}: no run fits it" for name, found in members.items() if not found)
    return [Side(name, found) for name, found in members.items()]


def _fits(folder: Path, glob: str) -> bool:
    names = (str(folder), folder.name, str(folder.resolve()))
    return any(fnmatch(name, glob) or fnmatch(name, f"*/{glob}") for name in names)


def _found(runs: Sequence[Run]) -> list[Side]:
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(_recipe(run), []).append(run)
    sides = [Side("", found) for found in members.values()]
    for side, name in zip(sides, _names(sides), strict=True):
        side.name = name
    return sides


def _recipe(run: Run) -> str:
    """What a run's seeds have in common, as text."""
    if not run.config:
        return f"\0{run.folder}"  # nobody knows: it stands alone
    return json.dumps(recipe(run.config), sort_keys=True, default=str)


def differing(sides: Sequence[Side]) -> list[str]:
    """The config keys in which sides differ, the telling ones first."""
    recipes = [recipe(side.config) for side in sides]
    keys = dict.fromkeys(key for one in recipes for key in one)
    found = [
        key for key in keys if len({json.dumps(one.get(key), default=str) for one in recipes}) > 1
    ]
    first = [key for key in _FIRST if key in found]
    return first + [key for key in found if key not in first]


def _names(sides: Sequence[Side]) -> list[str]:
    """The values of as few keys as tell the sides apart; where that fails, of folders."""
    folders = [re.sub(r"[-_.]*(seed|s)[-_]?\d+$", "", side.runs[0].name) for side in sides]
    if len(sides) == 1:
        return folders
    chosen: list[str] = []
    apart = 1
    for key in differing(sides):
        kinds = len({tuple(value_of(side, k) for k in [*chosen, key]) for side in sides})
        if kinds > apart:
            chosen, apart = [*chosen, key], kinds
        if apart == len(sides):
            break
    if apart < len(sides) or len(chosen) > 3:
        return _unique(folders, sides)
    return [" / ".join(_said(side, key) for key in chosen) for side in sides]


def _unique(names: Sequence[str], sides: Sequence[Side]) -> list[str]:
    if len(set(names)) == len(names):
        return list(names)
    return [str(side.runs[0].folder) for side in sides]


def value_of(side: Side, key: str) -> str:
    """A config value for a reader."""
    value = side.config.get(key)
    if value in ("", None):
        return _STOCK.get(key, "none")
    if key == "MODEL.WEIGHTS":
        return str(value).rsplit("/", 1)[-1]
    return str(value)


def _said(side: Side, key: str) -> str:
    value = value_of(side, key)
    telling = key in _FIRST[:5] and not value.replace(".", "").isdigit()
    return value if telling else f"{key.rsplit('.', 1)[-1]} {value}"


def _same_seed(side: Side) -> Iterable[str]:
    seen: dict[Any, Run] = {}
    for run in side.runs:
        seed = run.record.get("seed")
        if seed is not None and seed in seen:
            yield (
                f"{seen[seed].folder} and {run.folder} are one recipe with the same seed ({seed}): "
                "leave one out"
            )
        seen[seed] = run


# Do they compare ---------------------------------------------------------------------------------


def common_dataset(runs: Sequence[Run], wanted: str = "") -> str:
    """The one dataset on which all runs that were evaluated at all were evaluated.

    Raises:
        UserError: there is none, or there are several and none is `wanted`
    """
    evaluated = [run for run in runs if run.evaluations]
    if not evaluated:
        raise UserError("none of these runs has an evaluation: there is nothing to compare")
    shared = set.intersection(*(set(run.evaluations) for run in evaluated))
    each = "; ".join(f"{run.folder} on {', '.join(run.evaluations)}" for run in evaluated)
    if wanted and wanted not in shared:
        raise UserError(f"--dataset {wanted}: not all runs were evaluated on it ({each})")
    if not shared:
        raise UserError(f"these runs were evaluated on different datasets: {each}")
    if len(shared) > 1 and not wanted:
        names = ", ".join(sorted(shared))
        raise UserError(f"these runs were evaluated on {names}: choose one with --dataset")
    return wanted or shared.pop()


def comparable(runs: Sequence[Run], dataset: str, task: str) -> None:
    """Raise a :class:`UserError` where numbers of these runs do not measure the same."""
    first, *others = runs
    raise_all(
        f"{first.folder} and {run.folder} cannot be compared on {dataset}: {reason}"
        for run in others
        for reason in _reasons(first.evaluations[dataset], run.evaluations[dataset], task)
    )


def _reasons(a: Evaluation, b: Evaluation, task: str) -> Iterable[str]:
    names = [[row["name"] for row in e.categories(task)] for e in (a, b)]
    if all(names) and names[0] != names[1]:
        if len(names[0]) != len(names[1]):
            yield f"{len(names[0])} classes against {len(names[1])}"
        else:
            pair = next((x, y) for x, y in zip(*names, strict=True) if x != y)
            yield f"other classes ({pair[0]!r} against {pair[1]!r})"
        return
    checksums = [e.results.get("json_sha256") for e in (a, b)]
    if all(checksums) and checksums[0] != checksums[1]:
        yield "the annotation files differ (by their checksum)"
        return
    for key, what in (
        ("protocol", "protocol"),
        ("images", "images"),
        ("instances", "objects"),
        ("max_dets", "limits of detections"),
    ):
        values = [e.results.get(key) for e in (a, b)]
        if None not in values and values[0] != values[1]:
            yield f"{what} {values[0]} against {values[1]}"
    for run, e in (("the first", a), ("the second", b)):
        if e.tasks and task not in e.tasks:
            yield f"{run} has no {task} metrics, it has {', '.join(e.tasks)}"
