"""What a user did wrong, said once and clearly.

A :class:`UserError` names the key or file, the value and the way out. Our command-line programs
print it as one line and exit with code 2; every other exception is a bug of ours and keeps its
traceback (:func:`det_transfer.engine.launch.run`).
"""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "nearest", "own_words", "raise_all"]


class UserError(ValueError):
    """A mistake in a config, a command line or a file that the user can mend."""


def nearest(word: str, choices: Iterable[str], most: int = 3) -> list[str]:
    """The choices spelt most like `word`, best first; empty where nothing comes close.

    Where one is much nearer than the others, it stands alone.
    """
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), by_lower, n=most, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, name, word.lower()).ratio() for name in found]
    return [by_lower[n] for n, r in zip(found, likeness, strict=True) if r > likeness[0] - 0.1]


def own_words(error: UserError) -> str:
    """What a :class:`UserError` says, without the traceback that a loading process wraps it in."""
    return str(error).rsplit(f"{UserError.__name__}: ", 1)[-1].strip()


def raise_all(problems: Iterable[str]) -> None:
    """Raise one :class:`UserError` with a line for each problem; return where there is none."""
    problems = list(problems)
    if problems:
        raise UserError("\n".join(problems))
