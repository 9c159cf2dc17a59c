"""Markdown from the contents of json files of results: sections of the page, and tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import growth, transferability
from .collect import KIND
from .growth_relations import by_relation, cells_of, hold, interval, verdict_of
from .growth_results import GROWTH
from .html import NONE, number
from .markdown import table

__all__ = ["page", "relations_table", "tables"]

_HEAD = """<!-- Made by tools/make_results.py from the json files in this folder: do not edit. -->
# Results

Every number here was measured by the command beside it and stands in a json file in this folder;
`make results` writes this page from them. AP is in 0 to 100. A number from several seeds is their
mean: ± is the standard deviation, from three seeds on; with two seeds both stand in brackets.
"""

# The columns of AP: by frequency where the dataset has it (LVIS), else by size.
_METRICS = ("AP", "AP50")
_BY_FREQUENCY = ("APr", "APc", "APf")
_BY_SIZE = ("APs", "APm", "APl")
_TASKS = {"bbox": "Boxes", "segm": "Masks"}


def page(contents: Mapping[str, Mapping[str, Any]], curves: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        contents: the json files by name
        curves: path of the drawing, relative to the page, by name of what has one
    """
    sections = [_section(name, content, curves.get(name, "")) for name, content in contents.items()]
    return "\n".join([_HEAD, *sections])


def _section(name: str, content: Mapping[str, Any], curve: str) -> str:
    if content.get("kind") == KIND:
        return _runs_section(name, content, curve)
    if content.get("kind") == transferability.KIND:
        return _transfer_section(name, content, curve)
    if content.get("kind") == GROWTH:
        return _growth_section(name, content)
    return _any_section(name, content)


def tables(content: Mapping[str, Any]) -> str:
    """The numbers of one json alone, and the line that says what they were measured on."""
    if content.get("kind") == KIND:
        return "\n\n".join([*_group_tables(content), _conditions(content)])
    if content.get("kind") == transferability.KIND:
        return "\n\n".join([transferability.claims_in_markdown(content), _conditions(content)])
    if content.get("kind") == GROWTH:
        made = growth.tables(content["cells"], content["table"])
        return "\n\n".join([made, _conditions(content)])
    return "\n\n".join([_scalar_table(content.get("results")), _conditions(content)])


# Sets of runs ------------------------------------------------------------------------------------


def _runs_section(name: str, content: Mapping[str, Any], curve: str) -> str:
    pictures = content["pictures"]
    names = [f"ground truth and predictions {number}" for number in range(1, len(pictures) + 1)]
    shown = ["Ground truth on the left, predicted on the right:", _images(pictures, names)]
    paragraphs = [
        f"## {content['title']}",
        content["question"],
        tables(content),
        *content["notes"],
        f"![total loss over the iterations, a line for each run]({curve})",
        *(shown if pictures else []),
        _every_run(name, content),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _group_tables(content: Mapping[str, Any]) -> Iterable[str]:
    """A table for each dataset and task: a line for each group."""
    groups = content["groups"]
    places = dict.fromkeys(
        (dataset, task) for g in groups for dataset, tasks in g["results"].items() for task in tasks
    )
    for dataset, task in places:
        found = [g["results"].get(dataset, {}).get(task, {}) for g in groups]
        metrics = _columns(name for metrics in found for name, value in metrics.items() if value)
        rows = [
            [
                g["label"],
                str(g["n"]),
                f"{g['trainable'] / 1e6:.3g} of {g['parameters'] / 1e6:.3g} M",
                str(g["iterations"]),
                *(_spread(of_group.get(metric)) for metric in metrics),
                _minutes(g["training_s"]),
                _spread(g["step_median_ms"], 0),
                _memory(g["peak_memory_gb"]),
            ]
            for g, of_group in zip(groups, found, strict=True)
        ]
        head = ["", "seeds", "trained", "iterations", *metrics, "training", "ms a step", "memory"]
        yield f"{_TASKS.get(task, task)}, {dataset}:\n\n{table(head, rows)}"


def _columns(names: Iterable[str]) -> list[str]:
    known = dict.fromkeys(names)
    if not known.keys() & {*_METRICS}:
        return list(known)  # not a detector's
    groups = _BY_FREQUENCY if known.keys() & {*_BY_FREQUENCY} else _BY_SIZE
    return [name for name in (*_METRICS, *groups) if name in known]


def _every_run(name: str, content: Mapping[str, Any]) -> str:
    head = ["run", "group", "seed", "iterations x batch", "weights", "precision", "AP", "training"]
    rows = [
        [
            f"`{run['run']}`",
            run["group"],
            str(run["seed"]),
            f"{run['iterations']} x {run['batch']}",
            run["weights"],
            f"{run['precision']}, {run['device']}",
            ", ".join(_headline(tasks) for tasks in run["results"].values()),
            f"{run['training_s']:.0f} s + {run['evaluation_s']:.0f} s",
        ]
        for run in content["runs"]
    ]
    commands = [run["command"] for run in content["runs"]] + [content["collected_by"]]
    return "\n\n".join(
        [
            f"<details><summary>Every run, with its command ({name}.json)</summary>",
            table(head, rows, numbers=False),
            "Training is given with the time of evaluation after the +.",
            "```\n" + "\n".join(filter(None, commands)) + "\n```",
            "</details>",
        ]
    )


def _headline(tasks: Mapping[str, Mapping[str, float | None]]) -> str:
    """The first number of each task."""
    firsts = (next(iter(metrics.values()), None) for metrics in tasks.values())
    return " / ".join(NONE if first is None else f"{first:.1f}" for first in firsts)


# Plans of "Growing a Brain" -----------------------------------------------------------------------


def relations_table(contents: Iterable[Mapping[str, Any]]) -> str:
    """The nine order relations, over all tables that were measured."""
    cells: dict = {}
    for content in contents:
        cells |= cells_of(content)
    rows = [
        [
            f"{relation.number}. {relation.words}",
            verdict_of(group),
            "; ".join(
                f"{f.comparison}: {number(f.difference, sign=True)} ({interval(f)}; "
                f"{f.paper:+.1f}){'' if f.verdict == verdict_of(group) else ' ' + f.verdict}"
                for f in group
            ),
        ]
        for relation, group in by_relation(hold(cells))
    ]
    head = ["relation", "is", "difference in points (95 % over seeds; the paper's)"]
    return table(head, rows, numbers=False)


def _growth_section(name: str, content: Mapping[str, Any]) -> str:
    """A plan of "Growing a Brain": its table, the order relations in it, every run."""
    relations = [
        [
            f"{r['relation']}: {r['left']} {r['order']} {r['right']}",
            number(r["difference"], sign=True),
            NONE if r["low"] is None else f"{r['low']:+.1f} to {r['high']:+.1f}",
            f"{r['paper']:+.1f}",
            str(r["seeds"]),
            r["comparison"],
        ]
        for r in content["relations"]
    ]
    verdicts = {r["relation"]: f"{r['words']}: {r['verdict']}" for r in content["relations"]}
    runs = [
        [
            f"`{run['run']}`",
            str(run["seed"]),
            str(run["iterations"]),
            run["weights"],
            ", ".join(f"{value:.1f}" for value in run["top1"].values()),
            f"{run['training_s']:.0f} s + {run['evaluation_s']:.0f} s",
        ]
        for run in content["runs"]
    ]
    commands = [run["command"] for run in content["runs"]] + [content["collected_by"]]
    paragraphs = [
        f"## {content['title']}",
        content["question"],
        tables(content),
        *content["notes"],
    ]
    if relations:
        head = ["order relation", "ours", "95 % over seeds", "paper", "seeds", "is"]
        words = "\n".join(f"- Relation {key}, {said}." for key, said in verdicts.items())
        paragraphs += [words, table(head, relations)]
    head = ["run", "seed", "iterations", "weights", "top-1", "training"]
    paragraphs += [
        f"<details><summary>Every run, with its command ({name}.json)</summary>",
        table(head, runs, numbers=False),
        "Training is given with the time of evaluation after the +.",
        "```\n" + "\n".join(filter(None, commands)) + "\n```",
        "</details>",
    ]
    return "\n\n".join(paragraphs) + "\n"


# Transferability experiments ---------------------------------------------------------------------


def _transfer_section(name: str, content: Mapping[str, Any], curve: str) -> str:
    commands = dict.fromkeys(filter(None, [content["command"], content["collected_by"]]))
    paragraphs = [
        f"## {content['title']}",
        content["question"],
        tables(content),
        f"![points above the own base over the layers copied]({curve})",
        *transferability.differences_in_markdown(content),
        *content["notes"],
        *(f"Not here: {sentence}." for sentence in content["missing"]),
        f"<details><summary>Every run, with its command ({name}.json)</summary>",
        transferability.runs_in_markdown(content),
        "```\n" + "\n".join([*(run["command"] for run in content["runs"]), *commands]) + "\n```",
        "</details>",
    ]
    return "\n\n".join(paragraphs) + "\n"


# Other files, e.g. of benchmarks -----------------------------------------------------------------


def _any_section(name: str, content: Mapping[str, Any]) -> str:
    """Title, what is said in words, the numbers and the command of a json of any shape."""
    title = content.get("title") or name.replace("_", " ").capitalize()
    said = [content[key] for key in ("question", "note") if isinstance(content.get(key), str)]
    data = content.get("data")
    if isinstance(data, Mapping):
        said.append("Data: " + ", ".join(f"{_words(k)} {_value(v)}" for k, v in data.items()) + ".")
    paragraphs = [f"## {title}", *said, tables(content), *content.get("notes", ())]
    if content.get("pictures"):
        names = content["captions"]
        paragraphs += [f"Row by row: {', '.join(names)}.", _images(content["pictures"], names)]
    commands = [content[key] for key in ("command", "collected_by") if content.get(key)]
    if commands:
        paragraphs.append("\n".join(["```", *commands, "```"]))
    return "\n\n".join(paragraphs) + "\n"


def _images(paths: Sequence[str], names: Sequence[str]) -> str:
    """Two a row."""
    return "\n".join(
        f'<img src="{path}" width="49%" alt="{name}">'
        for path, name in zip(paths, names, strict=True)
    )


def _scalar_table(results: Any) -> str:
    """A column for each of several results, a line for each number in them.

    Results under names, all with the same numbers, have the shorter of both in columns.
    """
    if grid := _grid(results):
        names, numbers = list(grid), list(next(iter(grid.values())))
        if len(names) < len(numbers):
            rows = [[_words(n), *(grid[name][n] for name in names)] for n in numbers]
            return table(["", *map(_words, names)], rows)
        rows = [[_words(name), *grid[name].values()] for name in names]
        return table(["", *map(_words, numbers)], rows)
    columns = results if isinstance(results, Sequence) else [results or {}]
    heads = [" ".join(v for v in column.values() if isinstance(v, str)) for column in columns]
    flat = [dict(_numbers(column)) for column in columns]
    names = dict.fromkeys(name for column in flat for name in column)
    rows = [[_words(name), *(column.get(name, NONE) for column in flat)] for name in names]
    return table(["", *heads], rows)


def _grid(results: Any) -> dict[str, dict[str, str]]:
    """Name -> number -> text; empty where the results are no such thing."""
    if not isinstance(results, Mapping) or len(results) < 2:
        return {}
    if not all(isinstance(v, Mapping) and not _is_spread(v) for v in results.values()):
        return {}
    grid = {name.rstrip(":"): dict(_numbers(numbers)) for name, numbers in results.items()}
    kinds = {tuple(numbers) for numbers in grid.values()}
    return grid if len(kinds) == 1 and len(*kinds) > 1 else {}


def _is_spread(value: Mapping[str, Any]) -> bool:
    return {"median", "min", "max"} <= value.keys()


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """(name, text) of all scalars; a median with its extremes is one."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and not _is_spread(value):
            yield from _numbers(value, f"{prefix}{key} ")
        elif isinstance(value, int | float | Mapping):
            yield f"{prefix}{key}", _value(value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and value["min"] == value["max"]:  # of one round
        return _value(value["median"])
    if isinstance(value, Mapping):
        return f"{_value(value['median'])} ({_value(value['min'])} to {_value(value['max'])})"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


# Cells -------------------------------------------------------------------------------------------


def _spread(stats: Mapping[str, float] | None, digits: int = 1) -> str:
    """E.g. "31.2" of one run, "31.2 (30.9, 31.5)" of two, "31.2 ± 0.3" of more."""
    if stats is None:
        return NONE
    mean = f"{stats['mean']:.{digits}f}"
    if stats["n"] == 1:
        return mean
    if "std" in stats:
        return f"{mean} ± {stats['std']:.{digits}f}"
    return f"{mean} ({stats['min']:.{digits}f}, {stats['max']:.{digits}f})"


def _minutes(stats: Mapping[str, float]) -> str:
    """E.g. "3 min 56 s"."""
    minutes, seconds = divmod(round(stats["mean"]), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _memory(peaks: Mapping[str, Mapping[str, float] | None]) -> str:
    """E.g. "2.1 GB", with a GPU "2.1 GB, cuda 8.0 GB"."""
    cells = (
        f"{'' if name == 'host' else name + ' '}{stats['max']:.1f} GB"
        for name, stats in peaks.items()
        if stats
    )
    return ", ".join(cells)


def _conditions(content: Mapping[str, Any]) -> str:
    """One line: when, on what, with which versions."""
    machine, versions = content.get("machine") or {}, content.get("versions") or {}
    cores = machine.get("cores", machine.get("cores_used"))
    devices = "; ".join(machine.get("devices", ()))
    parts = [
        content.get("measured"),
        machine.get("cpu"),
        f"{cores} core{'s' * (cores != 1)}" if cores else None,
        f"{machine['memory_gb']} GB of memory" if "memory_gb" in machine else None,
        f"runs on {devices}" if devices else None,
        ", ".join(f"{_value(rate)} {name}" for name, rate in machine.get("rates", {}).items()),
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    known = "; ".join(filter(None, parts))
    return f"Measured: {known}." if known else ""
