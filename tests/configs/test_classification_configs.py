"""Every YAML of a classifier is valid and builds, plain and grown; one trains for two steps."""

import argparse
from pathlib import Path

import pytest
import torch

from det_transfer.classification import ClassificationTrainer, prepare
from det_transfer.classification.building import build_classifier
from det_transfer.classification.growth import count_parameters
from det_transfer.config import load_config, validate
from det_transfer.engine.plan import read_plan
from det_transfer.engine.setup import setup
from det_transfer.testing import make_tiny_images

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "classification"
FILES = sorted(CONFIGS.glob("*.yaml"))
PAPER_PLANS = sorted((CONFIGS.parent / "plans").glob("growth_table*_paper.yaml"))
GROWN = ["MODEL.GROWTH.KIND", "both", "MODEL.GROWTH.SIZES", "[64, 32]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_tiny_images(tmp_path_factory.mktemp("images"), per_class=2))


def on_shapes(cfg, folder):
    """The datasets of a config replaced by the shapes, under their names."""
    names = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    return [[name, "images", folder, "train"] for name in sorted(names)]


@pytest.mark.parametrize("grown", [[], GROWN], ids=["plain", "grown"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_is_valid_and_builds(path, grown, folder):
    config = load_config(str(path), ["MODEL.DEVICE", "cpu", *grown])
    validate(config.cfg, config.explicit)
    cfg = config.cfg
    cfg.DATASETS.CLASSIFICATION = on_shapes(cfg, folder)
    cfg.MODEL.DEVICE = "meta"  # no memory, no time
    if cfg.MODEL.WEIGHTS.endswith(".pth"):
        cfg.MODEL.WEIGHTS = ""
    with torch.device("meta"):
        model = build_classifier(cfg)
    assert any(p.requires_grad for p in model.parameters())
    assert ("FCa" in model.layers) == bool(grown)


def test_two_iterations(folder, tmp_path):
    path = str(CONFIGS / "digits.yaml")
    sets = on_shapes(load_config(path).cfg, folder)
    opts = ["DATASETS.CLASSIFICATION", repr(sets), "OUTPUT_DIR", str(tmp_path)]
    opts += ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0"]
    args = argparse.Namespace(config_file=path, opts=opts, resume=False, eval_only=False)
    trainer = ClassificationTrainer(setup(args, prepare))
    trainer.resume_or_load(resume=False)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    results = trainer.train()
    assert results["accuracy"].keys() == {"top1", "class_mean"}
    after = trainer.model.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("path", PAPER_PLANS, ids=lambda path: path.stem)
def test_every_network_of_a_plan_at_the_papers_scale(path, folder, monkeypatch):
    """Each growth and each network of a plan builds, on meta; the header says what was not done."""
    monkeypatch.chdir(CONFIGS.parents[1])
    text = path.read_text()
    assert "Not trained by us" in text
    assert "# Schedule:" in text
    assert (path.parent / f"{path.stem.removesuffix('_paper')}.yaml").is_file()
    built = set()
    for run in read_plan(path).runs:
        cfg = run.cfg.clone()
        growth, classifier = cfg.MODEL.GROWTH, cfg.MODEL.CLASSIFIER
        key = (growth.KIND, tuple(growth.SIZES), classifier.NETWORK, str(classifier.TASKS))
        if key in built:
            continue
        built.add(key)
        names = [entry[0] for entry in cfg.DATASETS.CLASSIFICATION]
        cfg.DATASETS.CLASSIFICATION = [[name, "images", folder, "train"] for name in names]
        cfg.MODEL.DEVICE = "meta"
        if cfg.MODEL.WEIGHTS.endswith(".pth"):
            cfg.MODEL.WEIGHTS = ""
        with torch.device("meta"):
            model = build_classifier(cfg)
        held = sum(p.numel() for p in model.parameters())
        above = held - sum(p.numel() for p in model.backbone.parameters())
        assert above == count_parameters(model.architecture)
        assert model.architecture.layers["FC7"].width == 4096
    assert built


def test_there_is_a_plan_for_each_table():
    assert [path.stem for path in PAPER_PLANS] == [f"growth_table{n}_paper" for n in range(1, 9)]
