"""Scores that read the classes from the features: a linear probe, nearest neighbours, CKA."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...errors import UserError
from ...reuse.similarity import knn_accuracy, linear_cka, probe_accuracy
from .inputs import checked, one_hot

__all__ = ["cka_with_labels", "held_out", "knn", "linear_probe"]

_TEST_SHARE = 5  # every fifth image of a class is tested


def linear_probe(features: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Accuracy in percent of a logistic regression, on every fifth image of each class.

    See :func:`det_transfer.reuse.similarity.probe_accuracy`.

    Args:
        features: (N, D)
        labels: (N,) int

    Raises:
        UserError: see :func:`.inputs.checked`
    """
    return probe_accuracy(*_sides(features, labels))


def knn(features: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Accuracy in percent of the 20 nearest by cosine, on every fifth image of each class.

    See :func:`det_transfer.reuse.similarity.knn_accuracy`.

    Args:
        features: (N, D)
        labels: (N,) int

    Raises:
        UserError: see :func:`.inputs.checked`
    """
    return knn_accuracy(*_sides(features, labels))


def cka_with_labels(features: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Linear CKA of the features and the labels as one-hot vectors, from 0 to 1.

    See :func:`det_transfer.reuse.similarity.linear_cka`.

    Args:
        features: (N, D)
        labels: (N,) int

    Raises:
        UserError: see :func:`.inputs.checked`; or all images have the same features
    """
    features, labels = checked(features, labels)
    if torch.equal(features, features[:1].expand_as(features)):
        raise UserError("all images have the same features: there is nothing to compare")
    return linear_cka(features, one_hot(labels))


def held_out(labels: Tensor) -> Tensor:
    """(N,) bool: the first, sixth, ... image of each class that has more than one."""
    tested = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) > 1:
            tested[rows[::_TEST_SHARE]] = True
    return tested


def _sides(
    features: Tensor | ArrayLike, labels: Tensor | ArrayLike
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features, labels = checked(features, labels)
    tested = held_out(labels)
    return features[~tested], labels[~tested], features[tested], labels[tested]
