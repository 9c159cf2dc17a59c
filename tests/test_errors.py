"""How a program that does without torch ends: in a line and with an exit code."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from det_transfer.errors import MACHINE_FAULT, USER_ERROR, UserError, exit_code, machine_fault
from det_transfer.run_folder import replacing

ROOT = Path(__file__).parents[1]


def fails(error):
    raise error


def oserror(name):
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), "out/report.html")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ENOSPC", "the disk is full at out/report.html"),
        ("EDQUOT", "the disk quota is used up at"),
        ("EFBIG", "ulimit -f"),
        ("EIO", "input/output error"),
        ("EROFS", "the file system can only be read"),
        ("ESTALE", "the network drive has lost the file"),
        ("EMFILE", "ulimit -n"),
        ("ENFILE", "on this machine"),
        ("ENOMEM", "out of memory"),
    ],
)
def test_a_fault_of_the_machine(name, words, capsys):
    assert exit_code(fails, oserror(name)) == MACHINE_FAULT
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert said.count("\n") == 1


def test_a_mistake_a_bug_and_memory(capsys):
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 5) == 5
    assert exit_code(fails, UserError("--json is missing")) == USER_ERROR
    assert capsys.readouterr().err == "error: --json is missing\n"
    assert exit_code(fails, MemoryError()) == MACHINE_FAULT
    for bug in (KeyError("a"), oserror("ENOENT"), OSError("without a number"), OSError(7, "")):
        assert machine_fault(bug) == ""
        with pytest.raises(type(bug)):
            exit_code(fails, bug)


def test_an_error_while_a_fault_is_dealt_with(capsys):
    """A page's zip that cannot be closed, as the disk is full."""

    def main():
        try:
            raise oserror("ENOSPC")
        except OSError:
            raise ValueError("there is an open writing handle") from None

    assert exit_code(main) == MACHINE_FAULT
    assert "the disk is full" in capsys.readouterr().err


def write_too_much(path):
    with replacing(path) as temporary:
        temporary.write_bytes(bytes(1 << 20))


def test_a_disk_that_is_full(tmp_path):
    """By a limit on the size of files, in a process of its own; nothing half written is left."""
    code = (
        "import resource, signal, sys; sys.path.insert(0, 'tests')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from test_errors import exit_code, write_too_much\n"
        f"sys.exit(exit_code(write_too_much, {str(tmp_path / 'page.html')!r}))"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == MACHINE_FAULT, done.stderr.decode()
    assert b"a file grew over the size" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
