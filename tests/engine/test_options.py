"""Best weights, early stopping, validation loss, averaged weights, accumulation, determinism."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from det_transfer import run_folder
from det_transfer.config import load_config, validate
from det_transfer.engine.average import WeightAverage
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.setup import setup
from det_transfer.engine.trainer import StepTrainer
from det_transfer.engine.validation import losing, validation_losses
from det_transfer.errors import UserError

EVALUATE = ("TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
BEST = (*EVALUATE, "TEST.BEST.METRIC", "bbox/AP")


def weights(run, name="model_final"):
    return torch.load(Path(run) / f"{name}.pth", weights_only=False)["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def scores(monkeypatch):
    """Make evaluations give these values of AP, in turn by iteration."""

    def fake(values):
        def test(cls, cfg, model, evaluators=None):
            fake.calls += 1
            return {"bbox": {"AP": values[fake.calls - 1], "AP-cat": 1.0}}

        fake.calls = 0
        monkeypatch.setattr(DetectionTrainer, "test", classmethod(test))
        return fake

    return fake


# Best weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([1.0, 3.0, 2.0], "max", 1),
        ([3.0, 1.0, 2.0], "min", 1),
        ([math.nan, 2.0, 2.0], "max", 1),
        ([5.0, 5.0, 5.0], "max", 0),
    ],
)
def test_the_best_weights_are_kept(train, scores, values, mode, best):
    scores(values)
    trainer = train(*BEST, "TEST.BEST.MODE", mode, "SOLVER.MAX_ITER", 6)
    run = Path(trainer.cfg.OUTPUT_DIR)
    names = ["model_0000001", "model_0000003", "model_final"]
    assert same(weights(run, "model_best"), weights(run, names[best]))
    others = [n for k, n in enumerate(names) if k != best]
    assert not any(same(weights(run, "model_best"), weights(run, n)) for n in others)
    record = run_folder.read_json(run / "run.json")
    assert record["best"] == {
        "metric": "bbox/AP",
        "iteration": 2 * best + 1,
        "value": values[best],
    }
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    assert [entry["iteration"] for entry in record["evaluations"]] == [1, 3, 5]
    assert "bbox/AP-cat" not in record["evaluations"][0]["metrics"]


def test_resumed_it_knows_the_best_before(train, scores):
    scores([3.0, 2.0])
    trainer = train(*BEST, "SOLVER.MAX_ITER", 4)
    run = Path(trainer.cfg.OUTPUT_DIR)
    first = weights(run, "model_best")
    scores([1.0, 2.5])
    train(*BEST, "SOLVER.MAX_ITER", 8, resume=True)
    assert same(weights(run, "model_best"), first)
    record = run_folder.read_json(run / "run.json")
    assert record["best"]["iteration"] == 1
    assert [entry["metrics"]["bbox/AP"] for entry in record["evaluations"]] == [3.0, 2.0, 1.0, 2.5]


def test_a_metric_that_is_not_measured(train):
    with pytest.raises(UserError, match=r"TEST\.BEST\.METRIC is 'bbox/APP'.*there is bbox/AP"):
        train(*EVALUATE, "TEST.BEST.METRIC", "bbox/APP")


# Early stopping ----------------------------------------------------------------------------------


def test_a_run_that_gets_no_better_ends_early_as_a_whole_one(train, scores):
    fake = scores([1.0, 3.0, 3.05, 2.0, 9.0])
    opts = (*BEST, "TEST.BEST.PATIENCE", 2, "TEST.BEST.MIN_DELTA", 0.1, "SOLVER.MAX_ITER", 20)
    trainer = train(*opts)
    run = Path(trainer.cfg.OUTPUT_DIR)
    record = run_folder.read_json(run / "run.json")
    assert record["status"] == "finished"
    assert record["stopped_early"] == 7
    assert record["best"]["value"] == 3.0
    assert fake.calls == 4  # the last evaluation is not made again
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    before = weights(run)
    scores([9.0] * 9)
    resumed = train(*opts, resume=True)
    assert resumed.start_iter == 8
    assert same(weights(run), before)
    assert "stopped_early" in run_folder.read_json(run / "run.json")


def test_early_stopping_goes_by_all_evaluations_of_a_resumed_run(train, scores):
    opts = (*BEST, "TEST.BEST.PATIENCE", 2)
    scores([3.0, 2.0])
    train(*opts, "SOLVER.MAX_ITER", 4)
    scores([1.0, 9.0, 9.0, 9.0])
    trainer = train(*opts, "SOLVER.MAX_ITER", 12, resume=True)
    assert run_folder.read_json(Path(trainer.cfg.OUTPUT_DIR) / "run.json")["stopped_early"] == 5


# Validation loss ---------------------------------------------------------------------------------


def test_validation_loss_is_measured_and_changes_nothing(train):
    plain = train(*EVALUATE, output="plain")
    trainer = train(*EVALUATE, "TEST.VALIDATION_LOSS", True, output="loss")
    assert same(weights(plain.cfg.OUTPUT_DIR), weights(trainer.cfg.OUTPUT_DIR))
    rows = run_folder.read_metrics(trainer.cfg.OUTPUT_DIR)
    found = [row["validation/total_loss"] for row in rows if "validation/total_loss" in row]
    assert len(found) == 2
    assert all(0 < value < 100 for value in found)
    last = rows[-1]
    parts = [v for k, v in last.items() if k.startswith("validation/loss_")]
    assert len(parts) == 8
    assert sum(parts) == pytest.approx(last["validation/total_loss"], rel=1e-6)


def test_validation_loss_against_a_plain_loop(train):
    """The mean over images of the model's own losses, and the same every time."""
    trainer = train("TEST.VALIDATION_LOSS", True)
    loader = trainer.build_validation_loader(trainer.cfg, "tiny")
    first = validation_losses(trainer.model, loader)
    torch.manual_seed(77)
    assert validation_losses(trainer.model, loader) == first
    assert len(list(loader)) == 8
    assert all(len(batch[0]["instances"]) for batch in loader)


def test_nothing_moves_while_losses_are_computed():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model.eval()
    model[0].train()
    model.loss_normalizer = 100.0
    model.register_buffer("normalizer", torch.tensor(100.0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with losing(model):
        assert model.training
        x = torch.randn(2, 3, 4, 4)
        assert torch.equal(model(x), model(x))
        model.loss_normalizer = 7.0  # as RetinaNet does in each forward
        model.normalizer.fill_(7.0)  # as ours does, for its checkpoints
    assert same(model.state_dict(), before)
    assert [m.training for m in model] == [True, False, False]
    assert model.loss_normalizer == 100.0


# Averaged weights --------------------------------------------------------------------------------


class FakeTrainer:
    iter, max_iter = 9, 10


def test_the_mean_against_its_formula():
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    average = WeightAverage(model, decay=0.5)
    average.trainer = FakeTrainer()
    average.before_train()
    mean, values = torch.tensor([[1.0, 2.0]]), torch.arange(1.0, 25.0).reshape(12, 1, 2)
    for n, value in enumerate(values):
        model.weight.data.copy_(value)
        average.after_step()
        decay = min(0.5, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * value
    with average.applied():
        assert torch.allclose(model.weight, mean, atol=1e-5)
    assert torch.equal(model.weight, values[-1])


def test_frozen_weights_have_no_copy(train):
    trainer = train("SOLVER.EMA.ENABLED", True)
    assert not any("bottom_up" in n and "weight" in n for n in trainer.average._mean)
    assert any("roi_heads" in n for n in trainer.average._mean)


def test_the_mean_is_evaluated_saved_and_resumed_exactly(train):
    opts = ("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.9, "SOLVER.MAX_ITER", 6)
    whole = train(*opts, *BEST, output="whole")
    plain = train("SOLVER.MAX_ITER", 6, output="plain")
    assert same(weights(whole.cfg.OUTPUT_DIR), weights(plain.cfg.OUTPUT_DIR))
    ema = weights(whole.cfg.OUTPUT_DIR, "model_final_ema")
    assert not same(ema, weights(whole.cfg.OUTPUT_DIR))
    with whole.evaluated_weights():
        state = whole.model.state_dict()
        assert same(ema, {name: state[name] for name in ema})
    train(*opts, *BEST, "SOLVER.MAX_ITER", 4, output="parts")
    parts = train(*opts, *BEST, output="parts", resume=True)
    assert parts.start_iter == 4
    assert same(ema, weights(parts.cfg.OUTPUT_DIR, "model_final_ema"))


# Accumulation ------------------------------------------------------------------------------------


class Regression(nn.Module):
    """A loss that is a mean over images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch])
        return {"loss": (self.layer(x) - 1).square().mean()}


def regression(accumulate, steps=5):
    generator = torch.Generator().manual_seed(1)
    data = [[{"x": torch.randn(4, generator=generator)} for _ in range(8)] for _ in range(steps)]
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = StepTrainer(model, data, optimizer, accumulate=accumulate)
    trainer.train(0, steps)
    return model, trainer


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_of_a_batch_make_the_step_of_the_whole(parts):
    whole, whole_trainer = regression(1)
    parted, trainer = regression(parts)
    assert torch.allclose(whole.layer.weight, parted.layer.weight, atol=1e-6)
    losses = [t.storage.history("total_loss").latest() for t in (whole_trainer, trainer)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_detector_trains_in_parts_and_resumes(train):
    opts = ("SOLVER.ACCUMULATE", 2, "SOLVER.MAX_ITER", 4)
    whole = train(*opts, output="whole")
    train(*opts, "SOLVER.MAX_ITER", 2, output="parts")
    parts = train(*opts, output="parts", resume=True)
    assert same(weights(whole.cfg.OUTPUT_DIR), weights(parts.cfg.OUTPUT_DIR))
    batch = next(iter(whole.data_loader))
    assert len(batch) == 2  # the stream is that of whole batches


# Schedule, determinism, mistakes -----------------------------------------------------------------


def test_cosine_schedule_against_its_formula(arguments):
    opts = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", 20)
    more = ("SOLVER.BASE_LR_END", 0.001, "SOLVER.OPTIMIZER", "AdamW", "SOLVER.WARMUP_ITERS", 4)
    trainer = DetectionTrainer(setup(arguments(*opts, *more), prepare))
    for step in range(20):
        rate = trainer.optimizer.param_groups[0]["lr"]
        if step >= 4:
            expected = 0.001 + (0.01 - 0.001) * (1 + math.cos(math.pi * step / 20)) / 2
            assert rate == pytest.approx(expected, rel=1e-6)
        trainer.optimizer.step()
        trainer.scheduler.step()


def test_the_deterministic_switch(arguments, train, monkeypatch):
    try:
        setup(arguments("DETERMINISTIC", True), prepare)
        assert torch.are_deterministic_algorithms_enabled()
        what = "put_ does not have a deterministic implementation, but you set ... . You can turn"

        def fail(self):
            raise RuntimeError(what)

        monkeypatch.setattr(StepTrainer, "run_step", fail)
        with pytest.raises(
            UserError, match=r"put_ does not have.*train it with DETERMINISTIC False"
        ):
            train("DETERMINISTIC", True, output="fails")
        setup(arguments(output="off"), prepare)
        assert not torch.are_deterministic_algorithms_enabled()
        with pytest.raises(RuntimeError):
            train("DETERMINISTIC", False, output="raw")
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ["TEST.BEST.METRIC", "bbox/AP"],
            r"needs evaluations while training: set TEST\.EVAL_PERIOD",
        ),
        (["TEST.BEST.PATIENCE", 2], r"TEST\.BEST\.PATIENCE needs TEST\.BEST\.METRIC"),
        (
            ["TEST.BEST.METRIC", "validation/total_loss", "TEST.EVAL_PERIOD", 5],
            r"needs TEST\.VALIDATION_LOSS True\n.*is a loss: set TEST\.BEST\.MODE min",
        ),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 1.0],
            r"BASE_LR_END 1\.0 is above",
        ),
        (["SOLVER.ACCUMULATE", 3], r"16 cannot be cut into SOLVER\.ACCUMULATE 3"),
        (["SOLVER.EMA.DECAY", 1.0], r"SOLVER\.EMA\.DECAY is 1\.0"),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosinLR"],
            r"'WarmupCosinLR'; it can be WarmupCosineLR",
        ),
        (["DETERMINISTIC", True, "CUDNN_BENCHMARK", True], "both on"),
        (["SOLVER.MAX_ITER", 30000], r"STEPS \(30000,\) must end before SOLVER\.MAX_ITER 30000"),
        (
            ["MODEL.DEVICE", "cpu", "MODEL.FPN.NORM", "SyncBN"],
            r"MODEL\.FPN\.NORM 'SyncBN' is torch's, .* take 'naiveSyncBN_N' or 'GN'",
        ),
    ],
)
def test_options_that_contradict(opts, message):
    config = load_config(None, opts)
    with pytest.raises(UserError, match=message):
        validate(config.cfg, config.explicit)
