"""What a dry run says, and that it leaves nothing behind."""

from pathlib import Path

import pytest
import torch

from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.dry_run import DryRun, _median_seconds, dry_run
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError


@pytest.fixture
def dry(arguments, tmp_path):
    def run(*opts, **flags):
        trainer = DetectionTrainer(setup(arguments(*opts, dry_run=True, **flags), prepare))
        trainer.resume_or_load(resume=False)
        return dry_run(trainer, str(tmp_path / "run"))

    return run


def test_it_says_what_the_run_will_really_be(dry, train, tmp_path):
    """Against the run itself: parameters, number and size of checkpoints."""
    opts = ("SOLVER.MAX_ITER", 7, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 3)
    said = dry(*opts)
    assert not (tmp_path / "run").exists()
    run = train(*opts)
    written = sorted(Path(run.cfg.OUTPUT_DIR).glob("model_*.pth"))
    assert said.checkpoints == len(written) == 4
    assert said.checkpoint_bytes == pytest.approx(written[0].stat().st_size, rel=0.02)
    assert said.steps == 7
    assert said.batch == 2
    assert said.precision == "fp32"
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    assert f"trainable {trained / 1e6:.1f} M" in said.trainable
    assert said.step_s > 0
    assert said.evaluation_s > 0
    assert said.memory["host"] > 1e8


@pytest.mark.parametrize(("period", "times"), [(0, 1), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_the_number_of_evaluations_is_what_detectron2_makes(period, times, dry, train, monkeypatch):
    opts = ("TEST.EVAL_PERIOD", period, "SOLVER.MAX_ITER", 4)
    assert dry(*opts).evaluations == times
    made = []
    monkeypatch.setattr(DetectionTrainer, "test", lambda *args: made.append(1) or {})
    train(*opts)
    assert len(made) == times


def test_backward_and_the_optimizer_are_in_the_steps(arguments, tmp_path):
    trainer = DetectionTrainer(setup(arguments(dry_run=True), prepare))
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    dry_run(trainer, str(tmp_path))
    assert any(not torch.equal(old, new) for old, new in zip(before, trained, strict=True))


def test_it_checks_as_the_run_would(dry, train):
    train()
    with pytest.raises(UserError, match="already holds a run"):
        dry()


def test_it_stands_alone(dry):
    with pytest.raises(UserError, match="--dry-run stands alone"):
        dry(resume=True)


def test_the_slow_first_call_is_left_out_of_the_time(monkeypatch):
    now = iter([0.0, 9.0, 10.0, 11.0, 20.0, 23.0, 30.0, 31.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    assert _median_seconds(lambda: None, 3) == 1.0


def test_long_steps_are_few(monkeypatch):
    now = iter([0.0, 40.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    assert _median_seconds(lambda: None, 5) == 40.0


def test_a_disk_that_is_too_small_is_said():
    values = {
        "trainable": "trainable 1 M of 2 M",
        "batch": 16,
        "precision": "bf16",
        "steps": 90_000,
        "step_s": 0.5,
        "evaluation_s": 600.0,
        "evaluations": 2,
        "memory": {"host": 2_000_000_000},
        "checkpoint_bytes": 300_000_000,
        "checkpoints": 19,
        "frozen_bytes": 100_000_000,
    }
    text = str(DryRun(**values, free_bytes=10**9))
    assert "NOT ENOUGH SPACE" in text
    assert "NOT ENOUGH" not in str(DryRun(**values, free_bytes=10**10))
    assert "12 h 50 min: 90000 steps 12 h 30 min, 2 x evaluation 10 min" in text
    assert "300.0 MB a checkpoint, 19 of them 5.8 GB with the frozen part (100.0 MB)" in text
