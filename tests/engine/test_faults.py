"""What the machine does to a run is told from a bug, and said in one line."""

import errno
import io
import logging
import os
import re
import threading

import pytest
import torch

from det_transfer import run_folder
from det_transfer.engine import launch
from det_transfer.engine.faults import StepTooLargeError, explain, shown_batch
from det_transfer.engine.setup import _check_writable
from det_transfer.engine.trainer import StepTrainer
from det_transfer.errors import UserError


def test_memory_runs_out_in_a_step(train, monkeypatch):
    def fail(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(StepTrainer, "_losses", fail)
    with pytest.raises(MemoryError) as caught:
        train()
    said = explain(caught.value)
    assert "at iteration 0" in said
    assert re.search(r"the batch was 2 images \((\d of \d+ x \d+(, )?)+ px\): .*\.png", said)
    assert "SOLVER.IMS_PER_BATCH" in said
    assert "SOLVER.ACCUMULATE 2" in said


def test_memory_runs_out_while_a_precision_is_chosen(train, tmp_path, monkeypatch):
    """That is the first thing that DTYPE auto does with a batch."""

    def fail(model, loss, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("det_transfer.engine.trainer.choose", fail)
    with pytest.raises(StepTooLargeError) as caught:
        train("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "auto")
    said = explain(caught.value)
    assert re.search(r"at iteration 0; the batch was 2 images \(.* px\): .*\.png", said)
    assert "SOLVER.ACCUMULATE 2" in said
    assert run_folder.read_json(tmp_path / "run/run.json")["reason"] == said


SHARED = "</torch_77_1>"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "a.pth"), "the disk is full at a.pth"),
        (OSError(5, "Input/output error", "a.jpg"), "the disk or the drive behind it"),
        (OSError(30, "Read-only file system", "a"), "the file system can only be read at a"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (MemoryError("Unable to allocate 9 GiB for an array"), "out of memory (Unable to"),
        (
            OSError("Caught OSError in DataLoader worker process 0.\n  [Errno 5] No: 'b.jpg'\n"),
            "error) at b.jpg",
        ),
        (RuntimeError(f"unable to write to file {SHARED}: No space left on device (28)"), "shm"),
        (RuntimeError(f"unable to mmap 9 bytes from file {SHARED}: Cannot allocate"), "shm-size"),
        (RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory"), "of memory"),
        (RuntimeError(f"unable to open {SHARED}: Too many open files (24)"), "raise ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "too many files are open"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `c`"), "out of memory"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "the GPU has failed"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "signal Killed"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "without a word"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), ""),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory"), "out of memory"),
        (RuntimeError("Connection closed by peer [127.0.0.1]:5000"), "another process"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
        (ValueError("out of memory of things to say"), ""),
        (OSError(2, "No such file or directory"), ""),
    ],
)
def test_what_is_a_fault_of_the_machine(error, words):
    said = explain(error)
    assert words in said
    assert bool(said) == bool(words)


def test_what_was_raised_while_a_fault_was_dealt_with():
    """As by torch's writer, which ends its file when the disk was full already."""

    def save():
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 9 vs 8")

    with pytest.raises(RuntimeError) as caught:
        save()
    assert "the disk is full" in explain(caught.value)


class FullDisk(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def quiet(monkeypatch):
    """What a program is after ``launch.quiet``, for the length of a test."""
    monkeypatch.setattr(logging.Handler, "handleError", logging.Handler.handleError)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    launch.quiet()


def test_nothing_is_said_of_logs_that_the_disk_does_not_take(quiet, capsys):
    logger = logging.getLogger("a_log")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(FullDisk()))
    logger.error("a line")
    assert capsys.readouterr().err == ""
    logger.error("%d", "no number")  # a bug is told
    assert "Logging error" in capsys.readouterr().err


def test_nor_of_threads_that_write(quiet, monkeypatch):
    told = []
    monkeypatch.setattr(launch, "_threads_own", told.append)
    for write, value in ((FullDisk().write, "an event"), (int, "no number")):
        thread = threading.Thread(target=write, args=(value,))
        thread.start()
        thread.join()
    assert [ended.exc_type for ended in told] == [ValueError]


def test_log_files_are_closed_after_a_fault(quiet, capsys, tmp_path):
    """Else Python, as it ends, would try them once more, in tracebacks."""

    def fails():
        raise OSError(errno.ENOSPC, "No space left on device")

    file = (tmp_path / "log.txt").open("w")
    handlers = [logging.StreamHandler(file), logging.StreamHandler(io.StringIO())]
    logger = logging.getLogger("a_log.of_a_run")
    logger.handlers = list(handlers)
    assert launch.run(fails) == launch.MACHINE_FAULT
    assert capsys.readouterr().err.startswith("error: the disk is full; ")
    assert file.closed
    assert logger.handlers == handlers[1:]


def test_a_batch_is_shown_in_few_words():
    batch = [{"image": torch.zeros(3, 4, n), "file_name": f"{n}.png"} for n in (5, 9, 7, 9)]
    sizes = "2 of 4 x 9, 1 of 4 x 7, 1 of 4 x 5 px"
    assert shown_batch(batch) == f"4 images ({sizes}): 5.png, 9.png, 7.png and 1 more"
    batch = [{"image": torch.zeros(3, 1, n), "file_name": "a"} for n in range(1, 65)]
    assert "1 of 1 x 59, 58 smaller ones px)" in shown_batch(batch)
    assert shown_batch([{"file_name": "a.png"}]) == "1 images: a.png"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, OSError), (errno.EROFS, UserError), (errno.EACCES, UserError)],
)
def test_a_folder_that_takes_nothing(monkeypatch, tmp_path, number, kind):
    """A full disk is the machine's fault; one that cannot be written is the wrong folder."""

    def refuses(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("pathlib.Path.touch", refuses)
    with pytest.raises(kind) as caught:
        _check_writable(str(tmp_path))
    assert type(caught.value) is kind
    assert ("OUTPUT_DIR" in str(caught.value)) == (kind is UserError)
