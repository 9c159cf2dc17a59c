"""The second stage: a trained detector whose last classification layers alone go on learning."""

import json
import math

import pytest
import torch

from det_transfer import run_folder
from det_transfer.errors import UserError
from det_transfer.reuse import read_checkpoint

ONLY = ["MODEL.REUSE.TRAIN_ONLY", [r".*\.cls_score"]]
CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "TransferCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "MODEL.FPN.NORM", "BN"),
]


def weights(run):
    return read_checkpoint(run / "model_final.pth")["model"]


def changed(first, second):
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def classifiers(state):
    return {name for name in state if ".cls_score." in name}


@pytest.mark.parametrize("mode", ["frozen", "finetune", "adapters", "scratch"])
def test_exactly_the_declared_tensors_change(train, tmp_path, mode):
    """In every mode of the first stage: trunk, adapters, norms and their statistics stand still."""
    first = [*CASCADE, "MODEL.REUSE.MODE", mode]
    first += ["MODEL.WEIGHTS", ""] if mode == "scratch" else []
    train(*first, output="one")
    # The mode of the second stage may be any that has the same tensors.
    start = ["MODEL.WEIGHTS", tmp_path / "one" / "model_final.pth"]
    same = "finetune" if mode == "scratch" else mode
    train(*CASCADE, "MODEL.REUSE.MODE", same, *start, *ONLY, output="two")
    before, after = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert len(classifiers(before)) == 6  # of three stages, weight and bias
    assert changed(before, after) == classifiers(before)
    assert run_folder.read_json(tmp_path / "two" / "run.json")["frozen"]["verdict"] == "unchanged"
    # A slim checkpoint has the last layers alone; the guard has looked at all others.
    content = torch.load(tmp_path / "two" / "model_final.pth")
    assert content["model"].keys() == classifiers(before)
    assert set(content["frozen"]["tensors"]) == before.keys() - classifiers(before)


def test_it_resumes_and_its_checkpoint_is_found_whole(train, tmp_path):
    train(*CASCADE, output="one")
    start = [*CASCADE, "MODEL.WEIGHTS", tmp_path / "one" / "model_final.pth", *ONLY]
    train(*start, "SOLVER.MAX_ITER", 4, output="unbroken")
    train(*start, "SOLVER.MAX_ITER", 2, output="broken")
    train(*start, "SOLVER.MAX_ITER", 4, output="broken", resume=True)
    assert not changed(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))
    # Without the frozen part beside it, it is taken from the first stage.
    (beside,) = (tmp_path / "broken").glob("frozen-*.pth")
    beside.unlink()
    again = train(*start, "SOLVER.MAX_ITER", 5, output="broken", resume=True)
    state = again.model.state_dict()
    assert changed(weights(tmp_path / "one"), state) <= classifiers(state)


def test_new_classes_on_a_trained_detector(train, tmp_path):
    """What is trained may be missing from the weights, or be of another shape."""
    from det_transfer.testing import make_tiny_dataset

    train(*CASCADE, output="one")
    data = make_tiny_dataset(tmp_path / "five", classes=5)
    start = ["MODEL.WEIGHTS", tmp_path / "one" / "model_final.pth", *ONLY]
    trainer = train(*CASCADE, *start, data=data, output="two")
    assert trainer.model.roi_heads.box_predictor[0].cls_score.weight.shape[0] == 6


def test_with_the_class_balanced_loss(train, tmp_path):
    train(*CASCADE, output="one")
    start = [*CASCADE, "MODEL.WEIGHTS", tmp_path / "one" / "model_final.pth", *ONLY]
    trainer = train(*start, "MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA", 0.9, output="balanced")
    train(*start, output="plain")
    predictor = trainer.model.roi_heads.box_predictor[2]
    assert predictor._class_weights[:3].mean().item() == pytest.approx(1)
    assert predictor._class_weights[-1] < predictor._class_weights[:3].min()
    assert changed(weights(tmp_path / "balanced"), weights(tmp_path / "plain"))
    balance = ["MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA", 0.9]
    balance += ["MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BACKGROUND", 1.5]
    trainer = train(*start, *balance, output="background")
    assert trainer.model.roi_heads.box_predictor[2]._class_weights[-1] == 1.5


MASKS = [
    *("MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "MODEL.ROI_MASK_HEAD.NORM", "BN"),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
]


def test_the_mask_head_stands_still_too(train, tmp_path):
    """With Copy-Paste, as configs/lvis have it; norms of the mask head with their statistics."""
    paste = ["INPUT.LSJ.ENABLED", True, "INPUT.LSJ.SIZE", 64, "INPUT.LSJ.MIN_SCALE", 0.5]
    paste += ["INPUT.COPY_PASTE.ENABLED", True]
    train(*CASCADE, *MASKS, *paste, output="one")
    start = ["MODEL.WEIGHTS", tmp_path / "one" / "model_final.pth", *ONLY]
    start += ["MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA", 0.9]
    train(*CASCADE, *MASKS, *paste, *start, output="two")
    before, after = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert any(".mask_head." in name and "running_mean" in name for name in before)
    assert changed(before, after) == classifiers(before)
    lines = (tmp_path / "two" / "metrics.json").read_text().splitlines()
    assert all(math.isfinite(json.loads(lines[0])[key]) for key in ("loss_mask", "total_loss"))
    record = run_folder.read_json(tmp_path / "two" / "run.json")
    assert record["frozen"]["verdict"] == "unchanged"
    assert "segm" in record["results"]


@pytest.mark.parametrize("source", ["", "package"])
def test_it_begins_from_a_trained_detector(train, tmp_path, source):
    opts = [] if source else ["MODEL.WEIGHTS", ""]
    with pytest.raises(UserError, match="takes on a trained detector"):
        train(*CASCADE, *opts, *ONLY)


def test_a_detector_of_another_kind_is_refused(train, tmp_path):
    train("MODEL.FPN.NORM", "", output="one")
    with pytest.raises(UserError, match="trains others alone"):
        train(*CASCADE, "MODEL.WEIGHTS", tmp_path / "one" / "model_final.pth", *ONLY, output="two")


def test_a_pattern_that_matches_nothing_names_what_is_near(train, tmp_path):
    train(*CASCADE, output="one")
    start = [*CASCADE, "MODEL.WEIGHTS", tmp_path / "one" / "model_final.pth"]
    with pytest.raises(UserError, match=r"TRAIN_ONLY: 'roi_heads.box_predictor.0.cls_scores'.*is"):
        train(*start, "MODEL.REUSE.TRAIN_ONLY", ["roi_heads.box_predictor.0.cls_scores"])
