"""The comparison of runs as a page: which side is better, by how much, where, and at what cost."""

from collections.abc import Iterable, Sequence

import numpy as np

from .charts import Interval as Row
from .charts import Line, bars, forest, lines
from .comparison import Comparison
from .costs import costs_section
from .gallery import UNREADABLE, illustrate
from .html import NONE, Figure, Page, Picture, Section, Table, Tile, number
from .parts import (
    METRICS,
    class_figure,
    duration,
    features_section,
    learning_figures,
    millions,
    size,
)
from .sides import Side, differing, value_of
from .verdict import verdict

__all__ = ["comparison_page"]

_PICTURES = 3  # of each kind
_MOST_FIGURES = 6  # differences by class, drawn
_EXTREMES = 8  # classes at either end of a table


def comparison_page(result: Comparison, *, title: str = "", factors: Sequence[str] = ()) -> Page:
    """The page of a comparison as data.

    Args:
        factors: config keys, two or three, by which the factor figure is arranged; default: the
            first in which the sides differ
    """
    names = " · ".join(side.label for side in result.sides)
    page = Page(title or f"Compared on {result.dataset}", names, verdict(result))
    page.missing = list(result.missing)
    page.tiles = [
        Tile(side.name, number(result.mean(side, "AP")), _seeds_said(result, side))
        for side in result.sides
    ]
    sections = [
        _sides(result),
        _differences(result),
        _groups(result),
        _by_class(result),
        _factors(result, factors),
        costs_section(result),
        _learning(result),
        _pictures(result, page.missing),
        features_section([(side.name, run) for side in result.sides for run in side.runs[:1]]),
        _runs(result),
    ]
    page.sections = [section for section in sections if section and section.parts]
    page.footer = (
        "Made from the files of the run folders; docs/reports.md says how each number is defined."
    )
    return page


def _seeds_said(result: Comparison, side: Side) -> str:
    values = result.values(side, "AP")
    if len(values) < 2:
        return "AP, one seed"
    return f"AP, {len(values)} seeds: {min(values):.1f} to {max(values):.1f}"


# Numbers -----------------------------------------------------------------------------------------


def _sides(result: Comparison) -> Section:
    metrics = [m for m in METRICS if any(result.mean(s, m) is not None for s in result.sides)]
    every = [
        [side.name, *(_spread(result.values(side, metric)) for metric in metrics[1:])]
        for side in result.sides
    ]
    rows = []
    for side in result.sides:
        interval = result.differences.get(side.name, {}).get("AP")
        run = side.runs[0]
        rows.append(
            [
                side.name,
                str(len(side.runs)),
                _spread(result.values(side, "AP")),
                "base" if side is result.base else str(interval) if interval else NONE,
                _decided(side is result.base, interval),
                f"{millions(run.trained)} of {millions(run.parameters)}",
                duration(_mean([run.seconds for run in side.runs])),
                size(_mean([run.memory for run in side.runs])),
            ]
        )
    head = ["side", "seeds", "AP", "to the base (95 %)", "", "trained", "time", "memory"]
    lead = (
        f"Means over seeds; with two seeds both stand in brackets, from three on ± is the "
        f"standard deviation. Differences are to {result.base.name}, with intervals over "
        f"{result.draws} draws of the test images, the same for both sides."
    )
    return Section(
        "Sides", [Table(head, rows, words=(4,)), Table(["side", *metrics[1:]], every)], lead
    )


def _decided(base: bool, interval) -> str:
    if base or interval is None:
        return ""
    return "decided" if interval.decided else "not decided"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = number(float(np.mean(values)))
    if len(values) == 2:
        return f"{mean} ({min(values):.1f}, {max(values):.1f})"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _differences(result: Comparison) -> Section:
    parts = list(_all_sides(result))
    for side in result.others:
        found = result.differences.get(side.name, {})
        rows = [
            Row(metric, i.difference, i.low, i.high, side.colour) for metric, i in found.items()
        ]
        if not rows:
            continue
        title = f"{side.name} minus {result.base.name}"
        numbers = [
            [METRICS[m], number(i.difference, sign=True), number(i.low, sign=True),
             number(i.high, sign=True), _decided(False, i)]
            for m, i in found.items()
        ]  # fmt: skip
        table = Table(["", "difference", "low", "high", ""], numbers, words=(4,))
        svg = forest(rows, title, x="difference in AP, 95 % over images")
        parts.append(Figure(title, svg, table))
    lead = "Right of the line is better than the base. An interval that holds 0 decides nothing."
    return Section("Differences", parts, lead)


def _all_sides(result: Comparison) -> Iterable[Figure]:
    """AP of all sides in one figure, where there are several."""
    known = [(s, i) for s in result.others if (i := result.differences.get(s.name, {}).get("AP"))]
    if len(known) > 1:
        title = f"AP minus that of {result.base.name}"
        rows = [Row(s.name, i.difference, i.low, i.high, s.colour) for s, i in known]
        svg = forest(rows, title, x="difference in AP, 95 % over images")
        numbers = [[s.name, str(i), _decided(False, i)] for s, i in known]
        yield Figure(title, svg, Table(["", "difference (95 %)", ""], numbers, words=(2,)))


def _groups(result: Comparison) -> Section:
    parts = []
    for title, keys in (
        ("AP by object size", ("APs", "APm", "APl")),
        ("AP by class frequency", ("APr", "APc", "APf")),
    ):
        means = {s.name: [result.mean(s, key) for key in keys] for s in result.sides}
        shown = [k for k in range(3) if any(m[k] is not None for m in means.values())]
        if not shown:
            continue
        labels = [METRICS[keys[k]].split(",")[0] for k in shown]
        drawn = {
            name: [np.nan if m[k] is None else m[k] for k in shown] for name, m in means.items()
        }
        rows = [
            [label, *(number(values[k]) for values in drawn.values())]
            for k, label in enumerate(labels)
        ]
        svg = bars(labels, drawn, title, x="AP")
        parts.append(Figure(title, svg, Table(["", *drawn], rows)))
    return Section("By size and frequency", parts)


def _by_class(result: Comparison) -> Section:
    parts: list = []
    for side in result.others[:_MOST_FIGURES]:
        rows = result.class_differences(side)
        if sum(row.value is not None for row in rows) > 1:
            title = f"{side.name} minus {result.base.name}, by class"
            parts.append(class_figure(rows, title, "difference in AP", zero=True))
    if not parts:
        return Section("By class")
    each = {side.name: result.classes(side) for side in result.sides}
    base = each[result.base.name]
    best = result.others[0]
    change = {
        row.name: row.value for row in result.class_differences(best) if row.value is not None
    }
    order = sorted(change, key=change.get)
    ends = order if len(order) <= 2 * _EXTREMES else order[:_EXTREMES] + order[-_EXTREMES:]
    places = {row.name: k for k, row in enumerate(base)}
    cells = [
        [
            name,
            *(number(rows[places[name]].value) for rows in each.values()),
            number(change[name], sign=True),
            number(base[places[name]].objects, 0),
            str(base[places[name]].n_gt),
        ]
        for name in reversed(ends)
    ]
    head = ["class", *each, f"{best.name} to the base", "training objects", "test objects"]
    title = "Classes" if len(ends) == len(order) else "Classes with the largest differences"
    parts.append(Table(head, cells, title, folded=True))
    lead = (
        "Each point is a class, placed by how much of it there was to learn from. Single classes "
        "have few objects: their differences are noisy, the line is what to look at."
    )
    return Section("By class", parts, lead)


# Factors -------------------------------------------------------------------------------


def _factors(result: Comparison, wanted: Sequence[str]) -> Section | None:
    """AP by two or three config keys: one is the colour, the others are rows."""
    known = differing(result.sides)
    keys = list(wanted) if wanted else known[:3]
    if not wanted and (len(keys) < 2 or not _crossed(result.sides, keys)):
        return None
    mode = "MODEL.REUSE.MODE"
    colour = mode if mode in keys else keys[0]
    rest = [key for key in keys if key != colour]
    series = list(dict.fromkeys(value_of(side, colour) for side in result.sides))
    rows = list(dict.fromkeys(_row_of(side, rest) for side in result.sides))
    values = {name: [np.nan] * len(rows) for name in series}
    for side in result.sides:
        mean = result.mean(side, "AP")
        values[value_of(side, colour)][rows.index(_row_of(side, rest))] = (
            np.nan if mean is None else mean
        )
    title = f"AP by {', '.join(key.rsplit('.', 1)[-1].lower() for key in keys)}"
    svg = bars(rows, values, title, x=f"AP on {result.dataset}")
    numbers = [[row, *(number(v[k]) for v in values.values())] for k, row in enumerate(rows)]
    table = Table([", ".join(rest) or "", *series], numbers)
    return Section("Factors", [Figure(title, svg, table, f"Colours: {colour}")])


def _crossed(sides: Sequence[Side], keys: Sequence[str]) -> bool:
    """Whether a value of one key comes with several of another, so that a figure says more."""
    return any(
        len({value_of(s, other) for s in sides if value_of(s, key) == value}) > 1
        for key in keys
        for other in keys
        if other != key
        for value in {value_of(s, key) for s in sides}
    )


def _row_of(side: Side, keys: Sequence[str]) -> str:
    return ", ".join(value_of(side, key) for key in keys)


def _learning(result: Comparison) -> Section:
    runs = [(side.name, run, side.colour) for side in result.sides for run in side.runs]
    parts = learning_figures(runs, result.dataset, result.task)
    precision = _precision(result)
    return Section("Curves", [*parts, *precision])


def _precision(result: Comparison) -> list[Figure]:
    drawn = []
    for side in result.sides:
        arrays = [run.evaluations[result.dataset].curves() for run in side.runs]
        found = [
            a[f"{result.task}_precision"][0] for a in arrays if f"{result.task}_precision" in a
        ]
        if found and not np.isnan(found[0]).all():
            known = ~np.isnan(found[0][:, 0])
            mean = 100 * np.mean([one[known].mean(axis=0) for one in found], axis=0)
            recall = 100 * arrays[0]["recall_thresholds"]
            drawn.append(Line(side.name, recall.tolist(), mean.tolist(), side.colour))
    if len(drawn) < 2:
        return []
    title = "Precision over recall at IoU 0.50"
    svg = lines(drawn, title, x="recall, %", y="precision, %", limits=(0, 102))
    rows = [[f"{k}", *(number(line.y[k]) for line in drawn)] for k in range(0, 101, 10)]
    return [Figure(title, svg, Table(["recall, %", *(line.name for line in drawn)], rows))]


# Pictures ----------------------------------------------------------------------------------------


def _pictures(result: Comparison, missing: list[str]) -> Section | None:
    """Images on which one side is right and the other wrong."""
    roots = [run.evaluations[result.dataset].image_root for s in result.sides for run in s.runs]
    root = next(filter(None, roots), None)
    if root is None or len(result.shown) < 2:
        return None
    other = max(result.others, key=lambda side: _size_of_difference(result, side))
    pair = [result.shown[result.base.name], result.shown[other.name]]
    gain = pair[1].scores - pair[0].scores
    order = np.argsort(gain, kind="stable")
    chosen = [
        *((int(k), other.name) for k in order[::-1][:_PICTURES] if gain[k] > 0),
        *((int(k), result.base.name) for k in order[:_PICTURES] if gain[k] < 0),
    ]
    parts, broken = [], 0
    for image, name in chosen:
        scores = " against ".join(f"{100 * side.scores[image]:.0f}" for side in pair)
        title = f"Better: {name} (F1 {scores})"
        try:
            shown = illustrate(result.truth, pair, image, root)
        except UNREADABLE:
            broken += 1
            continue
        parts.append(Picture(title, shown, result.truth.files[image]))
    lead = (
        f"The images on which the first runs of {result.base.name} and {other.name} differ most, "
        "by F1 at IoU 0.5, each from the score on at which its own F1 over all images is best. "
        "Blue is right, orange is wrong or missed."
    )
    if broken:
        missing.append(f"{broken} images cannot be read: no picture of them")
    return Section("Where one is right and the other wrong", parts, lead)


def _size_of_difference(result: Comparison, side: Side) -> float:
    interval = result.differences[side.name].get("AP")
    return abs(interval.difference) if interval else 0.0


def _runs(result: Comparison) -> Section:
    keys = differing(result.sides)
    rows = [
        [
            run.name,
            side.name,
            str(run.record.get("seed", "?")),
            run.status,
            number(run.evaluations[result.dataset].metrics(result.task).get("AP")),
            duration(run.seconds),
            str(run.record.get("precision", "")),
            str(run.record.get("device", "")),
        ]
        for side in result.sides
        for run in side.runs
    ]
    head = ["run", "side", "seed", "status", "AP", "training", "precision", "device"]
    parts = [Table(head, rows, words=(1, 3, 6, 7))]
    if keys:
        config = [[key, *(value_of(side, key) for side in result.sides)] for key in keys]
        head = ["key", *(side.name for side in result.sides)]
        words = tuple(range(1, len(head)))
        parts.append(Table(head, config, "Where their configs differ", folded=True, words=words))
    return Section("Every run", parts)
