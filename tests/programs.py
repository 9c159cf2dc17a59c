"""Programs as processes of their own: run to their end, or killed, starved and looked at.

Each is forked from a server that has imported torch and Detectron2 already, since a new
interpreter would spend seven seconds on that.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path
from subprocess import CompletedProcess

import torch

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests/engine/tiny.yaml"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["det_transfer.engine.detection"])


def start(*words, folder=ROOT, seconds=600):
    """Run a program in a folder as ``python *words`` would, and give what subprocess.run gives.

    But for what is imported already, and the environment, which is that of the first start: what
    depends on these is started by subprocess.
    """
    with tempfile.TemporaryDirectory() as logs:
        out, err = Path(logs, "stdout"), Path(logs, "stderr")
        code = Program(out, *words, errors=err, folder=folder).wait(seconds)
        said = (log.read_text(errors="replace") for log in (out, err))
        return CompletedProcess(words, code, *said)


class Program:
    """A running program; what it says goes into a file, or two."""

    def __init__(self, log, *argv, errors=None, limits=(), folder=ROOT):
        self.log = Path(log)
        self._errors = Path(errors or log)
        logs = (str(self.log), str(self._errors))
        argv = tuple(map(str, argv))
        args = (logs, argv, tuple(limits), str(folder))
        self._process = _context.Process(target=_run, args=args)
        self._process.start()

    @property
    def pid(self):
        return self._process.pid

    @property
    def said(self):
        logs = dict.fromkeys([self.log, self._errors])
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())

    def wait(self, seconds=240):
        """The exit code, negative of a signal; fails where it hangs."""
        self._process.join(seconds)
        if self._process.is_alive():
            self.kill()
            raise AssertionError(f"hangs after {seconds} s: {self.said[-2000:]}")
        return self._process.exitcode

    def alive_after(self, seconds):
        self._process.join(seconds)
        return self._process.is_alive()

    def kill(self):
        self._process.kill()
        self._process.join()

    def until(self, ready, seconds=120):
        """Wait until `ready()` is true, and give what it gave."""
        end = time.monotonic() + seconds
        while not (found := ready()):
            assert self._process.is_alive(), f"ended: {self.said[-2000:]}"
            assert time.monotonic() < end, f"not ready after {seconds} s: {self.said[-2000:]}"
            time.sleep(0.01)
        return found

    def children(self):
        """Process ids of what it has started."""
        return [int(p) for t in _tasks(self.pid) for p in (t / "children").read_text().split()]


def warm():
    """Let the server import what it does, so that what comes next takes only its own time."""
    process = _context.Process(target=int)
    process.start()
    process.join()


def train(log, data, output, *opts, flags=(), limits=()):
    """tools/train_net.py with the tiny detector on a tiny dataset."""
    own = ["DATASETS.CUSTOM", repr([["tiny", *map(str, data)]]), "OUTPUT_DIR", str(output)]
    argv = ["tools/train_net.py", "--config-file", TINY, *flags, *own, *opts]
    return Program(log, *argv, limits=limits)


def _tasks(pid):
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return []


def _run(logs, argv, limits, folder):
    for number, log in enumerate(logs, start=1):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
    os.chdir(folder)
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails with EFBIG, as on a full disk
    for name, value in limits:
        resource.setrlimit(getattr(resource, name), (value, value))
    program = Path(argv[0]).absolute()
    sys.argv = list(argv)
    sys.path.insert(0, str(program.parent))
    multiprocessing.current_process()._config.pop("tempdir", None)  # that of the tests
    runpy.run_path(str(program), run_name="__main__")
