"""Where the two halves meet: a trunk that was trained here, in a detector."""

import torch

from det_transfer.modeling import TimmBackbone
from det_transfer.reuse import load_trunk, read_weights

TIMM = ["MODEL.CLASSIFIER.NETWORK", "timm", "MODEL.TIMM.NAME", "resnet10t"]
TIMM += ["MODEL.CLASSIFIER.DROPPED", "[]", "MODEL.CLASSIFIER.FC", "[]"]


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
