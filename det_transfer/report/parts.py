"""Parts that the report of a run and the comparison of runs share."""

from collections.abc import Sequence
from typing import Any

from .by_class import GROUPS, ClassRow, bins, group_of, smoothed
from .charts import Line, lines, scatter
from .html import Figure, Section, Table, number
from .runs import Evaluation, Run

__all__ = ["METRICS", "TASKS", "class_figure", "duration", "features_section", "millions", "size"]

TASKS = {"bbox": "box", "segm": "mask"}
METRICS = {
    "AP": "AP, mean over IoU 0.50 to 0.95",
    "AP50": "AP at IoU 0.50",
    "AP75": "AP at IoU 0.75",
    "APs": "small, under 32² pixels",
    "APm": "medium",
    "APl": "large, over 96² pixels",
    "APr": "rare",
    "APc": "common",
    "APf": "frequent",
}
_COLOUR = {"r": 1, "c": 0, "f": 2, None: 7}


def millions(count: int) -> str:
    """E.g. "2.52 M"."""
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,}"


def size(count: float | None) -> str:
    """Bytes for a reader."""
    return "-" if count is None else f"{count / 1e9:.1f} GB"


def duration(seconds: float | None) -> str:
    """E.g. "3 min 05 s", "2 h 10 min"."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def class_rows(run: Run, evaluation: Evaluation, task: str) -> list[ClassRow]:
    """AP by class with what there was to learn from."""
    learned = run.training_classes()
    rows = []
    for row in evaluation.categories(task):
        images, objects = learned.get(row["name"], (None, None))
        if images is None and row["image_count"]:
            images = int(row["image_count"])
        frequency = row["frequency"] or None
        counts = (row["AP"], images, objects, frequency, row["n_gt"])
        rows.append(ClassRow(row["name"], *counts))
    return rows


def class_figure(rows: Sequence[ClassRow], title: str, what: str, *, zero: bool = False) -> Figure:
    """A value by class over the class's number of training objects, and by group."""
    known = [row for row in rows if row.value is not None]
    count, of = _count_of(known)
    points = [(max(count(row), 0.5), row.value) for row in known if count(row) is not None]
    groups = [group_of(row) for row in known if count(row) is not None]
    svg = scatter(
        points,
        title,
        x=of,
        y=what,
        smooth=smoothed(*zip(*points, strict=True)) if points else None,
        colours=[_COLOUR[group] for group in groups],
        zero=zero,
    )
    present = [name for letter, name in GROUPS.items() if letter in groups]
    colours = {"rare": "orange", "common": "blue", "frequent": "green"}
    note = ", ".join(f"{name} {colours[name]}" for name in present)
    note += f"{'; ' * bool(note)}the line is a mean over classes of a similar count"
    head = ["group", "classes", f"mean {what}", f"median {what}"]
    numbers = [[n, str(k), number(a, sign=zero), number(b, sign=zero)] for n, k, a, b in bins(rows)]
    return Figure(title, svg, Table(head, numbers, title="Numbers by group"), note)


def _count_of(rows: Sequence[ClassRow]):
    """What a class is counted by: the best that is known of all."""
    if all(row.objects is not None for row in rows):
        return (lambda row: row.objects), "objects in the training data"
    if all(row.images is not None for row in rows):
        return (lambda row: row.images), "images in the training data"
    return (lambda row: row.n_gt or None), "objects in the test set"


def learning_figures(
    runs: Sequence[tuple[str, Run, int]], dataset: str | None, task: str
) -> list[Figure]:
    """Loss, and the AP of all evaluations, over the iterations.

    Args:
        runs: word of the legend, run, colour; those of one word are seeds
    """
    found = []
    for key, y, title, log in (
        ("total_loss", "total loss", "Training loss", True),
        ("lr", "learning rate", "Learning rate", False),
    ):
        drawn = [Line(name, *run.curve(key), colour) for name, run, colour in runs]
        drawn = [line for line in drawn if line.x]
        if drawn and (key == "total_loss" or len(runs) == 1):
            positive = all(value > 0 for line in drawn for value in line.y)
            svg = lines(drawn, title, x="iteration", y=y, log=log and positive)
            found.append(Figure(title, svg, curve_table(drawn, y)))
    if dataset:
        drawn = [
            Line(name, *run.evaluated(dataset, f"{task}/AP"), colour) for name, run, colour in runs
        ]
        drawn = [line for line in drawn if line.x]
        if any(len(line.x) > 1 for line in drawn):
            title = f"AP on the way, {TASKS.get(task, task)}"
            svg = lines(drawn, title, x="iteration", y="AP")
            found.append(Figure(title, svg, curve_table(drawn, "AP")))
    return found


def curve_table(drawn: Sequence[Line], y: str) -> Table:
    rows = []
    for line in drawn:
        step = max(1, len(line.x) // 10)
        places = sorted({*range(0, len(line.x), step), len(line.x) - 1})
        rows += [[line.name, str(line.x[k]), f"{line.y[k]:.4g}"] for k in places]
    return Table(["", "iteration", y], rows)


def features_section(runs: Sequence[tuple[str, Run]]) -> Section | None:
    """What the backbone kept (tools/compare_features.py); None where nobody looked."""
    known = [(name, run.features) for name, run in runs if run.features]
    if not known:
        return None
    data = known[0][1].get("data", {})
    section = Section(
        "What the backbone kept",
        lead=(
            f"Its stages before and after training, on {data.get('name', 'a classification set')} "
            f"({data.get('images', '?')} images, {data.get('classes', '?')} classes). Distance is "
            "that of the weights to the start, relative; CKA is the likeness of the features, 1 "
            "being the same; kNN and linear probe are accuracies in percent."
        ),
    )
    cka = []
    for k, (name, features) in enumerate(known):
        stages = features.get("stages", [])
        places = list(range(1, len(stages) + 1))
        cka.append(Line(name, places, [stage["cka"] for stage in stages], k))
    title = "Likeness of the features to the start"
    svg = lines(cka, title, x="stage", y="linear CKA", limits=(0, 1.05))
    section.parts.append(Figure(title, svg, _features_table(known)))
    section.parts.append(_features_table(known))
    return section


def _features_table(known: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    head = ["", "stage", "distance", "CKA", "kNN before", "after", "probe before", "after"]
    rows = [
        [
            name,
            str(stage["stage"]),
            number(stage.get("weights_distance"), 3),
            number(stage.get("cka"), 3),
            *(
                number(stage.get(kind, {}).get(when))
                for kind in ("knn", "probe")
                for when in ("before", "after")
            ),
        ]
        for name, features in known
        for stage in features.get("stages", [])
    ]
    return Table(head, rows, words=(1,))
