"""When Python looks for garbage: not while it imports, and not where workers are forked.

Its collector walks through whatever is alive, and here half a million objects of torch, Detectron2
and timm are: a seventh of a start's time, in which it finds next to nothing.
"""

import contextlib
import functools
import gc
from collections.abc import Iterator

__all__ = ["keep_imports", "not_looked_for", "without_garbage"]


@contextlib.contextmanager
def not_looked_for() -> Iterator[None]:
    """Look for no garbage in here; what was made in here counts as old afterwards.

    Without the last, the first look afterwards would walk through all of it after all.
    """
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # somebody else's stay frozen
            gc.freeze()
            gc.unfreeze()
        if looking:
            gc.enable()


@contextlib.contextmanager
def without_garbage() -> Iterator[None]:
    """So that no process that is forked here copies pages by looking for garbage in them."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@functools.cache
def keep_imports() -> None:
    """For a program, as it starts: what is alive is never looked at again, until workers start."""
    gc.freeze()
