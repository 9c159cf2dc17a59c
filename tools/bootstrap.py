#!/usr/bin/env python3
"""Make .venv and install the locked set, Detectron2 and det_transfer into it, once.

`make setup` runs it, and so does every other target; `make PYTHON=python3.12 setup` chooses the
Python. It can be stopped at any point and run again. Where everything is installed it returns at
once and needs no network. With --floor it does the same in .venv-floor with the oldest torch,
torchvision and timm that are supported (`make test-floor`).
"""

# The standard library alone, in syntax that Python 3.6 reads: an old Python must get as far as
# the line that says it is too old. So no newer annotations here, and no import from det_transfer.
import argparse
import base64
import contextlib
import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 10)
KNOWN = ["python3.{}".format(minor) for minor in (12, 13, 14, 11, 10)]  # proposed in this order

# GiB, measured on x86_64: the full .venv, and the most that is in use while it is being filled
# (.venv, 3 GiB of downloads that pip unpacks from, as much again in pip's cache).
FULL_GIB = 6.0
PEAK_GIB = 12.0


class Stop(Exception):
    """Why the set-up cannot go on: one line for the user."""


class Place(NamedTuple):
    """A checkout, and which set is installed where in it."""

    root: Path
    venv_name: str = ".venv"
    lock: str = "requirements/lock.txt"
    newest: Tuple[int, int] = (3, 14)  # from OLDEST on, every locked package has a wheel for it

    @property
    def inputs(self) -> Tuple[str, ...]:
        """What the set depends on, beside the version of det_transfer and where it stands."""
        return "requirements/build.txt", self.lock, "requirements/detectron2.txt", "setup.py"

    @property
    def pythons(self) -> str:
        return "{}.{} to {}.{}".format(*OLDEST, *self.newest)

    @property
    def venv(self) -> Path:
        return self.root / self.venv_name

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.venv / "bootstrap.done"

    @property
    def unfinished(self) -> Path:
        """A file that is there while the venv itself is being made."""
        return self.venv / "bootstrap.unfinished"

    @property
    def temporary(self) -> Path:
        return self.venv / "tmp"

    @property
    def log(self) -> Path:
        """pip's own log, there until the set-up ends well."""
        return self.venv / "pip.log"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--floor", action="store_true", help="the oldest set that is supported, in .venv-floor"
    )
    place = Place(ROOT)
    if parser.parse_args().floor:
        place = Place(ROOT, ".venv-floor", "requirements/floor.txt", newest=(3, 13))
    try:
        set_up(place)
    except Stop as stop:
        return _say_why(str(stop), 2)
    except KeyboardInterrupt:
        return _say_why("stopped; the same command goes on from here.", 130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _say_why(_no_space(place), 2)
        if isinstance(error, PermissionError):
            return _say_why("no permission to write {}".format(error.filename), 2)
        raise
    return 0


def set_up(place: Place) -> None:
    """Install whatever is missing in `place`; raise :class:`Stop` where that cannot be done."""
    if is_done(place):
        return
    check_machine(place)
    with _one_at_a_time():
        if is_done(place):  # by the run that we waited for
            return
        begin = time.time()
        for n, (what, step) in enumerate(STEPS, 1):
            say("[{}/{}] {}".format(n, len(STEPS), what))
            step(place)
        shutil.rmtree(str(place.temporary))
        place.log.unlink()
        place.stamp.write_text(digest(place) + "\n")
        say("Set up in {:.0f} s.".format(time.time() - begin))


def say(line: str) -> None:
    print(line, flush=True)


def _say_why(line: str, code: int) -> int:
    print("bootstrap: " + line, file=sys.stderr, flush=True)
    return code


# Is it done? -------------------------------------------------------------------------------------
def digest(place: Place) -> str:
    """What must be installed, as one sha256: the inputs, our version, and the place (`-e .`)."""
    sha = hashlib.sha256(str(place.root).encode())
    for name in place.inputs:
        sha.update(hashlib.sha256((place.root / name).read_bytes()).digest())
    ours = place.root / "det_transfer/__init__.py"
    version = re.search(r"__version__ = .*", ours.read_text())
    sha.update(version.group().encode() if version else b"")
    return sha.hexdigest()


def is_done(place: Place) -> bool:
    stamp = place.stamp
    return place.python.exists() and stamp.exists() and stamp.read_text().strip() == digest(place)


# Can this machine do it? -------------------------------------------------------------------------
def check_machine(place: Place) -> None:
    """Raise :class:`Stop` for what can be known before anything is downloaded."""
    if sys.platform != "linux":
        raise Stop(
            "the locked set is for Linux and this is {}. Where torch and Detectron2 are installed, "
            "`pip install -e .` is enough.".format(sys.platform)
        )
    if not _venv_works(place):
        check_python(place, sys.version_info[:3])
        _check_venv_module()
    check_disk(place)


def check_python(place: Place, version: Sequence[int]) -> None:
    """Raise :class:`Stop` where the locked set is not for Python `version` (major, minor, ...)."""
    if OLDEST <= tuple(version[:2]) <= place.newest:
        return
    fits = "import sys; sys.exit(sys.version_info[:2] > {})".format(place.newest)
    here = [name for name in KNOWN if shutil.which(name) and _runs(name, "-c", fits)]
    raise Stop(
        "Python {} is too {}: the locked set is for {}; {}: make PYTHON={} ...".format(
            ".".join(map(str, version)),
            "old" if tuple(version[:2]) < OLDEST else "new",
            place.pythons,
            "this machine has one" if here else "install one and name it",
            [*here, KNOWN[0]][0],
        )
    )


def _check_venv_module() -> None:
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Stop(
                "{0} has no module {1}; on Debian and Ubuntu: sudo apt install "
                "python{2}.{3}-venv".format(sys.executable, module, *sys.version_info[:2])
            )


def check_disk(place: Place) -> None:
    """Raise :class:`Stop` where the disk cannot take what is still missing of the set."""
    free = shutil.disk_usage(str(place.root)).free / 2**30
    if free < PEAK_GIB and free < disk_needed(place):
        raise Stop(_no_space(place))


def disk_needed(place: Place) -> float:
    """The most (GiB) that is in use, beside what is installed, while the rest is installed."""
    files = (
        os.path.join(where, name)
        for where, _, names in os.walk(str(place.venv / "lib"))
        for name in names
    )
    have = sum(os.lstat(file).st_blocks * 512 for file in files) / 2**30
    return max(0.0, 1 - have / FULL_GIB) * PEAK_GIB


def _no_space(place: Place) -> str:
    return "not enough disk space for {}: {:.1f} GiB are needed, {:.1f} are free.".format(
        place.venv, disk_needed(place), shutil.disk_usage(str(place.root)).free / 2**30
    )


# The steps ---------------------------------------------------------------------------------------
def make_venv(place: Place) -> None:
    """Make .venv, unless one that works is there. One that we left unfinished is made anew."""
    if _venv_works(place):
        _heal(place.venv)
    else:
        _new_venv(place)
    # pip's temporary files: big, so on .venv's disk, and what a killed pip left there goes.
    shutil.rmtree(str(place.temporary), ignore_errors=True)
    place.temporary.mkdir()


def _venv_works(place: Place) -> bool:
    code = "import pip._internal.cli.main, sys; sys.exit(not {} <= sys.version_info[:2] <= {})"
    code = code.format(OLDEST, place.newest)
    return not place.unfinished.exists() and _runs(place.python, "-c", code)


def _new_venv(place: Place) -> None:
    venv = place.venv
    ours = place.unfinished.exists() or place.stamp.exists()
    if venv.exists():
        if any(venv.iterdir()) and not ours:
            raise Stop(
                "{0} has no Python of {1} with a pip that works: rm -r {0}, and run again".format(
                    venv, place.pythons
                )
            )
        shutil.rmtree(str(venv))
    venv.mkdir()
    place.unfinished.touch()
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(venv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    if made.returncode:
        last = (made.stdout.strip().splitlines() or ["no reason given"])[-1]
        raise Stop("{} -m venv {} failed: {}".format(sys.executable, venv, last))
    place.unfinished.unlink()


def _heal(venv: Path) -> None:
    """Make pip forget what a killed pip left half done, so that it installs that again.

    pip writes INSTALLER last but for RECORD, and moves what it replaces to a name with ``~``.
    """
    for site in venv.glob("lib/python3*/site-packages"):
        half = [info for info in site.glob("*.dist-info") if not (info / "INSTALLER").exists()]
        for leftover in [*half, *site.glob("~*")]:
            shutil.rmtree(str(leftover)) if leftover.is_dir() else leftover.unlink()


def install_locked(place: Place) -> None:
    # What builds goes first: three packages come as source alone (pure Python: fvcore, iopath,
    # antlr4), and without build isolation all that they are built with is locked as well.
    # The lock is complete, so pip has nothing to solve: --no-deps. It also lets the lock have
    # opencv-python-headless for lvis, which asks for the one that needs libGL and X11.
    for name in ("requirements/build.txt", place.lock):
        flags = "install --no-deps --no-build-isolation --require-hashes -r"
        pip(place, flags, place.root / name)


def install_detectron2(place: Place) -> None:
    """Install the pinned Detectron2 as pure Python; one that is already there is left alone."""
    if _runs(place.python, "-c", _HAS_DETECTRON2):
        say("      there already")
        return
    folder = place.temporary / "detectron2"
    # The pin's wheel is tagged for CPython 3.10 because of a binary that we leave out.
    any_python = "--implementation cp --python-version 3.10 --abi none --platform any"
    flags = "download --no-deps --require-hashes --only-binary=:all: " + any_python
    pip(place, flags + " -r", place.root / "requirements/detectron2.txt", "-d", folder)
    (wheel,) = folder.glob("sal_detectron2-*.whl")
    pip(place, "install -q --no-deps --no-index", repack(wheel, folder))


# Importable, and not the files alone that a killed pip left in site-packages.
_HAS_DETECTRON2 = """
import importlib.metadata, importlib.util, sys
spec = importlib.util.find_spec("detectron2")
names = {d.metadata["Name"] for d in importlib.metadata.distributions()}
whole = names & {"detectron2", "sal-detectron2"}
sys.exit(not (spec and (whole or not (spec.origin or "").startswith(sys.prefix))))
"""


def install_package(place: Place) -> None:
    pip(place, "install -q --no-deps --no-build-isolation --no-index -e", place.root)


STEPS: Tuple[Tuple[str, Callable[[Place], None]], ...] = (
    ("a virtual environment", make_venv),
    ("the locked set (3 GB to download, 6 GB installed)", install_locked),
    ("Detectron2", install_detectron2),
    ("det_transfer itself", install_package),
)


def repack(wheel: Path, folder: Path) -> Path:
    """Write Detectron2's Python files of `wheel` as a wheel that every Python takes.

    Args:
        wheel: ``sal_detectron2-<version>-cp310-none-any.whl``, upstream's files with a binary for
            one Python and a stray top-level package ``tools``; both are left out.
        folder: where to write ``detectron2-<version>-py3-none-any.whl``.
    """
    version = wheel.name.split("-")[1]
    info = "detectron2-{}.dist-info".format(version)
    target = folder / "detectron2-{}-py3-none-any.whl".format(version)
    with zipfile.ZipFile(str(wheel)) as source:
        files = {
            name: source.read(name)
            for name in source.namelist()
            if name.startswith("detectron2/") and not name.endswith((".so", "/"))
        }
        licence = "sal_detectron2-{}.dist-info/LICENSE".format(version)
        files[info + "/LICENSE"] = source.read(licence)
    files[info + "/METADATA"] = _METADATA.format(version=version).encode()
    files[info + "/WHEEL"] = _WHEEL.encode()
    record = [
        "{},sha256={},{}".format(
            name,
            base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode(),
            len(data),
        )
        for name, data in files.items()
    ]
    files[info + "/RECORD"] = "\n".join([*record, info + "/RECORD,,", ""]).encode()
    with zipfile.ZipFile(str(target), "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return target


_METADATA = """Metadata-Version: 2.1
Name: detectron2
Version: {version}
Summary: Detectron2, pure Python
Home-page: https://github.com/facebookresearch/detectron2
License: Apache 2.0
License-File: LICENSE
Requires-Python: >=3.8

Repacked from sal-detectron2 {version} without its compiled extension detectron2._C.
"""

_WHEEL = """Wheel-Version: 1.0
Generator: det_transfer tools/bootstrap.py
Root-Is-Purelib: true
Tag: py3-none-any
"""


# pip ---------------------------------------------------------------------------------------------
def pip(place: Place, flags: str, *files: object) -> None:
    """Run the venv's pip: its progress to the terminal, its complaints as one line of ours.

    Args:
        flags: pip's command and options, as one string
        files: what may hold spaces

    Raises:
        Stop: pip failed; the line names pip's own log.
    """
    command = [str(place.python), "-I", "-m", "pip", *flags.split(), *map(str, files)]
    complaints: List[str] = []
    # -I: neither the working folder nor PYTHONPATH counts as installed. PIP_* stay as they are.
    with subprocess.Popen(
        [*command, "--log", str(place.log)],
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, TMPDIR=str(place.temporary)),
        close_fds=False,  # pip holds our lock too: it may outlive us
    ) as process:
        for line in process.stderr or ():
            if "Retrying" in line and not any("Retrying" in said for said in complaints):
                say("      the package index does not answer, pip tries again ...")
            complaints.append(line.strip())
    if process.returncode:
        raise Stop("{} pip's log: {}".format(_why(complaints, place), place.log))


def _why(complaints: Sequence[str], place: Place) -> str:
    """What pip's lines on stderr come down to."""
    text = "\n".join(complaints)
    if "No space left on device" in text:  # pip may also call that a broken connection
        return _no_space(place)
    for pattern, reason in _REASONS:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            return reason.format(*found.groups(), machine=os.uname().machine)
    errors = [line for line in complaints if line.startswith("ERROR")] or ["pip failed."]
    return errors[-1]


_REASONS = (
    (
        r"do not match the hashes",
        "a download differs from the locked one (a mirror or proxy changed it?).",
    ),
    (
        r"connection broken|max retries|name resolution|network is unreachable|timed out"
        r"|proxyerror|sslerror|connectionerror",
        "no network: pip cannot reach the package index. Mend the network or the proxy, run again.",
    ),
    (
        r"no matching distribution found for (\S+)",
        "the package index has no {0} for this machine ({machine}); is it a whole mirror of PyPI?",
    ),
)


# Small helpers -----------------------------------------------------------------------------------
def _runs(*command: object) -> bool:
    """Does the command end well? (A Python is isolated from the caller's environment.)"""
    try:
        words = [str(word) for word in command]
        words.insert(1, "-I")
        return not subprocess.run(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
    except OSError:
        return False


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait until no other set-up, nor a pip that one left behind, is at work on this checkout."""
    import fcntl  # not on Windows, which gets its own line earlier

    with open(os.path.abspath(__file__)) as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work here; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
