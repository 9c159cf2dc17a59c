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


def target_batches(model):
    given = [{**sample, "task": "target"} for sample in batch(model, 9)]
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
    found, labels = features(model, batches, ["FC6+", "pool5"])
    model.eval()
    direct = model.activations([*batches[0], *batches[1]])
    np.testing.assert_allclose(found["FC6+"], direct["FC6+"].detach().numpy(), atol=1e-5)
    assert found["pool5"].shape == (9, 192)
    assert labels.tolist() == [sample["label"] for sample in [*batches[0], *batches[1]]]


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
    before = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2), "n": torch.tensor(1)}
    after = {"a": torch.tensor([3.0, 5.0]), "b": torch.zeros(3), "n": torch.tensor(2)}
    assert movement(before, after) == {"a": pytest.approx(0.2)}


def test_separation_and_top_images():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    apart = np.eye(2)[labels] + rng.normal(scale=0.05, size=(40, 2))
    mixed = rng.normal(size=(40, 2))
    assert separation(apart, labels)["knn"] == 100
    assert separation(apart, labels)["silhouette"] > 0.9
    assert separation(mixed, labels)["knn"] < 80
    assert top_images(np.array([[0.1, 5], [0.3, 4], [0.2, 6]]), [1, 0], 2).tolist() == [
        [2, 0],
        [1, 2],
    ]
