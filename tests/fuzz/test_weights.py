"""Checkpoints: of ours with what they say of the network and of what is frozen, and of others."""

import pickle
from collections import OrderedDict
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.torch
import torch
from damage import broken, damaged, many, told
from hypothesis import given
from hypothesis import strategies as st

from det_transfer.classification.architecture import Architecture, Channels, Reading, grow
from det_transfer.classification.building import describe
from det_transfer.reuse import read_weights
from det_transfer.reuse.files import read_checkpoint, tensors_of
from det_transfer.reuse.preprocessing import Preprocessing

NET = Architecture.plain("compact_alexnet", {"width": 4}, 32, (24, 16))
NET = grow(NET.with_task("source", 3), "recursive", (4, 8), joined=Reading(True), below=Reading())
NET = grow(NET, "channels", (2, 4, 4), made=Channels("", 2, 2, 20, 0)).with_task("target", 5)


def plain(value):
    """With lists for tuples, as damage takes it."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


DESCRIPTION = {
    "architecture": plain(NET.as_dict()),
    "new": ["classifiers.target.bias"],
    "classes": {"source": ["a", "b", "c"], "target": list("abcde")},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@many
@given(damaged(DESCRIPTION["architecture"]))
def test_growth_descriptions(description):
    net = told(Architecture.from_dict, description)
    if net is not None:  # all that is asked of a network before it is built
        assert str(net)
        assert net.width(net.top[0]) > 0
        assert Architecture.from_dict(net.as_dict()) == net
        assert net.with_task("new", 2).only_tasks(["new"])
        told(grow, net, "widen", (3,))


def test_the_undamaged_description_is_taken():
    assert Architecture.from_dict(DESCRIPTION["architecture"]) == NET


@many
@given(st.data())
def test_described_checkpoints(folder, data):
    path = folder / "model.pth"
    content = {"model": {"a": torch.zeros(2)}, "classifier": data.draw(damaged(DESCRIPTION))}
    torch.save(content, path)
    found = told(describe, str(path))
    if found is not None:
        told(Architecture.from_dict, found["architecture"])


STATE = {"conv1.weight": torch.arange(4.0).reshape(2, 2), "conv1.bias": torch.ones(2)}
ARRAYS = OrderedDict((name, value.numpy()) for name, value in STATE.items())


@pytest.fixture(scope="module", params=["pth", "pkl", "safetensors"])
def weights(request, folder):
    """A file, and the bytes of a sound one."""
    path = folder / f"sound.{request.param}"
    if request.param == "pth":
        mean = asdict(Preprocessing("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
        torch.save({"model": STATE, "preprocessing": mean, "iteration": 3}, path)
    elif request.param == "pkl":
        path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "someone"}, protocol=2))
    else:
        safetensors.torch.save_file(STATE, path)
    return folder / f"fuzzed.{request.param}", path.read_bytes()


@many
@given(st.data())
def test_broken_weights(weights, data):
    path, content = weights
    path.write_bytes(data.draw(broken(content)))
    found = told(read_checkpoint, path)
    if found is not None:
        tensors = told(tensors_of, found, str(path))
        assert all(isinstance(value, torch.Tensor) for value in (tensors or {}).values())


BESIDE = {
    "preprocessing": {"format": "RGB", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
    "frozen": {"file": "frozen-1.pth", "fingerprint": "1", "tensors": ["a"], "origin": ""},
    "matching_heuristics": True,
    "__author__": "someone",
}


@many
@given(st.data())
def test_damaged_entries(folder, data):
    """What a checkpoint says beside its tensors: preprocessing, what is frozen, nested states."""
    path = folder / "entries.pth"
    entries = data.draw(damaged(BESIDE))
    if isinstance(entries, dict) and data.draw(st.booleans()):
        entries = {**entries, "model": STATE}
    torch.save(entries, path)
    told(read_weights, str(path))


@many
@given(st.binary(max_size=200))
def test_any_bytes(weights, content):
    path, _ = weights
    path.write_bytes(content)
    told(read_checkpoint, path)


@many
@given(st.data())
def test_arrays_of_any_kind(folder, data):
    kind = data.draw(st.sampled_from(["f2", "f4", "f8", "i8", "u1", "?", "c8", "U3", "O", "M8[s]"]))
    path = folder / "arrays.pkl"
    path.write_bytes(pickle.dumps({"a": np.zeros(data.draw(st.integers(0, 3)), kind)}))
    found = told(read_checkpoint, path)
    if found is not None:
        told(tensors_of, found, str(path))
