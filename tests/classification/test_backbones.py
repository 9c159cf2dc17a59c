"""Networks by one string: what they read, what they say, and what is refused."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from det_transfer.classification.backbones import _resnet_of, open_backbone
from det_transfer.classification.trunks import build_trunk
from det_transfer.errors import UserError
from det_transfer.reuse import Weights
from det_transfer.reuse.preprocessing import MSRA, TORCHVISION

R50 = Path(__file__).parents[3] / "shared/weights/R-50-msra-fp16.pkl"


@pytest.fixture
def images():
    return 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    """A tiny timm network whose weights are not those of random:test_resnet."""
    torch.manual_seed(5)
    return timm.create_model("test_resnet").eval()


def save(path, state):
    torch.save(dict(state), path)
    return path


def normalised(images, preprocessing):
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (images - mean) / std


def test_a_random_network_is_always_the_same(images):
    before = torch.get_rng_state()
    one, other = (open_backbone("random:test_resnet")(images) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.features, other.features)
    assert one.features.shape == (2, 96)
    assert one.probabilities is None
    assert open_backbone("random:test_resnet").no_head == "its classifier is random"


def test_a_file_with_its_classifier(images, net, tmp_path, caplog):
    path = save(tmp_path / "w.pth", net.state_dict())
    backbone = open_backbone(f"test_resnet@{path}")
    reading = backbone(images)
    seen = normalised(images, backbone.preprocessing)
    torch.testing.assert_close(reading.probabilities, net(seen).softmax(1))
    features = net.forward_head(net.forward_features(seen), pre_logits=True)
    torch.testing.assert_close(reading.features, features)
    torch.testing.assert_close(reading.grid.mean(dim=(2, 3)), reading.features)
    assert reading.grid.shape == (2, 96, 2, 3)
    assert backbone.no_head == ""
    assert "images are preprocessed as for test_resnet" in caplog.text


def test_a_file_without_classifier(images, net, tmp_path):
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    whole, cut = (
        open_backbone(f"test_resnet@{save(tmp_path / name, content)}")
        for name, content in (("whole.pth", net.state_dict()), ("cut.pth", state))
    )
    assert torch.equal(cut(images).features, whole(images).features)
    assert cut(images).probabilities is None
    assert cut.no_head == "its weights hold no classifier"
    # What the file lacks is drawn alike at every call, or its features would never be found again.
    again = open_backbone(f"test_resnet@{tmp_path / 'cut.pth'}")
    found, expected = again.net.state_dict(), cut.net.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_file_of_convolutions_alone(images, tmp_path):
    """What the first fully connected layer without weights would have read."""
    torch.manual_seed(5)
    net = torchvision.models.mobilenet_v3_small().eval()
    state = {k: v for k, v in net.state_dict().items() if k.startswith("features.")}
    backbone = open_backbone(f"mobilenet_v3_small@{save(tmp_path / 'w.pth', state)}")
    assert backbone.preprocessing == TORCHVISION
    expected = net.features(normalised(images, TORCHVISION)).mean(dim=(2, 3))
    torch.testing.assert_close(backbone(images).features, expected)


def test_a_file_that_lacks_more(net, tmp_path):
    state = {k: v for k, v in net.state_dict().items() if not k.startswith(("fc.", "layer4."))}
    with pytest.raises(UserError, match="does not fill test_resnet: "):
        open_backbone(f"test_resnet@{save(tmp_path / 'w.pth', state)}")


def test_a_transformer_of_one_size(images):
    backbone = open_backbone("random:test_vit")
    assert backbone(torch.zeros(1, 3, 160, 160)).grid is None
    with pytest.raises(AssertionError):
        backbone(images[:, :, :40, :40])


def test_a_run_folder(train, images):
    trainer = train(output="mine")
    folder = Path(trainer.cfg.OUTPUT_DIR)
    backbone = open_backbone(str(folder))
    seen = images[:, :, :32, :32]
    reading = backbone(seen)
    model = trainer.model.eval()
    batch = [{"image": image, "task": "target"} for image in seen]
    (task,) = model.classifiers
    activations = model.activations(batch)
    names = model.classifiers[task].inputs
    torch.testing.assert_close(reading.features, torch.cat([activations[n] for n in names], 1))
    expected = model.logits(activations, task).softmax(1)
    torch.testing.assert_close(reading.probabilities, expected)
    shutil.move(folder / "last_checkpoint", folder / "gone")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        open_backbone(str(folder))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is taken where there is one")
def test_a_run_that_was_trained_on_a_gpu(train, images):
    folder = Path(train(output="mine").cfg.OUTPUT_DIR)
    config = folder / "config.yaml"
    text = config.read_text()
    assert "DEVICE: cpu" in text
    config.write_text(text.replace("DEVICE: cpu", "DEVICE: cuda"))
    assert open_backbone(str(folder))(images[:, :, :32, :32]).features.device.type == "cpu"


def test_resnets_of_detectron2_are_known_by_their_tensors():
    state = {f"res4.{k}.conv3.weight": torch.ones(1) for k in range(23)}
    assert _resnet_of(Weights(state, "x")) == ""
    state["res5.2.conv3.weight"] = torch.ones(1)
    assert _resnet_of(Weights(state, "x")) == "R-101"
    caffe2 = [f"res4_{k}_branch2a_w" for k in range(6)]
    state = dict.fromkeys([*caffe2, "res5_2_branch2c_w"], torch.ones(1))
    assert _resnet_of(Weights(state, "x")) == "R-50"


@pytest.mark.skipif(not R50.is_file(), reason=f"{R50} is not there")
def test_the_real_r50(images):
    backbone = open_backbone(str(R50))
    reading = backbone(images)
    assert backbone.preprocessing == MSRA
    assert reading.features.shape == (2, 2048)
    assert reading.grid.shape == (2, 2048, 2, 3)
    assert backbone.no_head == "its weights hold no classifier"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet51", "backbone 'resnet51' is neither a network nor a file nor a run folder; did"),
        ("random:resnet51", "did you mean resnet51q"),
        ("test_resnet@nowhere.pth", "nowhere.pth does not exist"),
        ("random:squeezenet1_0", "squeezenet1_0 cannot serve: it ends in no fully connected"),
        ("FILE", "does not say whose weights it holds; write NETWORK@FILE"),
        ("FOLDER", "is no run folder: it has no config.yaml"),
        ("package://nothing", "package://nothing: known are"),
    ],
)
def test_mistakes(source, message, tmp_path):
    file = save(tmp_path / "w.pth", {"a.weight": torch.ones(2)})
    source = {"FILE": str(file), "FOLDER": str(tmp_path)}.get(source, source)
    with pytest.raises(UserError, match=message):
        open_backbone(source)


def test_detectron2s_resnet_as_the_trunk_of_a_classifier(train, images):
    """For weights that no network of timm's takes; trained here, and read as a backbone."""
    options = ("MODEL.CLASSIFIER.NETWORK", "resnet", "MODEL.RESNETS.DEPTH", 18)
    short = ("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", 0)
    trainer = train(*options, "MODEL.RESNETS.NORM", "BN", "MODEL.CLASSIFIER.FC", "[]", *short)
    trunk = trainer.model.eval().backbone
    assert list(trunk.named_layers()) == ["stem", "res2", "res3", "res4", "res5"]
    reading = open_backbone(trainer.cfg.OUTPUT_DIR)(images)
    assert reading.features.shape == (2, 512)


def test_where_the_strides_of_a_resnet_are():
    for first in (True, False):
        with torch.device("meta"):
            trunk = build_trunk("resnet", {"depth": 50, "stride_in_1x1": first, "norm": "FrozenBN"})
        block = trunk.net.res3[0]
        strides = (block.conv1.stride, block.conv2.stride)
        assert strides == (((2, 2), (1, 1)) if first else ((1, 1), (2, 2)))
        assert trunk.width == 2048
