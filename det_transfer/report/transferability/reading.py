"""A transferability experiment as its page reads it: which runs there are, and how they ended.

The plan folder holds ``transferability.json`` (which runs, of which treatment) and a run folder for
each. A run that has failed, was stopped or is still to come has no accuracy but a reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ... import run_folder
from ...errors import UserError, raise_all
from ...formats import TRANSFERABILITY, check
from ..runs import Run

__all__ = ["FILE", "KINDS", "TREATMENTS", "Experiment", "TransferRun", "read_experiment"]

FILE = "transferability.json"
VERSION = 1
TREATMENTS = ("base", "BnB", "BnB+", "AnB", "AnB+", "random")
KINDS = {"random": "random split", "file": "given split", "dissimilar": "dissimilar split"}
METRIC = "top1"
_KEYS = ("name", "split", "seed", "treatment", "source", "target", "n", "extra", "shots", "label")
_PLAN = "plan.json"  # of the plan runner, in a run folder: how the last try ended
_NOT_YET = "not run yet"


@dataclass(frozen=True)
class TransferRun:
    """A run of the experiment, finished or not.

    Attributes:
        kind: of the split, a key of :data:`KINDS`
        n: layers that are copied; 0 of a base
        extra: further ones, copied but not frozen
        shots: examples a class of the target; None: all
        top1: on the target's test set, in percent; None where there is none
        why: of a run without, e.g. "interrupted"
        curve: (iteration, top1) of the evaluations on the way
        record: of run.json
    """

    name: str
    split: str
    kind: str
    seed: int
    treatment: str
    source: str | None
    target: str
    n: int
    extra: int
    shots: int | None
    label: str
    top1: float | None = None
    why: str = ""
    curve: tuple[tuple[int, float], ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def unit(self) -> tuple[str, str, int]:
        """Split, target and seed: what a difference is taken within."""
        return self.split, self.target, self.seed


@dataclass
class Experiment:
    """Attributes:
    layers: their names in order; a cut n is after the n-th
    splits: name -> kind, and classes and images of A and B
    """

    folder: Path
    title: str
    layers: Sequence[str]
    splits: Mapping[str, Mapping[str, Any]]
    runs: Sequence[TransferRun]

    @cached_property
    def finished(self) -> list[TransferRun]:
        return [run for run in self.runs if run.top1 is not None]

    @cached_property
    def kinds(self) -> list[str]:
        """Of the splits with a finished run."""
        return [kind for kind in KINDS if any(run.kind == kind for run in self.finished)]

    @cached_property
    def main_shots(self) -> int | None:
        """Examples a class in the figures: all where some runs have all, else the most."""
        # Bases that give layers to others have all, whatever those have.
        copies = [run.shots for run in self.runs if run.treatment != "base"]
        known = copies or [run.shots for run in self.runs]
        return None if None in known else max(known)

    @cached_property
    def cuts(self) -> list[int]:
        """The n of the figures: with at least one layer copied and one new."""
        found = {run.n for run in self.finished if run.treatment != "base"}
        return [n for n in sorted(found) if 0 < n < len(self.layers)]

    def planned(self, treatment: str, shots: Any = ...) -> dict[tuple[str, str, int], set[int]]:
        """Split, target and seed -> the n that the plan asks of a treatment, finished or not."""
        shots = self.main_shots if shots is ... else shots
        found: dict[tuple[str, str, int], set[int]] = {}
        for run in self.runs:
            asked = (run.treatment, run.extra, run.shots) == (treatment, 0, shots)
            if asked and 0 < run.n < len(self.layers):
                found.setdefault(run.unit, set()).add(run.n)
        return found

    def bases(self, kind: str) -> list[TransferRun]:
        """Finished bases that runs are held to; all where there is nothing to hold to one.

        In a plan of one direction the other half's bases only give layers.
        """
        found = self.of("base", kind)
        held = {run.unit for run in self.finished if run.treatment != "base"}
        return [run for run in found if run.unit in held] or found

    def side(self, run: TransferRun) -> Mapping[str, Any]:
        """What is known of a run's target: "classes", "images"."""
        return self.splits[run.split].get(run.target) or {}

    def of(self, treatment: str, kind: str, *, extra: int = 0, shots: Any = ...) -> list:
        """Finished runs of a treatment on splits of a kind; `shots`: default the main ones."""
        shots = self.main_shots if shots is ... else shots
        asked = (treatment, kind, extra, shots)
        return [r for r in self.finished if (r.treatment, r.kind, r.extra, r.shots) == asked]


def read_experiment(folder: str | Path) -> Experiment:
    """Read a plan folder of tools/run_transferability.py.

    Raises:
        UserError: it is none, its transferability.json is broken, or no run in it is finished
    """
    folder = Path(folder)
    content = _read_json(folder)
    splits = content["splits"]
    entries = content["runs"]
    raise_all(_problems(folder / FILE, entries, splits))
    runs = [_read_run(folder, entry, splits[entry["split"]]["kind"]) for entry in entries]
    experiment = Experiment(folder, content["title"], content["layers"], splits, _explained(runs))
    if not experiment.finished:
        first = experiment.runs[0]
        raise UserError(
            f"{folder}: none of its {len(runs)} runs is finished and evaluated "
            f"({first.name}: {first.why}); carry out the plan first"
        )
    return experiment


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; name a plan folder of tools/run_transferability.py"
        )
    if not path.is_file():
        raise UserError(
            f"{folder} has no {FILE}: it is not a plan folder of tools/run_transferability.py"
        )
    content = run_folder.read_json(path)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        found = content.get("version") if isinstance(content, dict) else None
        raise UserError(f"{path} is of version {found}; this page reads version {VERSION}")
    check(content, TRANSFERABILITY, str(path))
    if not content["runs"]:
        raise UserError(f"{path} names no run")
    return content


def _problems(
    path: Path, entries: Sequence[Mapping[str, Any]], splits: Mapping[str, Mapping[str, Any]]
) -> Iterable[str]:
    for name, split in splits.items():
        if split.get("kind") not in KINDS:
            kinds = ", ".join(KINDS)
            yield f"{path}: split {name} is of kind {split.get('kind')}; there is {kinds}"
    names = [entry.get("name") for entry in entries]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield f"{path}: there are {names.count(name)} runs of the name {name}"
    for entry in entries:
        if entry["treatment"] not in TREATMENTS:
            known = ", ".join(TREATMENTS)
            yield f"{path}: run {entry['name']} is {entry['treatment']}; a treatment is {known}"
        elif entry["split"] not in splits:
            yield f"{path}: run {entry['name']} is of split {entry['split']}, not in splits"


# One run -----------------------------------------------------------------------------------------


def _read_run(folder: Path, entry: Mapping[str, Any], kind: str) -> TransferRun:
    place = folder / entry["name"]
    keys = {key: entry[key] for key in _KEYS}
    try:
        record = _json_or_nothing(place / run_folder.RUN)
        failed = _json_or_nothing(place / _PLAN).get("error", "")
        if record.get("status") != "finished":
            return TransferRun(**keys, kind=kind, why=_why(record, failed), record=record)
        dataset, top1 = _accuracy(place)
    except (ValueError, LookupError, TypeError, OSError) as error:
        return TransferRun(**keys, kind=kind, why=f"cannot be read ({error})")
    steps = Run(place, record=record).evaluated(dataset, f"accuracy/{METRIC}")
    curve = tuple(zip(*steps, strict=True))
    return TransferRun(**keys, kind=kind, top1=top1, curve=curve, record=record)


def _json_or_nothing(path: Path) -> dict[str, Any]:
    return run_folder.read_json(path) if path.is_file() else {}


def _why(record: Mapping[str, Any], failed: str) -> str:
    reason = record.get("reason") or failed
    if record.get("status") == "failed" or failed:
        return f"failed ({reason})" if reason else "failed"
    if record.get("status") == "interrupted":
        return "interrupted"
    return "not ended, or killed" if record else _NOT_YET


def _accuracy(place: Path) -> tuple[str, float]:
    """The test set of a finished run, and top-1 on it."""
    found = sorted((place / run_folder.EVAL).glob("*/results.json"))
    if len(found) != 1:
        names = ", ".join(path.parent.name for path in found) or "nothing"
        raise LookupError(f"evaluated on {names}, where one test set is expected")
    top1 = run_folder.read_json(found[0])["metrics"]["accuracy"][METRIC]
    if top1 is None:
        raise ValueError("its accuracy is not a number")
    return found[0].parent.name, float(top1)


# Why a run was not begun -------------------------------------------------------------------------


def _explained(runs: Sequence[TransferRun]) -> list[TransferRun]:
    """Runs that are not begun because what they copy from has failed say so."""
    bases = {(r.split, r.target, r.seed, r.shots): r for r in runs if r.treatment == "base"}
    explained = []
    for run in runs:
        if run.why == _NOT_YET and run.source is not None:
            # The source of AnB has all its examples, that of BnB as many as the target.
            shots = run.shots if run.source == run.target else None
            base = bases.get((run.split, run.source, run.seed, shots))
            if base and base.why.startswith("failed"):
                why = f"not run, for its base {base.name} failed"
                run = TransferRun(**{**vars(run), "why": why})
        explained.append(run)
    return explained
