"""Reading json and YAML that may come from anywhere.

What is wrong with a file is said in one :class:`UserError`: that it is missing, broken, nested too
deep to be walked, or a YAML that asks for Python objects or unfolds to more than it seems to hold.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError
from .garbage import not_looked_for

__all__ = ["MissingFileError", "read_json", "read_yaml"]

MOST_VALUES = 1_000_000  # of a YAML, with its aliases written out
DEEPEST = 100  # levels of a YAML


class MissingFileError(UserError, FileNotFoundError):
    """The file is not there."""


def read_json(
    path: str | Path, what: str = "", *, hook: Callable[[dict], Any] | None = None
) -> Any:
    """The content of a json.

    Args:
        what: the file is, e.g. "dataset cells:", before its path in an error
        hook: takes each object and gives what stands for it

    Raises:
        MissingFileError: there is no such file
        UserError: it cannot be read as json
    """
    content = _bytes(path, what)
    try:
        with not_looked_for():
            return json.loads(content, object_hook=hook)
    except RecursionError as error:
        raise UserError(f"{_named(path, what)} cannot be read: it is nested too deep") from error
    except ValueError as error:
        raise UserError(f"{_named(path, what)} is not json: {error}") from error


def read_yaml(path: str | Path, what: str = "") -> Any:
    """The content of a YAML of plain values.

    Args:
        what: as of :func:`read_json`

    Raises:
        MissingFileError: there is no such file
        UserError: it cannot be read as YAML, has tags of Python, or is larger than
            `MOST_VALUES` or deeper than `DEEPEST`
    """
    text = _bytes(path, what)
    try:
        content = yaml.safe_load(text)
        _measure(content, 0, {})
    # yaml's constructors let through what int(), a table or a pattern says of a value.
    except (
        yaml.YAMLError,
        UserError,
        RecursionError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
        raise UserError(f"{_named(path, what)} cannot be read: {_reason(error)}") from error
    return content


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    tag = re.search(r"'tag:yaml\.org,2002:(python/[^']*)'", str(error))
    if tag and isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1
        return f"line {line} has a tag of Python, !!{tag[1]}, which would run code; write its value"
    return str(error)


def _bytes(path: str | Path, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{_named(path, what)} does not exist") from error
    # A null byte in a path is a ValueError.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{_named(path, what)} cannot be read: {reason}") from error


def _named(path: str | Path, what: str) -> str:
    return f"{what} {path}".strip()


def _measure(value: Any, depth: int, known: dict[int, int]) -> int:
    """How many values there are, each alias written out; an alias is measured once."""
    if depth > DEEPEST:
        raise UserError(f"it is nested more than {DEEPEST} levels deep, or holds itself")
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 1 + sum(_measure(part, depth + 1, known) for part in _parts(value))
        if known[id(value)] > MOST_VALUES:
            raise UserError(f"with its aliases written out it has over {MOST_VALUES:,} values")
    return known[id(value)]


def _parts(value: dict | list) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    else:
        yield from value
