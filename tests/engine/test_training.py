"""Training from the command line's arguments to the run folder, and going on after a break."""

import functools
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from det_transfer import run_folder
from det_transfer.data import register_datasets
from det_transfer.engine import detection, hooks, launch, precision
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError


def states(trainer):
    """All tensors of model and optimizer by name, and the schedule."""
    tensors = dict(trainer.model.state_dict())
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if torch.is_tensor(v)}
    return tensors, trainer.scheduler.state_dict()


def assert_same(first, second):
    (tensors, schedule), (others, other_schedule) = first, second
    assert tensors.keys() == others.keys()
    different = [name for name in tensors if not torch.equal(tensors[name], others[name])]
    assert different == []
    assert schedule == other_schedule


def test_run_folder_after_training(train, tmp_path):
    train()
    run = tmp_path / "run"
    record = run_folder.read_json(run / "run.json")
    assert record["status"] == "finished"
    assert record["seed"] == 3
    assert record["precision"] == "fp32"
    assert record["weights"] == "random initialisation"
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert record["seconds"]["training"] > 0
    assert record["seconds"]["evaluation"] > 0
    assert record["peak_memory_bytes"]["host"] > 1e8
    assert record["results"]["bbox"].keys() >= {"AP", "AP50", "APs"}
    assert any(row["trainable"] == 0 and row["parameters"] > 0 for row in record["reuse"])
    assert run_folder.read_metrics(run)[-1]["iteration"] == 4  # the evaluation after the last step
    assert (run / "eval" / "tiny" / "results.json").is_file()
    assert (run / "model_final.pth").is_file()
    assert "NUM_CLASSES: 3" in (run / "config.yaml").read_text()
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_equals_unbroken(train, workers, tmp_path):
    opts = ["DATALOADER.NUM_WORKERS", workers, "MODEL.TIMM.DROP_PATH_RATE", 0.3]
    opts += ["MODEL.REUSE.MODE", ""]  # the trunk too: batch statistics and drop-path move
    unbroken = states(train(*opts, output="unbroken"))
    broken = DetectionTrainer.after_step

    def stop(self):
        broken(self)
        if self.iter == 1:
            raise RuntimeError("power cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionTrainer, "after_step", stop)
        with pytest.raises(RuntimeError):
            train(*opts, output="broken")
    record = run_folder.read_json(tmp_path / "broken" / "run.json")
    assert record["status"] == "failed"
    assert "power cut" in record["reason"]
    resumed = train(*opts, output="broken", resume=True)
    assert resumed.start_iter == 2
    assert_same(unbroken, states(resumed))
    assert run_folder.read_json(tmp_path / "broken" / "run.json")["status"] == "finished"


def test_frozen_trunk_stands_still(train):
    before = train("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", output="one")
    after = train("SOLVER.MAX_ITER", 4, output="four")
    moved = {
        name
        for name, value in after.model.state_dict().items()
        if not torch.equal(value, before.model.state_dict()[name])
    }
    assert moved
    assert not any(name.startswith("backbone.bottom_up") for name in moved)


def test_a_folder_with_a_run_is_refused(train, tmp_path):
    train()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(UserError, match=r"already holds a run \(finished\).*--resume"):
        train()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_resuming_before_the_first_checkpoint_starts_afresh(train, tmp_path, monkeypatch):
    expected = states(train(output="whole"))
    broken = DetectionTrainer.after_step

    def stop(self):
        broken(self)
        raise RuntimeError("power cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionTrainer, "after_step", stop)
        with pytest.raises(RuntimeError):
            train()
    assert_same(expected, states(train(resume=True)))


def test_broken_off_between_training_and_evaluation(train, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionTrainer, "test", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train()
    assert run_folder.read_json(tmp_path / "run" / "run.json")["status"] == "failed"
    train(resume=True)
    record = run_folder.read_json(tmp_path / "run" / "run.json")
    assert record["status"] == "finished"
    assert "AP" in record["results"]["bbox"]


def test_eval_only_equals_the_evaluation_at_the_end(train, arguments, tmp_path):
    train()
    expected = run_folder.read_json(tmp_path / "run" / "run.json")["results"]
    args = arguments("MODEL.WEIGHTS", tmp_path / "run" / "model_final.pth", output="again")
    args.eval_only = True
    found = DetectionTrainer.evaluate(setup(args, prepare))
    run_folder.write_json(tmp_path / "found.json", found)
    assert run_folder.read_json(tmp_path / "found.json") == expected


def test_eval_only_without_a_detector(arguments):
    args = arguments(eval_only=True)
    with pytest.raises(UserError, match=r"a trained detector is needed.*--resume"):
        DetectionTrainer.evaluate(setup(args, prepare))


def test_loss_that_is_not_finite_names_the_files(train, tmp_path):
    with pytest.raises(UserError, match=r"not finite at iteration \d.*\.png.*BASE_LR") as error:
        train("SOLVER.BASE_LR", 1e12, "SOLVER.WARMUP_ITERS", 0, "SOLVER.MAX_ITER", 30)
    record = run_folder.read_json(tmp_path / "run" / "run.json")
    assert record["status"] == "failed"
    assert str(error.value) in record["reason"]


def test_resuming_with_another_model(train):
    train()
    with pytest.raises(UserError, match=r"does not fit this model: .* tensors.*resume with the"):
        train("MODEL.ROI_BOX_HEAD.FC_DIM", 48, resume=True)


def test_seed_is_drawn_kept_and_resumed(train, tmp_path):
    train("SEED", -1)
    seed = run_folder.read_json(tmp_path / "run" / "run.json")["seed"]
    assert seed >= 0
    resumed = train("SEED", -1, "SOLVER.MAX_ITER", 6, resume=True)
    assert seed == resumed.cfg.SEED


def test_learning_rate_line_and_differences_are_logged(train):
    trainer = train("SOLVER.REFERENCE_BATCH", 8)
    text = (Path(trainer.cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert "SOLVER.BASE_LR 0.01 for batch 8 becomes 0.0025 for batch 2" in text
    assert "FRESH START from random initialisation" in text
    assert "Differs from" in text
    assert "trainable" in text


# Precision ---------------------------------------------------------------------------------------


def test_choosing_a_precision_leaves_no_trace(arguments):
    trainer = DetectionTrainer(setup(arguments("MODEL.REUSE.MODE", ""), prepare))
    batch = next(iter(trainer.data_loader))
    before = states(trainer)
    before = ({k: v.clone() for k, v in before[0].items()}, before[1])
    random_state = torch.get_rng_state()
    from detectron2.utils.events import EventStorage

    with EventStorage():
        chosen = precision.choose(
            trainer.model, lambda: sum(trainer.model(batch).values()), torch.device("cpu")
        )
    assert chosen in ("fp32", "bf16")
    assert_same(before, states(trainer))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(p.grad is None for p in trainer.model.parameters())


def test_the_faster_precision_is_chosen(monkeypatch):
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(precision, "_product_seconds", lambda name, device: 1.0)
    for fast in ("fp32", "bf16"):
        monkeypatch.setattr(
            precision, "_step_seconds", lambda m, loss, name, d, fast=fast: 1 + (name != fast)
        )
        assert precision.choose(model, None, torch.device("cpu")) == fast


def test_a_hopeless_precision_is_not_tried(monkeypatch):
    seconds = {"fp32": 1.0, "bf16": 9.0}
    monkeypatch.setattr(precision, "_product_seconds", lambda name, device: seconds[name])
    monkeypatch.setattr(precision, "_step_seconds", None)
    assert precision.choose(torch.nn.Linear(1, 1), None, torch.device("cpu")) == "fp32"


def test_products_are_timed():
    for name in ("fp32", "bf16"):
        assert 0 < precision._product_seconds(name, torch.device("cpu")) < 60


def test_bf16_trains_on_the_cpu_and_auto_is_kept_on_resume(train, tmp_path, monkeypatch):
    bf16 = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bf16", "SOLVER.MAX_ITER", 2]
    train(*bf16, "SOLVER.STEPS", "()")
    assert run_folder.read_json(tmp_path / "run" / "run.json")["precision"] == "bf16"
    auto = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "auto", "SOLVER.STEPS", "()"]
    monkeypatch.setattr("det_transfer.engine.trainer.choose", lambda *a: "bf16")
    train(*auto, "SOLVER.MAX_ITER", 2, output="auto")
    monkeypatch.setattr("det_transfer.engine.trainer.choose", lambda *a: "fp32")
    train(*auto, "SOLVER.MAX_ITER", 3, output="auto", resume=True)
    assert run_folder.read_json(tmp_path / "auto" / "run.json")["precision"] == "bf16"


def test_auto_trains(train, tmp_path):
    train("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "auto", "SOLVER.MAX_ITER", 2)
    assert run_folder.read_json(tmp_path / "run" / "run.json")["precision"] in ("fp32", "bf16")


def test_auto_trains_on_the_batch_it_was_timed_on(arguments, monkeypatch):
    args = arguments("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "auto")
    trainer = DetectionTrainer(setup(args, prepare))
    expected = [[s["image_id"] for s in b] for b in itertools.islice(trainer.data_loader, 2)]
    monkeypatch.setattr("det_transfer.engine.trainer.choose", lambda *a: "fp32")
    trainer._trainer.choose_precision()
    stream = trainer._trainer._data_loader_iter
    assert [[s["image_id"] for s in next(stream)] for _ in range(2)] == expected


def test_a_bar_on_a_terminal_and_lines_in_the_file(train, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("det_transfer.engine.hooks.tqdm", functools.partial(tqdm, ncols=90))
    train("SOLVER.CHECKPOINT_PERIOD", 100)
    shown = capfd.readouterr()
    assert "4/4" in shown.err
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Running with full config" in log
    assert "Running with full config" not in shown.out
    assert "loss=" in shown.err
    assert "iter: 3" not in shown.out + shown.err
    assert "iter: 3" in log


# Exit codes --------------------------------------------------------------------------------------


def test_exit_codes(capsys):
    def fails(error):
        raise error

    assert launch.run(lambda: None) == 0
    assert launch.run(fails, UserError("OUTPUT_DIR is wrong")) == 2
    assert capsys.readouterr().err == "error: OUTPUT_DIR is wrong\n"
    assert launch.run(fails, KeyboardInterrupt()) == 130
    with pytest.raises(RuntimeError):  # ours: keeps its traceback
        launch.run(fails, RuntimeError("bug"))


def test_after_backward_hooks_are_called(arguments):
    from detectron2.engine import HookBase

    seen = []

    class Gradients(HookBase):
        def after_backward(self):
            seen.append(any(p.grad is not None for p in self.trainer.model.parameters()))

    trainer = DetectionTrainer(setup(arguments(), prepare))
    trainer.register_hooks([Gradients()])
    trainer.train()
    assert seen == [True] * 4


def test_metrics_are_detectron2s(train, tmp_path):
    train()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").open()]
    assert any("bbox/AP" in row for row in rows)
    assert {"total_loss", "lr", "iteration"} <= set().union(*rows)


@pytest.mark.parametrize(
    "error",
    [
        FloatingPointError("Predicted boxes or scores contain Inf/NaN. Training has diverged."),
        AssertionError("Box tensor contains infinite or NaN!"),
    ],
)
def test_where_detectron2_itself_gives_up(error, arguments):
    trainer = DetectionTrainer(setup(arguments(), prepare))

    def forward(batch):
        raise error

    trainer.model.forward = forward
    with pytest.raises(
        UserError, match=r"not finite at iteration 0 \(the proposals are not\).*png"
    ):
        trainer.train()


def test_other_assertions_are_ours(arguments):
    trainer = DetectionTrainer(setup(arguments(), prepare))

    def forward(batch):
        raise AssertionError("a bug")

    trainer.model.forward = forward
    with pytest.raises(AssertionError, match="a bug"):
        trainer.train()


# Mistakes that are said before training ----------------------------------------------------------


def test_a_val_set_that_cannot_be_evaluated_is_refused_before_training(
    arguments, tiny_coco, tmp_path
):
    content = json.loads(tiny_coco[0].read_text())
    for entry in content["annotations"]:
        del entry["area"]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="annotations without 'area' cannot be evaluated"):
        setup(arguments(data=(path, tiny_coco[1])), prepare)


def test_nothing_to_train_on(arguments, tiny_coco, tmp_path):
    content = json.loads(tiny_coco[0].read_text())
    content["annotations"] = []
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="without an object to train on"):
        setup(arguments(data=(path, tiny_coco[1])), prepare)
    with pytest.raises(UserError, match=r"DATASETS\.TRAIN is empty"):
        setup(arguments("DATASETS.TRAIN", "()"), prepare)


def test_a_frozen_trunk_without_weights_is_asked_about(arguments):
    args = arguments()
    args.config_file = None
    args.opts += ["DATASETS.TRAIN", ("tiny",), "MODEL.REUSE.MODE", "frozen"]
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS is empty: a frozen random trunk"):
        setup(args, prepare)


def test_a_batch_too_small_for_batch_norm_is_warned_of_before_data_are_read(
    arguments, tmp_path, capsys, monkeypatch
):
    said = []

    def reading(cfg):
        assert "MODEL.FPN.NORM 'BN' takes its statistics over 2 images" in said[0]
        return register_datasets(cfg)

    monkeypatch.setattr(detection.logger, "warning", said.append)
    monkeypatch.setattr(detection, "register_datasets", reading)
    setup(arguments("MODEL.FPN.NORM", "BN"), prepare)
    assert "takes its statistics" not in capsys.readouterr().out  # once is enough there
    log = (tmp_path / "run" / "log.txt").read_text()
    assert [line for line in log.splitlines() if "WARNING: MODEL.FPN.NORM 'BN' takes" in line]


def test_a_resumed_run_keeps_what_its_first_part_recorded(train):
    train("SOLVER.MAX_ITER", 2)
    trainer = train("SOLVER.MAX_ITER", 4, resume=True)
    record = run_folder.read_json(Path(trainer.cfg.OUTPUT_DIR) / "run.json")
    assert record["weights"] == "random initialisation"
    again = train("SOLVER.MAX_ITER", 4, resume=True)  # nothing left to train
    seconds = run_folder.read_json(Path(again.cfg.OUTPUT_DIR) / "run.json")["seconds"]
    assert seconds["step_median"] == record["seconds"]["step_median"]
    assert seconds["training"] >= record["seconds"]["training"]


def test_the_fast_path_trains_like_the_plain_one(train, tmp_path):
    """Losses within rounding, the same tensors in the checkpoints, exact on resuming."""
    whole = {
        fast: train("MODEL.REUSE.FAST", fast, "SOLVER.BASE_LR", 0.001, output=f"fast_{fast}")
        for fast in (True, False)
    }
    a, b = (run_folder.read_metrics(trainer.cfg.OUTPUT_DIR)[0] for trainer in whole.values())
    assert a["total_loss"] == pytest.approx(b["total_loss"], rel=1e-3)
    fast, plain = (trainer.model.state_dict() for trainer in whole.values())
    assert fast.keys() == plain.keys()
    assert all(torch.allclose(fast[name], plain[name], atol=1e-3) for name in fast)
    opts = ["MODEL.REUSE.FAST", True, "SOLVER.BASE_LR", 0.001]
    train(*opts, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()", output="part")
    assert_same(states(whole[True]), states(train(*opts, output="part", resume=True)))


def test_peak_memory_is_that_of_the_process(tmp_path):
    """And not of the larger one that started it, as ru_maxrss would have it."""
    ballast = bytearray(600_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from det_transfer.engine.hooks import peak_memory; print(peak_memory()['host'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert hooks.peak_memory()["host"] > 600_000_000
    assert 50_000_000 < int(done.stdout) < hooks.peak_memory()["host"] - 100_000_000
