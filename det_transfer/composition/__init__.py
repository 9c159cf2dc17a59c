"""Tasks of several runs on one frozen trunk: the file that names them, and what it gives."""

from .composed import LOADERS, ComposedDetector, LoadedTask, compose, load_composition
from .evaluation import evaluate
from .file import Composition, read_composition

__all__ = [
    "LOADERS",
    "ComposedDetector",
    "Composition",
    "LoadedTask",
    "compose",
    "evaluate",
    "load_composition",
    "read_composition",
]
