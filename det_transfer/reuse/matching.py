"""Finding things of a model by regular expressions on their whole names."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ..errors import UserError, nearest

__all__ = ["matching"]

Thing = TypeVar("Thing")


def matching(
    known: Mapping[str, Thing], patterns: Sequence[str], key: str, what: str
) -> dict[str, Thing]:
    """Those of `known` whose whole name one of the patterns matches, in the order of `known`.

    Args:
        key: of the config, for errors
        what: a word for the things, e.g. "module of the trunk"

    Raises:
        UserError: a pattern is no regular expression, or matches nothing
    """
    found = set()
    for pattern in patterns:
        try:
            matched = {name for name in known if re.fullmatch(pattern, name)}
        except re.error as error:
            raise UserError(f"{key}: {pattern!r}: {error}") from error
        if not matched:
            near = nearest(pattern, known) or list(known)[:3]
            raise UserError(f"{key}: {pattern!r} matches no {what}; there is {', '.join(near)}")
        found |= matched
    return {name: thing for name, thing in known.items() if name in found}
