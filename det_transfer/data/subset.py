"""Parts of a training set: a share of its images, or a few objects of each class.

What is chosen follows from a seed alone, and smaller parts lie inside larger ones, so that runs on
10, 25 and 50 % differ in what was added, not in what was drawn.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["checksum", "few_shots", "fraction", "stratified_places"]

Classes = Sequence[Sequence[int]]  # of each image, one entry an object


def fraction(images: Classes, share: float, seed: int) -> list[int]:
    """Indices of a share of the images, in their order; of each class about that share.

    Images form strata by the rarest of their classes (those without objects form one of their
    own), and each stratum gives its share, rounded up or down.

    Args:
        share: in (0, 1]; at least one image is chosen
    """
    places = stratified_places(images, seed)
    chosen = np.flatnonzero(places < share)
    return (chosen if len(chosen) else places.argmin(keepdims=True)).tolist()


def stratified_places(images: Classes, seed: int) -> NDArray[np.floating]:
    """A number in [0, 1) for each image (N,): those below x are the share x of each stratum.

    The k-th of n images of a stratum, in random order, has (k + u) / n, u being drawn for the
    stratum.
    """
    rng = np.random.default_rng(seed)
    common = Counter(label for labels in images for label in set(labels))
    strata: dict[int, list[int]] = {}
    for index, labels in enumerate(images):
        rarest = min(labels, key=lambda label: (common[label], label), default=-1)
        strata.setdefault(rarest, []).append(index)
    places = np.empty(len(images))
    for label in sorted(strata):
        members = rng.permutation(strata[label])
        places[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return places


def few_shots(images: Classes, shots: int, seed: int) -> list[int]:
    """Indices of images, in their order, by which each class has at least `shots` objects.

    A class that has fewer in all gets what there is. All objects of a chosen image count: leaving
    some out would make them background, on which the detector would learn not to see them.
    """
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    having: dict[int, list[int]] = {}
    for index in reversed(order):  # so that the next one is at the end
        for label in set(images[index]):
            having.setdefault(label, []).append(index)
    chosen: set[int] = set()
    count: Counter[int] = Counter()
    # Shot by shot, so that a smaller number of them chooses a part of what a larger one does.
    for shot in range(1, shots + 1):
        for label in sorted(having, key=lambda label: (len(having[label]), label)):
            while count[label] < shot and having[label]:
                index = having[label].pop()
                if index not in chosen:
                    chosen.add(index)
                    count.update(images[index])
    return sorted(chosen)


def checksum(image_ids: Sequence[int | str]) -> str:
    """SHA-256 of the ids, in their order, as json."""
    return hashlib.sha256(json.dumps(list(image_ids)).encode()).hexdigest()
