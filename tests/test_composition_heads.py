"""A classifier beside detectors on one trunk: the same answers as alone, and what is refused."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

import det_transfer
from det_transfer.classification import ClassificationTrainer, load_head, prepare
from det_transfer.classification.heads import ClassifierHead
from det_transfer.classification.trunks import TimmTrunk
from det_transfer.composition import LOADERS, compose, load_composition
from det_transfer.engine.launch import run as run_program
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError
from det_transfer.modeling import TimmBackbone
from det_transfer.reuse.names import match_names
from det_transfer.testing import make_tiny_dataset, make_tiny_images
from tools import compose as tool
from tools import predict

HERE = Path(__file__).parent
DETECTOR = str(HERE / "engine/tiny.yaml")
CLASSIFIER = str(HERE / "classification/tiny_classifier.yaml")
FEATURES = ["MODEL.TIMM.OUT_FEATURES", ["res3", "res4", "res5"]]
# Both are fed alike.
STD = ["MODEL.PIXEL_STD", "[57.375, 57.12, 58.395]"]
ALIKE = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", *STD]
TIMM = ["MODEL.CLASSIFIER.NETWORK", "timm", "MODEL.TIMM.NAME", "resnet10t"]
TIMM += ["MODEL.CLASSIFIER.DROPPED", "[]", "MODEL.CLASSIFIER.FC", "[]"]
SHORT = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()"]


@pytest.fixture(scope="module", autouse=True)
def loader():
    """As the programs do it."""
    LOADERS["classifier"] = load_head
    yield
    del LOADERS["classifier"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def detector(folder):
    data = make_tiny_dataset(folder / "data")
    options = ["DATASETS.CUSTOM", [["tiny", *map(str, data)]], *FEATURES, *SHORT, *STD]
    options += ["OUTPUT_DIR", str(folder / "cells"), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.001]
    return det_transfer.train(DETECTOR, options).folder


@pytest.fixture(scope="module")
def train(folder):
    """A function from name and options to the run folder of a classifier."""
    images = make_tiny_images(folder / "images")
    sets = [[name, "images", str(images), name] for name in ("train", "test")]

    def run(name, *options):
        own = ["DATASETS.CLASSIFICATION", repr(sets), "OUTPUT_DIR", folder / name]
        options = [*own, *ALIKE, *TIMM, *SHORT, *options]
        args = SimpleNamespace(config_file=CLASSIFIER, opts=[*map(str, options)], resume=False)
        args.eval_only = args.dry_run = False
        trainer = ClassificationTrainer(setup(args, prepare))
        trainer.resume_or_load(resume=False)
        trainer.train()
        return folder / name

    return run


@pytest.fixture(scope="module")
def classifier(train, detector):
    frozen = ["MODEL.WEIGHTS", detector / "model_final.pth", "MODEL.CLASSIFIER.SCOPE", "Classifier"]
    return train("kinds", *frozen)


@pytest.fixture(scope="module")
def made(folder, detector, classifier):
    path = folder / "shared.yaml"
    compose(path, {"kinds": classifier, "cells": detector})
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """A program; gives exit code, stdout and stderr."""

    def run(program, *words):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
        main = program.main if program is predict else lambda args: args.function(args)
        code = run_program(lambda: main(program.parse()))
        return code, *capsys.readouterr()

    return run


def test_an_evaluation_equals_that_of_the_classifier(made, classifier, folder, call):
    code, out, err = call(tool, "eval", made)
    assert code == 0, err
    ours, alone = folder / "shared/kinds/eval/test", classifier / "eval/test"
    for file in ("results.json", "per_category.csv"):
        assert (ours / file).read_text() == (alone / file).read_text()
    with (
        np.load(ours / "predictions/part-0.npz") as a,
        np.load(alone / "predictions/part-0.npz") as b,
    ):
        assert sorted(a.files) == sorted(b.files)
        assert all(a[name].tobytes() == b[name].tobytes() for name in a.files)
    top1 = json.loads((alone / "results.json").read_text())["metrics"]["accuracy"]["top1"]
    assert f"kinds: test: accuracy top1 {top1:.2f}" in out
    assert "cells: tiny: bbox AP " in out


@pytest.mark.parametrize("size", [(64, 96), (60, 90)], ids=["no padding", "padded"])
def test_it_answers_as_the_classifier_alone(made, classifier, detector, tmp_path, size):
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = load_composition(made)(array)["kinds"]
    head, alone = load_head(classifier, "kinds"), det_transfer.load(detector)
    pixels = alone.sample(array)["image"].float()
    height, width = pixels.shape[1:]
    pixels = (pixels - head.model.pixel_mean) / head.model.pixel_std
    padding = [(0, -side % 16) for side in (width, height)]  # of the detector's FPN
    padded = F.pad(pixels, [*padding[0], *padding[1]])[None]
    net = head.model.backbone.net
    with torch.no_grad():
        seen = net.forward_features(padded)
        seen = seen[..., : math.ceil(height / 32), : math.ceil(width / 32)]
        pooled = net.forward_head(seen, pre_logits=True)
        scores = head.model.logits({"pool5": pooled}, "shapes")[0].softmax(0)
    best, order = scores.sort(descending=True)
    assert torch.equal(found.scores, best[:5])
    assert torch.equal(found.pred_classes, order[:5])
    assert found.pred_class_names == [head.classes[k] for k in order[:5].tolist()]
    assert not found.has("pred_boxes")


def test_programs_say_the_likeliest_classes(made, classifier, folder, tmp_path, call, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "det_transfer.prediction.pictures.annotated",
        lambda picture, title, shapes, scale: titles.append(title) or picture,
    )
    images = sorted((folder / "data/images").glob("*.png"))[:2]
    code, out, err = call(predict, made, *images, "--output", tmp_path / "found")
    assert code == 0, err
    assert "kinds: 8 likeliest classes in 2 images, by " in out
    rows = json.loads((tmp_path / "found/kinds/predictions.json").read_text())
    assert [sorted(row) for row in rows] == [["category_id", "image_id", "score"]] * 8
    content = json.loads((tmp_path / "found/kinds/images.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert sorted(names) == [0, 1, 2, 3]  # of its evaluation
    best = rows[0]
    assert f"; kinds: {names[best['category_id']]} {best['score']:.2f}, " in titles[0]
    code, out, err = call(tool, "list", made)
    assert code == 0, err
    assert "classifier" in out


def test_the_program_makes_the_same_file(made, detector, classifier, call):
    path = made.with_name("again.yaml")
    code, out, err = call(tool, "make", path, f"kinds={classifier}", f"cells={detector}")
    assert code == 0, err
    assert path.read_text() == made.read_text()
    assert "2 tasks on trunk " in out


def test_it_stands_on_a_trunk_that_ends_earlier(folder, detector, classifier, made):
    """The layers above what the trunk gives stay the classifier's own."""
    head = load_head(classifier, "kinds")
    trunk = TimmBackbone("resnet10t", ["res3", "res4"])
    trunk.load_state_dict(
        {name: head.model.backbone.state_dict()[name] for name in trunk.state_dict()}
    )
    short = head.head_on(trunk.eval())
    assert (short.feature, short.stride) == ("res4", 16)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = head.model.backbone(images)
        found = short.model.backbone(trunk(images)["res4"])
    assert torch.equal(found, expected)
    full = ClassifierHead(head.model, "shapes", "res5", 32)
    count = [sum(p.numel() for p in part.parameters()) for part in (full, short, head.model)]
    assert count[0] < count[1] < count[2]


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto"]
)
def test_networks_that_go_on_above_their_features(classifier, name):
    """What stands between the last features and pool5 comes along."""
    head = load_head(classifier, "kinds")
    torch.manual_seed(0)
    head.model.backbone = TimmTrunk(name).eval()
    trunk = TimmBackbone(name, ["res3", "res4", "res5"]).eval()
    own = head.model.backbone.state_dict()
    pairs = match_names(trunk.state_dict(), own)
    trunk.load_state_dict({mine: own[theirs] for mine, theirs in pairs.items()})
    head.head_on(trunk)


def test_another_trunk_is_refused(train, detector, folder, call, tmp_path):
    trained = train("finetuned", "MODEL.WEIGHTS", detector / "model_final.pth")
    tasks = [f"cells={detector}", f"kinds={trained}"]
    code, _, err = call(tool, "make", tmp_path / "c.yaml", *tasks)
    assert code == 2
    assert "error: task kinds: its trunk is another one, fingerprint " in err
    assert "MODEL.CLASSIFIER.SCOPE Classifier" in err
    assert not (tmp_path / "c.yaml").exists()


def test_mistakes(detector, classifier, made, call, tmp_path, monkeypatch):
    code, _, err = call(tool, "make", tmp_path / "c.yaml", f"kinds={classifier}")
    assert code == 2
    assert "error: tasks kinds: one at least must be a detector" in err
    code, _, err = call(predict, classifier, tmp_path, "--output", tmp_path / "x")
    assert code == 2
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    code, _, err = call(predict, classifier, tmp_path / "a.png", "--output", tmp_path / "x")
    assert code == 2
    assert "is a run of a classifier, not of a detector" in err
    head = load_head(classifier, "kinds")
    with pytest.raises(UserError, match="its trunk, resnet10t, is another network"):
        head.head_on(TimmBackbone("resnet18", ["res3", "res4", "res5"]))
    monkeypatch.delitem(LOADERS, "classifier")
    with pytest.raises(UserError, match=r"task kinds: .* run of a classifier: before loading, "):
        load_composition(made)


def test_fed_otherwise(train, detector, tmp_path):
    other = train("bright", *["MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"])
    with pytest.raises(UserError, match=r"cells and kinds have MODEL\.PIXEL_MEAN \[103"):
        compose(tmp_path / "c.yaml", {"cells": detector, "kinds": other})


def test_a_task_that_the_classifier_does_not_have(classifier):
    model = load_head(classifier, "any name").model
    assert load_head(classifier, "shapes").task == "shapes"
    assert list(model.classifiers) == ["shapes"]


def test_its_file_is_as_that_of_detectors(made):
    content = yaml.safe_load(made.read_text())
    assert content["tasks"]["kinds"] == {"run": "kinds", "weights": "model_final.pth"}
