"""Detectors on a trunk that is cut at a stage: MODEL.REUSE.LOAD_STAGES."""

import pytest
import torch

from det_transfer import run_folder
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError
from det_transfer.reuse import frozen_tensors, read_checkpoint, tensors_up_to

CUT = ["MODEL.REUSE.LOAD_STAGES", 2]
FROZEN = ["MODEL.REUSE.MODE", "partial", "MODEL.REUSE.STAGES", 2]
TRUNK = "backbone.bottom_up."


@pytest.fixture
def source(train, tmp_path):
    """A detector that was trained, all of it; gives its run folder."""
    train("MODEL.REUSE.MODE", "scratch", output="source")
    return tmp_path / "source"


def inside(trainer):
    trunk = trainer.model.backbone.bottom_up
    return {TRUNK + name for name in tensors_up_to(trunk, 2)}


def test_of_another_detector(train, source, tmp_path):
    """Its first stages and nothing else, frozen; resumed and evaluated as any other run."""
    theirs = read_checkpoint(source / "model_final.pth")["model"]
    trainer = train(*CUT, *FROZEN, "MODEL.WEIGHTS", source, output="cut")
    names, ours = inside(trainer), trainer.model.state_dict()
    assert names
    assert names == set(frozen_tensors(trainer.model))
    assert all(torch.equal(ours[name], theirs[name]) for name in names)
    # Heads and decoder began elsewhere, though the seed is the same: few steps do not hide it.
    heads = ["roi_heads.box_head.0.fc1.weight", "backbone.fpn_lateral3.weight"]
    assert all(not torch.allclose(ours[n], theirs[n], atol=0.01) for n in heads)
    record = run_folder.read_json(tmp_path / "cut" / "run.json")
    assert record["trunk"]["left_as_initialised"] > 0
    assert record["weights"] == str(source / "model_final.pth")
    log = (tmp_path / "cut" / "log.txt").read_text()
    assert "behind the cut (MODEL.REUSE.LOAD_STAGES) as initialised (net.layer2.0." in log

    options = [*CUT, *FROZEN, "MODEL.WEIGHTS", source, "SOLVER.MAX_ITER", 6]
    resumed = train(*options, output="cut", resume=True)
    assert resumed.start_iter == 4
    assert run_folder.read_json(tmp_path / "cut" / "run.json")["trunk"] == record["trunk"]


def test_evaluated_whole(train, arguments, source, tmp_path):
    trainer = train(*CUT, "MODEL.REUSE.MODE", "finetune", "MODEL.WEIGHTS", source, output="cut")
    weights = ["MODEL.WEIGHTS", tmp_path / "cut" / "model_final.pth"]
    cut = [*CUT, "MODEL.REUSE.MODE", "finetune"]
    args = arguments(*cut, *weights, output="cut", eval_only=True)
    found = DetectionTrainer.evaluate(setup(args, prepare))["bbox"]
    expected = trainer._last_eval_results["bbox"]
    assert [found[key] for key in ("AP", "AP50", "APs")] == [
        expected[key] for key in ("AP", "AP50", "APs")
    ]


def test_nothing_is_loaded(train, source, tmp_path):
    trainer = train("MODEL.REUSE.LOAD_STAGES", 0, *FROZEN, "MODEL.WEIGHTS", source, output="none")
    theirs = read_checkpoint(source / "model_final.pth")["model"]
    ours = trainer.model.state_dict()
    moved = {name for name in inside(trainer) if not torch.equal(ours[name], theirs[name])}
    assert {TRUNK + "net.conv1.0.weight", TRUNK + "net.layer1.0.conv1.weight"} <= moved
    record = run_folder.read_json(tmp_path / "none" / "run.json")
    assert record["weights"] == "random initialisation"
    content = torch.load(tmp_path / "none" / "model_final.pth")
    assert content["frozen"]["origin"] == ""  # nowhere else to be had


def test_said_before_there_are_weights(arguments, tmp_path):
    """A stage that the trunk lacks is known from the config alone."""
    weights = ["MODEL.WEIGHTS", tmp_path / "gone.pth", "MODEL.REUSE.MODE", "finetune"]
    args = arguments("MODEL.REUSE.LOAD_STAGES", 6, *weights)
    with pytest.raises(UserError, match=r"LOAD_STAGES is 6, but the trunk's stages are 1, 2, 3, 4"):
        setup(args, prepare)
