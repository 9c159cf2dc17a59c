"""Transferability scores: how well a network will serve new data, told from one pass over them.

Each is ``score(features, labels) -> float``, higher is better: features (N, D) of N images, labels
(N,) int. LEEP and NCE read what the network's own classifier says instead: probabilities (N, Z)
of the classes that it was pretrained on. docs/scores.md says when to trust which.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ...reuse.similarity import knn_accuracy, probe_accuracy
from .covariance import h_score, regularized_h_score, trans_rate
from .evidence import log_me
from .reading import cka_with_labels, knn, linear_probe
from .source import leep, nce

__all__ = [
    "SCORES",
    "Score",
    "cka_with_labels",
    "h_score",
    "knn",
    "leep",
    "linear_probe",
    "log_me",
    "nce",
    "regularized_h_score",
    "trans_rate",
]


@dataclass(frozen=True)
class Score:
    """Attributes:
    title: for the heads of tables
    function: ``(features, labels)`` or ``(probabilities, labels) -> float``
    reads_head: it takes the probabilities of the pretrained classifier
    tested: of an accuracy, the same on images apart: ``(train, labels, test, labels) -> float``,
        of tensors
    """

    title: str
    function: Callable[..., float]
    reads_head: bool = False
    tested: Callable[..., float] | None = None


# What --scores of tools/rank_backbones.py can name. A new score is a new entry.
SCORES: dict[str, Score] = {
    "logme": Score("LogME", log_me),
    "hscore": Score("H-score", h_score),
    "hscore_regularized": Score("H-score, reg.", regularized_h_score),
    "transrate": Score("TransRate", trans_rate),
    "cka": Score("CKA", cka_with_labels),
    "knn": Score("kNN %", knn, tested=knn_accuracy),
    "probe": Score("probe %", linear_probe, tested=probe_accuracy),
    "leep": Score("LEEP", leep, reads_head=True),
    "nce": Score("NCE", nce, reads_head=True),
}
