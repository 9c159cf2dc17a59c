"""The report of one run: what was reused, how it trained, how good it is, and where it errs."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..run_folder import REPORT, replacing
from .analysis import Analysis, analyse, truth_of
from .charts import Line, bars, lines
from .html import Code, Figure, Page, Section, Table, Tile, heat, number, render
from .mistakes import calibration_section, errors_section, gallery_section
from .parts import (
    METRICS,
    TASKS,
    class_figure,
    class_rows,
    duration,
    features_section,
    learning_figures,
    millions,
    size,
)
from .runs import Evaluation, Run, read_run

__all__ = ["make_report", "run_page"]

_FOLDED = 24  # classes from which on their table is folded away
_VERDICTS = {
    "unchanged": "to the last bit as it was at the start",
    "changed": "CHANGED during training",
}


def make_report(
    run: str | Path, output: str | Path = "", *, json_file: str = "", images: str = ""
) -> Path:
    """Write the report of a run folder, by default as ``report.html`` in it.

    Args:
        json_file, images: where the test set is now, if not where the run saw it

    Raises:
        UserError: it is no run folder
    """
    folder = Path(run)
    page = run_page(read_run(folder, json_file=json_file, images=images))
    path = Path(output) if str(output) else folder / REPORT
    with replacing(path) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return path


def run_page(run: Run) -> Page:
    """The page of a run as data."""
    page = Page(f"Run {run.name}", _subtitle(run), _lead(run), missing=list(run.missing))
    page.tiles = list(_tiles(run))
    page.sections += _some(_reuse(run), _training(run))
    for evaluation in run.evaluations.values():
        page.sections += _evaluation(run, evaluation, page.missing)
    page.sections += _some(features_section([(run.name, run)]), _cost(run), _made(run))
    page.footer = (
        "Made from the files of the run folder; docs/reports.md says how each number is defined."
    )
    return page


def _some(*sections: Section | None) -> list[Section]:
    return [section for section in sections if section and section.parts]


def _subtitle(run: Run) -> str:
    record = run.record
    parts = [run.status, record.get("device"), str(record.get("ended") or "")[:10]]
    return " · ".join(part for part in parts if part)


def _lead(run: Run) -> str:
    said = []
    for evaluation in run.evaluations.values():
        for task in evaluation.tasks:
            metrics = evaluation.metrics(task)
            named = {"rare": "APr", "common": "APc", "frequent": "APf"}
            if metrics.get("AP") is None:
                continue
            groups = [f"{k} {number(metrics[v])}" for k, v in named.items() if metrics.get(v)]
            groups = f" ({', '.join(groups)})" if groups else ""
            said.append(
                f"{TASKS.get(task, task)} AP {number(metrics['AP'])}{groups} on "
                f"{evaluation.dataset}"
            )
    sentence = "; ".join(said) or "not evaluated"
    if run.parts:
        sentence += f". {millions(run.trained)} of {millions(run.parameters)} parameters trained"
        frozen = run.record.get("frozen")
        if frozen:
            verdict = frozen.get("verdict", "")
            sentence += f"; what is frozen is {_VERDICTS.get(verdict, verdict)}"
    return sentence[0].upper() + sentence[1:] + "."


def _tiles(run: Run) -> Iterable[Tile]:
    for evaluation in run.evaluations.values():
        for task in evaluation.tasks:
            metrics = evaluation.metrics(task)
            for key in ("AP", "AP50", "APr"):
                if metrics.get(key) is not None:
                    label = f"{TASKS.get(task, task)} {key}"
                    yield Tile(label, number(metrics[key]), evaluation.dataset)
    if run.parts:
        share = 100 * run.trained / max(run.parameters, 1)
        yield Tile("trained", millions(run.trained), f"{share:.0f} % of {millions(run.parameters)}")
    if run.seconds:
        step = run.record.get("seconds", {}).get("step_median")
        yield Tile(
            "training", duration(run.seconds), f"{1000 * step:.0f} ms a step" if step else ""
        )
    if run.memory:
        yield Tile("peak memory", size(run.memory))


# What was reused ---------------------------------------------------------------------------------


def _reuse(run: Run) -> Section | None:
    if not run.parts:
        return None
    mode = run.config.get("MODEL.REUSE.MODE")
    said = [f"Mode {mode}" if mode else "Detectron2's own freezing"]
    if run.record.get("weights"):
        said.append(f"started from {run.record['weights']}")
    frozen = run.record.get("frozen")
    if frozen:
        said.append(
            f"guard: {frozen['tensors']} frozen tensors, {frozen['verdict']}, fingerprint "
            f"{frozen['fingerprint'][:12]}"
        )
    rows = [
        [
            part["module"],
            f"{part['parameters']:,}",
            heat(f"{part['trainable']:,}", part["trainable"] / max(part["parameters"], 1)),
            _fate(part),
            part["norm"],
        ]
        for part in run.parts
    ]
    rows.append(["all", f"{run.parameters:,}", f"{run.trained:,}", "", ""])
    table = Table(["part", "parameters", "trained", "", "norms"], rows, words=(3, 4))
    return Section("What was reused, and how", [table], "; ".join(said) + ".")


def _fate(part: dict) -> str:
    if not part["trainable"]:
        return "frozen"
    return "trained" if part["trainable"] == part["parameters"] else "in part"


def _training(run: Run) -> Section:
    evaluation = next(iter(run.evaluations.values()), None)
    task = (evaluation.tasks or ["bbox"])[0] if evaluation else "bbox"
    figures = learning_figures(
        [(run.name, run, 0)], evaluation.dataset if evaluation else None, task
    )
    return Section("Training", figures)


# How good it is ----------------------------------------------------------------------------------


def _evaluation(run: Run, evaluation: Evaluation, missing: list[str]) -> list[Section]:
    several = len(run.evaluations) > 1
    on = f" on {evaluation.dataset}" if several else ""
    sections = [_accuracy(evaluation, on), _classes(run, evaluation, on), _curves(evaluation, on)]
    try:
        truth = truth_of(evaluation)
        found = analyse(run, evaluation, truth, areas=("all",))
    except UserError as error:
        missing.append(f"error types, calibration and pictures{on}: {error}")
        return _some(*sections)
    empty = [n for n, count in zip(truth.names, _objects(found), strict=True) if not count]
    if empty:
        names = ", ".join(empty[:5]) + ", ..." * (len(empty) > 5)
        missing.append(
            f"{len(empty)} of {len(truth.names)} classes have no object in {evaluation.dataset} "
            f"({names}): they have no AP and count in no mean"
        )
    sections += [errors_section(evaluation, found, on), calibration_section(found, on)]
    return _some(*sections, gallery_section(evaluation, found, on, missing))


def _objects(found: Analysis) -> list[int]:
    return found.matches.truths["all"].sum(axis=1, dtype=np.int64).tolist()


def _accuracy(evaluation: Evaluation, on: str) -> Section:
    results, parts = evaluation.results, []
    tasks = evaluation.tasks
    by_task = {TASKS.get(task, task): evaluation.metrics(task) for task in tasks}
    names = [name for name in METRICS if any(name in m for m in by_task.values())]
    rows = [[METRICS[n], *(number(m.get(n)) for m in by_task.values())] for n in names]
    recalls = dict.fromkeys(n for m in by_task.values() for n in m if n.startswith("AR"))
    rows += [[f"recall, {n}", *(number(m.get(n)) for m in by_task.values())] for n in recalls]
    table = Table(["", *by_task], rows)
    for title, keys in (
        ("AP by object size", ("APs", "APm", "APl")),
        ("AP by class frequency", ("APr", "APc", "APf")),
    ):
        shown = [key for key in keys if key in names]
        if shown:
            values = {
                task: [np.nan if m.get(k) is None else m[k] for k in shown]
                for task, m in by_task.items()
            }
            labels = [METRICS[key].split(",")[0] for key in shown]
            folded = [
                [label, *(number(v[k]) for v in values.values())] for k, label in enumerate(labels)
            ]
            svg = bars(labels, values, title + on, x="AP")
            parts.append(Figure(title, svg, Table(["", *values], folded)))
    lead = (
        f"{results.get('images', '?')} images, {results.get('instances', '?')} objects, "
        f"{results.get('categories', '?')} classes; {evaluation.protocol.upper()} protocol with "
        f"{results.get('backend', '?')}; all numbers in 0 to 100."
    )
    return Section("Accuracy" + on, [*parts, table] if rows else [], lead)


def _classes(run: Run, evaluation: Evaluation, on: str) -> Section | None:
    parts = []
    for task in evaluation.tasks:
        rows = class_rows(run, evaluation, task)
        if not any(row.value is not None for row in rows):
            continue
        said = f", {TASKS.get(task, task)}" if len(evaluation.tasks) > 1 else ""
        parts.append(class_figure(rows, f"AP by class{said}{on}", "AP"))
        order = sorted(rows, key=lambda row: -1 if row.value is None else row.value, reverse=True)
        cells = [
            [
                row.name,
                heat(number(row.value), (row.value or 0) / 100),
                number(row.images, 0),
                number(row.objects, 0),
                str(row.n_gt),
                row.frequency or "",
            ]
            for row in order
        ]
        head = ["class", "AP", "training images", "training objects", "test objects", "group"]
        title = f"All {len(rows)} classes{said}"
        parts.append(Table(head, cells, title, folded=len(rows) > _FOLDED, words=(5,)))
    parts.sort(key=lambda part: part.kind)  # figures beside one another
    return Section("By class" + on, parts)


def _curves(evaluation: Evaluation, on: str) -> Section | None:
    arrays, parts = evaluation.curves(), []
    for task in evaluation.tasks:
        precision = arrays.get(f"{task}_precision")
        if precision is None or np.isnan(precision).all():
            continue
        recall = arrays["recall_thresholds"]
        known = ~np.isnan(precision[0, :, 0])
        means = 100 * precision[:, known].mean(axis=1)
        names = ("IoU 0.50", "IoU 0.75", "mean over IoU")
        drawn = [
            Line(name, (100 * recall).tolist(), mean.tolist(), k)
            for k, (name, mean) in enumerate(zip(names, means, strict=True))
        ]
        title = f"Precision over recall, {TASKS.get(task, task)}{on}"
        svg = lines(drawn, title, x="recall, %", y="precision, %", limits=(0, 102))
        rows = [
            [f"{100 * recall[k]:.0f}", *(number(m[k]) for m in means)] for k in range(0, 101, 10)
        ]
        note = f"mean over the {known.sum()} classes with an object in the test set"
        parts.append(Figure(title, svg, Table(["recall, %", *names], rows), note))
    return Section("Precision and recall" + on, parts)


# What it took ------------------------------------------------------------------------------------


def _cost(run: Run) -> Section:
    record, seconds = run.record, run.record.get("seconds", {})
    batch = run.config.get("SOLVER.IMS_PER_BATCH")
    peaks = record.get("peak_memory_bytes") or {}
    operations = record.get("step_operations")
    facts = [
        ("iterations", record.get("max_iteration")),
        ("images an iteration", batch),
        ("training", duration(seconds.get("training"))),
        ("evaluation", duration(seconds.get("evaluation"))),
        (
            "a step, median",
            f"{1000 * seconds['step_median']:.0f} ms" if "step_median" in seconds else None,
        ),
        *((f"peak memory, {where}", size(count)) for where, count in peaks.items()),
        ("operations of a step", f"{operations / 1e9:,.0f} G FLOP" if operations else None),
        ("parameters", f"{run.parameters:,}" if run.parts else None),
        ("of these trained", f"{run.trained:,}" if run.parts else None),
        ("precision", record.get("precision")),
        ("device", record.get("device")),
        ("processes", record.get("processes")),
    ]
    rows = [[name, str(value)] for name, value in facts if value not in (None, "", "-")]
    return Section("Cost", [Table(["", ""], rows, words=(1,))] if rows else [])


def _made(run: Run) -> Section:
    parts: list = []
    if run.record.get("command"):
        parts.append(Code(run.record["command"]))
    versions = run.record.get("versions", {})
    if versions:
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        parts.append(f"Seed {run.record.get('seed', '?')}; {said}.")
    if run.config:
        rows = [[key, json.dumps(value, default=str)] for key, value in run.config.items()]
        parts.append(Table(["key", "value"], rows, "The complete config", folded=True, words=(1,)))
    return Section("How it was made", parts)
