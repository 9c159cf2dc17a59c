"""Sections of a run's report about its mistakes: types, confusion, calibration, pictures."""

from collections.abc import Iterable

import numpy as np

from .analysis import Analysis
from .charts import Line, bars, lines
from .diagnosis import ERROR_TYPES, calibration, confusion, error_types
from .gallery import UNREADABLE, Side, choose, illustrate
from .html import Figure, Picture, Section, Table, heat, number
from .runs import Evaluation

__all__ = ["calibration_section", "errors_section", "gallery_section"]

_SHOWN = 4  # pictures of each kind
_FULL_MATRIX = 16  # classes up to which the confusion is shown as a matrix


def errors_section(evaluation: Evaluation, found: Analysis, on: str) -> Section | None:
    if not len(found.found):
        return Section("Errors" + on, ["The run has found nothing at all."])
    errors = error_types(found.truth, found.found, evaluation.max_dets)
    names = list(ERROR_TYPES.values())
    gains = [errors.gains[key] for key in ERROR_TYPES]
    title = "What mending one type of error would bring" + on
    svg = bars(names, {"AP50": gains}, title, x="points of AP50")
    rows = [
        [word, number(errors.gains[key]), f"{errors.counts[key]:,}"]
        for key, word in ERROR_TYPES.items()
    ]
    rows += [
        ["all false alarms (of any kind)", number(errors.gains["FP"]), ""],
        ["all missed objects (of any kind)", number(errors.gains["FN"]), ""],
    ]
    note = (
        f"TIDE on boxes; AP50 is {number(errors.ap50)}. Types do not add up: mending one lets "
        "another count."
    )
    figure = Figure(title, svg, Table(["type", "points of AP50", "errors"], rows), note)
    return Section("Errors" + on, [figure, *_confusion(evaluation, found)])


def _confusion(evaluation: Evaluation, found: Analysis) -> Iterable[str | Table]:
    if len(found.truth.names) < 2:
        return
    result = confusion(found.truth, found.found, evaluation.max_dets, found.min_score)
    names, matrix = [*result.names, "nothing"], result.matrix
    objects = matrix[:-1].sum()
    right = np.trace(matrix[:-1, :-1])
    missed = matrix[:-1, -1].sum()
    shares = [100 * n / max(objects, 1) for n in (right, objects - right - missed, missed)]
    yield (
        f"From score {found.min_score:.2f} on (where F1 is best), and at IoU 0.5, of {objects:,} "
        f"objects {shares[0]:.0f} % were found with their class, {shares[1]:.0f} % taken for "
        f"another class, {shares[2]:.0f} % missed."
    )
    if len(result.names) <= _FULL_MATRIX:
        totals = np.maximum(matrix.sum(axis=1), 1)
        rows = [
            [name, *(heat(str(n), n / total) if n else "" for n in row.tolist())]
            for name, row, total in zip(names, matrix, totals.tolist(), strict=True)
        ]
        yield Table(["truth, by what was said", *names], rows)
        return
    pairs = [[a, b, str(n), f"{share:.0f}"] for a, b, n, share in result.worst(15)]
    if pairs:
        yield Table(["class", "taken for", "times", "% of its objects"], pairs, words=(1,))


def calibration_section(found: Analysis, on: str) -> Section | None:
    result = calibration(found.matches)
    if result is None:
        return None
    scores = [100 * mean for _, _, mean, _ in result.bins]
    right = [100 * share for _, _, _, share in result.bins]
    title = "Is a score the chance to be right?" + on
    drawn = [Line("", [s / 100 for s in scores], [r / 100 for r in right])]
    svg = lines(drawn, title, x="score", y="share that is right", diagonal=True, limits=(0, 1.02))
    rows = [
        [f"{low:.1f} to {low + 0.1:.1f}", f"{count:,}", number(100 * mean), number(100 * share)]
        for low, count, mean, share in result.bins
    ]
    note = (
        f"Expected calibration error {number(result.ece)} % over {result.detections:,} detections "
        "with a score from 0.05 on, at IoU 0.5. Below the dotted line: too sure of itself."
    )
    table = Table(["score", "detections", "mean score, %", "right, %"], rows)
    return Section("Calibration" + on, [Figure(title, svg, table, note)])


def gallery_section(
    evaluation: Evaluation, found: Analysis, on: str, missing: list[str]
) -> Section | None:
    if evaluation.image_root is None:
        return None
    side = Side("predicted", found.matches, found.min_score, found.scores)
    objects = found.matches.truths["all"].sum(axis=0, dtype=np.int64)
    parts, broken = [], []
    for kind, images in choose(found.scores, objects, _SHOWN).items():
        for image in images:
            title = f"{kind.capitalize()}: F1 {100 * found.scores[image]:.0f}"
            file = found.truth.files[image]
            try:
                shown = illustrate(found.truth, [side], image, evaluation.image_root)
            except UNREADABLE:
                broken.append(file)
                continue
            parts.append(Picture(title, shown, file))
    if broken:
        missing.append(f"{len(broken)} images cannot be read, e.g. {broken[0]}: no picture of them")
    lead = (
        f"Best, typical and worst images by F1 at IoU 0.5 of the detections from score "
        f"{found.min_score:.2f} on. Blue is right, orange is wrong or missed."
    )
    return Section("Pictures" + on, parts, lead)
