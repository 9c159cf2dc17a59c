"""From a plan folder to a json of results, and from that to tables in Markdown.

Such a file (``docs/results/<name>.json``) holds, beside title, machine and versions as
:mod:`det_transfer.report.collect` says::

    kind          "transferability"
    layers, splits, seeds
    claims        verdict and number of each, see :mod:`claims`
    differences   minuend, subtrahend, kind of split, n, pairs, mean, low, high
    boosts        of AnB+, see :class:`~.tables.Boost`
    missing       sentences
    runs          label, top-1 or why there is none, seconds, command
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import conditions
from ..html import NONE, number
from ..markdown import table
from .claims import claims, sentence
from .differences import Estimate, at_each_cut, differences
from .missing import missing
from .reading import KINDS, METRIC, Experiment, TransferRun, read_experiment
from .tables import boosts

__all__ = [
    "KIND",
    "claims_in_markdown",
    "collect",
    "differences_in_markdown",
    "runs_in_markdown",
]

KIND = "transferability"


def collect(
    folder: str | Path,
    root: str | Path,
    said: conditions.Said,
    *,
    made_by: str = "",
) -> dict[str, Any]:
    """Read a plan folder into the content of a json of results.

    Args:
        root: the checkout; paths are written relative to it
        made_by: what carried the plan out

    Raises:
        UserError: it is no such folder, or no run in it is finished
    """
    root = Path(root).resolve()
    experiment = read_experiment(folder)
    records = [run.record for run in experiment.finished]

    folders = (str(folder), str(Path(folder).resolve()))

    def clean(text: str) -> str:
        return conditions.relative(text, root, folders)

    return {
        "kind": KIND,
        **said.head(records, root, folders),
        "command": clean(made_by),
        "layers": list(experiment.layers),
        "splits": {name: dict(split) for name, split in experiment.splits.items()},
        "seeds": sorted({run.seed for run in experiment.finished}),
        "claims": [
            {
                "claim": sentence(claim.short),
                "verdict": claim.verdict,
                "unit": claim.unit,
                "what": claim.measure,
                "digits": claim.digits,
                "paper": claim.paper,
                **_numbers(claim.estimate),
            }
            for claim in claims(experiment)
        ],
        "differences": list(_differences(experiment)),
        "boosts": [
            {
                "kind": boost.kind,
                "first": boost.first,
                "last": boost.last,
                "over_base": _numbers(boost.over_base),
                "over_self": _numbers(boost.over_self),
            }
            for boost in boosts(experiment)
        ],
        "missing": [clean(sentence) for sentence in missing(experiment)],
        "runs": [_run(run, clean) for run in experiment.runs],
    }


def _numbers(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"pairs": 0, "mean": None, "low": None, "high": None}
    return {
        "pairs": estimate.count,
        "mean": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
    }


def _differences(experiment: Experiment) -> Iterable[dict[str, Any]]:
    for (treatment, other, kind), pairs in differences(experiment).items():
        for n, estimate in at_each_cut(pairs, experiment).items():
            head = {"minuend": treatment, "subtrahend": other, "kind": kind, "n": n}
            yield {**head, **_numbers(estimate)}


def _run(run: TransferRun, clean: Callable[[str], str]) -> dict[str, Any]:
    keys = ("name", "split", "label", "treatment", "seed", "target", "n", "extra", "shots")
    return {
        **{key: getattr(run, key) for key in keys},
        METRIC: run.top1,
        "why": clean(run.why),
        "training_s": run.record.get("seconds", {}).get("training"),
        "command": clean(run.record.get("command", "")),
    }


# Markdown ----------------------------------------------------------------------------------------


def claims_in_markdown(content: Mapping[str, Any]) -> str:
    rows = [
        [
            claim["claim"],
            claim["verdict"],
            _text(claim, claim["digits"]),
            claim["unit"],
            str(claim["pairs"]),
            number(claim["paper"], claim["digits"], sign=_signed(claim)),
        ]
        for claim in content["claims"]
    ]
    return table(["claim", "", "number (95 %)", "", "pairs", "paper"], rows)


def differences_in_markdown(content: Mapping[str, Any]) -> Iterable[str]:
    """A table for each kind of split, and the boosts."""
    for kind in dict.fromkeys(row["kind"] for row in content["differences"]):
        here = [row for row in content["differences"] if row["kind"] == kind]
        cuts = sorted({row["n"] for row in here})
        cells = {(row["minuend"], row["subtrahend"], row["n"]): _text(row, 1) for row in here}
        rows = [
            [f"{minuend} - {other}", *(cells.get((minuend, other, n), NONE) for n in cuts)]
            for minuend, other in dict.fromkeys((r["minuend"], r["subtrahend"]) for r in here)
        ]
        pairs = sorted({row["pairs"] for row in here})
        count = f"{pairs[0]} to {pairs[-1]}" if len(pairs) > 1 else f"{pairs[0]}"
        yield (
            f"Points of top-1 within split, target and seed, {KINDS[kind]}s: mean (95 %), of "
            f"{count} pair{'s' * (pairs[-1] != 1)}:"
        )
        yield table(["", *(f"n = {n}" for n in cuts)], rows)
    if content["boosts"]:
        yield "Boost of AnB+, mean over the layers kept:"
        rows = [
            [
                f"{row['first']} to {row['last']}, {KINDS[row['kind']]}s",
                _text(row["over_base"], 2),
                _text(row["over_self"], 2),
            ]
            for row in content["boosts"]
        ]
        yield table(["layers", "over the base", "over BnB+"], rows)


def runs_in_markdown(content: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{run['name']}`",
            run["treatment"],
            str(run["n"]),
            number(run[METRIC]),
            number(run["training_s"], 0),
            run["why"],
        ]
        for run in content["runs"]
    ]
    return table(["run", "treatment", "n", "top-1", "training, s", ""], rows, numbers=False)


def _text(row: Mapping[str, Any], digits: int) -> str:
    if row["mean"] is None:
        return NONE
    estimate = Estimate(row["mean"], row["pairs"], row["low"], row["high"])
    return estimate.text(digits, sign=_signed(row))


def _signed(row: Mapping[str, Any]) -> bool:
    """Whether it is a difference, and not a share."""
    return row.get("unit", "points").startswith("points")
