"""What an experiment lacks, in sentences: runs without a result, and what that leaves unknown."""

from collections.abc import Iterable

from .claims import MARGIN
from .reading import KINDS, Experiment, TransferRun

__all__ = ["missing"]

_NAMED = 4  # runs of one reason that are named


def missing(experiment: Experiment) -> list[str]:
    return [
        *_without_result(experiment),
        *_without_base(experiment),
        *_learned_nothing(experiment),
        *_without_spread(experiment),
    ]


def _names(runs: list[TransferRun]) -> str:
    named = ", ".join(run.name for run in runs[:_NAMED])
    more = len(runs) - _NAMED
    return named + (f" and {more} more" if more > 0 else "")


def _without_result(experiment: Experiment) -> Iterable[str]:
    by_why: dict[str, list[TransferRun]] = {}
    for run in experiment.runs:
        if run.top1 is None:
            by_why.setdefault(run.why, []).append(run)
    for why, runs in by_why.items():
        count = f"{len(runs)} runs, " if len(runs) > 1 else ""
        yield f"{count}{_names(runs)}: {why}"


def _without_base(experiment: Experiment) -> Iterable[str]:
    """Finished, but there is nothing to hold them to."""
    bases = {(*r.unit, r.shots) for r in experiment.finished if r.treatment == "base"}
    alone = [
        run
        for run in experiment.finished
        if run.treatment != "base" and (*run.unit, run.shots) not in bases
    ]
    if alone:
        yield (
            f"{len(alone)} finished runs have no finished base of their split, target, seed and "
            f"examples, and are in no difference: {_names(alone)}"
        )


def _learned_nothing(experiment: Experiment) -> Iterable[str]:
    """Bases at chance: no difference to them means anything."""
    for run in experiment.finished:
        classes = experiment.side(run).get("classes")
        chance = 100 / classes if classes else 0.0
        if run.treatment == "base" and run.top1 < chance + MARGIN:
            yield (
                f"{run.name} has learned nothing: its accuracy is {run.top1:.1f} %, chance is "
                f"{chance:.1f} %; its differences say nothing"
            )


def _without_spread(experiment: Experiment) -> Iterable[str]:
    for kind in experiment.kinds:
        bases = experiment.bases(kind)
        if len({run.unit for run in bases}) == 1:
            yield (
                f"{KINDS[kind]}s: one split, one target and one seed, so that there is no "
                "interval, and nothing is decided"
            )
            continue
        alone = [w for w in ("split", "seed") if len({getattr(run, w) for run in bases}) == 1]
        if alone:
            yield (
                f"{KINDS[kind]}s: one {' and one '.join(alone)}; what another would change is in "
                "no interval"
            )
