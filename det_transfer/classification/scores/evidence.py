"""LogME: how likely the labels are under a Bayesian linear model of the features."""

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...errors import UserError
from .inputs import Spectrum, checked, one_hot, spectrum

__all__ = ["log_me"]

# log(alpha / beta) is looked for within so much of log s^2 of the largest singular value s. At
# either end the evidence is flat, but for a perfect fit, whose evidence has no bound.
_RANGE = 30
_TOLERANCE = 1e-10  # of alpha / beta, relative
_MOST = 100  # of the steps; Newton takes some six, halving the bracket at most 35

# Source: thuml/LogME, LogME.py, _fit_fixed_point.
_SHORT_STEPS, _SHORT_TOLERANCE, _SHORT_EPSILON = 11, 1e-3, 1e-5


def log_me(
    features: Tensor | ArrayLike, labels: Tensor | ArrayLike, *, stop: str = "converged"
) -> float:
    """Log of the maximum evidence, an image and a class (one against the rest).

    y = f w + noise with w ~ N(0, 1/alpha), noise ~ N(0, 1/beta), no intercept; alpha and beta are
    those under which y is likeliest.

    Source: You et al. 2021 (LogME: Practical Assessment of Pre-trained Models for Transfer
    Learning), section 4.1, equations 2 and 3.

    Args:
        features: (N, D)
        labels: (N,) int
        stop: "converged" (alpha / beta to 1e-10), or "original": at most 11 fixed-point steps to
            1e-3 from alpha = beta = 1, as the authors' code

    Raises:
        UserError: see :func:`.inputs.checked`; or `stop` is neither
    """
    if stop not in ("converged", "original"):
        raise UserError(f"stop is {stop!r}; it can be 'converged' or 'original'")
    features, labels = checked(features, labels)
    seen = spectrum(features, one_hot(labels))
    if not len(seen.squared):
        raise UserError("all features are 0: there is nothing to tell classes apart by")
    evidence = _maximum if stop == "converged" else _short
    return float(evidence(seen, len(labels)).mean()) / len(labels)


def _maximum(seen: Spectrum, images: int) -> Tensor:
    """(k,) the maximum over alpha and beta.

    Given t = alpha / beta, the best beta is N / E with E = rest + sum z^2 q, q = t / (t + s^2), z
    the projections; what is left is a function of u = log t alone:

        L(u) = N/2 log(N / (2 pi E)) - N/2 + 1/2 sum log q

    Its stationary points are the fixed points of the paper's iteration. The best of a grid starts
    Newton's method, which stays between the neighbours of the grid.
    """
    grid = torch.arange(-_RANGE, _RANGE + 1).double() + seen.squared.max().log()
    best = grid[_evidence(seen, images, grid[:, None]).argmax(dim=0)]
    low, high = best - 1, best + 1
    for _ in range(_MOST):
        slope, curvature = _derivatives(seen, images, best)
        low, high = torch.where(slope > 0, best, low), torch.where(slope > 0, high, best)
        step = best - slope / curvature
        inside = (curvature < 0) & (step > low) & (step < high)
        step = torch.where(inside, step, (low + high) / 2)
        moved, best = (step - best).abs().max(), step
        if moved <= _TOLERANCE:
            break
    return _evidence(seen, images, best[:, None], own=True)


def _evidence(seen: Spectrum, images: int, u: Tensor, own: bool = False) -> Tensor:
    """L at u: (g, 1) for all targets -> (g, k); or with `own` (k, 1), one for each -> (k,)."""
    share = torch.special.expit(u - seen.squared.log())  # q
    error = seen.rest + (share * seen.projected.T).sum(dim=1) if own else None
    if error is None:
        error = seen.rest + share @ seen.projected
    volume = 0.5 * share.log().sum(dim=1)
    fit = 0.5 * images * ((images / (2 * math.pi * error)).log() - 1)
    return fit + (volume if own else volume[:, None])


def _derivatives(seen: Spectrum, images: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """L' and L'' at u (k,), one for each target; dq/du = q (1 - q)."""
    share = torch.special.expit(u[:, None] - seen.squared.log())
    other = 1 - share
    both = share * other
    weighted = both * seen.projected.T
    error = seen.rest + (share * seen.projected.T).sum(dim=1)
    first = weighted.sum(dim=1) / error
    second = (weighted * (other - share)).sum(dim=1) / error
    slope = 0.5 * (other.sum(dim=1) - images * first)
    return slope, -0.5 * (images * (second - first.square()) + both.sum(dim=1))


def _short(seen: Spectrum, images: int) -> Tensor:
    """(k,) where the authors' code stops."""
    alpha, beta, error, size = (torch.ones_like(seen.rest) for _ in range(4))
    going = torch.ones_like(seen.rest, dtype=torch.bool)
    for _ in range(_SHORT_STEPS):
        t = (alpha / beta)[:, None]
        share = t / (t + seen.squared)
        gamma = (1 - share).sum(dim=1)
        found = (
            seen.rest + (share.square() * seen.projected.T).sum(dim=1),
            (seen.squared * seen.projected.T / (t + seen.squared).square()).sum(dim=1),
        )
        error, size = (torch.where(going, a, b) for a, b in zip(found, (error, size), strict=True))
        alpha = torch.where(going, gamma / (size + _SHORT_EPSILON), alpha)
        beta = torch.where(going, (images - gamma) / (error + _SHORT_EPSILON), beta)
        going &= (alpha / beta / t[:, 0] - 1).abs() > _SHORT_TOLERANCE
    precision = alpha[:, None] + beta[:, None] * seen.squared
    volume = (alpha[:, None] / precision).log().sum(dim=1)
    return 0.5 * (volume + images * (beta / (2 * math.pi)).log() - beta * error - alpha * size)
