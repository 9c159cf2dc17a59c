"""The file of a composition: a YAML; paths are relative to it.

::

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

import yaml

from .. import run_folder
from ..documents import read_yaml
from ..errors import raise_all

__all__ = ["ENDINGS", "INPUT_KEYS", "Composition", "read_composition", "size_problems"]

ENDINGS = (".yaml", ".yml")  # by which programs tell a composition from a run folder

INPUT_KEYS = {"min_size": "INPUT.MIN_SIZE_TEST", "max_size": "INPUT.MAX_SIZE_TEST"}
_TASK_KEYS = {"run", "weights"}
_KEYS = {"fingerprint", "tasks", "input"}


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


def read_composition(path: str | os.PathLike) -> Composition:
    """Read and check the file; no run is opened.

    Raises:
        UserError: all that is wrong with it
    """
    content = read_yaml(path, "composition")
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
        sound = isinstance(task, dict) and isinstance(task.get("run"), str)
        if not sound or task.keys() - _TASK_KEYS:
            yield f"task {name} is {task!r}; write {{run: FOLDER, weights: FILE}}"
    yield from size_problems(content.get("input") or {})


def size_problems(sizes: Any) -> Iterable[str]:
    """What is wrong with "input"."""
    if not isinstance(sizes, dict) or any(
        key not in INPUT_KEYS or not isinstance(size, int) or size <= 0
        for key, size in sizes.items()
    ):
        yield f"input is {sizes!r}; write {{min_size: 320, max_size: 480}}, in pixels"
