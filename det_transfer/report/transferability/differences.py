"""Paired differences: a run against another of the same split, target and seed.

Targets differ in how hard they are, more than treatments do: a mean of one treatment over some
targets minus the mean of another over other targets compares the targets. So every difference is
taken within split, target and seed, and only the differences are averaged.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .reading import Experiment, TransferRun

__all__ = [
    "CONFIDENCE",
    "CONTRASTS",
    "Difference",
    "Estimate",
    "against",
    "at_each_cut",
    "by_unit",
    "differences",
    "shares",
    "student",
    "welch",
]

CONFIDENCE = 0.95

# What is subtracted from what; but for the base, at the same cut.
CONTRASTS = (
    ("BnB", "base"),
    ("BnB+", "base"),
    ("AnB", "base"),
    ("AnB+", "base"),
    ("random", "base"),
    ("AnB", "BnB"),
    ("AnB+", "BnB+"),
)


@dataclass(frozen=True)
class Difference:
    """Top-1 of `run` minus that of `other`, in points."""

    run: TransferRun
    other: TransferRun

    @property
    def value(self) -> float:
        return self.run.top1 - self.other.top1


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; without one where there is a single value, or all are equal.

    Attributes:
        count: values that it is a mean of
    """

    mean: float
    count: int
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 1, *, sign: bool = True) -> str:
        """E.g. "-1.9 (-3.0 to -0.8)"."""
        numbers = [self.mean] if self.low is None else [self.mean, self.low, self.high]
        mean, *span = (
            f"{round(value, digits) + 0.0:{'+' * sign}.{digits}f}"  # no minus before zero
            for value in numbers
        )
        return f"{mean} ({' to '.join(span)})" if span else mean

    def __neg__(self) -> "Estimate":
        if self.low is None:
            return Estimate(-self.mean, self.count)
        return Estimate(-self.mean, self.count, -self.high, -self.low)


def _equal(values: Sequence[float]) -> bool:
    return max(values) - min(values) < 1e-9  # points


def _quantile(freedom: float) -> float:
    from scipy.special import stdtrit  # brought by scikit-learn

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def student(values: Iterable[float]) -> Estimate | None:
    """Mean and 95 % interval of independent values; None of none.

    Values that are all equal, as accuracies on a small test set can be, have no interval either: a
    spread of zero is that of the grid which they lie on.

    Source: Student 1908; mean ± t(0.975, N - 1) s / sqrt(N), s with N - 1.
    """
    values = list(values)
    if not values:
        return None
    mean = statistics.fmean(values)
    if _equal(values):
        return Estimate(mean, len(values))
    half = _quantile(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return Estimate(mean, len(values), mean - half, mean + half)


def welch(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Difference of the means of two samples that share nothing; `count` is the smaller one's.

    Source: Welch 1947; the degrees of freedom are Satterthwaite's (1946).
    """
    if not first or not second:
        return None
    mean = statistics.fmean(first) - statistics.fmean(second)
    count = min(len(first), len(second))
    if count < 2 or (_equal(first) and _equal(second)):
        return Estimate(mean, count)
    parts = [statistics.variance(sample) / len(sample) for sample in (first, second)]
    sizes = (len(first), len(second))
    freedom = sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, sizes, strict=True))
    half = _quantile(freedom) * sum(parts) ** 0.5
    return Estimate(mean, count, mean - half, mean + half)


def against(
    experiment: Experiment,
    treatment: str,
    other: str,
    kind: str,
    *,
    extra: int = 0,
    shots: Any = ...,
) -> list[Difference]:
    """All differences of two treatments on the splits of a kind; without those that lack one."""
    partners = {
        (run.unit, 0 if other == "base" else run.n): run
        for run in experiment.of(other, kind, shots=shots)
    }
    found = []
    for run in experiment.of(treatment, kind, extra=extra, shots=shots):
        partner = partners.get((run.unit, 0 if other == "base" else run.n))
        if partner is not None:
            found.append(Difference(run, partner))
    return found


def differences(experiment: Experiment) -> dict[tuple[str, str, str], list[Difference]]:
    """(treatment, other, kind of split) -> differences, of all that has any."""
    found = {
        (treatment, other, kind): against(experiment, treatment, other, kind)
        for treatment, other in CONTRASTS
        for kind in experiment.kinds
    }
    return {key: pairs for key, pairs in found.items() if pairs}


def at_each_cut(pairs: Sequence[Difference], experiment: Experiment) -> dict[int, Estimate]:
    """n -> the mean difference with its interval, over splits, targets and seeds."""
    found = {n: student(p.value for p in pairs if p.run.n == n) for n in experiment.cuts}
    return {n: estimate for n, estimate in found.items() if estimate is not None}


def shares(pairs: Sequence[Difference], n: int | None) -> list[float]:
    """Top-1 at a cut in percent of what it is held to; without what is held to nothing at all."""
    return [100 * p.run.top1 / p.other.top1 for p in pairs if p.run.n == n and p.other.top1]


def by_unit(
    pairs: Sequence[Difference], experiment: Experiment
) -> Mapping[tuple[str, str, int], dict[int, Difference]]:
    """(split, target, seed) -> n -> the difference; of those that have every n of the plan.

    Means over n of a plan that is half carried out would compare unlike n.
    """
    found: dict[tuple[str, str, int], dict[int, Difference]] = {}
    for pair in pairs:
        if pair.run.n in experiment.cuts:
            found.setdefault(pair.run.unit, {})[pair.run.n] = pair
    wanted = _planned(pairs, experiment)
    return {unit: cuts for unit, cuts in found.items() if set(cuts) == wanted[unit]}


def _planned(
    pairs: Sequence[Difference], experiment: Experiment
) -> Mapping[tuple[str, str, int], set[int]]:
    """The n at which the plan has both sides of the differences; a base is a side of each n."""
    if not pairs:
        return {}
    sides = pairs[0].run, pairs[0].other
    first, second = (experiment.planned(side.treatment, side.shots) for side in sides)
    if sides[1].treatment == "base":
        return first
    return {unit: cuts & second.get(unit, set()) for unit, cuts in first.items()}
