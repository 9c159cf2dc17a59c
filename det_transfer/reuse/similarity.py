"""How alike two sets of features are, and what a simple classifier can read from them.

Everything works on features (N, D) of N images, whatever network or stage they come from.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError

__all__ = ["knn_accuracy", "linear_cka", "probe_accuracy", "relative_distance"]

# Source: Caron et al. 2021 (DINO), their choice for k-NN.
_NEIGHBOURS = 20
# Of the votes. Source: Wu et al. 2018 (instance discrimination), section 3.4.
_TEMPERATURE = 0.07
_AT_ONCE = 1024  # images whose similarities to all others are held together
# Of the probe's weights in sklearn's units: features have variance 1, so that without one a few
# images a class are learned by heart.
_PENALTY = 100.0
_ITERATIONS = 300


def relative_distance(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """|after - before| / |before| over all tensors together, Euclidean; 0 where nothing moved.

    Args:
        before, after: name -> tensor; those of `before` count

    Raises:
        ValueError: `after` lacks one, or has it in another shape
    """
    moved = total = 0.0
    for name, old in before.items():
        new = after.get(name)
        if new is None or new.shape != old.shape:
            raise ValueError(f"{name}: {'missing' if new is None else tuple(new.shape)} afterwards")
        moved += float((new.double().cpu() - old.double().cpu()).square().sum())
        total += float(old.double().square().sum())
    if not moved:
        return 0.0
    return (moved / total) ** 0.5 if total else float("inf")


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centered kernel alignment of two representations of the same images, 0 to 1.

    It does not see orthogonal transforms, isotropic scale and shifts. With fewer images than
    features it is high for any two representations: take several times as many.

    Source: Kornblith et al. 2019 (Similarity of Neural Network Representations Revisited), section
    3: |y'x|^2 / (|x'x| |y'y|) in Frobenius norms, columns centred.

    Args:
        x, y: (N, D) and (N, E) float

    Returns:
        NaN where all images have the same features
    Raises:
        ValueError: not the same number of images
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} images on one side, {len(y)} on the other")
    x, y = (side.double() - side.double().mean(dim=0) for side in (x, y))
    if len(x) < max(x.shape[1], y.shape[1]):  # the same by images: |y'x|^2 = <xx', yy'>
        one, other = x @ x.T, y @ y.T
        shared = (one * other).sum()
    else:
        one, other = x.T @ x, y.T @ y
        shared = (y.T @ x).square().sum()
    scale = one.norm() * other.norm()
    if not scale:
        return float("nan")
    return 1.0 if torch.equal(x, y) else min(float(shared / scale), 1.0)  # but for rounding


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    neighbours: int = _NEIGHBOURS,
) -> float:
    """Share of test images, in percent, that their nearest training images classify rightly.

    The nearest by cosine vote with exp(cosine / 0.07). Source: Wu et al. 2018, section 3.4.

    Args:
        train, test: (N, D) and (M, D) float
        train_labels, test_labels: (N,) and (M,) int from 0
        neighbours: at most so many vote
    """
    train = F.normalize(train.float(), dim=1)
    classes = int(train_labels.max()) + 1
    right = 0
    for images, labels in zip(test.split(_AT_ONCE), test_labels.split(_AT_ONCE), strict=True):
        cosines = F.normalize(images.float(), dim=1) @ train.T
        nearest, indices = cosines.topk(min(neighbours, len(train)), dim=1)
        votes = torch.zeros(len(images), classes)
        votes.scatter_add_(1, train_labels[indices], (nearest / _TEMPERATURE).exp())
        right += int((votes.argmax(dim=1) == labels).sum())
    return 100.0 * right / len(test)


def probe_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Share of test images, in percent, that a linear classifier on the features gets right.

    Multinomial logistic regression on features of mean 0 and variance 1, with an L2 penalty that
    is the same whatever the features: for comparing them, not for the highest figure.

    Args:
        train, test: (N, D) and (M, D) float
        train_labels, test_labels: (N,) and (M,) int from 0

    Raises:
        UserError: scikit-learn is not installed
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise UserError("a linear probe needs scikit-learn: pip install scikit-learn") from None
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / _PENALTY, max_iter=_ITERATIONS, tol=1e-3)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train.float().numpy(), train_labels.numpy())
    return 100.0 * float(classifier.score(test.float().numpy(), test_labels.numpy()))
