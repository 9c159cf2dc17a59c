"""The networks of the plans on transferability in detection and on pretraining: each one builds."""

from pathlib import Path

import pytest
import torch

from det_transfer.classification.building import build_classifier
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.plan import read_plan
from det_transfer.testing import make_tiny_images

ROOT = Path(__file__).parent.parent.parent
CLASSIFIER = "tools/train_classifier.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_tiny_images(tmp_path_factory.mktemp("images"), per_class=2))


@pytest.fixture
def runs(monkeypatch):
    """A function from a plan's name to its runs of the first seed."""
    monkeypatch.chdir(ROOT)  # as its comments say that it is started

    def read(name):
        found = read_plan(ROOT / "configs" / "plans" / f"{name}.yaml").runs
        return [run for run in found if run.labels.get("seed", 1) == 1]

    return read


def build(run, folder, output):
    cfg = run.cfg.clone()
    cfg.OUTPUT_DIR = str(output)  # where nothing can have been trained yet
    cfg.MODEL.DEVICE = "meta"  # no memory, no time
    if run.program == CLASSIFIER:
        names = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
        cfg.DATASETS.CLASSIFICATION = [[name, "images", folder, "train"] for name in names]
    else:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3  # from the data, which are not here
    with torch.device("meta"):
        return (
            build_classifier(cfg)
            if run.program == CLASSIFIER
            else DetectionTrainer.build_model(cfg)
        )


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_detectors_on_trunks_that_are_cut(runs, folder, tmp_path):
    by_name = {run.name: run for run in runs("transferability_detection")}
    on_bccd = {name: run for name, run in by_name.items() if name.startswith("bccd_")}
    assert len(on_bccd) == 19
    for run in on_bccd.values():
        cut, reuse = run.labels["cut"], run.cfg.MODEL.REUSE
        at_random = run.labels["source"] == "random"
        assert (0 if at_random else int(cut.rstrip("+"))) == reuse.LOAD_STAGES
        assert (run.cfg.MODEL.WEIGHTS == "") == at_random
        assert (0 if cut.endswith("+") else int(cut)) == reuse.STAGES
        assert ("finetune" if cut.endswith("+") else "partial") == reuse.MODE
    learn = {}
    for cut in ("1", "3", "5", "3+"):
        trunk = build(by_name[f"bccd_{cut}_imagenet_s1"], folder, tmp_path).backbone.bottom_up
        learn[cut] = trained(trunk)
    assert learn["3+"] == {name for name, _ in trunk.named_parameters()}
    assert learn["3+"] > learn["1"] > learn["3"] > learn["5"] == set()
    for source, of in (("other", "on_minicoco12_s1"), ("own", "on_bccd_s1")):
        run = on_bccd[f"bccd_3_{source}_s1"]
        assert of in run.needs
        assert run.cfg.MODEL.WEIGHTS.endswith(f"{of}/model_final.pth")
    # The other set is asked the same.
    swapped = {name.replace("minicoco12", "bccd") for name in by_name if name[:5] == "minic"}
    assert swapped == set(on_bccd)


def test_trunks_by_classification_and_detectors_on_them(runs, folder, tmp_path):
    by_name = {run.name: run for run in runs("pretraining")}
    classifiers = [run for run in by_name.values() if run.program == CLASSIFIER]
    assert {run.name for run in classifiers} == {
        f"pretrained_{data}_{wrong}_s1" for data in (10, 100) for wrong in (0, 20)
    }
    for run in classifiers:
        data = run.cfg.DATASETS
        assert int(run.labels["data"]) / 100 == data.TRAIN_FRACTION
        assert int(run.labels["wrong"]) / 100 == data.LABEL_NOISE
    pretrained = build(classifiers[0], folder, tmp_path).backbone.state_dict()
    detectors = [run for run in by_name.values() if run.program != CLASSIFIER]
    assert len(detectors) == 16 + 4
    for run in detectors:
        model = build(run, folder, tmp_path)
        trunk = model.backbone.bottom_up
        shapes = {name: tensor.shape for name, tensor in trunk.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in pretrained.items()}
        assert bool(trained(trunk)) == (run.labels["mode"] == "finetune")
        assert trained(model) - {f"backbone.bottom_up.{name}" for name in shapes}
    other = by_name["detector_100_20_frozen_4x_s1"]
    assert other.needs == ("pretrained_100_20_s1",)
    assert other.cfg.MODEL.WEIGHTS.endswith("pretrained_100_20_s1/model_final.pth")
    assert (
        other.cfg.SOLVER.MAX_ITER == 4 * by_name["detector_100_20_frozen_1x_s1"].cfg.SOLVER.MAX_ITER
    )
