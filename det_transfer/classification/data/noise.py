"""Wrong labels on purpose: DATASETS.LABEL_NOISE."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["noisy"]

_NOISE = 0x6E6F69  # apart from the seeds of everything else


def noisy(
    labels: NDArray[np.int64], indices: NDArray[np.integer], classes: int, share: float, seed: int
) -> NDArray[np.int64]:
    """Exchange a share of the labels, each for another class, all others being equally likely.

    What becomes of an image if its label is exchanged, and whether it is exchanged sooner than
    another one, follows from (seed, index) alone. So a smaller share is a part of a larger one, and
    an image that is wrong in a part of a set and in the whole has the same wrong label in both.

    Args:
        labels: (N,) from 0 to `classes` - 1
        indices: (N,) of the images in the whole set
        share: from 0 to 1; round(share * N) labels are exchanged

    Returns:
        (N,)
    """
    count = int(indices.max(initial=-1)) + 1
    rng = np.random.default_rng([_NOISE, seed])
    # A row an image: the first rows are the same however many follow.
    drawn = rng.random((count, 2))[indices]
    chosen = np.argsort(drawn[:, 0], kind="stable")[: round(share * len(labels))]
    step = 1 + np.floor(drawn[chosen, 1] * (classes - 1)).astype(np.int64)  # 1 ... classes - 1
    result = labels.copy()
    result[chosen] = (labels[chosen] + step) % classes
    return result
