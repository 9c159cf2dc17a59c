"""When Python looks for garbage: not while it imports or reads, and not where workers are forked.

Its collector walks through whatever is alive, and here half a million objects of torch, Detectron2
and timm are, which is a seventh of a start's time, or millions of a json, which is a quarter of
reading it. It finds next to nothing there.
"""

import contextlib
import functools
import gc
from collections.abc import Iterator

__all__ = ["keep_imports", "not_looked_for", "without_garbage"]


@contextlib.contextmanager
def not_looked_for(*, to_stay: bool = False) -> Iterator[None]:
    """Look for no garbage in here.

    Args:
        to_stay: what is alive afterwards counts as old, so that not even the next look walks
            through it. Not for what happens often: garbage of before then counts as old too, and
            stays for long
    """
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if to_stay and not gc.get_freeze_count():  # somebody else's stay frozen
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
