"""The paper's six claims, each held to the paired differences: reproduced, not, or not decided.

What a claim is decided by is fixed here, before any run is seen: one number of each pair (a split,
target and seed), and the Student interval of its mean.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from . import paper
from .differences import Estimate, against, by_unit, shares, student, welch
from .reading import KINDS, Experiment

__all__ = [
    "MARGIN",
    "NOT",
    "OPEN",
    "YES",
    "Claim",
    "claims",
    "middle",
    "sentence",
    "slope",
    "verdicts",
]

YES, NOT, OPEN = "reproduced", "not reproduced", "not decided at this spread"

# Points below which a difference is called none. The eight base networks of the paper, which differ
# in nothing but their classes, have a standard deviation of 0.55 points: this is two of them.
MARGIN = 1.0
_SHARE = "% of the base"
# Of a dip that is not there. Source: "Does Fragile Co-Adaptation Occur in Small Datasets?", IEEE
# document 8406745.
_SMALL = (
    "the paper saw it with 645,000 images a half; on small data it may be absent (IEEE 8406745), "
    "which refutes nothing"
)
COLLAPSE = 50.0  # percent of the base's accuracy below which features are called collapsed


@dataclass(frozen=True)
class Claim:
    """Attributes:
    short: in a few words
    verdict: one of :data:`YES`, :data:`NOT`, :data:`OPEN`
    estimate: of the number that decides; None where no run gives it
    unit: of the number
    measure: what the number is, after its unit
    digits: after its point
    paper: the same from the paper's numbers
    why: what an undecided claim lacks, or what else is to be known
    """

    claim: str
    short: str
    verdict: str
    estimate: Estimate | None
    unit: str
    measure: str
    digits: int = 1
    paper: float | None = None
    why: str = ""

    @property
    def signed(self) -> bool:
        return self.unit != _SHARE

    @property
    def number(self) -> str:
        if self.estimate is None:
            return "-"
        return self.estimate.text(self.digits, sign=self.signed)


def claims(experiment: Experiment) -> list[Claim]:
    """All six, whatever has been run."""
    kind = experiment.kinds[0]
    where = f"over {KINDS[kind]}s"
    layers = len(experiment.layers)
    return [
        _dip(experiment, kind, where, layers),
        _fall(experiment, kind, where),
        _dissimilar(experiment),
        _collapse(experiment, kind, where),
        _kept(experiment, kind, where, "BnB+", "Fine-tuning recovers what co-adaptation lost: "
              "BnB+ is not below the base", "BnB+ recovers"),
        _kept(experiment, kind, where, "AnB+", "Transferred and fine-tuned features do not hurt: "
              "AnB+ is not below the base", "AnB+ is not below the base"),
    ]  # fmt: skip


# Rules -------------------------------------------------------------------------------------------


def _falls(estimate: Estimate | None, limit: float) -> str:
    """Of "there is a fall": seen; or, if there is one, it is less than `limit`."""
    if estimate is None or estimate.low is None:
        return OPEN
    if estimate.high < 0:
        return YES
    return NOT if estimate.low > -limit else OPEN


def _holds(estimate: Estimate | None, limit: float) -> str:
    """Of "nothing is lost": less than `limit` is; or a loss is seen that may be larger."""
    if estimate is None or estimate.low is None:
        return OPEN
    if estimate.low > -limit:
        return YES
    return NOT if estimate.high < 0 else OPEN


def _lacks(estimate: Estimate | None, needed: str) -> str:
    if estimate is None:
        return f"no finished runs give this number: it needs {needed}"
    if estimate.low is None:
        which = "a single pair has" if estimate.count == 1 else "pairs that are all equal have"
        return f"{which} no interval: another seed or split is needed"
    return ""


# Numbers of a pair -------------------------------------------------------------------------------


def middle(layers: int) -> tuple[float, float]:
    """A cut n is in the middle third of a network if low < n <= high."""
    return layers / 3, 2 * layers / 3


def _inner(cuts: Iterable[int], layers: int) -> list[int]:
    low, high = middle(layers)
    return [n for n in sorted(cuts) if low < n <= high]


def _dip_of(cuts: Mapping[int, float], layers: int) -> float | None:
    """The mean at the middle cuts minus that at the others; None without both."""
    middles = _inner(cuts, layers)
    inner = [value for n, value in cuts.items() if n in middles]
    outer = [value for n, value in cuts.items() if n not in middles]
    return statistics.fmean(inner) - statistics.fmean(outer) if inner and outer else None


def slope(cuts: Mapping[int, float]) -> float | None:
    """Least squares, in points a layer; None of one cut."""
    if len(cuts) < 2:
        return None
    return statistics.linear_regression(list(cuts), list(cuts.values())).slope


def _mean(cuts: Mapping[int, float]) -> float:
    return statistics.fmean(cuts.values())


def _each(
    experiment: Experiment,
    treatment: str,
    kind: str,
    of: Callable[[dict[int, float]], float | None],
) -> list[float]:
    pairs = by_unit(against(experiment, treatment, "base", kind), experiment)
    found = [of({n: cuts[n].value for n in sorted(cuts)}) for cuts in pairs.values()]
    return [value for value in found if value is not None]


def _paper(
    treatment: str, kind: str, of: Callable[[dict[int, float]], float | None]
) -> float | None:
    """A number of the paper's pairs on splits of this kind; None where it has none."""
    found = paper.DIFFERENCES.get((treatment, kind))
    return of(dict(enumerate(found, 1))) if found else None


def _planned(experiment: Experiment, treatment: str, kind: str) -> set[int]:
    """The n that the plan asks of a treatment on splits of a kind."""
    found = experiment.planned(treatment).items()
    return {n for (split, *_), cuts in found for n in cuts if _kind(experiment, split) == kind}


def _kind(experiment: Experiment, split: str) -> str:
    return experiment.splits[split]["kind"]


# The claims --------------------------------------------------------------------------------------


def _dip(experiment: Experiment, kind: str, where: str, layers: int) -> Claim:
    estimate = student(_each(experiment, "BnB", kind, lambda cuts: _dip_of(cuts, layers)))
    verdict = _falls(estimate, MARGIN)
    planned = _inner(_planned(experiment, "BnB", kind), layers) or _inner(range(1, layers), layers)
    inside = ", ".join(map(str, planned))
    why = _lacks(estimate, "BnB at every n of the plan, a middle one among them, with its base")
    return Claim(
        "Co-adapted layers are split apart: BnB dips in the middle of the network",
        "BnB dips in the middle",
        verdict,
        estimate,
        "points",
        f"BnB - base at the middle cuts (n = {inside}) less that at the others, {where}",
        paper=_paper("BnB", kind, lambda cuts: _dip_of(cuts, paper.LAYERS)),
        why=why or ("" if verdict == YES else _SMALL),
    )


def _fall(experiment: Experiment, kind: str, where: str) -> Claim:
    estimate = student(_each(experiment, "AnB", kind, slope))
    return Claim(
        "Higher layers are specific to their task: AnB falls with n",
        "AnB falls with n",
        _falls(estimate, MARGIN / len(experiment.layers)),
        estimate,
        "points a layer",
        f"slope of AnB - base over n, {where}",
        digits=2,
        paper=_paper("AnB", kind, slope),
        why=_lacks(estimate, "AnB at every n of the plan, two or more, with its base"),
    )


def _dissimilar(experiment: Experiment) -> Claim:
    near = next((k for k in experiment.kinds if k != "dissimilar"), None)
    slopes = [
        _each(experiment, "AnB", kind, slope) if kind else [] for kind in ("dissimilar", near)
    ]
    estimate = welch(*slopes)
    return Claim(
        "The more the tasks differ, the more is lost: AnB falls more on a dissimilar split",
        "AnB falls more when dissimilar",
        _falls(estimate, MARGIN / len(experiment.layers)),
        estimate,
        "points a layer",
        "slope of AnB - base over n on the dissimilar split less that on "
        f"{KINDS[near or 'random']}s, Welch's interval",
        digits=2,
        paper=_paper("AnB", "dissimilar", slope) - _paper("AnB", "random", slope),
        why=_lacks(estimate, "AnB at every n of the plan, on a dissimilar and on another split"),
    )


def _collapse(experiment: Experiment, kind: str, where: str) -> Claim:
    pairs = against(experiment, "random", "base", kind)
    deepest = max(_planned(experiment, "random", kind), default=None)
    estimate = student(shares(pairs, deepest))
    why = _lacks(estimate, "runs on random features at the deepest n of the plan, with their base")
    verdict = OPEN
    if deepest and deepest <= len(experiment.layers) / 2:
        why = "the plan leaves no more than the lower half random, where the paper has no collapse"
    elif estimate is not None and estimate.low is not None:
        verdict = YES if estimate.high < COLLAPSE else NOT if estimate.low > COLLAPSE else OPEN
    at = f"n = {deepest}" if deepest else "the deepest n"
    return Claim(
        f"Random features collapse: less than {COLLAPSE:.0f} % of the base is left",
        "random features collapse",
        verdict,
        estimate,
        _SHARE,
        f"accuracy with the first layers left random, {at}, {where}",
        paper=_nearest_share(deepest, len(experiment.layers)),
        why=why,
    )


def _nearest_share(cut: int | None, layers: int) -> float:
    """Of the paper's random features, at the same depth."""
    places = range(1, paper.LAYERS)
    wanted = paper.LAYERS if cut is None else cut * paper.LAYERS / layers
    return paper.SHARES["random"][min(places, key=lambda n: abs(n - wanted)) - 1]


def _kept(
    experiment: Experiment, kind: str, where: str, treatment: str, claim: str, short: str
) -> Claim:
    estimate = student(_each(experiment, treatment, kind, _mean))
    theirs = {"BnB+": paper.PAIRED_BOOST_SELF, "AnB+": paper.PAIRED_BOOST}
    return Claim(
        claim,
        short,
        _holds(estimate, MARGIN),
        estimate,
        "points",
        f"{treatment} - base, mean over n, {where}",
        paper=theirs[treatment][1],
        why=_lacks(estimate, f"{treatment} at every n of the plan, with its base"),
    )


def verdicts(found: Sequence[Claim]) -> str:
    """The sentence on top of the page."""
    said = []
    for verdict in (YES, NOT, OPEN):
        names = [claim.short for claim in found if claim.verdict == verdict]
        if names:
            said.append(f"{len(names)} {verdict} ({'; '.join(names)})")
    return f"Of the paper's {len(found)} claims: {', '.join(said)}."


def sentence(words: str) -> str:
    """With a capital letter."""
    return words[:1].upper() + words[1:]
