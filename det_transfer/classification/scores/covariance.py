"""Scores made of the spread of the features: H-score, its regularised form, TransRate."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...errors import UserError
from .inputs import checked, one_hot, spectrum

__all__ = ["h_score", "regularized_h_score", "shrinkage", "trans_rate"]


def h_score(features: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """tr(cov(f)^+ cov(E[f | y])), from 0 to classes - 1.

    With fewer images than features it is classes - 1 for any features in general position, and
    tells nothing: take :func:`regularized_h_score`.

    Source: Bao et al. 2019 (An Information-Theoretic Approach to Transferability in Task Transfer
    Learning), definition 2.

    Args:
        features: (N, D)
        labels: (N,) int

    Raises:
        UserError: see :func:`.inputs.checked`
    """
    features, labels = checked(features, labels)
    # With f = U S V' centred and Z the classes' columns of norm 1: E[f | y] = Z Z'f, and the trace
    # is |U'Z|^2.
    return float(spectrum(_centred(features), _classes(labels)).projected.sum())


def regularized_h_score(features: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """The H-score with a covariance shrunk by Ledoit and Wolf: for few images, many features.

    tr(cov_a^+ (1 - a) cov(E[f | y])) with cov_a = (1 - a) cov + a tr(cov) / D I. All covariances
    are divided by N, as scikit-learn's LedoitWolf does.

    Source: Ibrahim et al. 2022 (Newer is not always better: Rethinking transferability metrics,
    their peculiarities, stability and performance), section 4.

    Args:
        features: (N, D)
        labels: (N,) int

    Raises:
        UserError: see :func:`.inputs.checked`
    """
    features, labels = checked(features, labels)
    features = _centred(features)
    images, units = features.shape
    seen = spectrum(features, _classes(labels))
    amount = shrinkage(features, seen.squared)
    variances = seen.squared / images
    shrunk = (1 - amount) * variances
    weights = shrunk / (shrunk + amount * variances.sum() / units)
    return float((weights[:, None] * seen.projected).sum())


def shrinkage(features: Tensor, squared: Tensor) -> float:
    """Ledoit and Wolf's a, from 0 to 1.

    It is that of sklearn.covariance.ledoit_wolf_shrinkage, which squares and multiplies the data
    once more where the norms of the images do: sum_ij (sum_n x_ni^2 x_nj^2) = sum_n |x_n|^4.

    Source: Ledoit and Wolf 2004 (A well-conditioned estimator for large-dimensional covariance
    matrices), section 3.2.

    Args:
        features: (N, D) float64, centred
        squared: their squared singular values
    """
    images, units = features.shape
    norms = features.square().sum(dim=1)
    second = squared.square().sum() / images**2  # |cov|^2
    noise = (norms.square().sum() / images - second) / images
    spread = second - squared.sum().square() / images**2 / units
    return float(min(noise / spread, 1.0)) if noise > 0 and spread > 0 else float(noise > 0)


def trans_rate(
    features: Tensor | ArrayLike, labels: Tensor | ArrayLike, *, eps: float = 1e-4
) -> float:
    """R(f) - 1/C sum_c R(f_c), R(f) = 1/2 logdet(I + f'f / (n eps)), f centred over all images.

    It grows with the number of features and their scale: compare networks whose features are alike
    in both.

    Source: Huang et al. 2022 (Frustratingly Easy Transferability Estimation), section 4; eps 1e-4
    is that of thuml/Transfer-Learning-Library, tllib.ranking.transrate.

    Args:
        features: (N, D)
        labels: (N,) int
        eps: the distortion

    Raises:
        UserError: see :func:`.inputs.checked`; or `eps` is not positive
    """
    if not eps > 0:
        raise UserError(f"eps is {eps}; it must be > 0")
    features, labels = checked(features, labels)
    features = _centred(features)
    classes = int(labels.max()) + 1
    within = sum(_rate(features[labels == c], eps) for c in range(classes))
    return _rate(features, eps) - within / classes


def _rate(features: Tensor, eps: float) -> float:
    images, units = features.shape
    gram = features @ features.T if images <= units else features.T @ features
    gram /= images * eps
    gram.diagonal().add_(1)
    return float(torch.linalg.cholesky(gram).diagonal().log().sum())


def _centred(features: Tensor) -> Tensor:
    return features - features.mean(dim=0)


def _classes(labels: Tensor) -> Tensor:
    """(N, classes): each class a column of norm 1."""
    found = one_hot(labels)
    return found / found.sum(dim=0).sqrt()
