"""How far long work is: a bar for a person at a terminal, plain lines in a file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["watched"]

Item = TypeVar("Item")

_EVERY_S = 30.0  # between two plain lines


def watched(items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
    """Pass `items` on and say on stderr how far they are.

    Args:
        total: how many there will be; 0 where it is not known
        unit: what one is called, in the singular
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total or None, unit=unit, dynamic_ncols=True)
        return
    start = said = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= _EVERY_S:
            said = now
            sys.stderr.write(_line(number, total, unit, now - start) + "\n")
            sys.stderr.flush()


def _line(number: int, total: int, unit: str, seconds: float) -> str:
    rate = number / seconds
    speed = f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each"
    if not total:
        return f"{number} {unit}s, {speed}"
    left = max(total - number, 0) / rate
    return f"{number} of {total} {unit}s, {speed}, about {_minutes(left)} to go"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
