"""What a user did wrong, said once and clearly.

A :class:`UserError` names the key or file, the value and the way out. Our command-line programs
print it as one line and exit with code 2; every other exception is a bug of ours and keeps its
traceback (:func:`det_transfer.engine.launch.run`).
"""

import difflib
import sys
from collections.abc import Callable, Iterable

__all__ = ["USER_ERROR", "UserError", "exit_code", "nearest", "own_words", "raise_all"]

USER_ERROR = 2  # exit code


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


def exit_code(main: Callable[..., int | None], *args: object) -> int:
    """Call `main`, in a program that does without torch; others have ``engine.launch.run``.

    Returns:
        what `main` gives, None as 0; after a :class:`UserError`, which goes to stderr, 2
    """
    try:
        return main(*args) or 0
    except UserError as error:
        print(f"error: {own_words(error)}", file=sys.stderr)  # noqa: T201
        return USER_ERROR


def raise_all(problems: Iterable[str]) -> None:
    """Raise one :class:`UserError` with a line for each problem; return where there is none."""
    problems = list(problems)
    if problems:
        raise UserError("\n".join(problems))
