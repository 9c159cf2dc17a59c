"""What "Growing a Brain" finds, as nine order relations, held against the results of plans.

A relation is some comparisons of two cells of the paper's tables. Of each the two cells of ours are
subtracted seed by seed, and the mean difference gets a Student interval of 95 % over the seeds:

``reproduced``      the interval lies where the relation says
``not reproduced``  it lies where the relation does not allow
``not decided``     neither: the seeds are too few, or too far apart
``not measured``    a cell has no finished runs

A relation is reproduced if all its comparisons are, and not if one of them is not. Of many
comparisons at 95 % one in twenty is decided by chance.
"""

import csv
import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from ..errors import UserError
from ..run_folder import read_json, replacing
from .growth import PAPER, SCOPES, of_paper, read_values, table_number
from .html import NONE, number

__all__ = [
    "RELATIONS",
    "SIGNS",
    "Found",
    "Relation",
    "by_relation",
    "cells_of",
    "examine",
    "hold",
    "interval",
    "text",
    "values",
    "verdict_of",
    "write_csv",
]

REPRODUCED, AGAINST, OPEN, UNMEASURED = (
    "reproduced",
    "not reproduced",
    "not decided",
    "not measured",
)
# Percentage points within which two accuracies are "about equal", and by which "at least" may be
# missed. Ours: the paper's own cells that it calls comparable differ by up to 0.2, seeds here by 1.
MARGIN = 1.0

# Source: Growing a Brain, figure 6 (CUB), read off the plot: WA-CNN-grow, each block alone.
_FIGURE6 = {"FC7+": 67.5, "FC7": 63.0}


@dataclass(frozen=True)
class At:
    """A cell. Attributes:
    table, row, column: of the paper; ours have the same names
    block: of this layer alone; "": of all that the classifier reads
    """

    table: int
    row: str
    column: str = ""
    block: str = ""

    @property
    def paper(self) -> float:
        """The paper's number, in percent."""
        if self.block:
            return _FIGURE6[self.block]
        found = of_paper(self.table, self.row, self.column)
        if found is None:
            raise KeyError(f"table {self.table} of the paper has no {self}")
        return found

    def __str__(self) -> str:
        return " ".join(word for word in (self.row, self.column, self.block) if word)


Cells = Mapping[At, Mapping[str, float]]  # percent by seed


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    order: "above": left > right; "at least": not below it by MARGIN; "equal": within MARGIN
    """

    left: At
    right: At
    order: str = "above"

    def __str__(self) -> str:
        return f"{self.left} {SIGNS[self.order]} {self.right}"


SIGNS = {"above": ">", "at least": "≥", "equal": "≈"}


@dataclass(frozen=True)
class Relation:
    number: int
    words: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Found:
    """What became of a comparison. Attributes:
    n: seeds that both sides have
    difference, low, high: left - right in points, and its interval; None without two seeds
    """

    relation: Relation
    comparison: Comparison
    n: int
    difference: float | None
    low: float | None
    high: float | None
    verdict: str

    @property
    def paper(self) -> float:
        return self.comparison.left.paper - self.comparison.right.paper


def _over(
    left: tuple[int, str], right: tuple[int, str], scopes: Iterable[str], order: str = "above"
) -> tuple[Comparison, ...]:
    """A row (table, name) against another, scope by scope."""
    return tuple(Comparison(At(*left, scope), At(*right, scope), order) for scope in scopes)


def _falling(table: int, row: str, columns: Sequence[str]) -> tuple[Comparison, ...]:
    """Each column of a row above the one that follows."""
    return tuple(
        Comparison(At(table, row, a), At(table, row, b)) for a, b in itertools.pairwise(columns)
    )


_LOW, _HIGH = SCOPES[:2], SCOPES[2:]  # New and FC7-New; FC6-New and All
_FT, _DA, _WA = (1, "FT"), (1, "DA"), (1, "WA")
_DA_WITHOUT, _WA_WITHOUT, _WA_WITH = (3, "DA-without"), (3, "WA-without"), (3, "WA-with")

# Source: Growing a Brain, sections 4.2 to 4.4, tables 1, 3, 4, 7, 8 and figure 6.
RELATIONS: tuple[Relation, ...] = (
    Relation(1, "WA with norm and scale is above FT in every scope", _over(_WA, _FT, SCOPES)),
    Relation(
        2,
        "WA without norm and scale is below FT where FC6 or all is trained, equal to it above, and "
        "below WA with them everywhere",
        (
            *_over(_FT, _WA_WITHOUT, _HIGH),
            *_over(_WA_WITHOUT, _FT, _LOW, "equal"),
            *_over(_WA_WITH, _WA_WITHOUT, SCOPES),
        ),
    ),
    Relation(
        3,
        "DA without norm and scale is not below FT",
        _over(_DA_WITHOUT, _FT, SCOPES, "at least"),
    ),
    Relation(
        4,
        "WA is above DA, and DA above FT, where only what is new is trained",
        (*_over(_WA, _DA, ("New",)), *_over(_DA, _FT, ("New",))),
    ),
    Relation(
        5,
        "the more of a grown network is trained, the better",
        tuple(c for row in ("DA", "WA", "DWA", "WWA") for c in _falling(1, row, SCOPES[::-1])),
    ),
    Relation(
        6,
        "grown at transfer is above wide from the start, and that above FT, at equal capacity",
        (
            Comparison(At(7, "WA-grow"), At(7, "WA-ori")),
            Comparison(At(7, "WA-ori"), At(7, "CNN-FT")),
        ),
    ),
    Relation(
        7,
        "in the network that was grown, the new block alone is above the old one alone",
        (Comparison(At(7, "WA-grow", block="FC7+"), At(7, "WA-grow", block="FC7")),),
    ),
    Relation(
        8,
        "grown over two tasks is above grown once",
        (Comparison(At(8, "two-steps"), At(8, "one-step")),),
    ),
    Relation(
        9,
        "on the source, after learning without forgetting, DA is nearer to the oracle than WA",
        (Comparison(At(4, "back DA"), At(4, "back WA")),),
    ),
)


def examine(places: Sequence[str | Path]) -> list[Found]:
    """Hold every relation against plans' folders, or against jsons of results made of them.

    Args:
        places: each with the number of its table in its name, e.g. output/growth_table1 or
            docs/results/growth_table1.json

    Returns:
        a finding for each comparison, in the order of :data:`RELATIONS`

    Raises:
        UserError: a place without results or without a number; two of one table
    """
    cells: dict[At, dict[str, float]] = {}
    tables: dict[int, Path] = {}
    for place in map(Path, places):
        table = table_number(place.name)
        if table not in PAPER:
            raise UserError(
                f"{place}: which table of the paper is it? Its name must hold table1 to table8, "
                "as output/growth_table1 does"
            )
        if table in tables:
            raise UserError(f"{tables[table]} and {place} are both table {table}; name one")
        tables[table] = place
        cells |= cells_of(read_json(place)) if place.suffix == ".json" else _measured(place, table)
    return hold(cells)


def hold(cells: Cells) -> list[Found]:
    """As :func:`examine`, on cells that were read before."""
    return [_find(r, c, cells) for r in RELATIONS for c in r.comparisons]


def values(folder: Path, table: int) -> list[dict[str, Any]]:
    """The cells of a plan's folder as a json has them: row, column, block, percent by seed."""
    return [
        {"row": cell.row, "column": cell.column, "block": cell.block, "seeds": seeds}
        for cell, seeds in _measured(folder, table).items()
    ]


def cells_of(content: Mapping[str, Any]) -> dict[At, dict[str, float]]:
    """The cells of a json of results (:mod:`.growth_results`).

    Raises:
        UserError: it has none
    """
    if "values" not in content or "table" not in content:
        raise UserError(
            f"{content.get('title', 'the json')!r} has no values of seeds: it is no json that "
            "tools/make_results.py collect --growth-table made; collect it again"
        )
    return {
        At(content["table"], v["row"], v["column"], v["block"]): v["seeds"]
        for v in content["values"]
    }


def _measured(folder: Path, table: int) -> dict[At, dict[str, float]]:
    return {
        At(table, row, column, block): seeds
        for block in ("", *_FIGURE6)
        for (row, column, dataset), seeds in read_values(folder / "results.csv", block).items()
        if not dataset
    }


def _find(relation: Relation, comparison: Comparison, cells: Cells) -> Found:
    left, right = (cells.get(side, {}) for side in (comparison.left, comparison.right))
    seeds = [seed for seed in left if seed in right]
    differences = [left[seed] - right[seed] for seed in seeds]
    if not differences:
        return Found(relation, comparison, 0, None, None, None, UNMEASURED)
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return Found(relation, comparison, 1, mean, None, None, OPEN)
    half = student.ppf(0.975, len(seeds) - 1) * statistics.stdev(differences) / len(seeds) ** 0.5
    low, high = mean - half, mean + half
    verdict = _verdict(comparison.order, low, high)
    return Found(relation, comparison, len(seeds), mean, low, high, verdict)


def _verdict(order: str, low: float, high: float) -> str:
    inside, outside = {
        "above": (low > 0, high < 0),
        "at least": (low > -MARGIN, high < -MARGIN),
        "equal": (low > -MARGIN and high < MARGIN, low > MARGIN or high < -MARGIN),
    }[order]
    return REPRODUCED if inside else AGAINST if outside else OPEN


def verdict_of(found: Sequence[Found]) -> str:
    """Of a relation, from its comparisons."""
    verdicts = {f.verdict for f in found}
    for verdict in (AGAINST, UNMEASURED, OPEN):
        if verdict in verdicts:
            return verdict
    return REPRODUCED


def by_relation(found: Iterable[Found]) -> Iterator[tuple[Relation, list[Found]]]:
    """Each relation with its findings."""
    grouped: dict[int, list[Found]] = {}
    for one in found:
        grouped.setdefault(one.relation.number, []).append(one)
    for group in grouped.values():
        yield group[0].relation, group


def interval(found: Found) -> str:
    """Its two ends, or a dash."""
    if found.low is None:
        return NONE
    return f"{number(found.low, sign=True)} to {number(found.high, sign=True)}"


def text(found: Sequence[Found]) -> str:
    """Lines for a terminal: each relation with its verdict, and below it the numbers."""
    lines = []
    for relation, group in by_relation(found):
        lines.append(f"{relation.number}. {relation.words}: {verdict_of(group).upper()}")
        for one in group:
            ours = f"{number(one.difference, sign=True)} ({interval(one)})"
            seeds = f"{one.n} seed{'s' * (one.n != 1)}"
            lines.append(
                f"     {one.comparison}: {ours}, {seeds}; paper {one.paper:+.1f}; {one.verdict}"
            )
    return "\n".join(lines)


def write_csv(path: str | Path, found: Sequence[Found]) -> None:
    """A row for each comparison."""
    head = ["relation", "verdict", "left", "order", "right", "seeds"]
    head += ["difference", "low", "high", "paper", "comparison"]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(head)
        for relation, group in by_relation(found):
            for one in group:
                comparison = one.comparison
                numbers = ["" if v is None else v for v in (one.difference, one.low, one.high)]
                table.writerow(
                    [
                        relation.number,
                        verdict_of(group),
                        comparison.left,
                        SIGNS[comparison.order],
                        comparison.right,
                        one.n,
                        *numbers,
                        round(one.paper, 2),
                        one.verdict,
                    ]
                )
