"""What MODEL.WEIGHTS may name, and what is said where it does not fit."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from det_transfer import run_folder
from det_transfer.engine.checkpoint import TransferCheckpointer
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError
from det_transfer.reuse import trunk_of


@pytest.fixture
def loaded(arguments):
    """Build the tiny detector and load a source into it."""

    def load(source, *opts, **flags):
        cfg = setup(arguments("MODEL.WEIGHTS", source, *opts, **flags), prepare)
        model = DetectionTrainer.build_model(cfg)
        checkpointer = TransferCheckpointer(model, cfg.OUTPUT_DIR, cfg=cfg)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
        return model, checkpointer

    return load


@pytest.fixture
def trunk_file(loaded, tmp_path):
    """A .pth with other weights for the tiny detector's trunk, under timm's own names."""
    state = trunk_of(loaded("", output="donor")[0]).net.state_dict()
    path = tmp_path / "trunk.pth"
    torch.save({name: torch.randn_like(v.float()) for name, v in state.items()}, path)
    return path


def test_trunk_weights_from_a_file(loaded, trunk_file):
    model, checkpointer = loaded(trunk_file)
    state = torch.load(trunk_file)
    ours = trunk_of(model).net.state_dict()
    counters = {name for name in ours if name.endswith("num_batches_tracked")}
    assert all(torch.equal(ours[name], state[name]) for name in ours if name not in counters)
    assert str(trunk_file) in checkpointer.origin
    assert not checkpointer.whole_model


def test_a_frozen_trunk_needs_every_tensor(loaded, trunk_file):
    state = torch.load(trunk_file)
    del state["layer1.0.conv1.weight"]
    torch.save(state, trunk_file)
    with pytest.raises(UserError, match=r"frozen trunk needs them all.*layer1\.0\.conv1\.weight"):
        loaded(trunk_file)
    loaded(trunk_file, "MODEL.REUSE.MODE", "", output="unfrozen")


@pytest.mark.parametrize("mode", ["finetune", "partial"])
def test_trunk_weights_in_other_modes(loaded, trunk_file, mode):
    stages = 2 if mode == "partial" else 0
    opts = ("MODEL.REUSE.MODE", mode, "MODEL.REUSE.STAGES", stages)
    model, _ = loaded(trunk_file, *opts)
    state = torch.load(trunk_file)
    assert all(
        torch.equal(tensor, state[name])
        for name, tensor in trunk_of(model).net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )


def test_from_scratch_there_are_no_weights(loaded, trunk_file):
    with pytest.raises(UserError, match=r"'scratch' begins at random.*set MODEL\.WEIGHTS ''"):
        loaded(trunk_file, "MODEL.REUSE.MODE", "scratch")
    loaded("", "MODEL.REUSE.MODE", "scratch", output="random")


def test_weights_of_another_architecture(loaded, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({f"features.{i}.weight": torch.zeros(3) for i in range(9)}, path)
    with pytest.raises(UserError, match=r"matched 0 of \d+ tensors .* another architecture"):
        loaded(path)


def test_missing_and_hostile_files(loaded, tmp_path):
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS .*nowhere\.pth does not exist"):
        loaded(tmp_path / "nowhere.pth", output="first")
    hostile = tmp_path / "hostile.pkl"

    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    hostile.write_bytes(pickle.dumps({"model": Runs()}))
    with pytest.raises(UserError, match=r"hostile\.pkl"):
        loaded(hostile)
    assert not (tmp_path / "was_run").exists()


def test_preprocessing_that_is_not_the_weights_own(loaded, trunk_file):
    state = torch.load(trunk_file)
    own = {"format": "RGB", "mean": [127.0] * 3, "std": [128.0] * 3}
    torch.save({"model": state, "preprocessing": own}, trunk_file)
    with pytest.raises(UserError, match=r"were trained with RGB") as error:
        loaded(trunk_file)
    assert 'FORMAT: "RGB"' in str(error.value)
    assert "PIXEL_MEAN: [127.000, 127.000, 127.000]" in str(error.value)
    loaded(
        trunk_file,
        *("INPUT.FORMAT", "RGB"),
        *("MODEL.PIXEL_MEAN", [127.0] * 3),
        *("MODEL.PIXEL_STD", [128.0] * 3),
        output="right",
    )


def test_preprocessing_that_nothing_is_known_of_is_logged(loaded, trunk_file, tmp_path):
    loaded(trunk_file)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "carries no word about its preprocessing" in log


def test_a_detector_of_ours_starts_another_run(train, loaded, tmp_path):
    donor = train(output="donor").model.state_dict()
    model, checkpointer = loaded(tmp_path / "donor" / "model_final.pth")
    assert checkpointer.whole_model
    assert all(torch.equal(value, donor[name]) for name, value in model.state_dict().items())


def test_a_detector_without_all_of_the_frozen_trunk(train, loaded, tmp_path):
    train("SOLVER.SLIM_CHECKPOINTS", False, output="donor")
    path = tmp_path / "donor" / "model_final.pth"
    content = torch.load(path)
    del content["model"]["backbone.bottom_up.net.layer1.0.conv1.weight"]
    torch.save(content, path)
    with pytest.raises(
        UserError, match=r"1 of \d+ tensors .*layer1.*mode 'frozen' needs all of the trunk"
    ):
        loaded(path)


def test_a_checkpoint_is_whole_or_not_there(train, monkeypatch, tmp_path):
    trainer = train()
    folder = tmp_path / "run"
    before = (folder / "model_final.pth").read_bytes()

    def full(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("det_transfer.reuse.slim.torch.save", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.checkpointer.save("model_final")
    assert (folder / "model_final.pth").read_bytes() == before
    assert not list(folder.glob(".*.tmp"))
    assert run_folder.read_json(folder / "run.json")["status"] == "finished"


def test_a_detector_with_other_classes_is_not_evaluated(train, arguments, tiny_coco, tmp_path):
    """Three classes there, four here: its classifiers would be random."""
    weights = train("SOLVER.MAX_ITER", 1, output="three").cfg.OUTPUT_DIR + "/model_final.pth"
    content = json.loads(tiny_coco[0].read_text())
    content["categories"].append({"id": 9, "name": "other"})
    path = tmp_path / "four.json"
    path.write_text(json.dumps(content))
    args = arguments("MODEL.WEIGHTS", weights, data=(path, tiny_coco[1]), eval_only=True)
    with pytest.raises(UserError, match="its classes or heads are other ones"):
        DetectionTrainer.evaluate(setup(args, prepare))


def test_evaluating_leaves_the_run_as_it_is(train, arguments):
    run = Path(train("SOLVER.MAX_ITER", 1).cfg.OUTPUT_DIR)
    before = {name: (run / name).read_bytes() for name in ("config.yaml", "log.txt", "run.json")}
    weights = ("MODEL.WEIGHTS", run / "model_final.pth", "SOLVER.MAX_ITER", 99)
    cfg = setup(arguments(*weights, eval_only=True), prepare)
    assert DetectionTrainer.evaluate(cfg)["bbox"]
    assert before == {name: (run / name).read_bytes() for name in before}
    assert "MAX_ITER: 99" in (run / "eval" / "config.yaml").read_text()


def test_a_name_that_no_registry_knows(arguments):
    line = "MODEL.META_ARCHITECTURE 'GeneralisedRCNN' is not registered; there is GeneralizedRCNN"
    with pytest.raises(UserError, match=line):
        setup(arguments("MODEL.META_ARCHITECTURE", "GeneralisedRCNN"), prepare)
