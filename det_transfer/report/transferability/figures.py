"""Differences as curves over n, over training and over examples, with the paper's dashed under."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from ..charts import Line, lines
from ..html import NONE, Figure, Table, number
from . import paper
from .differences import Difference, Estimate, against, at_each_cut, by_unit, shares, student
from .reading import KINDS, Experiment

__all__ = [
    "COLOUR",
    "CURVES",
    "X",
    "difference_figure",
    "dissimilar_figure",
    "drop_figure",
    "random_figure",
    "shift_of",
    "shots_figure",
    "time_figure",
]

COLOUR = {"base": 7, "BnB": 0, "BnB+": 2, "AnB": 1, "AnB+": 4, "random": 6}
CURVES = ("BnB", "BnB+", "AnB", "AnB+")
X = "n, layers copied"
_BETWEEN = 0.05  # cuts between series, so that their intervals can be told apart
_DASHED = "Dashed: the paper's numbers, on ImageNet with a network of eight layers"


def _under(values: Sequence[float], layers: int, colour: int, first: int = 1) -> Line:
    return Line("", *paper.at(tuple(values), layers, first), colour, dashed=True)


def _note(words: str, drawn: bool, layers: int) -> str:
    if not drawn:
        return words
    stretched = "" if layers == paper.LAYERS else f", its n stretched to {layers} layers"
    return f"{words} {_DASHED}{stretched}."


def _curve(name: str, found: Mapping[int, Estimate], colour: int, shift: float = 0) -> Line:
    """Means over n with their intervals."""
    spans = [(e.mean if e.low is None else e.low, e.mean if e.low is None else e.high)
             for e in found.values()]  # fmt: skip
    return Line(name, [n + shift for n in found], [e.mean for e in found.values()], colour,
                spans=spans)  # fmt: skip


def _limits(drawn: Iterable[Line], dots: Iterable[float]) -> tuple[float, float]:
    """Of y: means, dots and paper; an interval may go beyond, else one of two pairs hides all."""
    values = [*dots, *(y for line in drawn for y in line.y), 0.0]
    room = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def _dots(pairs: Sequence[Difference], experiment: Experiment, colour: int, shift: float) -> Line:
    shown = [p for p in pairs if p.run.n in experiment.cuts]
    places = [p.run.n + shift for p in shown]
    return Line("", places, [p.value for p in shown], colour, single=True)


def _by_cut(found: Mapping[str, Mapping[int, Estimate]], cuts: Sequence[int]) -> Table:
    """A row for each cut, a column for each curve: mean, interval and pairs."""
    cell = {
        name: {n: f"{e.text()}, {e.count}" for n, e in of.items()} for name, of in found.items()
    }
    rows = [[f"n = {n}", *(cell[name].get(n, NONE) for name in found)] for n in cuts]
    return Table(["mean (95 %), pairs", *found], rows, title="Numbers")


def shift_of(k: int, of: int) -> float:
    """Cuts by which the k-th of some series is moved aside."""
    return (k - (of - 1) / 2) * _BETWEEN


# Differences -------------------------------------------------------------------------------------


def difference_figure(experiment: Experiment, kind: str, with_paper: bool) -> Figure | None:
    """Each treatment minus its own base."""
    pairs = {t: against(experiment, t, "base", kind) for t in CURVES}
    title = f"Difference to the base, {KINDS[kind]}s"
    return _differences(
        experiment,
        title,
        {t: (found, COLOUR[t], (t, kind)) for t, found in pairs.items()},
        with_paper,
        "Against the base of the same split, target and seed. A stroke is the 95 % interval; one "
        "that leaves the figure is in the numbers.",
    )


def dissimilar_figure(experiment: Experiment, with_paper: bool) -> Figure | None:
    """AnB minus its base on similar and dissimilar splits."""
    colours = {"random": 1, "file": 0, "dissimilar": 6}
    series = {
        KINDS[kind]: (against(experiment, "AnB", "base", kind), colours[kind], ("AnB", kind))
        for kind in experiment.kinds
    }
    return _differences(
        experiment,
        "Similar and dissimilar tasks: AnB",
        series,
        with_paper,
        "AnB minus its own base. Figure 3 of the paper.",
    )


def _differences(
    experiment: Experiment,
    title: str,
    series: Mapping[str, tuple[list[Difference], int, tuple[str, str]]],
    with_paper: bool,
    words: str,
) -> Figure | None:
    """Curves of differences over n: name -> pairs, colour, and which the paper's is."""
    found, curves, dots, under = {}, [], [], []
    for k, (name, (pairs, colour, theirs)) in enumerate(series.items()):
        estimates = at_each_cut(pairs, experiment)
        if not estimates:
            continue
        found[name] = estimates
        shift = shift_of(k, len(series))
        curves.append(_curve(name, estimates, colour, shift))
        dots.append(_dots(pairs, experiment, colour, shift))
        if with_paper and theirs in paper.DIFFERENCES:
            values = paper.DIFFERENCES[theirs]
            under.append(_under(values, len(experiment.layers), colour))
    if not found:
        return None
    limits = _limits([*curves, *under], [y for line in dots for y in line.y])
    y = "points of top-1"
    svg = lines([*under, *dots, *curves], title, x=X, y=y, limits=limits, zero=True, whole=True)
    note = _note(words, bool(under), len(experiment.layers))
    return Figure(title, svg, _by_cut(found, experiment.cuts), note)


def drop_figure(experiment: Experiment, kind: str, with_paper: bool) -> Figure | None:
    """What is lost, in two parts: co-adaptation that is broken, and features that are specific."""
    parts = {
        "co-adaptation, base - BnB": ("BnB", "base", 0),
        "specificity, BnB - AnB": ("AnB", "BnB", 1),
    }
    found, drawn = {}, []
    for k, (name, (treatment, other, colour)) in enumerate(parts.items()):
        estimates = at_each_cut(against(experiment, treatment, other, kind), experiment)
        if not estimates:
            return None  # without one part the other is the difference to the base
        found[name] = {n: -estimate for n, estimate in estimates.items()}
        drawn.append(_curve(name, found[name], colour, shift_of(k, len(parts))))
    layers, under = len(experiment.layers), []
    if with_paper and kind == "random":
        bnb, anb = (paper.DIFFERENCES[t, "random"] for t in ("BnB", "AnB"))
        under = [
            _under([-b for b in bnb], layers, 0),
            _under([b - a for b, a in zip(bnb, anb, strict=True)], layers, 1),
        ]
    title = f"Why accuracy drops, {KINDS[kind]}s"
    limits = _limits([*drawn, *under], ())
    svg = lines([*under, *drawn], title, x=X, y="points lost", limits=limits, zero=True, whole=True)
    words = (
        "What BnB loses is fragile co-adaptation of layers that were split apart; what AnB loses "
        "beyond that is specific to the source's task. Their sum is base - AnB. A stroke is the "
        "95 % interval."
    )
    table = _by_cut(found, experiment.cuts)
    return Figure(title, svg, table, _note(words, bool(under), layers))


def random_figure(experiment: Experiment, kind: str, with_paper: bool) -> Figure | None:
    """Frozen features, trained and random, by what is left of the base's accuracy."""
    found, drawn, under = {}, [], []
    layers = len(experiment.layers)
    for treatment in ("BnB", "AnB", "random"):
        pairs = against(experiment, treatment, "base", kind)
        left = {n: student(shares(pairs, n)) for n in experiment.cuts}
        left = {n: estimate for n, estimate in left.items() if estimate}
        if left:
            found[treatment] = left
            means = [estimate.mean for estimate in left.values()]
            drawn.append(Line(treatment, list(left), means, COLOUR[treatment]))
            if with_paper and kind == "random":
                under.append(_under(paper.SHARES[treatment], layers, COLOUR[treatment]))
    if "random" not in found:
        return None
    rows = [[f"n = {n}", *(_share(found[t].get(n)) for t in found)] for n in experiment.cuts]
    title = f"Random features, {KINDS[kind]}s"
    svg = lines([*under, *drawn], title, x=X, y="% of the base's accuracy", whole=True)
    words = "Layers frozen as copied, and frozen as initialised. Figure 3 of the paper."
    table = Table(["mean (95 %), pairs", *found], rows, title="Numbers")
    return Figure(title, svg, table, _note(words, bool(under), layers))


def _share(estimate: Estimate | None) -> str:
    return NONE if estimate is None else f"{estimate.text(sign=False)}, {estimate.count}"


# Over training, and with fewer examples ----------------------------------------------------------


def time_figure(experiment: Experiment, kind: str) -> Figure | None:
    """AnB+ minus its base at every evaluation that both had."""
    pairs = against(experiment, "AnB+", "base", kind)
    drawn, rows = [], []
    for k, cut in enumerate(experiment.cuts):
        steps: dict[int, list[float]] = {}
        for pair in (p for p in pairs if p.run.n == cut):
            base = dict(pair.other.curve)
            for iteration, top1 in pair.run.curve:
                if iteration in base:
                    steps.setdefault(iteration, []).append(top1 - base[iteration])
        if len(steps) > 1:
            places = sorted(steps)
            means = [statistics.fmean(steps[i]) for i in places]
            drawn.append(Line(f"n = {cut}", places, means, k))
            rows += [
                [f"n = {cut}", str(i), number(m, sign=True), str(len(steps[i]))]
                for i, m in zip(places, means, strict=True)
            ]
    if not drawn:
        return None
    title = f"AnB+ minus base while training, {KINDS[kind]}s"
    svg = lines(drawn, title, x="iteration", y="points of top-1", zero=True)
    table = Table(["", "iteration", "points", "pairs"], rows, title="Numbers")
    note = "Means over pairs: whether the head start of copied layers lasts."
    return Figure(title, svg, table, note)


def shots_figure(experiment: Experiment, kind: str) -> Figure | None:
    """Each treatment minus the base with as many examples a class, mean over n."""
    shots = sorted({r.shots for r in experiment.finished if r.kind == kind and r.shots is not None})
    found = {}
    for treatment in ("AnB", "AnB+"):
        means = {s: student(_unit_means(experiment, treatment, kind, s)) for s in shots}
        means = {s: estimate for s, estimate in means.items() if estimate}
        if means:
            found[treatment] = means
    if not found or len(shots) < 2:
        return None
    drawn = [_curve(t, estimates, COLOUR[t]) for t, estimates in found.items()]
    title = f"Fewer examples a class, {KINDS[kind]}s"
    limits = _limits(drawn, ())
    svg = lines(drawn, title, x="examples a class", y="points of top-1", limits=limits, zero=True)
    rows = [
        [str(s), *(f"{e.text()}, {e.count}" if (e := f.get(s)) else NONE for f in found.values())]
        for s in shots
    ]
    table = Table(["examples", *found], rows, title="Numbers")
    note = "Minus the base with as many examples, mean over n; (95 %) and pairs in the numbers."
    return Figure(title, svg, table, note)


def _unit_means(experiment: Experiment, treatment: str, kind: str, shots: int) -> list[float]:
    pairs = against(experiment, treatment, "base", kind, shots=shots)
    found = by_unit(pairs, experiment).values()
    return [statistics.fmean(pair.value for pair in cuts.values()) for cuts in found]
