"""What a user did wrong, said once and clearly.

A :class:`UserError` names the key or file, the value and the way out. Our command-line programs
print it as one line and exit with code 2, and a fault of the machine with code 3; every other
exception is a bug of ours and keeps its traceback (:func:`det_transfer.engine.launch.run`).
"""

import difflib
import errno
import re
import sys
from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "MACHINE_FAULT",
    "USER_ERROR",
    "UserError",
    "choice_problems",
    "exit_code",
    "machine_fault",
    "nearest",
    "own_words",
    "raise_all",
]

# Exit codes; of a bug of ours it is 1, after a traceback.
USER_ERROR = 2
MACHINE_FAULT = 3  # memory, disk or a process gave out: the same command may go well again

# What the machine says of itself in an OSError.
_NO_MEMORY = "the machine is out of memory"
_FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file grew over the size that is allowed here (ulimit -f)",
    errno.EIO: "the disk or the drive behind it reports a fault of its own (input/output error)",
    errno.EROFS: "the file system can only be read",
    errno.ESTALE: "the network drive has lost the file (stale file handle)",
    errno.EMFILE: "too many files are open at once (ulimit -n says how many may be)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: _NO_MEMORY,
}
_TOLD = re.compile(r"\[Errno (\d+)\] [^:\n]*(?:: '([^'\n]*)')?")


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
        what `main` gives, None as 0; after a :class:`UserError` 2, after a fault of the machine 3,
        which both go to stderr in a line
    """
    try:
        return main(*args) or 0
    except UserError as error:
        print(f"error: {own_words(error)}", file=sys.stderr)  # noqa: T201
        return USER_ERROR
    except Exception as error:
        if not (said := machine_fault(error)):
            raise
        print(f"error: {said}; files that were there before are whole", file=sys.stderr)  # noqa: T201
        return MACHINE_FAULT


def machine_fault(error: BaseException | None) -> str:
    """What happened to disk, memory or open files, in a line; "" where it is none of these.

    What was raised while such an error was dealt with, as torch's and zip's writers do, is one.
    """
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if said := _fault(error) if isinstance(error, OSError) else "":
        return said
    return machine_fault(error.__context__) if error else ""


def _fault(error: OSError) -> str:
    number, file = error.errno, error.filename
    # Raised anew by torch, from a process that loads data, it is but a text.
    if number is None and (told := _TOLD.search(str(error))):
        number, file = int(told[1]), told[2]
    return _FAULTS[number] + (f" at {file}" if file else "") if number in _FAULTS else ""


def raise_all(problems: Iterable[str]) -> None:
    """Raise one :class:`UserError` with a line for each problem; return where there is none."""
    problems = list(problems)
    if problems:
        raise UserError("\n".join(problems))


def choice_problems(key: str, value: object, choices: Iterable[object]) -> Iterator[str]:
    """A line where `value` is none of the choices."""
    choices = list(choices)
    if value not in choices:
        yield f"{key} is {value!r}; it can be {' or '.join(map(repr, choices))}"
