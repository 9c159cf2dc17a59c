"""What the machine does to a run is told from a bug, and said in one line."""

import re

import pytest
import torch

from det_transfer.engine.faults import explain, shown_batch
from det_transfer.engine.trainer import StepTrainer


def test_memory_runs_out_in_a_step(train, monkeypatch):
    def fail(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(StepTrainer, "_losses", fail)
    with pytest.raises(MemoryError) as caught:
        train()
    said = explain(caught.value)
    assert "at iteration 0" in said
    assert re.search(r"the batch was 2 images, the largest \d+ x \d+ px: .*\.png", said)
    assert "SOLVER.IMS_PER_BATCH" in said
    assert "SOLVER.ACCUMULATE 2" in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "a.pth"), "the disk is full at a.pth"),
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


def test_a_batch_is_shown_in_few_words():
    batch = [{"image": torch.zeros(3, 4, n), "file_name": f"{n}.png"} for n in (5, 9, 7, 6)]
    assert shown_batch(batch) == ("4 images, the largest 4 x 9 px: 5.png, 9.png, 7.png and 1 more")
