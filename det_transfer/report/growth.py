"""The tables of "Growing a Brain" beside ours, from the results.csv of a plan."""

import csv
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..run_folder import replacing

__all__ = [
    "COLUMNS",
    "PAPER",
    "SCOPES",
    "alike",
    "column_of",
    "columns",
    "entries",
    "gather",
    "of_paper",
    "page",
    "read_values",
    "row_of",
    "rows_of",
    "table_number",
    "tables",
    "write_csv",
]

SCOPES = ("New", "FC7-New", "FC6-New", "All")
# The axes of a plan that become columns, the first that it has.
_COLUMN_AXES = ("scope", "target")

# Table -> row -> the paper's top-1 by column (COLUMNS), on its own data and networks; None where it
# has none. Numbers in brackets are its references: others' methods, which no plan carries out.
# Source: Wang, Ramanan and Hebert, "Growing a Brain", CVPR 2017, tables 1 to 8.
PAPER: dict[int, dict[str, tuple[float | None, ...]]] = {
    1: {
        "FT": (53.63, 54.75, 54.29, 55.93),
        "DA": (54.24, 56.48, 57.42, 58.54),
        "WA": (56.81, 56.99, 57.84, 58.95),
        "DWA": (56.07, 56.41, 56.97, 57.75),
        "WWA": (56.65, 57.10, 58.16, 59.05),
        "[1, 15]": (48.4, None, 51.6, 52.2),
        "vgg16 FT": (60.77, 59.09, 50.54, 62.80),
        "vgg16 DA": (61.21, 62.85, 63.07, 65.55),
        "vgg16 WA": (63.61, 64.00, 64.15, 66.54),
    },
    2: {
        "DA-1024": (53.36, 56.31, 57.22, 57.98),
        "DA-2048": (53.82, 56.47, 57.14, 58.07),
        "DA-4096": (54.02, 56.46, 57.41, 58.32),
        "DA-6144": (54.24, 56.48, 57.42, 58.54),
        "WA-1024": (56.46, 56.71, 57.55, 58.90),
        "WA-2048": (56.81, 56.99, 57.84, 58.95),
        "DWA-1024-1024": (55.44, 55.77, 56.71, 57.49),
        "DWA-2048-2048": (56.07, 56.41, 56.97, 57.75),
        "WWA-512-1024": (56.13, 57.10, 57.65, 58.80),
        "WWA-1024-2048": (56.49, 57.10, 57.98, 59.05),
        "WWA-2048-4096": (56.65, 57.03, 58.16, 58.98),
    },
    3: {
        "DA-without": (53.82, 56.47, 56.25, 57.21),
        "DA-with": (53.51, 56.15, 57.14, 58.07),
        "WA-without": (53.78, 54.66, 49.72, 51.34),
        "WA-without-copy": (53.62, 54.35, 53.70, 55.31),
        "WA-with": (56.81, 56.99, 57.84, 58.95),
    },
    4: {
        "source": (56.9,),
        "kept LwF": (55.9,),
        "kept Joint": (56.4,),
        "back DA": (55.3,),
        "back WA": (51.5,),
    },
    5: {
        "FT": (61.2, 75.3, 62.9, 57.7),
        "WA": (66.3, 92.8, 69.0, 67.5),
        "Caffe [53]": (59.5, None, None, None),
        "CNN-SVM [32]": (None, 74.7, 53.3, None),
        "CNNaug-SVM [32]": (None, 86.8, 61.8, None),
        "Deep Standard [4]": (None, None, None, 58.9),
        "Caffe-DAG [53]": (64.6, None, None, None),
        "Places-CNN [59]": (68.2, None, None, None),
        "LSVM [30]": (None, 87.1, 61.4, None),
        "MsML+": (None, 89.5, 66.6, None),
        "MsML+*": (None, None, 67.9, None),
        "MPP [55]": (None, 91.3, None, None),
        "DeCaf+DPD [7]": (None, None, 65.0, None),
        "Deep Optimized [4]": (None, 91.3, None, 66.4),
        "Combined-AlexNet [18]": (58.8, 83.3, None, 56.4),
        "Joint [22]": (63.9, None, 56.6, None),
        "LwF [22]": (64.5, None, 57.7, None),
    },
    6: {"CNN": (56.9,), "WA-scratch": (57.6,), "WA-grow": (57.8,)},
    7: {"CNN-FT": (61.2, 62.9), "WA-ori": (62.3, 63.2), "WA-grow": (66.3, 69.0)},
    8: {
        "one-step": (66.3,),
        "two-steps": (79.3,),
        "Places-CNN [59]": (68.2,),
        "ImageNet-VGG [22]": (74.0,),
    },
}

COLUMNS: dict[int, tuple[str, ...]] = {
    **dict.fromkeys((1, 2, 3), SCOPES),
    5: ("MIT-67", "Flowers-102", "CUB-200-2011", "Stanford-40"),
    7: ("MIT-67", "CUB-200-2011"),
    **dict.fromkeys((4, 6, 8), ("",)),
}


def of_paper(table: int | None, row: str, column: str) -> float | None:
    """The paper's number in a cell of ours; of a plan with one column it is that in its first."""
    names, values = COLUMNS.get(table, ()), PAPER.get(table, {}).get(row, ())
    place = names.index(column) if column in names else 0 if not column else len(values)
    return values[place] if place < len(values) else None


def rows_of(rows: Sequence[Mapping[str, Any]], number: int | None) -> list[str]:
    """Names of rows that have one of our columns, and behind them those that only the paper has.

    The latter not where ours are on several test sets, of which the paper's is one.
    """
    shown = columns(rows, number)
    ours = dict.fromkeys(row["row"] for row in rows if row["column"] in shown)
    beside = alike(rows, number) and not any(row["dataset"] for row in rows)
    return [*ours, *(name for name in PAPER.get(number, ()) if beside and name not in ours)]


def table_number(name: str) -> int | None:
    """Which table of the paper a plan or its folder is about: 1 of "growth_table1"; None: none."""
    found = re.search(r"table(\d+)", name)
    return int(found[1]) if found else None


def entries(results: str | Path) -> list[dict[str, str]]:
    """The rows of a plan's ``results.csv``, a run each.

    Raises:
        UserError: there is no such file
    """
    path = Path(results)
    if not path.is_file():
        raise UserError(f"{path} does not exist: carry out the plan first")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_values(
    results: str | Path, block: str = ""
) -> dict[tuple[str, str, str], dict[str, float]]:
    """Top-1 of every seed from a plan's ``results.csv``.

    Args:
        block: of this layer alone, e.g. "FC7+"; "": of all that the classifier reads

    Returns:
        (row, column, dataset) as :func:`gather` has them -> seed ("" of a run without) -> percent

    Raises:
        UserError: there is no such file
    """
    end = f"accuracy/top1{'_' * bool(block)}{block}"
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for entry in entries(results):
        for column in (c for c in entry if c.endswith(end) and entry[c]):
            key = (row_of(entry), column_of(entry), column.removesuffix(end).strip("/"))
            values.setdefault(key, {})[entry.get("seed") or ""] = float(entry[column])
    return values


def gather(results: str | Path) -> list[dict[str, Any]]:
    """Top-1 over seeds from a plan's ``results.csv``.

    Returns:
        rows with "row" (run and method), "column" (scope or target, "" without), "dataset" (""
        where a run has one test set), "n", "mean", "std" (None for one seed), "min" and "max"

    Raises:
        UserError: there is no such file, or nothing in it is finished
    """
    values = {key: list(found.values()) for key, found in read_values(results).items()}
    if not values:
        raise UserError(f"{results} has no finished run yet")
    return [
        {
            "row": row,
            "column": column,
            "dataset": dataset,
            "n": len(found),
            "mean": statistics.fmean(found),
            "std": statistics.stdev(found) if len(found) > 1 else None,
            "min": min(found),
            "max": max(found),
        }
        for (row, column, dataset), found in values.items()
    ]


def column_of(entry: Mapping[str, str]) -> str:
    """Scope or target of a run, "" where it has neither."""
    return next((entry[axis] for axis in _COLUMN_AXES if entry.get(axis)), "")


def row_of(entry: Mapping[str, str]) -> str:
    """A run's name without column and seed; "target", the run that is asked about, goes unsaid."""
    name = re.sub(r"_s\d+$", "", entry["run"])
    column = column_of(entry)
    name = name.removesuffix(f"_{column}") if column else name
    method = entry.get("method", "")
    head = name.removesuffix(method).strip("_") if method else name
    return " ".join(word for word in (head if head != "target" else "", method) if word)


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what :func:`gather` gave."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def page(rows: Sequence[Mapping[str, Any]], number: int | None, title: str) -> str:
    """A Markdown page: ours, "mean (std, n)", and the paper's number behind a slash.

    Args:
        rows: as :func:`gather` gives them
        number: of the paper's table; None: without one
    """
    return f"# {title}\n\n{tables(rows, number)}"


def tables(rows: Sequence[Mapping[str, Any]], number: int | None) -> str:
    """What :func:`page` has below its title."""
    paper = PAPER.get(number, {})
    lines = []
    if paper:
        lines += [
            "Top-1 in percent: ours as mean (std; seeds), and behind the slash what the paper has, "
            "on other data with larger networks: the order is to be compared, not the height.",
            "",
        ]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset]
        lines += [f"On {dataset}:", ""] if dataset else []
        lines += [*_table(here, number), ""]
    if number in COLUMNS and not alike(rows, number):
        lines += ["The paper's:", "", *_markdown(COLUMNS[number], _as_text(PAPER[number])), ""]
    return "\n".join(lines)


def columns(rows: Sequence[Mapping[str, Any]], number: int | None) -> list[str]:
    """Our columns, in the paper's order where they are the paper's; [""] where there is one."""
    order = COLUMNS[number] if number in COLUMNS and alike(rows, number) else ()
    there = list(dict.fromkeys(row["column"] for row in rows if row["column"]))
    return [c for c in order if c in there] or there or [""]


def alike(rows: Sequence[Mapping[str, Any]], number: int | None) -> bool:
    """Whether the paper's table has our columns."""
    found = {row["column"] for row in rows if row["column"]}
    return found <= set(COLUMNS.get(number, ()))


def _table(rows: Sequence[Mapping[str, Any]], number: int | None) -> list[str]:
    beside = number if alike(rows, number) else None
    shown = columns(rows, number)
    cells: dict[str, list[str]] = {}
    for name in rows_of(rows, number):
        mine = {row["column"]: row for row in rows if row["row"] == name}
        cells[name] = [_cell(mine.get(c), of_paper(beside, name, c)) for c in shown]
    # What the others begin with.
    below = [f"{row['row']}: {_cell(row, None)}" for row in rows if row["column"] not in shown]
    return [*_markdown(shown, cells), *(["", *below] if below else [])]


def _as_text(table: Mapping[str, Sequence[float | None]]) -> dict[str, list[str]]:
    return {n: ["" if value is None else f"{value}" for value in row] for n, row in table.items()}


def _markdown(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        "| | " + " | ".join(c or "top-1" for c in columns) + " |",
        "|---|" + "---:|" * len(columns),
        *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()),
    ]


def _cell(row: Mapping[str, Any] | None, paper: float | None) -> str:
    ours = ""
    if row:
        spread = f"{row['std']:.1f}; " if row["std"] is not None else ""
        ours = f"{row['mean']:.1f} ({spread}{row['n']})"
    return ours if paper is None else f"{ours or '-'} / {paper}"
