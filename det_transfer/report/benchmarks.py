"""Benchmarks as one page: what each measured as bars, from the json files that they wrote."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run_folder import replacing
from .charts import bars
from .html import Code, Figure, Page, Section, Table, Tile, render

__all__ = ["Measured", "measured", "write_page"]

# What the end of a name says its number is; the first that fits.
_UNITS = {
    "_per_cpu_s": "a CPU second",
    "_per_s": "a second",
    "cpu_s": "CPU seconds",
    "_s": "seconds",
    "_mb": "MB",
    "_gb": "GB",
    "_bytes": "bytes",
    "_percent": "percent",
}
_NOT_MEASURED = ("metrics", "goal", "largest_difference")  # accuracy, and what was asked for
_RATES = "what the machine can do"
_WIDE = 36  # letters of a line beside the bars
_MOST_BARS = 40  # of a drawing; beyond, the table alone


@dataclass(frozen=True)
class Measured:
    """A number of a benchmark, or the median of several with the extremes."""

    name: str
    value: float
    low: float
    high: float


def measured(results: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, list[Measured]]:
    """What a benchmark's ``results`` hold, by what the numbers are; numbers of a unit together.

    Args:
        results: {what: {side: number}}, or rows of words and numbers; a number may be a dict with
            ``median``, ``min`` and ``max``
    """
    found: dict[str, list[Measured]] = {}
    for path, numbers in _rows(results) if isinstance(results, Sequence) else _leaves(results, ()):
        group, name = _placed(path, isinstance(results, Sequence) or _alike(results))
        found.setdefault(group, []).append(Measured(name, *numbers))
    return found


def _rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, ...], tuple]]:
    for row in rows:
        words = tuple(value for value in row.values() if isinstance(value, str))
        numbers = {name: value for name, value in row.items() if not isinstance(value, str)}
        yield from _leaves(numbers, words)


def _leaves(
    value: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tuple[float, float, float]]]:
    if isinstance(value, Mapping) and "median" in value:
        middle = value["median"]
        yield path, (middle, value.get("min", middle), value.get("max", middle))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if not name.startswith(_NOT_MEASURED):
                yield from _leaves(inner, (*path, name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, (value, value, value)


def _alike(results: Mapping[str, Any]) -> bool:
    """Whether all have the same columns, and none is a unit ("seconds:"): then a column is what
    belongs together."""
    columns = [tuple(v) for v in results.values() if isinstance(v, Mapping)]
    return len(columns) > 1 and len(set(columns)) == 1 and not any(n[-1:] == ":" for n in results)


def _placed(path: tuple[str, ...], by_column: bool) -> tuple[str, str]:
    """What a number is, and which of them."""
    if not by_column:
        return path[0].rstrip(":"), " ".join(path[1:]) or path[0]
    *before, last = path
    if last.startswith("mb_"):
        return "MB", " ".join((*before, last.removeprefix("mb_"))).replace("_", " ")
    if any("_over_" in name or "ratio" in name for name in path):
        return "times", " ".join(path).replace("_", " ")
    for ending, unit in _UNITS.items():
        if last.endswith(ending):
            rest = last.removesuffix(ending) if last != ending else ""
            return unit, " ".join((*before, rest)).replace("_", " ").strip()
    return last.replace("_", " "), " ".join(before).replace("_", " ")


def write_page(
    path: Path, reports: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]
) -> None:
    """Write the page.

    Args:
        reports: the benchmarks' json by name, each with ``title``, ``command``, ``machine``,
            ``versions`` and ``results``
        failed: what could not be measured, and why
    """
    page = Page("Benchmarks", "", _lead(reports, failed))
    page.tiles = [Tile(name, value) for name, value in _machine(reports).items()]
    page.missing = [f"{name}: {why}" for name, why in failed.items()]
    page.sections = [_section(name, report) for name, report in reports.items()]
    page.footer = "Sides of a comparison took turns; bars are medians, tables have the extremes."
    with replacing(path) as temporary:
        temporary.write_text(render(page), encoding="utf-8")


def _lead(reports: Mapping[str, Any], failed: Mapping[str, str]) -> str:
    return f"{len(reports)} benchmarks" + (f"; {len(failed)} could not run" if failed else "")


def _machine(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What all of them were measured on, as far as they say the same."""
    said: dict[str, set[str]] = {}
    for report in reports.values():
        for name, value in {**report["machine"], **report["versions"]}.items():
            if name in ("cpu", "gpu", "cores", "python", "torch"):
                said.setdefault(name, set()).add(str(value))
    return {name: values.pop() for name, values in said.items() if len(values) == 1}


def _section(name: str, report: Mapping[str, Any]) -> Section:
    section = Section(
        report.get("title", name).removeprefix("Benchmark: "), lead=report.get("note", "")
    )
    for what, numbers in measured(report["results"]).items():
        if len(numbers) > _MOST_BARS:
            section.parts.append(_table(numbers, what))
            continue
        title = f"{section.title}: {what}"
        svg = bars(
            [textwrap.fill(n.name, _WIDE) for n in numbers],
            {what: [n.value for n in numbers]},
            title,
            x=what,
            write=_short,
            spans=[(n.low, n.high) for n in numbers],
        )
        section.parts.append(Figure(what, svg, _table(numbers, "numbers")))
    for what, numbers in measured({_RATES: report["machine"].get("rates", {})}).items():
        section.parts.append(_table(numbers, what))
    section.parts.append(Code(report["command"]))
    return section


def _table(numbers: Sequence[Measured], title: str) -> Table:
    rows = [[n.name, *map(_short, (n.value, n.low, n.high))] for n in numbers]
    return Table(["", "median", "least", "most"], rows, title=title, folded=True)


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
