"""Old tasks kept: distillation, joint training, forgetting; and the cache of activations."""

import pytest
import torch

from det_transfer import run_folder
from det_transfer.classification.analysis import block_accuracies
from det_transfer.classification.cache import constant_activations, needed_activations
from det_transfer.classification.distillation import distillation_loss
from det_transfer.errors import UserError

GROWN = ["MODEL.GROWTH.KIND", "widen", "MODEL.GROWTH.SIZES", "[8]"]
OTHER = ["MODEL.CLASSIFIER.TASK", "other", "MODEL.CLASSIFIER.TASKS", "[['shapes', 'test']]"]
OTHER += ["DATASETS.TEST", "('train', 'test')"]


@pytest.fixture
def source(train, tmp_path):
    train("DATASETS.TEST", "()", "SOLVER.MAX_ITER", 30, "SOLVER.STEPS", "()", output="source")
    return ["MODEL.WEIGHTS", tmp_path / "source" / "model_final.pth"]


def record(trainer):
    return run_folder.read_json(trainer.cfg.OUTPUT_DIR + "/run.json")


def test_distillation_against_a_naive_version():
    torch.manual_seed(0)
    logits, recorded = torch.randn(3, 4), torch.randn(3, 4)
    expected = 0.0
    for row, kept in zip(logits, recorded, strict=True):
        soft = [v.softmax(0) ** 0.5 for v in (row, kept)]  # powers of 1 / T, normalised
        ours, theirs = (v / v.sum() for v in soft)
        expected -= float((theirs * ours.log()).sum()) / 3
    assert distillation_loss(logits, recorded, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_forgetting_is_measured_and_resumed(train, source, tmp_path):
    """The convolutions and FC layers move, the old classifier does not."""
    options = [*source, *GROWN, *OTHER]
    trainer = train(*options, "SOLVER.BASE_LR", 0.05, output="a")
    found = record(trainer)
    kept = found["forgetting"]["test"]
    assert found["before"] == {"test": kept["before"]}
    assert kept["after"] == found["results"]["test"]["accuracy"]["top1"]
    assert kept["forgetting"] == pytest.approx(kept["before"] - kept["after"])
    assert found["backward_transfer"] == pytest.approx(-kept["forgetting"])
    old = torch.load(tmp_path / "source" / "model_final.pth")["model"]
    name = "classifiers.shapes.weights.FC7"
    assert torch.equal(trainer.model.state_dict()[name], old[name])
    longer = ["SOLVER.MAX_ITER", 7, "SOLVER.BASE_LR", 0.05]
    resumed = train(*options, *longer, output="a", resume=True)
    assert resumed.start_iter == 6
    assert record(resumed)["before"] == found["before"]  # not measured again


def test_frozen_layers_forget_nothing(train, source):
    trainer = train(*source, *GROWN, *OTHER, "MODEL.CLASSIFIER.SCOPE", "New")
    assert record(trainer)["forgetting"]["test"]["forgetting"] == 0


def test_joint_training_tells_what_became_of_the_old_task(train, source):
    """The old task is trained too, with data of its own."""
    trainer = train(*source, *OTHER, "DATASETS.TRAIN", "('train', 'test')")
    assert set(trainer.checkpointer.model.labelled_tasks) == {"other", "shapes"}
    found = record(trainer)
    assert found["forgetting"].keys() == {"test"}
    kept = found["forgetting"]["test"]
    assert found["backward_transfer"] == pytest.approx(kept["after"] - kept["before"])


def test_a_task_that_a_batch_lacks_has_a_loss_of_0(build, source):
    trainer = build(*source, *GROWN, *OTHER, "DATASETS.TRAIN", "('train', 'test')")
    batch = [{**sample, "task": "other"} for sample in next(iter(trainer.data_loader))]
    losses = trainer.model(batch)
    assert losses.keys() == {"loss_other", "loss_shapes"}
    assert losses["loss_shapes"].item() == 0
    sum(losses.values()).backward()  # DDP waits for each of them
    assert all(p.grad is not None for p in trainer.model.parameters() if p.requires_grad)


def test_the_teacher_may_be_others_weights(build, tmp_path):
    """Table 4 at the paper's scale begins with torchvision's file, which says nothing of tasks."""
    options = ["MODEL.CLASSIFIER.NETWORK", "alexnet", "MODEL.CLASSIFIER.FC", "[24, 16]"]
    state = build(*options, "DATASETS.TEST", "()", output="a").model.state_dict()
    theirs = {n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backbone")}
    for place, ours in (
        ("classifier.1", "layers.FC6"),
        ("classifier.4", "layers.FC7"),
        ("classifier.6", "classifiers.shapes"),
    ):
        (weight,) = (v for n, v in state.items() if n.startswith(f"{ours}.weights."))
        theirs |= {f"{place}.weight": weight, f"{place}.bias": state[f"{ours}.bias"] + 1}
    torch.save(theirs, tmp_path / "alexnet.pth")
    options += ["MODEL.WEIGHTS", tmp_path / "alexnet.pth", *OTHER]
    options += ["MODEL.CLASSIFIER.DISTILL_WEIGHT", 1.0, "DATASETS.TEST", "()"]
    trainer = build(*options, "MODEL.CLASSIFIER.WEIGHTS_TASK", "shapes", output="b")
    teacher = trainer.model.teacher.model
    assert torch.equal(teacher.classifiers["shapes"].bias, theirs["classifier.6.bias"])
    assert torch.equal(teacher.layers["FC6"].bias, theirs["classifier.1.bias"])
    without = [*options, "MODEL.CLASSIFIER.TASKS", "[]"]
    with pytest.raises(UserError, match=r"say of which it is with MODEL.CLASSIFIER.WEIGHTS_TASK"):
        build(*without, output="c")


def test_distillation_keeps_answers(build, source):
    """The old classifier's answers on the images of the new task stay nearer to what they were."""

    def moved(weight):
        options = [*source, *GROWN, *OTHER, "MODEL.CLASSIFIER.DISTILL_WEIGHT", weight]
        options += ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", 15, "SOLVER.STEPS", "()"]
        trainer = build(*options, "MODEL.CLASSIFIER.DROPOUT", 0.0, output=f"w{weight}")
        batch = [{**s, "task": "shapes"} for s in next(iter(trainer.data_loader))]
        model = trainer.model

        def answers():
            model.eval()
            with torch.no_grad():
                found = torch.stack([f["logits"] for f in model(batch)]).softmax(1)
            model.train()
            return found

        before = answers()
        trainer.train()
        return (answers() - before).abs().mean().item(), trainer

    free, _ = moved(0.0)
    kept, trainer = moved(10.0)
    assert kept < 0.7 * free
    assert trainer.model.training_tasks == ("shapes", "other")
    losses = {k for row in run_folder.read_metrics(trainer.cfg.OUTPUT_DIR) for k in row}
    assert {"loss_other", "loss_keep_shapes"} <= losses


def test_augmented_layers_on_source_data(train, source, tmp_path):
    """Table 4: grown on a target, then the grown layers and a source classifier on source data."""
    train(*source, *GROWN, "MODEL.CLASSIFIER.TASK", "other", output="grown")
    grown = torch.load(tmp_path / "grown" / "model_final.pth")["model"]
    trainer = train(
        *["MODEL.WEIGHTS", tmp_path / "grown" / "model_final.pth"],
        *["MODEL.CLASSIFIER.TASK", "again", "MODEL.CLASSIFIER.SCOPE", "Grown"],
        output="again",
    )
    after = trainer.model.state_dict()
    same = {name for name in grown if name in after and torch.equal(grown[name], after[name])}
    assert {name for name in same if "FC7+" in name} == set()
    assert {"layers.FC7.bias", "layers.FC6.bias", "backbone.features.0.bias"} <= same
    assert trainer.model.architecture.classifiers["again"].inputs == ("FC7", "FC7+")
    assert trainer.model.architecture.classifiers["again"].reading.normalize


def test_curves_of_each_block_alone(train, source):
    options = [*source, *GROWN, "MODEL.CLASSIFIER.TASK", "other", "TEST.EVAL_PERIOD", 3]
    trainer = train(*options, "MODEL.CLASSIFIER.TEST_BLOCKS", True)
    rows = run_folder.read_metrics(trainer.cfg.OUTPUT_DIR)
    curve = [row["accuracy/top1_FC7+"] for row in rows if "accuracy/top1_FC7+" in row]
    assert len(curve) == 2
    found = trainer._last_eval_results["accuracy"]
    assert found.keys() == {"top1", "class_mean", "top1_FC7", "top1_FC7+"}
    loader = trainer.build_test_loader(trainer.cfg, "test")
    alone = block_accuracies(trainer.model, loader, "other")
    assert alone == pytest.approx(
        {"all": found["top1"], "FC7": found["top1_FC7"], "FC7+": found["top1_FC7+"]}
    )


def test_the_pace_of_old_and_new_layers(train, build, source, monkeypatch):
    options = [
        *source,
        *GROWN,
        "MODEL.CLASSIFIER.TASK",
        "other",
        "MODEL.CLASSIFIER.SCOPE",
        "FC7-New",
    ]
    options += ["MODEL.CLASSIFIER.PACE_PERIOD", 3, "DATASETS.TEST", "()"]
    trainer = build(*options)
    weights = {}
    step = type(trainer).run_step

    def watched(self):
        weights["before"] = self.model.layers["FC7+"].weights["FC6"].detach().clone()
        step(self)
        weights["after"] = self.model.layers["FC7+"].weights["FC6"].detach().clone()

    monkeypatch.setattr(type(trainer), "run_step", watched)
    trainer.train()
    row = run_folder.read_metrics(trainer.cfg.OUTPUT_DIR)[-1]
    layers = {key.split("/")[1] for key in row if key.startswith("pace/") and key.endswith("norm")}
    assert layers == {"pool5", "FC6", "FC7", "FC7+"}
    updates = {key.split("/")[1] for key in row if key.endswith("/update")}
    classifier = {"other on FC7", "other on FC7+"}
    assert updates == {"FC7", "FC7+", *classifier}  # those that are trained
    change = (weights["after"] - weights["before"]).norm() / weights["before"].norm()
    assert row["pace/FC7+/update"] == pytest.approx(change.item(), rel=1e-4)
    assert row["pace/FC7/norm"] > 0


# The cache ---------------------------------------------------------------------------------------


def cached_names(build, source, *opts):
    trainer = build(*source, *opts, output="_".join(map(str, opts)).replace("/", ""))
    model = trainer.checkpointer.model
    return needed_activations(model, constant_activations(model))


def test_what_can_be_cached(build, source):
    new = ["MODEL.CLASSIFIER.TASK", "other", "MODEL.CLASSIFIER.SCOPE"]
    kept = ["MODEL.REUSE.DROPOUT", "kept"]
    assert cached_names(build, source, *GROWN, *new, "New") == ["FC6", "FC7"]
    # FC7 reads FC6 with active dropout.
    assert cached_names(build, source, *GROWN, *new, "New", *kept) == ["FC6"]
    assert cached_names(build, source, *GROWN, *new, "FC7-New") == ["FC6"]
    assert cached_names(build, source, *new, "FC6-New") == ["pool5"]
    assert cached_names(build, source, *new, "Classifier") == ["FC7"]
    both = ["MODEL.GROWTH.KIND", "recursive", "MODEL.GROWTH.SIZES", "[4, 8]"]
    assert cached_names(build, source, *both, *new, "New") == ["pool5", "FC6", "FC7"]
    assert cached_names(build, source, *new, "All") == []
    assert cached_names(build, source, *new, "conv5-New") == []


CASES = {
    "all": [*GROWN, "INPUT.VIEW.JITTER", 0.3],  # nothing is constant but the views
    "new": [*GROWN, "MODEL.CLASSIFIER.SCOPE", "New"],
    "kept": [*GROWN, "MODEL.CLASSIFIER.SCOPE", "New", "MODEL.REUSE.DROPOUT", "kept"],
    "fc7": [*GROWN, "MODEL.CLASSIFIER.SCOPE", "FC7-New"],
    "distilled": [
        *GROWN,
        "MODEL.CLASSIFIER.SCOPE",
        "FC6-New",
        "MODEL.CLASSIFIER.DISTILL_WEIGHT",
        1.0,
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_cached_equals_uncached(train, source, case):
    """On the same views, through two passes of each, dropout and all."""
    options = [*source, *CASES[case], *OTHER, "INPUT.VIEW.FIXED", 2, "SOLVER.MAX_ITER", 12]
    options += ["SOLVER.STEPS", "(8,)", "DATASETS.TEST", "()"]
    direct = train(*options, output="direct")
    cached = train(*options, "MODEL.CLASSIFIER.CACHE", True, output="cached")
    assert type(cached.data_loader).__name__ == "CachedLoader"
    expected = direct.model.state_dict()
    for name, tensor in cached.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    assert cached.model.state_dict()["layers.FC7+.bias"].any()


def test_a_cached_run_resumes_exactly(train, build, source, monkeypatch):
    options = [*source, *CASES["new"], *OTHER, "INPUT.VIEW.FIXED", 2, "DATASETS.TEST", "()"]
    options += ["MODEL.CLASSIFIER.CACHE", True]
    whole = train(*options, output="whole").model.state_dict()
    trainer = build(*options, output="part")
    step = type(trainer).after_step

    def stop(self):
        step(self)
        if self.iter == 4:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer), "after_step", stop)
        with pytest.raises(RuntimeError):
            trainer.train()
    resumed = train(*options, output="part", resume=True)
    assert resumed.start_iter == 4
    assert all(torch.equal(whole[name], t) for name, t in resumed.model.state_dict().items())


def test_without_views_and_above_memory(build, source, monkeypatch):
    options = [*source, *OTHER, "MODEL.CLASSIFIER.CACHE", True]
    with pytest.raises(UserError, match=r"CACHE needs INPUT\.VIEW\.FIXED"):
        build(*options, output="x")
    monkeypatch.setattr("det_transfer.classification.cache.free_memory", lambda _: 1000)
    small = ["INPUT.VIEW.FIXED", 1, "MODEL.CLASSIFIER.SCOPE", "Classifier"]
    with pytest.raises(UserError, match=r"FC7 of 24 views takes 0\.0 GB"):
        build(*options, *small, output="z")
