"""The tables of the page: boosts as in the paper's Table 1, every difference, every run."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..html import NONE, Table, number
from ..parts import duration
from . import paper
from .claims import Claim, sentence
from .differences import Difference, Estimate, against, at_each_cut, by_unit, differences, student
from .reading import KINDS, Experiment

__all__ = [
    "Boost",
    "base_table",
    "boost_table",
    "boosts",
    "check_sentence",
    "claims_table",
    "difference_tables",
    "extra_table",
    "measures_table",
    "run_table",
]

_FIRSTS = (1, 3, 5)  # layers that the ranges of the paper's Table 1 begin with


def claims_table(found: Sequence[Claim]) -> Table:
    rows = [
        [
            sentence(claim.short),
            claim.verdict,
            claim.number,
            str(claim.estimate.count) if claim.estimate else NONE,
            number(claim.paper, claim.digits, sign=claim.signed),
        ]
        for claim in found
    ]
    return Table(["claim", "", "number (95 %)", "pairs", "paper"], rows, words=(1,))


def measures_table(found: Sequence[Claim], rule: str) -> Table:
    rows = [[f"{claim.claim}: {claim.unit}, {claim.measure}."] for claim in found]
    return Table(["what the numbers are"], [*rows, [rule]], "How it is decided", folded=True)


# Table 1 of the paper ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Boost:
    """Points that AnB+ brings, mean over the cuts first to last, then over pairs."""

    kind: str
    first: int
    last: int
    over_base: Estimate
    over_self: Estimate | None


def boosts(experiment: Experiment) -> list[Boost]:
    """Of each kind of split and range of cuts that has any."""
    found = []
    for kind in experiment.kinds:
        base, own = (against(experiment, "AnB+", other, kind) for other in ("base", "BnB+"))
        last = len(experiment.layers) - 1
        for first in _FIRSTS:
            over_base = _over_range(base, experiment, first)
            if over_base is not None:
                over_self = _over_range(own, experiment, first)
                found.append(Boost(kind, first, last, over_base, over_self))
    return found


def _over_range(pairs: Sequence[Difference], experiment: Experiment, first: int) -> Estimate | None:
    means = []
    for cuts in by_unit(pairs, experiment).values():
        values = [pair.value for n, pair in cuts.items() if n >= first]
        if values:
            means.append(statistics.fmean(values))
    return student(means)


def boost_table(experiment: Experiment, with_paper: bool) -> Table | None:
    found = boosts(experiment)
    if not found:
        return None
    with_paper = with_paper and len(experiment.layers) == paper.LAYERS
    head = ["layers kept", "over the base (95 %)", "over BnB+ (95 %)", "pairs"]
    if with_paper:
        head += ["paper: base", "BnB+", "base, paired"]
    rows = []
    for boost in found:
        theirs = paper.BOOST[boost.first]
        rows.append(
            [
                f"{boost.first} to {boost.last}, {KINDS[boost.kind]}s",
                boost.over_base.text(2),
                boost.over_self.text(2) if boost.over_self else NONE,
                str(boost.over_base.count),
            ]
        )
        if with_paper and boost.kind == "random":
            paired = paper.PAIRED_BOOST[boost.first]
            rows[-1] += [number(v, sign=True) for v in theirs] + [number(paired, 2, sign=True)]
        elif with_paper:
            rows[-1] += [NONE] * 3
    return Table(head, rows)


# Differences -------------------------------------------------------------------------------------


def difference_tables(experiment: Experiment) -> Iterable[Table]:
    """A table a kind of split: a row for each treatment pair, a column for each cut."""
    everything = differences(experiment)
    for kind in experiment.kinds:
        rows = []
        for (treatment, other, of), pairs in everything.items():
            found = at_each_cut(pairs, experiment) if of == kind else {}
            if found:
                cells = [found[n].text() if n in found else NONE for n in experiment.cuts]
                most = max(estimate.count for estimate in found.values())
                rows.append([f"{treatment} - {other}", str(most), *cells])
        if rows:
            head = [f"{KINDS[kind]}s", "pairs", *(f"n = {n}" for n in experiment.cuts)]
            yield Table(head, rows)


def extra_table(experiment: Experiment) -> Table | None:
    """Layers beyond n that are copied too, and learn: does that cure what the cut breaks?"""
    extras = sorted({run.extra for run in experiment.finished})
    if len(extras) < 2:
        return None
    rows = []
    for kind in experiment.kinds:
        for treatment in ("BnB", "AnB"):
            by_extra = {
                k: at_each_cut(against(experiment, treatment, "base", kind, extra=k), experiment)
                for k in extras
            }
            for n in experiment.cuts:
                cells = [by_extra[k][n].text() if n in by_extra[k] else NONE for k in extras]
                if any(n in by_extra[k] for k in extras if k):
                    rows.append([f"{treatment} - base, n = {n}, {KINDS[kind]}s", *cells])
    return Table(["", *(f"{k} more" if k else "none" for k in extras)], rows) if rows else None


def check_sentence(experiment: Experiment) -> str:
    """Whether a network that is all copied and frozen is its base; "" where none was run."""
    last = len(experiment.layers)
    gaps = [
        abs(pair.value)
        for kind in experiment.kinds
        for pair in against(experiment, "BnB", "base", kind)
        if pair.run.n == last
    ]
    if not gaps:
        return ""
    found = f"differs from it by up to {max(gaps):.2f} points" if max(gaps) else "does"
    return (
        f"Check: with all {last} layers copied and frozen (n = {last}) nothing is learned, so that "
        f"BnB must equal its base; it {found} ({len(gaps)} run{'s' * (len(gaps) != 1)})."
    )


# Runs --------------------------------------------------------------------------------------------


def base_table(experiment: Experiment) -> Table:
    rows = []
    for run in (run for run in experiment.finished if run.treatment == "base"):
        side = experiment.side(run)
        shots = "" if run.shots is None else f", {run.shots} a class"
        rows.append(
            [
                f"{run.split}, {run.target}{shots}",
                str(run.seed),
                str(side.get("classes", NONE)),
                str(side.get("images", NONE)),
                number(run.top1),
            ]
        )
    return Table(["base", "seed", "classes", "images", "top-1"], rows)


def run_table(experiment: Experiment) -> Table:
    rows = [
        [
            run.name,
            run.treatment,
            str(run.n),
            number(run.top1),
            duration(run.record.get("seconds", {}).get("training")),
            run.why and run.why.split(" (")[0],
        ]
        for run in experiment.runs
    ]
    head = ["run", "treatment", "n", "top-1", "training", ""]
    return Table(head, rows, f"All {len(rows)} runs", folded=True, words=(1, 5))
