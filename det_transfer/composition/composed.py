"""Tasks of several runs on one frozen trunk, ready to be called."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from .. import run_folder
from ..api import Detector, ImageLike, batches, load
from ..engine.evaluation import Evaluation
from ..errors import UserError, raise_all
from ..modeling import SharedBackboneDetector
from .file import ENDINGS, INPUT_KEYS, Composition, read_composition, size_problems

__all__ = ["LOADERS", "ComposedDetector", "LoadedTask", "compose", "load_composition"]

# What is done to an image before the trunk sees it; the same for all tasks.
_SIZES = ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
_PIXELS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")


class LoadedTask(Protocol):
    """What a loader makes of a run: a :class:`~det_transfer.api.Detector`, or a head of its kind.

    Attributes:
        cfg: of the run
        classes: names by class index
        weights: the checkpoint
    """

    cfg: CfgNode
    classes: Sequence[str]
    weights: Path

    def head_on(self, trunk: nn.Module) -> nn.Module:
        """The module that takes the trunk's features; of a detector there is none.

        Raises:
            UserError: it was trained on another trunk; both fingerprints are shown
        """
        ...

    def answer(self, output: dict[str, Any]) -> Instances:
        """The module's answer for an image; without boxes it is of the whole picture."""
        ...

    def evaluations(self, output: str | os.PathLike) -> Iterable[Evaluation]:
        """On the test sets of its config, into ``output/eval/<dataset>``."""
        ...


def _load_detector(run: Path, name: str, **options: Any) -> Detector:
    return load(run, **options)


# Kind of run -> what loads it, from folder, task's name and the options of `load`. A program that
# knows another kind adds it: classification.load_head for "classifier".
LOADERS: dict[str, Callable[..., LoadedTask]] = {"detector": _load_detector}


class ComposedDetector:
    """Several tasks on one trunk that take images in any form, as :class:`Detector` does.

    Args:
        tasks: name -> a :class:`Detector` or another :class:`LoadedTask`

    Attributes:
        model (SharedBackboneDetector): whose tasks can be added and removed
        tasks: as they came in, for their classes and configs

    Raises:
        UserError: they have not the same trunk, frozen and fed alike
    """

    def __init__(self, tasks: Mapping[str, LoadedTask]):
        detectors = {name: task for name, task in tasks.items() if isinstance(task, Detector)}
        if not detectors:
            raise UserError(
                f"tasks {', '.join(tasks) or '(none)'}: one at least must be a detector, whose "
                "trunk all others share"
            )
        self._first = next(iter(detectors.items()))
        raise_all(p for name, task in tasks.items() for p in self._differences(name, task))
        self.model = SharedBackboneDetector({n: d.model for n, d in detectors.items()})
        self.tasks: dict[str, LoadedTask] = dict(detectors)
        for name in [name for name in tasks if name not in detectors]:
            self.add(name, tasks[name])

    def __call__(
        self, images: ImageLike | Iterable[ImageLike], *, batch: int = 1
    ) -> dict[str, Instances] | list[dict[str, Instances]]:
        """Task -> its ``Instances`` as :class:`Detector` gives them; for several images a list.

        Those of a classifier have the likeliest classes of the picture, and no boxes.
        """
        if isinstance(images, ImageLike):
            return next(self.each([images]))
        return list(self.each(images, batch=batch))

    def each(
        self, images: Iterable[ImageLike], *, batch: int = 1
    ) -> Iterator[dict[str, Instances]]:
        """As a call on several, one after the other: of `images` only a batch is held at a time."""
        for samples in batches(map(self._first[1].sample, images), batch):
            answers = self.model(samples)
            for number in range(len(samples)):
                yield {
                    name: self.tasks[name].answer(outputs[number])
                    for name, outputs in answers.items()
                }

    def add(self, name: str, task: LoadedTask) -> None:
        """Put another task on the trunk.

        Raises:
            UserError: it does not belong there
        """
        raise_all(self._differences(name, task))
        if isinstance(task, Detector):
            self.model.add(name, task.model)
        else:
            try:
                self.model.add(name, task.head_on(self.model.trunk))
            except UserError as error:
                raise UserError(f"task {name}: {error}") from error
        self.tasks[name] = task

    def remove(self, name: str) -> None:
        """Take a task off."""
        self.model.remove(name)
        del self.tasks[name]

    def _differences(self, name: str, task: LoadedTask) -> Iterable[str]:
        """What of the images is prepared in another way than for the first."""
        first, model = self._first
        # A classifier is shown what the detectors are shown.
        for key in _PIXELS + _SIZES * isinstance(task, Detector):
            ours, theirs = _value(model.cfg, key), _value(task.cfg, key)
            if ours != theirs:
                way_out = "; say which counts with input (--input-size)" * (key in _SIZES)
                yield (
                    f"tasks {first} and {name} have {key} {ours} and {theirs}, but the trunk is "
                    f"fed once{way_out}"
                )


def _value(cfg: CfgNode, key: str) -> Any:
    for word in key.split("."):
        cfg = cfg[word]
    return cfg


def compose(
    path: str | os.PathLike,
    runs: Mapping[str, str | os.PathLike],
    *,
    input: Mapping[str, int] | None = None,
) -> ComposedDetector:
    """Put the tasks of several runs on one trunk, and write the file that says so.

    Args:
        path: of the YAML
        runs: task -> run folder
        input: see :class:`Composition`

    Raises:
        UserError: they have not the same trunk, frozen and fed alike, or `path` is no name of a
            YAML; nothing is written
    """
    if Path(path).suffix not in ENDINGS:
        raise UserError(f"composition {path}: its name must end in {' or '.join(ENDINGS)}")
    raise_all(size_problems(dict(input or {})))
    tasks = {name: (Path(run), "") for name, run in runs.items()}
    composed = _load(Composition(tasks, input=input or {}))
    chosen = {name: (run, composed.tasks[name].weights.name) for name, (run, _) in tasks.items()}
    Composition(chosen, composed.model.fingerprint, input or {}).write(path)
    return composed


def load_composition(
    path: str | os.PathLike, *, device: str = "", score_threshold: float = 0.0
) -> ComposedDetector:
    """The tasks that a composition names, ready to be called.

    Raises:
        UserError: the file is wrong, something of it is missing, or its trunk is another one now
    """
    composition = read_composition(path)
    composed = _load(composition, device=device, score_threshold=score_threshold)
    found = composed.model.fingerprint
    if found != composition.fingerprint:
        raise UserError(
            f"{path}: its trunk had fingerprint {composition.fingerprint[:12]} and now has "
            f"{found[:12]}: the runs were trained again; make the composition anew"
        )
    return composed


def _load(composition: Composition, **options: Any) -> ComposedDetector:
    sizes = {INPUT_KEYS[key]: size for key, size in composition.input.items()}
    tasks, problems = {}, []
    for name, (run, weights) in composition.tasks.items():
        try:
            tasks[name] = _loader(run)(run, name, weights=weights, options=sizes, **options)
        except UserError as error:
            problems += [f"task {name}: {line}" for line in str(error).splitlines()]
    raise_all(problems)
    return ComposedDetector(tasks)


def _loader(run: Path) -> Callable[..., LoadedTask]:
    kind = "classifier" if run_folder.is_classifier(run) else "detector"
    if kind not in LOADERS:
        raise UserError(
            f"{run} is a run of a {kind}: before loading, "
            "composition.LOADERS['classifier'] = classification.load_head"
        )
    return LOADERS[kind]
