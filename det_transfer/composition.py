"""Detectors of several runs on one frozen trunk: a small file that names them, and what it gives.

A composition is a YAML; paths are relative to it::

    fingerprint: 3f2a...            # of the trunk that all share
    tasks:
      cells: {run: ../cells, weights: model_final.pth}
      rooms: {run: ../rooms, weights: model_best.pth}
    input: {min_size: 320, max_size: 480}    # only where the runs themselves differ
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.structures import Instances

from . import run_folder
from .api import Detector, ImageLike, load
from .errors import UserError, raise_all
from .modeling import SharedBackboneDetector

__all__ = ["ComposedDetector", "Composition", "compose", "load_composition", "read_composition"]

_TASK_KEYS = {"run", "weights"}
_KEYS = {"fingerprint", "tasks", "input"}
_INPUT_KEYS = {"min_size": "INPUT.MIN_SIZE_TEST", "max_size": "INPUT.MAX_SIZE_TEST"}
# What is done to an image before the trunk sees it; the same for all tasks.
_PREPARED_BY = ("MIN_SIZE_TEST", "MAX_SIZE_TEST", "FORMAT")


@dataclass(frozen=True)
class Composition:
    """What a composition's file says.

    Attributes:
        tasks: name -> (run folder, checkpoint's file name)
        fingerprint: of the shared trunk; "" before it is known
        input: "min_size" and "max_size" of images in pixels, for all tasks; {}: the runs' own
    """

    tasks: Mapping[str, tuple[Path, str]]
    fingerprint: str = ""
    input: Mapping[str, int] = field(default_factory=dict)

    def write(self, path: str | os.PathLike) -> None:
        """As a YAML, with paths relative to it."""
        folder = Path(path).resolve().parent
        content: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "tasks": {
                name: {"run": os.path.relpath(Path(run).resolve(), folder), "weights": weights}
                for name, (run, weights) in self.tasks.items()
            },
        }
        if self.input:
            content["input"] = dict(self.input)
        with run_folder.replacing(path) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


class ComposedDetector:
    """Several detectors on one trunk that take images in any form, as :class:`Detector` does.

    Attributes:
        model (SharedBackboneDetector): whose tasks can be added and removed
        detectors: name -> the :class:`Detector` that a task was made of, for its classes and config
    """

    def __init__(self, detectors: Mapping[str, Detector]):
        self.detectors = dict(detectors)
        self.model = SharedBackboneDetector({n: d.model for n, d in self.detectors.items()})

    def __call__(
        self, images: ImageLike | Iterable[ImageLike]
    ) -> dict[str, Instances] | list[dict[str, Instances]]:
        """Task -> its ``Instances`` as :class:`Detector` gives them; for several images a list."""
        if isinstance(images, ImageLike):
            return self._detect(images)
        return [self._detect(image) for image in images]

    @torch.no_grad()
    def _detect(self, image: ImageLike) -> dict[str, Instances]:
        asked = list(self.model.tasks)
        sample = self.detectors[asked[0]].sample(image)
        return {
            name: self.detectors[name].named(found["instances"].to("cpu"))
            for name, (found,) in self.model([sample], asked).items()
        }

    def add(self, name: str, detector: Detector) -> None:
        """Put another detector on the trunk.

        Raises:
            UserError: it does not belong there
        """
        raise_all(_differences({**self.detectors, name: detector}))
        self.model.add(name, detector.model)
        self.detectors[name] = detector

    def remove(self, name: str) -> None:
        """Take a task off."""
        self.model.remove(name)
        del self.detectors[name]


def compose(
    path: str | os.PathLike,
    runs: Mapping[str, str | os.PathLike],
    *,
    input: Mapping[str, int] | None = None,
) -> ComposedDetector:
    """Put the detectors of several runs on one trunk, and write the file that says so.

    Args:
        path: of the YAML
        runs: task -> run folder
        input: see :class:`Composition`

    Raises:
        UserError: they have not the same trunk, frozen and fed alike; nothing is written
    """
    tasks = {name: (Path(run), "") for name, run in runs.items()}
    composed, weights = _load(Composition(tasks, input=input or {}))
    chosen = {name: (run, weights[name]) for name, (run, _) in tasks.items()}
    Composition(chosen, composed.model.fingerprint, input or {}).write(path)
    return composed


def load_composition(
    path: str | os.PathLike, *, device: str = "", score_threshold: float = 0.0
) -> ComposedDetector:
    """The detectors that a composition names, ready to be called.

    Raises:
        UserError: the file is wrong, something of it is missing, or its trunk is another one now
    """
    composition = read_composition(path)
    composed, _ = _load(composition, device=device, score_threshold=score_threshold)
    found = composed.model.fingerprint
    if found != composition.fingerprint:
        raise UserError(
            f"{path}: its trunk had fingerprint {composition.fingerprint[:12]} and now has "
            f"{found[:12]}: the runs were trained again; make the composition anew"
        )
    return composed


def read_composition(path: str | os.PathLike) -> Composition:
    """Read and check the file; no run is opened.

    Raises:
        UserError: all that is wrong with it
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"composition {path} cannot be read: {error}") from error
    raise_all(f"composition {path}: {problem}" for problem in _problems(content))
    folder = Path(path).resolve().parent
    tasks = {
        str(name): (folder / task["run"], str(task.get("weights", "")))
        for name, task in content["tasks"].items()
    }
    return Composition(tasks, str(content["fingerprint"]), content.get("input") or {})


def _problems(content: Any) -> Iterable[str]:
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), dict):
        yield "it is not a mapping with tasks"
        return
    for key in sorted(map(str, content.keys() - _KEYS)):
        yield f"there is no key {key}; there is {', '.join(sorted(_KEYS))}"
    if not content.get("fingerprint"):
        yield "it has no fingerprint; tools/compose.py make writes one"
    if not content["tasks"]:
        yield "it has no task"
    for name, task in content["tasks"].items():
        if not isinstance(task, dict) or "run" not in task or task.keys() - _TASK_KEYS:
            yield f"task {name} is {task!r}; write {{run: FOLDER, weights: FILE}}"
    sizes = content.get("input") or {}
    if not isinstance(sizes, dict) or any(
        key not in _INPUT_KEYS or not isinstance(size, int) or size <= 0
        for key, size in sizes.items()
    ):
        yield f"input is {sizes!r}; write {{min_size: 320, max_size: 480}}, in pixels"


def _load(composition: Composition, **options: Any) -> tuple[ComposedDetector, dict[str, str]]:
    """The composed detector, and the checkpoint of each task."""
    sizes = {_INPUT_KEYS[key]: size for key, size in composition.input.items()}
    detectors, problems = {}, []
    for name, (run, weights) in composition.tasks.items():
        try:
            detectors[name] = load(run, weights=weights, options=sizes, **options)
        except UserError as error:
            problems += [f"task {name}: {line}" for line in str(error).splitlines()]
    raise_all(problems)
    raise_all(_differences(detectors))
    composed = ComposedDetector(detectors)
    return composed, {name: d.weights.name for name, d in detectors.items()}


def _differences(detectors: Mapping[str, Detector]) -> Iterable[str]:
    """Tasks that want their images prepared in another way than the first."""
    (first, model), *others = detectors.items()
    for name, other in others:
        for key in _PREPARED_BY:
            if model.cfg.INPUT[key] != other.cfg.INPUT[key]:
                way_out = "; say which counts with input (--input-size)" * key.endswith("SIZE_TEST")
                yield (
                    f"tasks {first} and {name} have INPUT.{key} {model.cfg.INPUT[key]} and "
                    f"{other.cfg.INPUT[key]}, but the trunk is fed once{way_out}"
                )
