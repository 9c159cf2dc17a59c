"""Going on after a break is exact in every mode of reuse, also after a kill while writing."""

import signal

import pytest
import torch
from programs import start

from det_transfer.engine.detection import DetectionTrainer
from det_transfer.reuse import MODES, read_checkpoint

MODE_OPTIONS = {
    "partial": ["MODEL.REUSE.STAGES", 2],
    "adapters": ["MODEL.ADAPTERS.NORM", "own"],
    "finetune_adapters": ["MODEL.ADAPTERS.NORM", "task"],
}
LONG = ["SOLVER.MAX_ITER", 10, "SOLVER.STEPS", "(4, 8)", "SOLVER.CHECKPOINT_PERIOD", 5]
LONG += ["MODEL.TIMM.DROP_PATH_RATE", 0.2, "DATASETS.TEST", "()", "SOLVER.OPTIMIZER", "AdamW"]
LONG += ["SOLVER.BASE_LR", 0.001]


def options(mode):
    return ["MODEL.REUSE.MODE", mode, *MODE_OPTIONS.get(mode, [])]


def everything(trainer):
    """Model, optimizer and schedule as one dict of tensors and numbers."""
    found = dict(trainer.model.state_dict())
    for index, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    found |= {f"schedule.{k}": v for k, v in trainer.scheduler.state_dict().items()}
    return found | {"random": torch.rand(3), "iteration": trainer.iter}


def different(a, b):
    same = {k for k in a.keys() & b.keys() if _equal(a[k], b[k])}
    return sorted((a.keys() | b.keys()) - same)


def _equal(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("mode", MODES)
def test_ten_iterations_equal_five_and_five(train, mode, monkeypatch):
    unbroken = everything(train(*options(mode), *LONG, output="unbroken"))
    step = DetectionTrainer.after_step

    def stop(self):
        step(self)
        if self.iter == 6:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTrainer, "after_step", stop)
        with pytest.raises(RuntimeError):
            train(*options(mode), *LONG, output="broken")
    resumed = train(*options(mode), *LONG, output="broken", resume=True)
    assert resumed.start_iter == 5
    assert different(unbroken, everything(resumed)) == []


def test_killed_behind_the_last_step(train, tmp_path):
    """Between the last numbered checkpoint and the final one, with nothing left to train."""
    ends = ["SOLVER.EMA.ENABLED", True]
    train(*LONG, *ends, output="run")
    written = [tmp_path / "run" / f"model_final{part}.pth" for part in ("", "_ema")]

    def places():
        states = [read_checkpoint(path)["trainer"] for path in written]
        return [(state["iteration"], state["_trainer"]["iteration"]) for state in states]

    unbroken = places()
    for path in written:
        path.unlink()
    (tmp_path / "run/last_checkpoint").write_text("model_0000009.pth")
    assert train(*LONG, *ends, output="run", resume=True).start_iter == 10
    assert places() == unbroken


# Writes half of the second checkpoint's bytes and kills its own process, as a power cut would.
KILLED_WHILE_WRITING = """
import os, pathlib, signal, sys
import torch
whole, calls = torch.save, []
def save(content, file, *args, **kwargs):
    whole(content, file, *args, **kwargs)
    file.flush()
    path = file.name
    calls.append(path)
    if "{victim}" in str(path) and sum("{victim}" in str(p) for p in calls) == {times}:
        half = pathlib.Path(path).read_bytes()
        pathlib.Path(path).write_bytes(half[: len(half) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
from det_transfer.engine.setup import argument_parser
from tools.train_net import main
main(argument_parser("").parse_args())
"""


@pytest.mark.parametrize(
    ("victim", "times", "expected"), [("model_", 2, 5), ("frozen-", 1, 0)], ids=["model", "frozen"]
)
def test_killed_in_the_middle_of_writing(train, arguments, tmp_path, victim, times, expected):
    unbroken = everything(train(*LONG, output="unbroken"))
    args = arguments(*LONG, output="broken")
    program = tmp_path / "killed.py"
    program.write_text(KILLED_WHILE_WRITING.format(victim=victim, times=times))
    killed = start(program, "--config-file", args.config_file, *args.opts)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert list((tmp_path / "broken").glob(".*.tmp"))  # the half, under its temporary name
    resumed = train(*LONG, output="broken", resume=True)
    assert resumed.start_iter == expected
    assert not list((tmp_path / "broken").glob(".*.tmp"))
    assert different(unbroken, everything(resumed)) == []
