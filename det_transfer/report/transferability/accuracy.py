"""Accuracy against n: Figure 2 of the paper, from our runs and as the paper has it."""

import statistics
from collections.abc import Iterable, Sequence

from ..charts import Line, lines
from ..html import NONE, Figure, Table, number
from . import paper
from .figures import COLOUR, CURVES, X, shift_of
from .reading import KINDS, Experiment, TransferRun

__all__ = ["accuracy_figure", "of_the_paper"]


def accuracy_figure(experiment: Experiment, kind: str) -> Figure | None:
    """Top-1 of every run and its mean over n, all treatments."""
    base = [run.top1 for run in experiment.bases(kind)]
    start = {0: base} if base else {}
    by_treatment = {
        treatment: {**start, **_values(experiment.of(treatment, kind), experiment.cuts)}
        for treatment in CURVES
    }
    by_treatment = {t: found for t, found in by_treatment.items() if found.keys() - {0}}
    if not by_treatment:
        return None
    drawn = []
    for k, (treatment, found) in enumerate(by_treatment.items()):
        colour, shift = COLOUR[treatment], shift_of(k, len(by_treatment))
        every = [(n + shift, v) for n, values in found.items() if n for v in values]
        drawn.append(Line("", *_columns(every), colour, single=True))
        means = [statistics.fmean(values) for values in found.values()]
        drawn.append(Line(treatment, [n + shift * bool(n) for n in found], means, colour))
    drawn.append(Line("base", [0] * len(base), base, COLOUR["base"], single=True))
    cuts = [0, *experiment.cuts]
    rows = [
        [f"n = {n}" if n else "base", *(_mean_and_runs(f.get(n)) for f in by_treatment.values())]
        for n in cuts
    ]
    title = f"Accuracy against n, {KINDS[kind]}s"
    svg = lines([line for line in drawn if line.x], title, x=X, y="top-1, %", whole=True)
    table = Table(["mean, runs", *by_treatment], rows, title="Numbers")
    note = "A dot is a run, lines join the means. Figure 2 of the paper."
    if not _complete(experiment, kind, by_treatment):
        note += " Runs are missing: means over unlike targets mislead, the differences do not."
    return Figure(title, svg, table, note)


def _complete(experiment: Experiment, kind: str, treatments: Iterable[str]) -> bool:
    """Whether every mean is over the same splits, targets and seeds."""
    means: dict[tuple[str, int], set[tuple]] = {}
    copies = [run for t in treatments for run in experiment.of(t, kind) if run.n in experiment.cuts]
    for run in (*experiment.bases(kind), *copies):
        means.setdefault((run.treatment, run.n), set()).add(run.unit)
    return len(set(map(frozenset, means.values()))) == 1


def of_the_paper(treatments: Sequence[str] = CURVES) -> Figure:
    """Figure 2 as the paper has it."""
    drawn = [Line(t, *paper.at(paper.TOP1[t], paper.LAYERS, 0), COLOUR[t]) for t in treatments]
    rows = [
        [f"n = {n}" if n else "base", *(number(paper.TOP1[t][n], 2) for t in treatments)]
        for n in range(paper.LAYERS)
    ]
    title = "The same in the paper"
    note = "Halves of ImageNet. BnB+ and AnB+ are means over different targets: do not subtract."
    svg = lines(drawn, title, x=X, y="top-1, %", whole=True)
    return Figure(title, svg, Table(["", *treatments], rows, title="Numbers"), note)


def _values(runs: Sequence[TransferRun], cuts: Sequence[int]) -> dict[int, list[float]]:
    found = {n: [run.top1 for run in runs if run.n == n] for n in cuts}
    return {n: values for n, values in found.items() if values}


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _mean_and_runs(values: Sequence[float] | None) -> str:
    return f"{statistics.fmean(values):.1f}, {len(values)}" if values else NONE
