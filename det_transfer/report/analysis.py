"""Everything about one run on one test set that needs its predictions and the ground truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .diagnosis import image_scores, operating_point
from .matching import AREAS, Matches, match
from .runs import Evaluation, Run
from .truth import Found, Truth, read_found, read_truth

__all__ = ["Analysis", "analyse", "truth_of"]


@dataclass(frozen=True)
class Analysis:
    """Attributes:
    min_score: from which on detections are shown
    scores: (I,) of the images
    """

    truth: Truth
    found: Found
    matches: Matches
    min_score: float
    scores: NDArray[np.float64]


def truth_of(evaluation: Evaluation, *, masks: bool = False) -> Truth:
    """The test set of an evaluation.

    Raises:
        UserError: its json is not here or not the one that was evaluated
    """
    if evaluation.json_file is None:
        raise UserError(
            f"the annotation file of {evaluation.dataset} is not here: name it with --json"
        )
    truth = read_truth(evaluation.json_file, evaluation.protocol, masks=masks)
    images = evaluation.results.get("images")
    if images not in (None, len(truth.image_ids)):
        raise UserError(
            f"{evaluation.json_file} has {len(truth.image_ids)} images, the evaluation of "
            f"{evaluation.folder.parent.parent.name} had {images}: it is another test set"
        )
    return truth


def analyse(
    run: Run,
    evaluation: Evaluation,
    truth: Truth,
    *,
    masks: bool = False,
    areas: tuple[str, ...] = tuple(AREAS),
) -> Analysis:
    """Match the predictions of a run.

    Raises:
        UserError: there are none, or they are not of this test set
    """
    found = read_found(run.folder, evaluation.dataset, truth, masks=masks)
    matches = match(truth, found, evaluation.max_dets, areas)
    min_score = operating_point(matches)
    return Analysis(truth, found, matches, min_score, image_scores(matches, min_score))
