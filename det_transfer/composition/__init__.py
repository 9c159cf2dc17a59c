"""Tasks of several runs on one frozen trunk: the file that names them, and what it gives."""

from .composed import LOADERS, ComposedDetector, LoadedTask, compose, load_composition
from .evaluation import evaluate
from .file import ENDINGS, Composition, read_composition

__all__ = [
    "ENDINGS",
    "LOADERS",
    "ComposedDetector",
    "Composition",
    "LoadedTask",
    "compose",
    "evaluate",
    "load_composition",
    "read_composition",
]
