"""A plan of "Growing a Brain" as a page: the paper's table beside ours, relations, curves."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..run_folder import RUN, replacing
from . import growth
from .charts import Interval as Row
from .charts import Line, bars, forest, lines
from .growth import COLUMNS, PAPER, SCOPES, gather, table_number
from .growth_relations import Found, by_relation, examine, interval, verdict_of
from .html import NONE, Figure, Page, Section, Table, Tile, number, render
from .parts import curve_table
from .runs import Run, read_run

__all__ = ["relations_section", "write_page", "write_relations"]

_ACCURACY = "accuracy/top1"
_NOTE = "on other data, with larger networks: the order is to be compared, not the height"


def write_page(folder: str | Path, title: str = "") -> list[Path]:
    """Write ``table.csv``, ``table.md`` and ``table.html`` into a plan's folder.

    Args:
        folder: with ``results.csv`` and the run folders; "table<N>" in its name says which of the
            paper's tables it is

    Raises:
        UserError: nothing in it is finished
    """
    folder = Path(folder)
    number_of = table_number(folder.resolve().name)
    title = title or (f"Growing a Brain, table {number_of}" if number_of else folder.name)
    rows = gather(folder / "results.csv")
    growth.write_csv(folder / "table.csv", rows)
    found = [f for f in examine([folder]) if f.n] if number_of in PAPER else []
    texts = {
        "table.md": growth.page(rows, number_of, title),
        "table.html": render(_page(folder, rows, found, number_of, title)),
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in ("table.csv", *texts)]


def write_relations(folders: Sequence[str | Path], found: Sequence[Found], output: Path) -> Path:
    """Write ``relations.html``: all relations on the results of several plans."""
    names = ", ".join(Path(folder).name for folder in folders)
    page = Page("Growing a Brain: nine order relations", names, _verdicts(found))
    page.sections = [relations_section(found)]
    page.footer = "Made from the results.csv of the plans; docs/growth.md says what is compared."
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / "relations.html") as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return output / "relations.html"


def _page(
    folder: Path, rows: Sequence[Mapping[str, Any]], found: Sequence[Found], table: int | None,
    title: str,
) -> Page:  # fmt: skip
    seeds = max(row["n"] for row in rows)
    best = max(rows, key=lambda row: row["mean"])
    page = Page(title, folder.name, _verdicts(found) or f"Top-1 in percent, over {seeds} seeds.")
    page.tiles = [
        Tile("runs", str(sum(row["n"] for row in rows)), "finished and evaluated"),
        Tile("seeds", str(seeds), "at most, of a row"),
        Tile("best", number(best["mean"]), f"{best['row']} {best['column']}".strip()),
    ]
    sections = [_tables(rows, table), relations_section(found), _curves(folder)]
    page.sections = [section for section in sections if section.parts]
    page.footer = "Made from the files of the plan's folder; docs/growth.md says what is compared."
    return page


def _verdicts(found: Sequence[Found]) -> str:
    """E.g. "Of 2 order relations: 1 reproduced (1), 1 not decided (4)."."""
    numbers: dict[str, list[str]] = {}
    for relation, group in by_relation(found):
        numbers.setdefault(verdict_of(group), []).append(str(relation.number))
    if not numbers:
        return ""
    parts = (f"{len(which)} {verdict} ({', '.join(which)})" for verdict, which in numbers.items())
    return f"Of {sum(map(len, numbers.values()))} order relations: {', '.join(parts)}."


# The table ---------------------------------------------------------------------------------------


def _tables(rows: Sequence[Mapping[str, Any]], table: int | None) -> Section:
    section = Section("The table", lead="Top-1 in percent: mean ± standard deviation over seeds.")
    if table in PAPER:
        section.lead += f" The paper's numbers are {_NOTE}."
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset]
        section.parts += [f"On {dataset}:"] if dataset else []
        section.parts += [_beside(here, table), *_alone(here, table), _bars(here, dataset)]
    if table in PAPER and not growth.alike(rows, table):
        head = ["the paper's", *(column or "top-1" for column in COLUMNS[table])]
        digits = _digits(table)
        theirs = [[n, *(number(v, digits) for v in row)] for n, row in PAPER[table].items()]
        section.parts.append(Table(head, theirs))
    return section


def _beside(rows: Sequence[Mapping[str, Any]], table: int | None) -> Table:
    """Ours, and behind each column the paper's where it has that column."""
    columns = growth.columns(rows, table)
    paper = table in PAPER and growth.alike(rows, table)
    head, lines_ = [""], []
    for column in columns:
        head += [column or "top-1", "paper"] if paper else [column or "top-1"]
    for name in growth.rows_of(rows, table):
        mine = {row["column"]: row for row in rows if row["row"] == name}
        cells = []
        for column in columns:
            cells.append(_ours(mine.get(column)))
            cells += [number(growth.of_paper(table, name, column), _digits(table))] * paper
        lines_.append([name, *cells])
    return Table(head, lines_)


def _digits(table: int | None) -> int:
    """As the paper has them."""
    return 2 if COLUMNS.get(table) == SCOPES else 1


def _alone(rows: Sequence[Mapping[str, Any]], table: int | None) -> list[str]:
    """What the others begin with, which has no column."""
    columns = growth.columns(rows, table)
    return [f"{row['row']}: {_ours(row)}" for row in rows if row["column"] not in columns]


def _ours(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NONE
    spread = f" ± {row['std']:.1f}" if row["std"] is not None else ""
    return f"{row['mean']:.1f}{spread}"


def _bars(rows: Sequence[Mapping[str, Any]], dataset: str) -> Figure:
    columns = list(dict.fromkeys(row["column"] for row in rows if row["column"])) or [""]
    cells = {(row["row"], row["column"]): row for row in rows if row["column"] in columns}
    names = list(dict.fromkeys(name for name, _ in cells))
    values = {
        column or "top-1": [
            cells[name, column]["mean"] if (name, column) in cells else float("nan")
            for name in names
        ]
        for column in columns
    }
    title = f"Top-1 by row and column{f' on {dataset}' * bool(dataset)}"
    head = ["", "column", "mean", "least", "most", "seeds"]
    table = Table(
        head,
        [
            [name, column, *(number(row[key]) for key in ("mean", "min", "max")), str(row["n"])]
            for (name, column), row in cells.items()
        ],
        words=(1,),
    )
    return Figure(title, bars(names, values, title, x="top-1, %"), table)


# Relations ---------------------------------------------------------------------------------------


def relations_section(found: Sequence[Found]) -> Section:
    """A table and a drawing of each relation; without parts where nothing was found."""
    section = Section(
        "Order relations",
        lead="Differences in points, paired by seed, with a Student interval of 95 % over the "
        "seeds. What an interval leaves open is not decided.",
    )
    for relation, group in by_relation(found):
        section.parts.append(f"{relation.number}. {relation.words}: {verdict_of(group)}.")
        rows = [
            [str(f.comparison), f.verdict, number(f.difference, sign=True), interval(f),
             number(f.paper, sign=True), str(f.n)]
            for f in group
        ]  # fmt: skip
        head = ["", "is", "ours", "95 %", "paper", "seeds"]
        section.parts.append(Table(head, rows, words=(1,)))
    drawn = [f for f in found if f.low is not None]
    if drawn:
        title = "Differences and their intervals"
        intervals = [
            Row(f"{f.relation.number}: {f.comparison}", f.difference, f.low, f.high, k % 8)
            for f, k in zip(drawn, [f.relation.number - 1 for f in drawn], strict=True)
        ]
        numbers = Table(
            ["", "difference", "95 %"],
            [[row.name, number(row.value, sign=True), interval(f)]
             for row, f in zip(intervals, drawn, strict=True)],
        )  # fmt: skip
        svg = forest(intervals, title, x="left - right, points")
        section.parts.append(Figure(title, svg, numbers))
    return section


# Curves ------------------------------------------------------------------------------------------


def _curves(folder: Path) -> Section:
    """Loss by column, and what was evaluated on the way: of all, and of each block alone."""
    section = Section("Learning curves", lead="Of every seed; lines of one colour are one row.")
    runs: dict[str, list[tuple[str, Run]]] = {}
    for entry in growth.entries(folder / "results.csv"):
        if (folder / entry["run"] / RUN).is_file():
            run = read_run(folder / entry["run"])
            runs.setdefault(growth.column_of(entry), []).append((growth.row_of(entry), run))
    for column, members in runs.items():
        words = f", {column}" if column else ""
        section.parts += [
            *_figure(members, f"Training loss{words}", "total loss", _loss),
            *_figure(members, f"Top-1 on the way{words}", "top-1, %", _top1),
        ]
        for name in dict.fromkeys(name for name, _ in members):
            same = [run for other, run in members if other == name]
            section.parts += _blocks(same, f"Each block alone, {name}{words}")
            section.parts += _pace(same, f"{name}{words}")
    return section


def _loss(run: Run) -> tuple[list[int], list[float]]:
    return run.curve("total_loss")


def _top1(run: Run, block: str = "") -> tuple[list[int], list[float]]:
    return run.evaluated(next(iter(run.evaluations), ""), f"{_ACCURACY}{'_' * bool(block)}{block}")


def _figure(members: Sequence[tuple[str, Run]], title: str, y: str, curve: Any) -> list[Figure]:
    colours = {name: k for k, name in enumerate(dict.fromkeys(name for name, _ in members))}
    drawn = [Line(n, *curve(run), colours[n], dashed=colours[n] >= 8) for n, run in members]
    return _drawn(drawn, title, y)


def _blocks(runs: Sequence[Run], title: str) -> list[Figure]:
    """Figure 6 of the paper: all that the classifier reads, and each layer of it alone."""
    names = dict.fromkeys(
        metric.partition(f"{_ACCURACY}_")[2]
        for run in runs
        for entry in run.record.get("evaluations", ())
        for metric in entry["metrics"]
        if f"{_ACCURACY}_" in metric
    )
    if len(names) < 2:  # one alone is all
        return []
    drawn = [Line(name or "all", *_top1(run, name), k)
             for k, name in enumerate(["", *names]) for run in runs]  # fmt: skip
    return _drawn(drawn, title, "top-1, %")


def _pace(runs: Sequence[Run], title: str) -> list[Figure]:
    """What MODEL.CLASSIFIER.PACE_PERIOD noted, layer by layer."""
    figures = []
    for kind, y in (("norm", "norm of the activation"), ("update", "step / weights")):
        pattern = re.compile(rf"pace/(.+)/{kind}")
        known = dict.fromkeys(key for run in runs for row in run.rows for key in row)
        found = {name: match[1] for name in known if (match := pattern.fullmatch(name))}
        drawn = [
            Line(layer, *run.curve(name), k % 8, dashed=k >= 8)
            for k, (name, layer) in enumerate(found.items())
            for run in runs
        ]
        figures += _drawn(drawn, f"Pace, {title}: {y}", y, log=True)
    return figures


def _drawn(drawn: Sequence[Line], title: str, y: str, *, log: bool = False) -> list[Figure]:
    """None where no line has two points."""
    drawn = [line for line in drawn if len(line.x) > 1]
    svg = lines(drawn, title, x="iteration", y=y, log=log) if drawn else ""
    return [Figure(title, svg, curve_table(drawn, y))] if drawn else []
