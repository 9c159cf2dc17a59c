"""Training, resuming, growing on the way, evaluating: on the engine that detection uses."""

import csv
import shutil

import numpy as np
import pytest
import torch

from det_transfer import run_folder
from det_transfer.classification import ClassificationTrainer, prepare
from det_transfer.config import load_config
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError

LONG = ["SOLVER.MAX_ITER", 10, "SOLVER.STEPS", "(4, 8)", "SOLVER.CHECKPOINT_PERIOD", 5]
LONG += ["DATASETS.TEST", "()"]
WIDEN = ["MODEL.GROWTH.KIND", "widen", "MODEL.GROWTH.SIZES", "[8]"]


@pytest.fixture
def source(train, tmp_path):
    """A classifier to begin with."""
    train("DATASETS.TEST", "()", output="source")
    return ["MODEL.WEIGHTS", tmp_path / "source" / "model_final.pth"]


def everything(trainer):
    """Model, optimizer and schedule as one dict of tensors and numbers."""
    found = dict(trainer.checkpointer.model.state_dict())
    for index, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    groups = [{k: v for k, v in g.items() if k != "params"} for g in trainer.optimizer.param_groups]
    found |= {f"schedule.{k}": v for k, v in trainer.scheduler.state_dict().items()}
    return found | {"groups": groups, "random": torch.rand(3), "iteration": trainer.iter}


def different(a, b):
    def equal(x, y):
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y

    same = {k for k in a.keys() & b.keys() if equal(a[k], b[k])}
    return sorted((a.keys() | b.keys()) - same)


def test_it_learns_and_leaves_a_run_folder(train, tmp_path):
    trainer = train(
        "SOLVER.MAX_ITER", 150, "SOLVER.STEPS", "(100,)", "SOLVER.CHECKPOINT_PERIOD", 50
    )
    results = trainer._last_eval_results
    assert results["accuracy"]["top1"] > 50  # chance: 25
    run = tmp_path / "run"
    record = run_folder.read_json(run / "run.json")
    assert record["status"] == "finished"
    assert record["tasks"] == {"shapes": [f"shape_{k}" for k in range(4)]}
    assert record["network"] == "compact_alexnet: FC6 24; FC7 16"
    folder = run_folder.eval_folder(run, "test")
    found = run_folder.read_json(folder / "results.json")
    assert found["metrics"] == results
    part = np.load(folder / "predictions" / "part-0.npz")
    right = part["top"][:, 0] == part["label"]
    assert found["metrics"]["accuracy"]["top1"] == pytest.approx(100 * right.mean())
    rows = list(csv.DictReader((folder / "per_category.csv").open()))
    assert [row["name"] for row in rows] == record["tasks"]["shapes"]
    mean = np.mean([float(row["top1"]) for row in rows])
    assert found["metrics"]["accuracy"]["class_mean"] == pytest.approx(mean)


def test_the_layout_of_convolutions_is_of_no_account(train):
    runs = [
        train("DATASETS.TEST", "()", "MODEL.CLASSIFIER.CHANNELS_LAST", last, output=f"run{last}")
        for last in (False, True)
    ]
    plain, last = (run.model.state_dict() for run in runs)
    for name, value in plain.items():
        torch.testing.assert_close(last[name], value, rtol=1e-3, atol=1e-4)
    convolutions = [value for value in last.values() if value.dim() == 4]
    assert convolutions
    assert all(v.is_contiguous(memory_format=torch.channels_last) for v in convolutions)


CASES = {
    "plain": [],
    "frozen": ["MODEL.CLASSIFIER.SCOPE", "FC7-New"],
    "grown": [*WIDEN, "MODEL.CLASSIFIER.TASK", "other", "MODEL.CLASSIFIER.SCOPE", "New"],
    "copied": [*WIDEN, "MODEL.CLASSIFIER.TASK", "other", "MODEL.GROWTH.INIT", "copy"],
    "growing_before": [*WIDEN, "MODEL.GROWTH.AT", 4],
    "growing_at": [*WIDEN, "MODEL.GROWTH.AT", 5],
    "growing_after": [*WIDEN, "MODEL.GROWTH.AT", 7, "SOLVER.OPTIMIZER", "AdamW"],
    "growing_averaged": [*WIDEN, "MODEL.GROWTH.AT", 4, "SOLVER.EMA.ENABLED", True],
    "growing_frozen": [*WIDEN, "MODEL.GROWTH.AT", 4, "MODEL.CLASSIFIER.SCOPE", "FC6-New"],
    "views": ["INPUT.VIEW.FIXED", 2],
    "channels_last": [*WIDEN, "MODEL.GROWTH.AT", 5, "MODEL.CLASSIFIER.CHANNELS_LAST", True],
}


@pytest.mark.parametrize("case", CASES)
def test_ten_iterations_equal_five_and_five(train, source, monkeypatch, case):
    options = [*source, *CASES[case], *LONG]
    unbroken = everything(train(*options, output="unbroken"))
    step = ClassificationTrainer.after_step

    def stop(self):
        step(self)
        if self.iter == 6:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTrainer, "after_step", stop)
        with pytest.raises(RuntimeError):
            train(*options, output="broken")
    resumed = train(*options, output="broken", resume=True)
    assert resumed.start_iter == 5
    assert different(unbroken, everything(resumed)) == []


def test_where_the_last_checkpoint_is_damaged_the_one_before_is_offered(train, build, tmp_path):
    train(*LONG)
    run = tmp_path / "run"
    (run / "model_final.pth").write_bytes((run / "model_final.pth").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cannot be read .*the checkpoint before it is model_0000"):
        build(*LONG, resume=True)
    (run / "last_checkpoint").write_bytes(b"")
    with pytest.raises(UserError, match=r"names '', .*the checkpoint before it is model_0000"):
        build(*LONG, resume=True)
    (run / "last_checkpoint").write_text("model_0000004.pth")
    assert build(*LONG, resume=True).start_iter == 5


def test_growing_carries_momentum_by_name_and_goes_on_with_the_schedule(build, source, monkeypatch):
    trainer = build(*source, *WIDEN, *LONG, "MODEL.GROWTH.AT", 6)
    model, seen = trainer.checkpointer.model, {}
    grow = ClassificationTrainer.grow

    def momentum():
        names = {p: n for n, p in model.named_parameters()}
        state = trainer.optimizer.state
        return {names[p]: s["momentum_buffer"].clone() for p, s in state.items() if s}

    def watched(self):
        old = dict(model.state_dict())
        seen["momentum"], seen["rate"] = momentum(), trainer.optimizer.param_groups[0]["lr"]
        seen["weights"] = {k: v.clone() for k, v in old.items()}
        grow(self)
        seen["carried"] = momentum()
        seen["rates"] = {
            n: g["lr"]
            for g in trainer.optimizer.param_groups
            for n, p in model.named_parameters()
            if any(p is q for q in g["params"])
        }
        seen["after"] = {k: v.clone() for k, v in model.state_dict().items()}

    monkeypatch.setattr(ClassificationTrainer, "grow", watched)
    trainer.train()
    assert seen["momentum"]
    assert seen["carried"].keys() == seen["momentum"].keys()
    for name, buffer in seen["momentum"].items():
        assert torch.equal(seen["carried"][name], buffer)
    for name, weight in seen["weights"].items():
        assert torch.equal(seen["after"][name], weight)
    assert model.new == {
        *("layers.FC7+.weights.FC6", "layers.FC7+.bias", "classifiers.shapes.weights.FC7+"),
        *("classifiers.shapes.scales.FC7", "classifiers.shapes.scales.FC7+"),
    }
    assert seen["rate"] == pytest.approx(0.001)  # after the step at 4
    assert {n: pytest.approx(r) for n, r in seen["rates"].items()} == {
        n: 0.01 if n in model.new else 0.001 for n in seen["rates"]
    }
    final = model.state_dict()
    still = [n for n in model.new if torch.equal(final[n], seen["after"][n])]
    assert still == []
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)  # and at 8
    assert run_folder.read_json(trainer.cfg.OUTPUT_DIR + "/run.json")["growths"] == ["widen 8"]


def test_what_was_new_before_a_growth_stays_new(build, source):
    trainer = build(*source, *WIDEN, "MODEL.GROWTH.AT", 3, "MODEL.CLASSIFIER.TASK", "other")
    assert trainer.model.new == {"classifiers.other.weights.FC7", "classifiers.other.bias"}
    trainer.iter = 3
    trainer._hooks = []
    trainer.grow()
    names = {name for name, _ in trainer.model.named_parameters()}
    old = {name for name in names if name.startswith(("backbone", "layers.FC6", "layers.FC7."))}
    assert trainer.model.new == names - old


def test_rates_of_what_is_new(build, source):
    def rates(*opts):
        trainer = build(
            *source, *WIDEN, "MODEL.CLASSIFIER.TASK", "other", *opts, output="x".join(opts)
        )
        names = {p: n for n, p in trainer.model.named_parameters()}
        return {
            names[p]: (g["lr"], g["weight_decay"])
            for g in trainer.optimizer.param_groups
            for p in g["params"]
        }

    found = rates()
    assert found["layers.FC7+.bias"] == found["classifiers.other.scales.FC7"] == (0.1, 1e-4)
    assert found["layers.FC7.bias"] == (0.01, 1e-4)
    found = rates("MODEL.GROWTH.SCALE_NEW_LR", "False", "MODEL.GROWTH.SCALE_DECAY", "False")
    assert found["classifiers.other.scales.FC7"] == (0.01, 0.0)
    assert found["classifiers.other.weights.FC7"] == (0.1, 1e-4)
    found = rates("MODEL.CLASSIFIER.NEW_LR", "3.0", "MODEL.REUSE.LR_MULT", "[['new', 5.0]]")
    assert found["layers.FC7+.bias"] == pytest.approx((0.05, 1e-4))  # the last word counts


def test_scales_that_were_there_before_are_not_new(train, build, source, tmp_path):
    both = ["MODEL.GROWTH.KIND", "both", "MODEL.GROWTH.SIZES", "[8, 6]"]
    train(*source, *both, "MODEL.CLASSIFIER.TASK", "other", "DATASETS.TEST", "()", output="grown")
    weights = ["MODEL.WEIGHTS", tmp_path / "grown" / "model_final.pth"]
    trainer = build(*weights, *both, "MODEL.CLASSIFIER.TASK", "third", output="again")
    names = {p: n for n, p in trainer.model.named_parameters()}
    rates = {names[p]: g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert rates["layers.FCa.scales.FC7+"] == pytest.approx(0.01)  # of the first growth
    assert rates["layers.FCa2.scales.FCa"] == pytest.approx(0.1)


def test_a_checkpoint_is_grown_before_it_is_loaded(train, source, tmp_path):
    grown = train(*source, *WIDEN, "MODEL.CLASSIFIER.TASK", "other", output="grown")
    weights = ["MODEL.WEIGHTS", tmp_path / "grown" / "model_final.pth"]
    again = train(
        *weights,
        *["MODEL.GROWTH.KIND", "both", "MODEL.GROWTH.SIZES", "[4, 6]"],
        *["MODEL.CLASSIFIER.TASK", "third", "MODEL.CLASSIFIER.SCOPE", "New"],
        *["MODEL.CLASSIFIER.TASKS", "[['other', 'test']]", "DATASETS.TEST", "()"],
        output="again",
    )
    model, before = again.checkpointer.model, grown.checkpointer.model.state_dict()
    assert str(model.architecture).endswith("FC6 24; FC7 16, FC7+ 8, FC7+2 4; FCa 6")
    assert list(model.classifiers) == ["other", "third"]
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_evaluation_takes_the_network_of_the_checkpoint(train, source, arguments, tmp_path):
    trained = train(*source, *WIDEN, "MODEL.CLASSIFIER.TASK", "other", output="grown")
    weights = ["MODEL.WEIGHTS", tmp_path / "grown" / "model_final.pth"]
    args = arguments(*weights, "MODEL.CLASSIFIER.TASK", "other", output="grown", eval_only=True)
    results = ClassificationTrainer.evaluate(setup(args, prepare))
    assert results == trained._last_eval_results
    args = arguments("MODEL.CLASSIFIER.TASK", "other", output="grown", eval_only=True, resume=True)
    assert ClassificationTrainer.evaluate(setup(args, prepare), resume=True) == results


def test_other_tasks_and_classes_than_a_checkpoint_has(build, source, arguments, tmp_path, shapes):
    args = arguments(*source, "MODEL.CLASSIFIER.TASK", "x", output="e", eval_only=True)
    with pytest.raises(UserError, match=r"no classifier for the task x; it has shapes: name one"):
        ClassificationTrainer.evaluate(setup(args, prepare))
    for split in ("train", "test"):
        shutil.copytree(shapes / split, tmp_path / "renamed" / split)
        (tmp_path / "renamed" / split / "shape_3").rename(tmp_path / "renamed" / split / "star")
    with pytest.raises(UserError, match=r"task shapes of 4 classes, which are not .* e.g. shape_3"):
        build(*source, data=tmp_path / "renamed", output="f")


def refused(build, words, *opts):
    with pytest.raises(UserError, match=words):
        build(*opts, output="refused")


def test_mistakes_are_one_clear_line(build, source, tmp_path):
    new = ["MODEL.CLASSIFIER.TASK", "other"]
    refused(
        build,
        r"is a compact_alexnet .*'width': 4.*but the config has",
        *source,
        "MODEL.CLASSIFIER.COMPACT_WIDTH",
        8,
    )
    refused(
        build,
        r"SCOPE 'FC9-New': there is no layer FC9.*FC6, FC7",
        "MODEL.CLASSIFIER.SCOPE",
        "FC9-New",
    )
    refused(
        build,
        r"'widen' takes 1: units of FC7\+",
        "MODEL.GROWTH.KIND",
        "widen",
        "MODEL.GROWTH.SIZES",
        "[1, 2]",
    )
    refused(
        build,
        r"SIZES is \[0\]; a layer has at least one unit",
        *WIDEN[:2],
        "MODEL.GROWTH.SIZES",
        "[0]",
    )
    refused(
        build,
        r"GB are free on cpu; take smaller MODEL.GROWTH.SIZES",
        *source,
        *new,
        *WIDEN[:2],
        "MODEL.GROWTH.SIZES",
        "[4000000000]",
    )
    refused(build, r"is 6; it must be from 0 to before", *WIDEN, "MODEL.GROWTH.AT", 6)
    refused(
        build, "dataset x is not in DATASETS.CLASSIFICATION; there is", "DATASETS.TRAIN", "('x',)"
    )
    refused(build, r"gone.pth does not exist", "MODEL.WEIGHTS", tmp_path / "gone.pth")


def test_what_would_be_ignored_is_refused(build):
    refused(build, "MODEL.REUSE.MODE 'finetune' is for detectors", "MODEL.REUSE.MODE", "finetune")
    stray = ["MODEL.CLASSIFIER.TASKS", "[['stray', 'test']]"]
    refused(build, "task stray is to be evaluated, but nothing trains it", *stray)


def test_resumed_with_another_growth(train, build, source):
    new = ["MODEL.CLASSIFIER.TASK", "other", "DATASETS.TEST", "()"]
    train(*source, *WIDEN, *new)
    both = ["MODEL.GROWTH.KIND", "both", "MODEL.GROWTH.SIZES", "[8, 6]"]
    with pytest.raises(UserError, match=r"grown by 'widen 8', and MODEL.GROWTH says 'both 8-6'"):
        build(*source, *both, *new, resume=True)
    assert build(*source, *WIDEN, *new, resume=True).start_iter == 6


def test_a_checkpoint_of_another_growth(train, build, source, tmp_path):
    """A file whose tensors are not what its description says."""
    path = tmp_path / "source" / "model_final.pth"
    content = torch.load(path)
    del content["model"]["layers.FC7.weights.FC6"]
    content["model"]["layers.FC7+.bias"] = torch.zeros(3)
    torch.save(content, tmp_path / "broken.pth")
    refused(
        build,
        r"another growth than compact_alexnet: FC6 24; FC7 16: 1 tensors that it lacks "
        r"\(layers.FC7.weights.FC6\), 1 that have no place here \(layers.FC7\+.bias\)",
        *("MODEL.WEIGHTS", tmp_path / "broken.pth"),
    )


def test_weights_of_others_fill_what_they_have(build, tmp_path):
    """A file with torchvision's names for the convolutions alone; FC6 and FC7 must be trained."""
    trainer = build("DATASETS.TEST", "()", output="a")
    state = trainer.model.state_dict()
    convs = {
        k.removeprefix("backbone."): v + 1 for k, v in state.items() if k.startswith("backbone")
    }
    torch.save(convs, tmp_path / "convs.pth")
    weights = ["MODEL.WEIGHTS", tmp_path / "convs.pth"]
    found = build(*weights, "MODEL.CLASSIFIER.SCOPE", "FC6-New", output="b").model.state_dict()
    assert torch.equal(found["backbone.features.0.bias"], convs["features.0.bias"])
    refused(
        build,
        "no weights for layers.FC6.*freezes at random",
        *weights,
        "MODEL.CLASSIFIER.SCOPE",
        "Classifier",
    )


def test_two_tasks_in_one_run(train, source):
    trainer = train(
        *source,
        *WIDEN,
        *["MODEL.CLASSIFIER.TASK", "other", "MODEL.CLASSIFIER.TASKS", "[['shapes', 'test']]"],
        *["DATASETS.TRAIN", "('train', 'test')", "DATASETS.TEST", "('train', 'test')"],
    )
    assert trainer._last_eval_results.keys() == {"train", "test"}
    losses = {key for row in run_folder.read_metrics(trainer.cfg.OUTPUT_DIR) for key in row}
    assert {"loss_other", "loss_shapes"} <= losses


def test_defaults_are_what_the_facts_say():
    cfg = load_config(None).cfg
    assert cfg.MODEL.CLASSIFIER.NEW_LR == 10
    assert cfg.MODEL.GROWTH.SCALE_INIT in (10.0, 20.0)
    assert (cfg.INPUT.VIEW.RESIZE, cfg.INPUT.VIEW.CROP) == (256, 224)
