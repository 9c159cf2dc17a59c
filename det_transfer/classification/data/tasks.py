"""Which dataset belongs to which task, and the classes of each."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from numpy.typing import NDArray

from ...errors import UserError, nearest, raise_all
from .image_set import ImageSet
from .noise import noisy
from .readers import read_images

__all__ = ["Tasks", "check_tasks", "image_set", "noise_of", "subset", "training_images"]

logger = logging.getLogger(__name__)


def image_set(cfg: CfgNode, name: str) -> ImageSet:
    """The dataset that DATASETS.CLASSIFICATION calls `name`, with classes of its own.

    Raises:
        UserError: it is not there
    """
    entries = {entry[0]: tuple(entry) for entry in cfg.DATASETS.CLASSIFICATION}
    if name not in entries:
        near = nearest(name, entries) or list(entries)
        hint = f"; there is {', '.join(near)}" if near else ""
        raise UserError(f"dataset {name} is not in DATASETS.CLASSIFICATION{hint}")
    return _read(*entries[name])


@lru_cache(maxsize=16)
def _read(name: str, reader: str, path: str, split: str) -> ImageSet:
    return read_images(name, reader, path, split)


class Tasks:
    """The tasks of a config: MODEL.CLASSIFIER.TASK and TASKS.

    A task has the classes of the first of its datasets that is named, those for training first.

    Attributes:
        classes: task -> names of its classes
        trained: tasks of DATASETS.TRAIN
    """

    def __init__(self, cfg: CfgNode):
        self._cfg = cfg
        own = {name: entry[0] for entry in cfg.MODEL.CLASSIFIER.TASKS for name in entry[1:]}
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        names += [name for entry in cfg.MODEL.CLASSIFIER.TASKS for name in entry[1:]]
        self._task = {name: own.get(name, cfg.MODEL.CLASSIFIER.TASK) for name in names}
        self.classes: dict[str, tuple[str, ...]] = {}
        for name in dict.fromkeys(names):
            self.classes.setdefault(self._task[name], image_set(cfg, name).classes)
        self.trained = tuple(dict.fromkeys(self._task[name] for name in cfg.DATASETS.TRAIN))

    def of(self, name: str) -> str:
        """The task of a dataset."""
        return self._task[name]

    def images(self, name: str) -> ImageSet:
        """A dataset with the labels of its task."""
        return image_set(self._cfg, name).as_classes(self.classes[self.of(name)])

    def sizes(self) -> Mapping[str, int]:
        """Task -> number of its classes."""
        return {task: len(classes) for task, classes in self.classes.items()}


def check_tasks(cfg: CfgNode) -> list[str]:
    """A line for each dataset; all that is wrong with them at once.

    Raises:
        UserError: a training set with one class, or with a class that has no image
    """
    tasks, lines, problems = Tasks(cfg), [], []
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        images = tasks.images(name)
        empty = [images.classes[k] for k in np.flatnonzero(images.counts() == 0)]
        lines.append(
            f"{name}: {len(images)} images, {len(images.classes)} classes, task {tasks.of(name)}"
        )
        if name not in cfg.DATASETS.TRAIN:
            continue
        if len(images.classes) < 2:
            problems.append(f"dataset {name} has one class, {images.classes[0]}: nothing to learn")
        if empty:
            problems.append(
                f"dataset {name}: {len(empty)} of its {len(images.classes)} classes have no image, "
                f"e.g. {', '.join(empty[:3])}; remove them, or name the others in a file and add "
                "@FILE to the split"
            )
    raise_all(problems)
    return lines


def subset(cfg: CfgNode, images: ImageSet) -> ImageSet:
    """DATASETS.TRAIN_FRACTION or TRAIN_SHOTS of a training set, of each class alike.

    10 % lie inside 25 %, and 5 shots inside 10. A class keeps at least one image.
    """
    kept = _chosen(cfg, images)
    return images if len(kept) == len(images) else images.only(kept)


def _chosen(cfg: CfgNode, images: ImageSet) -> NDArray[np.int64]:
    """The indices of :func:`subset`."""
    fraction, shots = cfg.DATASETS.TRAIN_FRACTION, cfg.DATASETS.TRAIN_SHOTS
    if fraction == 1 and not shots:
        return np.arange(len(images))
    order = np.random.default_rng(cfg.DATASETS.SUBSET_SEED).permutation(len(images))
    kept: list[Sequence[int]] = []
    for k, count in enumerate(images.counts().tolist()):
        wanted = shots or max(1, round(fraction * count))
        kept.append(order[images.labels[order] == k][:wanted])
    return np.sort(np.concatenate(kept))


def training_images(cfg: CfgNode, tasks: Tasks, name: str) -> ImageSet:
    """A training set as it is trained on: :func:`subset`, with DATASETS.LABEL_NOISE."""
    images = tasks.images(name)
    part = subset(cfg, images)
    share = cfg.DATASETS.LABEL_NOISE
    if not share:
        return part
    seed = cfg.DATASETS.SUBSET_SEED
    labels = noisy(part.labels, _chosen(cfg, images), len(part.classes), share, seed)
    return replace(part, labels=labels)


def noise_of(cfg: CfgNode) -> dict[str, Any]:
    """For run.json: share, seed, and of each training set how many labels were exchanged."""
    tasks, share = Tasks(cfg), cfg.DATASETS.LABEL_NOISE
    exchanged = {}
    for name in cfg.DATASETS.TRAIN:
        before, after = subset(cfg, tasks.images(name)), training_images(cfg, tasks, name)
        wrong = int((before.labels != after.labels).sum())
        exchanged[name] = {"exchanged": wrong, "of": len(after)}
    return {"share": share, "seed": cfg.DATASETS.SUBSET_SEED, "sets": exchanged}
