"""Measures of grown networks against direct counts."""

import numpy as np
import pytest
import torch
from test_networks import batch, grown

from det_transfer.classification.analysis import (
    block_accuracies,
    diversity,
    features,
    movement,
    separation,
    top_images,
)
from det_transfer.errors import UserError


def target_batches(model):
    given = [
        {**sample, "task": "target", "image_id": k}
        for k, sample in enumerate(batch(model, 9), start=1)
    ]
    return [given[:4], given[4:]]


def test_a_block_alone():
    model = grown()
    batches = target_batches(model)
    found = block_accuracies(model, batches, "target")
    assert found.keys() == {"all", "FC7", "FC7+"}
    images = [*batches[0], *batches[1]]
    labels = torch.tensor([sample["label"] for sample in images])
    model.eval()
    whole = torch.stack([f["logits"] for f in model(images)]).argmax(1)
    assert found["all"] == pytest.approx(100 * (whole == labels).float().mean().item())
    with torch.no_grad():  # zeroing the other's slice of the matrix is the same
        model.classifiers["target"].weights["FC7"].zero_()
        alone = torch.stack([f["logits"] for f in model(images)]).argmax(1)
    assert found["FC7+"] == pytest.approx(100 * (alone == labels).float().mean().item())


def test_features_are_the_activations():
    model = grown()
    batches = target_batches(model)
    # An empty batch is one of images that do not decode.
    found, labels, numbers = features(model, [batches[0], [], batches[1]], ["FC6+", "pool5"])
    model.eval()
    direct = model.activations([*batches[0], *batches[1]])
    np.testing.assert_allclose(found["FC6+"], direct["FC6+"].detach().numpy(), atol=1e-5)
    assert found["pool5"].shape == (9, 192)
    assert labels.tolist() == [sample["label"] for sample in [*batches[0], *batches[1]]]
    assert numbers.tolist() == list(range(1, 10))
    assert model([]) == []
    assert block_accuracies(model, [batches[0], []], "target").keys() == {"all", "FC7", "FC7+"}


def test_diversity_against_numpys_correlations():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    new[:, 0] = -2 * old[:, 1] + 1  # the same but for a straight line
    matrix = np.abs(np.corrcoef(np.hstack([old, new]), rowvar=False))
    found = diversity(old, np.hstack([new, np.ones((50, 1))]))  # a dead unit does not count
    assert found["across"] == pytest.approx(matrix[:4, 4:].mean())
    assert found["old"] == pytest.approx(matrix[:4, :4][~np.eye(4, dtype=bool)].mean())
    assert found["new"] == pytest.approx(matrix[4:, 4:][~np.eye(3, dtype=bool)].mean())
    assert np.isnan(diversity(old[:, :1], new)["old"])


def test_movement():
    model = grown()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del before["layers.FC6+.weights.pool5"], before["layers.FC6+.bias"]  # new
    before["classifiers.target.bias"] = torch.zeros(99)  # of other classes
    with torch.no_grad():
        model.layers["FC7"].weights["FC6"] += 1
        model.backbone.features[0].weight *= 3
        model.backbone.features[0].bias *= 3
    found = movement(model, before)
    assert next(iter(found)) == "conv1"
    assert found["conv1"] == pytest.approx(2)
    old = [before[f"layers.FC7.{name}"].flatten() for name in ("weights.FC6", "bias")]
    count = before["layers.FC7.weights.FC6"].numel()
    assert found["FC7"] == pytest.approx(count**0.5 / torch.cat(old).norm().item(), rel=1e-5)
    assert found["conv2"] == found["target"] == 0
    assert "FC6+" not in found


def test_separation_and_top_images():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    apart = np.eye(2)[labels] + rng.normal(scale=0.05, size=(40, 2))
    mixed = rng.normal(size=(40, 2))
    assert separation(apart, labels)["knn"] == 100
    assert separation(apart, labels)["silhouette"] > 0.9
    assert separation(mixed, labels)["knn"] < 80
    for points, classes in ((mixed[:5], labels[:5]), (mixed, 0 * labels)):
        with pytest.raises(UserError, match="are too few to tell how they lie apart"):
            separation(points, classes)
    assert top_images(np.array([[0.1, 5], [0.3, 4], [0.2, 6]]), [1, 0], 2).tolist() == [
        [2, 0],
        [1, 2],
    ]
