"""det_transfer: reuse pretrained backbones properly in Detectron2, and measure what it brings.

Importing the package registers its parts with Detectron2. Where torch or Detectron2 is missing it
imports all the same, so that :mod:`det_transfer.report` works from a run folder alone.
"""

import importlib
import importlib.util
import warnings

from .garbage import not_looked_for

__version__ = "0.1.0"
__all__ = ["__version__", "add_det_transfer_config", "load", "train"]

if all(importlib.util.find_spec(name) for name in ("torch", "detectron2")):
    with not_looked_for(to_stay=True), warnings.catch_warnings():
        # Detectron2 uses what newer torch deprecates; a user can do nothing about it.
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        from . import modeling  # noqa: F401 - only registration


# Only who asks for these waits for what they need.
_LAZY = {"add_det_transfer_config": ".config", "load": ".api", "train": ".api"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
