"""What is in the images of the embedded dataset, decided before a pixel is drawn.

A plan holds LVIS' thresholds by construction: every class is given a number of train images in its
frequency, and the classes are dealt out to the images so that each gets exactly that number.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["FREQUENCIES", "BadOptions", "Content", "ImagePlan", "frequency", "plan"]

# Train images of a class, smallest and largest. Source: Gupta et al., LVIS, CVPR 2019, section 5
# (https://arxiv.org/abs/1908.03195): rare 1-10, common 11-100, frequent more than 100. Rare ones
# start at 3 here, so that there is something to learn from.
FREQUENCIES = {"r": (3, 10), "c": (11, 100), "f": (101, None)}

# How many further objects of a class an image already has: LVIS' scenes repeat things, and only
# what is there twice can be annotated in part.
_REPEATS = (0.6, 0.3, 0.1)  # share of images with 0, 1, 2 of them


class BadOptions(ValueError):
    """Options, or a folder, that the user can mend; the message says how."""


@dataclass(frozen=True)
class Content:
    """Options of the plan.

    Attributes:
        rare, common, frequent: number of classes of each frequency
        train_images, val_images: number of images
        objects: smallest and largest number of objects in an image
        val_least: smallest number of val images of any class
        negatives: classes an image is verified not to show (fewer where there are no more)
        not_exhaustive: share of the classes shown more than once in an image of which some objects
            are left without annotation
    """

    rare: int = 20
    common: int = 60
    frequent: int = 40
    train_images: int = 1500
    val_images: int = 400
    objects: tuple[int, int] = (3, 8)
    val_least: int = 5
    negatives: int = 20
    not_exhaustive: float = 0.3

    @property
    def classes(self) -> int:
        return self.rare + self.common + self.frequent


@dataclass(frozen=True)
class ImagePlan:
    """One image's objects, from the bottom to the top, and what LVIS says of it.

    Attributes:
        classes: index of each object's class
        annotated: whether the object gets an annotation
        negatives: classes verified to be absent
        not_exhaustive: classes of which some objects are not annotated
    """

    classes: tuple[int, ...]
    annotated: tuple[bool, ...]
    negatives: tuple[int, ...]
    not_exhaustive: tuple[int, ...]


def frequency(train_images: int) -> str:
    """LVIS' letter for a class with this many train images."""
    return "r" if train_images <= 10 else "c" if train_images <= 100 else "f"


def plan(content: Content, rng: np.random.Generator) -> dict[str, list[ImagePlan]]:
    """The images of the splits ``train`` and ``val``.

    Raises:
        BadOptions: the options contradict each other
    """
    slots = {
        split: rng.integers(content.objects[0], content.objects[1] + 1, count)
        for split, count in (("train", content.train_images), ("val", content.val_images))
    }
    wanted = {"train": _train_targets(content, int(slots["train"].sum()), rng)}
    share = content.val_images / content.train_images
    wanted["val"] = np.maximum(content.val_least, np.round(wanted["train"] * share).astype(int))
    wanted["val"] = np.minimum(wanted["val"], content.val_images)
    return {
        split: _label(_deal(wanted[split], slots[split], split, rng), content, rng)
        for split in slots
    }


def _train_targets(content: Content, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Number of train images of each class, shuffled, so that the seed says which are rare."""
    images = content.train_images
    rare = rng.integers(3, min(10, images) + 1, content.rare)
    most = max(11, min(100, images))  # below 11 images there are no common classes
    common = np.exp(rng.uniform(np.log(11), np.log(most + 0.99), content.common)).astype(int)
    targets = np.concatenate([rare, common])
    if content.frequent:
        repeats = sum(share * count for count, share in enumerate(_REPEATS))
        room = int(slots - repeats * images - targets.sum())
        least = FREQUENCIES["f"][0] + 1
        if room < least * content.frequent:
            raise BadOptions(
                f"--frequent {content.frequent} needs more than 100 train images for each of "
                f"{content.frequent} classes, but --train-images {images} with --objects "
                f"{content.objects[0]} {content.objects[1]} leave room for {max(room, 0) // least}"
            )
        weights = np.exp(rng.normal(0, 0.7, content.frequent))
        spare = (room - least * content.frequent) * weights / weights.sum()
        targets = np.concatenate([targets, np.minimum(least + spare.astype(int), images)])
    return rng.permutation(targets)


def _deal(
    targets: np.ndarray, slots: np.ndarray, split: str, rng: np.random.Generator
) -> list[list[int]]:
    """Give class c to ``targets[c]`` images; fill the slots that are left with repeats.

    Args:
        targets: (C,) int, images of each class
        slots: (I,) int, objects of each image
    """
    room = _distinct(int(targets.sum()), slots, split, rng)
    shown: list[set[int]] = [set() for _ in slots]
    # The largest class first, into images that show nothing yet, then those with most room, as in
    # Gale and Ryser's theorem on degree sequences; an image may take some more than planned.
    for index in np.argsort(-targets, kind="stable").tolist():
        count = np.array([len(classes) for classes in shown])
        order = np.lexsort((rng.random(len(slots)), count - room, count > 0, count >= slots))
        images = order[: targets[index]]
        if (count >= slots)[images].any():
            raise BadOptions(
                f"the {split} images have no room for all classes; more images or objects, "
                "or fewer classes, will do"
            )
        for image in images.tolist():
            shown[image].add(index)
    _shuffle(shown, rng)
    result = []
    for classes, count in zip(shown, slots.tolist(), strict=True):
        own = sorted(classes)
        result.append(own + rng.choice(own, count - len(own)).tolist())
    return result


def _distinct(total: int, slots: np.ndarray, split: str, rng: np.random.Generator) -> np.ndarray:
    """How many different classes each image shows: `total` in all, 1 or more each."""
    if not len(slots) <= total <= slots.sum():
        raise BadOptions(
            f"the classes ask for {total} places in the {len(slots)} {split} images, which have "
            f"room for {len(slots)} to {slots.sum()}; change the number of images, of objects "
            "(--objects) or of classes (--rare, --common, --frequent)"
        )
    repeats = rng.choice(len(_REPEATS), len(slots), p=_REPEATS)
    distinct = np.maximum(slots - repeats, 1)
    while (excess := int(distinct.sum()) - total) != 0:
        able = np.flatnonzero(distinct > 1 if excess > 0 else distinct < slots)
        distinct[rng.permutation(able)[: abs(excess)]] -= np.sign(excess)
    return distinct


def _shuffle(shown: list[set[int]], rng: np.random.Generator) -> None:
    """Exchange classes between images at random; how many each has and shows stays."""
    pairs = [(image, index) for image, classes in enumerate(shown) for index in sorted(classes)]
    for p, q in rng.integers(0, len(pairs), (10 * len(pairs), 2)).tolist():
        (i, a), (j, b) = pairs[p], pairs[q]
        if i != j and b not in shown[i] and a not in shown[j]:
            shown[i] ^= {a, b}
            shown[j] ^= {a, b}
            pairs[p], pairs[q] = (i, b), (j, a)


def _label(
    images: Sequence[Sequence[int]], content: Content, rng: np.random.Generator
) -> list[ImagePlan]:
    """Mix the order of the objects and decide what each image is verified for."""
    return [_image_plan(rng.permutation(classes).tolist(), content, rng) for classes in images]


def _image_plan(classes: list[int], content: Content, rng: np.random.Generator) -> ImagePlan:
    annotated = [True] * len(classes)
    not_exhaustive = []
    for index, count in sorted(Counter(classes).items()):
        if count > 1 and rng.random() < content.not_exhaustive:
            not_exhaustive.append(index)
            places = [k for k, other in enumerate(classes) if other == index]
            for k in rng.choice(places, rng.integers(1, count), replace=False).tolist():
                annotated[k] = False
    absent = np.setdiff1d(np.arange(content.classes), classes)
    negatives = rng.choice(absent, min(content.negatives, len(absent)), replace=False)
    return ImagePlan(
        tuple(classes), tuple(annotated), tuple(sorted(negatives.tolist())), tuple(not_exhaustive)
    )
