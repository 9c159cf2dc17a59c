"""Real archives and weights; skipped where they are not at hand."""

import argparse
from pathlib import Path

import pytest
import torch

from det_transfer.classification import ClassificationTrainer, prepare
from det_transfer.classification.data import read_images
from det_transfer.engine.setup import setup

ROOT = Path(__file__).parents[2]
SHARED = ROOT / ".." / "shared"
TINY = SHARED / "data" / "tinyimagenet200_80x10.tar"
GROCERY = SHARED / "data" / "grocerystore_96px.tar"
ALEXNET = SHARED / "weights" / "alexnet_features_fp16.pth"

pytestmark = pytest.mark.skipif(not TINY.is_file(), reason=f"{TINY} is not here")


def test_the_archives():
    found = {split: read_images("t", "images", str(TINY), split) for split in ("train", "val")}
    assert [len(f) for f in found.values()] == [16_000, 2_000]
    assert found["train"].classes == found["val"].classes
    assert set(found["val"].counts()) == {10}
    assert found["train"].image(12_345).shape == (64, 64, 3)
    half = read_images("t", "images", str(TINY), "train@man_made_natural.tsv=man-made")
    assert (len(half), len(half.classes)) == (10_240, 128)
    fine = read_images("g", "images", str(GROCERY), "train.txt")
    coarse = read_images("g", "images", str(GROCERY), "train.txt:2")
    assert (len(fine), len(fine.classes), len(coarse.classes)) == (2_640, 81, 43)
    assert fine.classes[:3] == ("0", "1", "2")
    assert min(fine.image(100).shape[:2]) == 96


def test_alexnets_convolutions_on_tiny_imagenet(tmp_path):
    """The recipe of the source network on a few images: pool5 cached, FC6 and FC7 trained."""
    sets = [["tiny_train", "images", str(TINY), "train"]]
    opts = ["MODEL.WEIGHTS", str(ALEXNET), "DATASETS.CLASSIFICATION", repr(sets)]
    opts += ["DATASETS.TEST", "()", "DATASETS.TRAIN_SHOTS", "1", "INPUT.VIEW.FIXED", "1"]
    opts += ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "2"]
    opts += ["SOLVER.STEPS", "()", "OUTPUT_DIR", str(tmp_path), "INPUT.VIEW.CROP", "96"]
    opts += ["MODEL.CLASSIFIER.FC", "[64, 64]", "INPUT.VIEW.RESIZE", "104"]
    config = str(ROOT / "configs" / "classification" / "source_tinyimagenet_alexnet.yaml")
    args = argparse.Namespace(config_file=config, opts=opts, resume=False, eval_only=False)
    trainer = ClassificationTrainer(setup(args, prepare))
    trainer.resume_or_load(resume=False)
    assert trainer.data_loader.names == ["pool5"]
    trainer.train()
    weights = torch.load(ALEXNET)
    state = trainer.model.state_dict()
    for name, tensor in weights.items():
        assert torch.equal(state[f"backbone.{name}"], tensor.float())
    content = torch.load(tmp_path / "model_final.pth")
    assert "backbone.features.0.weight" not in content["model"]  # frozen: it lies beside
