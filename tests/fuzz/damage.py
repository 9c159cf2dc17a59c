"""Files with something wrong in them, and what a reader may do when it is given one.

FUZZ_CASES says how many each test tries; `make fuzz` tries 10,000.
"""

import contextlib
import copy
import os
import resource
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from det_transfer.errors import UserError

CASES = int(os.environ.get("FUZZ_CASES", 60))
BYTES = 1 << 30  # that no case may take: the files have a few kB
SECONDS = 60  # that no case may take, on however busy a machine
LONGEST = 1_000  # characters of a line that is said to a user

many = settings(
    max_examples=CASES,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Of what takes a second a case, as a whole page does: fewer, but for `make fuzz`.
some = settings(many, max_examples=CASES if "FUZZ_CASES" in os.environ else CASES // 3)

_ODD = (0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e-300, 1e308, float("nan"), float("inf"))
_ODD_TEXTS = ("", " ", ".", "..", "/", "a/../../b", "\0", "é\u202e", "1", "x" * 300, "{a}", "%s")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(_ODD)
    | st.sampled_from(_ODD_TEXTS)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def places(document):
    """(container, key) of everything below a document."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(pairs):
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


@st.composite
def damaged(draw, document, most=3):
    """A document of plain values in which up to `most` things are exchanged, lost or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        found = list(places(document))
        if not found or draw(st.integers(0, 50)) == 0:
            return draw(values)
        holder, key = draw(st.sampled_from(found))
        kind = draw(st.sampled_from(["exchange", "exchange", "lose", "double", "move"]))
        if kind == "exchange":
            holder[key] = draw(values)
        elif kind == "lose":
            del holder[key]
        elif kind == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif kind == "double":
            holder[draw(st.text(max_size=4))] = copy.deepcopy(holder[key])
        else:  # what stands elsewhere
            other, place = draw(st.sampled_from(found))
            with contextlib.suppress(LookupError, TypeError):  # no longer there
                holder[key] = copy.deepcopy(other[place])
    return document


@st.composite
def broken(draw, content):
    """Bytes of which some are cut off, flipped, lost or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["cut", "flip", "flip", "lose", "put in"]))
        if kind == "cut":
            del content[place:]
        elif kind == "flip" and content:
            content[place] ^= draw(st.integers(1, 255))
        elif kind == "lose":
            del content[place : place + draw(st.integers(1, 64))]
        else:
            content[place:place] = draw(st.binary(max_size=16))
    return bytes(content)


def told(read, *args, **kwargs):
    """What a reader makes of its file, or None where it says in a UserError what is wrong.

    Any other exception goes on, and so does a reader that does not come back or fills the memory,
    whatever it makes of that itself.
    """
    with no_longer_than(SECONDS), no_more_than(BYTES):
        try:
            return read(*args, **kwargs)
        except UserError as error:
            refused = error
    said = str(refused).strip()
    assert not ran_out_of_memory(refused), f"more than {BYTES} bytes were asked for: {said}"
    longest = max(map(len, said.splitlines()), default=0)
    assert 0 < longest < LONGEST, f"a line of {longest} characters: {said[:300]}"
    return None


class DidNotComeBackError(BaseException):
    """No reader's `except` is meant for it."""


@contextlib.contextmanager
def no_longer_than(seconds):
    late = []

    def stop(*_):
        late.append(DidNotComeBackError(f"did not come back in {seconds} s"))
        raise late[0]

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if late:  # in the middle of something that lets nothing through
            raise late[0]


_NO_MEMORY = ("not enough memory", "can't allocate memory", "Cannot allocate memory")


def ran_out_of_memory(error):
    """Whether that lies behind an error: Python's or torch's own."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def no_more_than(size):
    """Inside, so many bytes more may be asked for; beyond is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
