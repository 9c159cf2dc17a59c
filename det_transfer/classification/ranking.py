"""Scores of several backbones side by side, and how far their orders agree with accuracy."""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch

from ..errors import UserError, nearest
from .backbones import Backbone
from .extraction import Features
from .scores import SCORES
from .scores.inputs import checked, finite

__all__ = ["agreement", "by_score", "chosen_scores", "read_accuracies", "score_all"]

# Columns that hold a fine-tuned accuracy: of a file of one's own, of a plan's results.csv.
_ACCURACY = ("accuracy", "accuracy/top1")
_OF_BOXES = "its classifier is asked of whole images, not of objects in boxes"
_FEWEST = 3  # backbones, for a correlation to mean anything


def chosen_scores(names: Sequence[str]) -> list[str]:
    """Those that are named; all where none is.

    Raises:
        UserError: one is not known
    """
    for name in names:
        if name not in SCORES:
            near = nearest(name, SCORES) or list(SCORES)
            raise UserError(f"--scores {name}: there is {', '.join(near)}")
    return list(dict.fromkeys(names)) or list(SCORES)


def score_all(
    names: Sequence[str], backbone: Backbone, train: Features, test: Features | None
) -> dict[str, float | str]:
    """Each score of one backbone; why there is none where there is none.

    Args:
        test: where it is given, what probe and neighbours are tested on; else they hold out every
            fifth image of a class
    """
    found: dict[str, float | str] = {}
    for name in names:
        score = SCORES[name]
        if score.reads_head and train.probabilities is None:
            found[name] = backbone.no_head or _OF_BOXES
        elif score.reads_head:
            found[name] = score.function(train.probabilities, train.labels)
        elif score.tested and test is not None:
            checked(train.values, train.labels)
            sides = [(finite(s.values), torch.from_numpy(s.labels)) for s in (train, test)]
            found[name] = score.tested(*sides[0], *sides[1])
        else:
            found[name] = score.function(train.values, train.labels)
    return found


def agreement(
    scores: Sequence[float | str | None], accuracies: Sequence[float]
) -> dict[str, float] | None:
    """Rank correlations of a score with an accuracy, over the backbones that have the score.

    Returns:
        "kendall" (tau-b), "weighted_kendall" (Vigna 2015: the top counts most) and "spearman",
        from -1 to 1, NaN where all are equal, and "backbones", their number; None for fewer than 3
    """
    from scipy.stats import kendalltau, spearmanr, weightedtau  # brought by scikit-learn

    pairs = [
        (score, accuracy)
        for score, accuracy in zip(scores, accuracies, strict=True)
        if _is_number(score)
    ]
    if len(pairs) < _FEWEST:
        return None
    one, other = zip(*pairs, strict=True)
    if len(set(one)) == 1 or len(set(other)) == 1:
        values = dict.fromkeys(("kendall", "weighted_kendall", "spearman"), math.nan)
    else:
        values = {
            "kendall": float(kendalltau(one, other).statistic),
            "weighted_kendall": float(weightedtau(one, other).statistic),
            "spearman": float(spearmanr(one, other).statistic),
        }
    return {**values, "backbones": len(pairs)}


def read_accuracies(path: Path, backbones: Sequence[str]) -> list[float]:
    """The fine-tuned accuracy of each backbone: the mean of its rows, e.g. over seeds.

    Args:
        path: a csv with the columns "backbone" and "accuracy" (or "accuracy/top1", as a plan's
            results.csv with an axis "backbone" has)

    Raises:
        UserError: there is no such file or column, a number is none, or a backbone is missing
    """
    if not path.is_file():
        raise UserError(f"--accuracies {path} does not exist")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    column = next((name for name in _ACCURACY if name in columns), "")
    if not column or "backbone" not in columns:
        raise UserError(
            f"--accuracies {path} has the columns {', '.join(map(str, columns)) or '(none)'}; it "
            "needs backbone and accuracy"
        )
    known: dict[str, list[float]] = defaultdict(list)
    for number, row in enumerate(rows, start=2):
        if not row[column]:  # a run that is not finished
            continue
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"--accuracies {path}, line {number}: {row[column]!r} is no number")
        known[row["backbone"]].append(value)
    missing = [name for name in backbones if name not in known]
    if missing:
        raise UserError(
            f"--accuracies {path} has no accuracy of {', '.join(missing)}; it has "
            f"{', '.join(known) or 'none'}. A name before = makes a backbone's: NAME=BACKBONE"
        )
    return [fmean(known[name]) for name in backbones]


def by_score(rows: Sequence[Mapping[str, float | str]], name: str) -> list[int]:
    """Numbers of the rows, best first; those without the score last, in their order."""
    values = [row[name] if _is_number(row[name]) else -math.inf for row in rows]
    return sorted(range(len(rows)), key=lambda k: -values[k])


def _is_number(score: float | str | None) -> bool:
    return isinstance(score, float) and math.isfinite(score)
