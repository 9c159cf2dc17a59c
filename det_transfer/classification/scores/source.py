"""Scores made of what the pretrained classifier says: LEEP and NCE."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...errors import UserError
from .inputs import checked_labels, checked_probabilities, one_hot

__all__ = ["leep", "nce"]


def leep(probabilities: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Mean log likelihood of the labels, where P(y | z) follows from the source classes z: <= 0.

    mean_i log sum_z P(y_i | z) p(z | x_i), with P(y, z) the mean of p(z | x) over the images of y.

    Source: Nguyen et al. 2020 (LEEP: A New Measure to Evaluate Transferability of Learned
    Representations), section 3.

    Args:
        probabilities: (N, Z), of the classes that the network was pretrained on
        labels: (N,) int

    Raises:
        UserError: see :func:`.inputs.checked_probabilities`
    """
    probabilities, labels = checked_probabilities(probabilities, labels)
    joint = probabilities.T @ one_hot(labels)  # (Z, classes)
    conditional = joint / joint.sum(dim=1, keepdim=True).clamp(min=torch.finfo(joint.dtype).tiny)
    expected = (probabilities * conditional[:, labels].T).sum(dim=1)
    return float(expected.log().mean())


def nce(source: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """-H(Y | Z) in nats: what the source classes z leave open about the labels y: <= 0.

    Source: Tran et al. 2019 (Transferability and Hardness of Supervised Classification Tasks),
    section 4.

    Args:
        source: (N,) int, the source class of each image; or probabilities (N, Z), whose likeliest
            class is taken
        labels: (N,) int

    Raises:
        UserError: see :func:`.inputs.checked_probabilities`
    """
    source = torch.as_tensor(source)
    if source.ndim == 2:
        probabilities, labels = checked_probabilities(source, labels)
        source = probabilities.argmax(dim=1)
    elif source.ndim != 1 or source.is_floating_point():
        raise UserError(
            f"source labels are {source.dtype} of shape {tuple(source.shape)}; they must be (N,) "
            "int, or probabilities (N, Z)"
        )
    else:
        labels = checked_labels(labels, len(source))
        source = torch.unique(source.cpu(), return_inverse=True)[1]
    joint = one_hot(source).T @ one_hot(labels) / len(labels)
    marginal = joint.sum(dim=1, keepdim=True).expand_as(joint)
    there = joint > 0
    return float((joint[there] * (joint[there] / marginal[there]).log()).sum())
