"""What scores are given, checked once; and what several of them are made of."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...errors import UserError

__all__ = ["Spectrum", "checked", "checked_labels", "checked_probabilities", "one_hot", "spectrum"]

# Probabilities of an image are summed in float32 over at most some ten thousand classes.
_SUM_TOLERANCE = 1e-3
_LARGEST = 1e18  # of a feature: sums of squares stay below float32's 3.4e38, in which probes read


def checked(values: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> tuple[Tensor, Tensor]:
    """Features or probabilities as float64, labels as numbers from 0 without gaps.

    Args:
        values: (N, D)
        labels: (N,) int, of at least two classes, one of which has two images

    Returns:
        (N, D) float64 and (N,) int64, on the CPU
    Raises:
        UserError: they do not belong together, are no numbers, or nothing can be told from them
    """
    values = finite(values)
    largest = float(values.abs().max())
    if largest > _LARGEST:
        raise UserError(
            f"features reach {largest:.1e}, more than scores can square; scale them down"
        )
    return values.double(), checked_labels(labels, len(values))


def finite(values: Tensor | ArrayLike) -> Tensor:
    """(N, D) on the CPU, in its own dtype.

    Raises:
        UserError: it has another shape, or a value is no number
    """
    values = torch.as_tensor(values).detach().cpu()
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"features have shape {tuple(values.shape)}; they must be (images, units)")
    bad = ~torch.isfinite(values)
    if bad.any():
        row, column = (int(i) for i in bad.nonzero()[0])
        raise UserError(
            f"features of {int(bad.any(dim=1).sum())} of {len(values)} images are not finite: "
            f"image {row}, unit {column} is {float(values[row, column])}; the network diverged, or "
            "its images are not preprocessed as its weights ask"
        )
    return values


def checked_labels(labels: Tensor | ArrayLike, images: int) -> Tensor:
    """(N,) int64 from 0 without gaps, see :func:`checked`."""
    labels = torch.as_tensor(labels).detach().cpu()
    if labels.shape != (images,):
        raise UserError(f"labels have shape {tuple(labels.shape)}, but there are {images} images")
    if labels.is_floating_point() or labels.is_complex():
        raise UserError(f"labels are {labels.dtype}; they must be whole numbers, one an image")
    names, labels = torch.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"all {images} images are of one class, {int(names[0])}: there is nothing to tell apart"
        )
    if len(names) == images:
        raise UserError(f"{images} images of {images} classes: no class has two; take more images")
    return labels


def checked_probabilities(
    values: Tensor | ArrayLike, labels: Tensor | ArrayLike
) -> tuple[Tensor, Tensor]:
    """As :func:`checked`; each row of `values` must be a distribution."""
    values, labels = checked(values, labels)
    wrong = (values < 0).any(dim=1) | ((values.sum(dim=1) - 1).abs() > _SUM_TOLERANCE)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise UserError(
            f"probabilities of image {row} have the sum {float(values[row].sum()):.4g} and the "
            f"minimum {float(values[row].min()):.4g}: take the softmax of the logits"
        )
    return values, labels


def one_hot(labels: Tensor) -> Tensor:
    """(N, classes) float64 of labels from 0."""
    return torch.nn.functional.one_hot(labels).double()


@dataclass(frozen=True)
class Spectrum:
    """Features f = U S V' (N, D) of rank r, and targets Y (N, k) seen in U.

    Attributes:
        squared: (r,) S squared
        projected: (r, k) U'Y squared
        rest: (k,) the squared norm of what lies outside of U
    """

    squared: Tensor
    projected: Tensor
    rest: Tensor


def spectrum(features: Tensor, targets: Tensor) -> Spectrum:
    """By the eigenvectors of f'f or ff', whichever is smaller: O(N D min(N, D)).

    Squared singular values below max(N, D) times the rounding of the largest count as 0: what
    their directions hold is noise.

    Args:
        features: (N, D) float64
        targets: (N, k) float64
    """
    images, units = features.shape
    by_images = images <= units
    gram = features @ features.T if by_images else features.T @ features
    squared, vectors = torch.linalg.eigh(gram)
    del gram
    kept = squared > squared[-1].clamp(min=0) * max(images, units) * np.finfo(np.float64).eps
    squared, dropped, vectors = squared[kept], vectors[:, ~kept], vectors[:, kept]
    if by_images:
        projected = vectors.T @ targets
        rest = (dropped.T @ targets).square().sum(dim=0)
    else:
        projected = vectors.T @ (features.T @ targets) / squared.sqrt()[:, None]
        fit = features @ (vectors @ (projected / squared.sqrt()[:, None]))
        rest = (targets - fit).square().sum(dim=0)
    return Spectrum(squared, projected.square(), rest)
