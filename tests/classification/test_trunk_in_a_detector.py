"""Where the two halves meet: a trunk that was trained here, in a detector."""

import argparse
from pathlib import Path

import pytest
import torch

from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.detection import prepare as prepare_detector
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError
from det_transfer.modeling import PlainBackbone, TimmBackbone
from det_transfer.reuse import load_trunk, read_weights

TIMM = ["MODEL.CLASSIFIER.NETWORK", "timm", "MODEL.TIMM.NAME", "resnet10t"]
TIMM += ["MODEL.CLASSIFIER.DROPPED", "[]", "MODEL.CLASSIFIER.FC", "[]"]

PLAIN = ["MODEL.TRUNK.NAME", "build_plain_backbone", "MODEL.PLAIN.NAME", "compact_alexnet"]
PLAIN += ["MODEL.PLAIN.COMPACT_WIDTH", "4", "MODEL.PLAIN.OUT_FEATURES", "['res3', 'res4']"]
# As the classifier has it.
VIEW = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", "[123.675, 116.280, 103.530]"]
VIEW += ["MODEL.PIXEL_STD", "[58.395, 57.120, 57.375]"]
TINY_DETECTOR = str(Path(__file__).parent.parent / "engine" / "tiny.yaml")


def test_a_trunk_trained_here_loads_as_a_detection_backbone(train, tmp_path):
    trained = train(*TIMM, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()")
    trunk = TimmBackbone("resnet10t", ["res3", "res4", "res5"])
    weights = read_weights(str(tmp_path / "run" / "model_final.pth"))
    report = load_trunk(trunk, weights, strict=True)
    assert report.matched == report.total
    assert weights.preprocessing.format == "RGB"
    images = torch.randn(1, 3, 64, 64)
    net = trained.model.backbone.net.eval()
    with torch.no_grad():
        expected = net.forward_features(images)
        torch.testing.assert_close(trunk.eval()(images)["res5"], expected)


def test_a_detectors_trunk_loads_into_a_classifier(build, tmp_path):
    trunk = TimmBackbone("resnet10t", ["res3", "res4", "res5"])
    state = {f"backbone.bottom_up.{name}": tensor for name, tensor in trunk.state_dict().items()}
    state |= {"roi_heads.box.weight": torch.zeros(3), "proposal_generator.x": torch.zeros(3)}
    torch.save({"model": state}, tmp_path / "detector.pth")
    weights = ["MODEL.WEIGHTS", tmp_path / "detector.pth", "MODEL.CLASSIFIER.SCOPE", "Classifier"]
    model = build(*TIMM, *weights).model
    assert torch.equal(model.backbone.net.conv1[0].weight, trunk.net.state_dict()["conv1.0.weight"])


@pytest.fixture
def plain(train, tmp_path):
    """A compact AlexNet that was trained here, and its weights as a detector reads them."""
    trained = train("DATASETS.TEST", "()", "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()")
    return trained.model.backbone.eval(), read_weights(str(tmp_path / "run" / "model_final.pth"))


def test_a_plain_trunk_trained_here_loads_as_a_detection_backbone(plain):
    classifiers, weights = plain
    trunk = PlainBackbone("compact_alexnet", ["res2", "res3", "res4"], width=4, stride=2).eval()
    report = load_trunk(trunk, weights, strict=True)
    assert report.matched == report.total == 10
    assert weights.preprocessing.format == "RGB"
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(trunk(images)["res4"], classifiers.features(images))


def test_the_same_tensors_of_another_network(plain):
    _, weights = plain
    trunk = PlainBackbone("compact_alexnet", ["res3", "res4"], width=4, stride=4)
    with pytest.raises(
        UserError, match=r"are weights of compact_alexnet \(stride 2, width 4\), but"
    ):
        load_trunk(trunk, weights, strict=False)


def test_a_classifier_says_which_of_timms_networks_it_is(train, tmp_path):
    train(*TIMM, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()")
    weights = read_weights(str(tmp_path / "run" / "model_final.pth"))
    assert weights.architecture == "resnet10t"
    with pytest.raises(UserError, match=r"weights of timm's resnet10t, but MODEL.TIMM.NAME is res"):
        load_trunk(TimmBackbone("resnet14t", ["res3"]), weights, strict=False)


def detector(data, folder, *opts):
    """A tiny detector on a plain trunk, with its weights."""
    own = ["DATASETS.CUSTOM", repr([["tiny_plain", *map(str, data)]]), "OUTPUT_DIR", str(folder)]
    own += ["DATASETS.TRAIN", "('tiny_plain',)", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1"]
    opts = [*PLAIN, *own, "SOLVER.STEPS", "()", *map(str, opts)]
    args = argparse.Namespace(
        config_file=TINY_DETECTOR, opts=opts, resume=False, eval_only=False, dry_run=False
    )
    trainer = DetectionTrainer(setup(args, prepare_detector))
    trainer.resume_or_load(resume=False)
    return trainer


def test_a_detector_on_a_classifiers_trunk(plain, tiny_coco, tmp_path):
    """Frozen, with every tensor of the classifier's, which are the classifier's after training."""
    classifiers, _ = plain
    weights = ["MODEL.WEIGHTS", tmp_path / "run" / "model_final.pth"]
    trainer = detector(tiny_coco, tmp_path / "detector", *weights, *VIEW)
    trainer.train()
    theirs = classifiers.state_dict()
    ours = trainer.model.backbone.bottom_up.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    with pytest.raises(UserError, match="these weights were trained with RGB, mean"):
        detector(tiny_coco, tmp_path / "other", *weights)
