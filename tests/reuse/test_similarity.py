"""CKA, nearest neighbours and the linear probe against naive versions and their invariances."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer.errors import UserError
from det_transfer.reuse.similarity import (
    knn_accuracy,
    linear_cka,
    probe_accuracy,
    relative_distance,
)

few = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(3, 30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))


def two(shape):
    """Two representations (N, D) and (N, E) that have something in common."""
    n, d, e, seed = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    y = x @ torch.randn(d, e, generator=generator) + torch.randn(n, e, generator=generator)
    return x + 3.0, y - 1.0


def orthogonal(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q


def naive_cka(x, y):
    """By HSIC with the centring matrix H: tr(K H L H), as the paper defines it."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n

    def hsic(k, m):
        return np.trace(k @ centre @ m @ centre)

    k, m = (side @ side.T for side in (x.double().numpy(), y.double().numpy()))
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


@few
@given(shapes)
def test_cka_is_that_of_the_definition(shape):
    x, y = two(shape)
    assert linear_cka(x, y) == pytest.approx(naive_cka(x, y), abs=1e-9)


@few
@given(shapes, st.floats(0.01, 100.0))
def test_cka_sees_no_rotation_no_scale_and_no_shift(shape, scale):
    x, y = two(shape)
    turned = scale * (x @ orthogonal(x.shape[1], shape[3])) + 5.0
    assert linear_cka(turned, y) == pytest.approx(linear_cka(x, y), abs=1e-5)
    assert linear_cka(x, turned) == pytest.approx(1.0, abs=1e-5)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), abs=1e-12)
    assert 0 <= linear_cka(x, y) <= 1


def test_cka_sees_other_linear_transforms():
    x, _ = two((200, 4, 4, 0))
    assert linear_cka(x, x * torch.tensor([100.0, 1.0, 1.0, 1.0])) < 0.8
    assert linear_cka(x, torch.randn(200, 4, generator=torch.Generator().manual_seed(9))) < 0.1
    assert linear_cka(x, x) == 1.0


def test_cka_where_there_is_none():
    assert math.isnan(linear_cka(torch.ones(5, 2), torch.randn(5, 2)))
    with pytest.raises(ValueError, match="5 images on one side, 4 on the other"):
        linear_cka(torch.ones(5, 2), torch.ones(4, 2))


def naive_knn(train, train_labels, test, test_labels, neighbours):
    right = 0
    for image, label in zip(test.numpy(), test_labels.tolist(), strict=True):
        cosines = [
            float(image @ other) / (np.linalg.norm(image) * np.linalg.norm(other))
            for other in train.numpy()
        ]
        votes = {}
        for index in sorted(range(len(cosines)), key=lambda i: -cosines[i])[:neighbours]:
            known = int(train_labels[index])
            votes[known] = votes.get(known, 0.0) + math.exp(cosines[index] / 0.07)
        right += max(votes, key=votes.get) == label
    return 100.0 * right / len(test)


def blobs(n, classes, seed, spread=1.0, size=6):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, size, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(n) % classes
    return centres[labels] + spread * torch.randn(n, size, generator=generator), labels


@few
@given(st.integers(2, 5), st.integers(1, 30), st.integers(0, 99))
def test_neighbours_vote_as_in_the_naive_version(classes, neighbours, seed):
    train, test = blobs(20, classes, seed), blobs(15, classes, seed + 1000)
    expected = naive_knn(*train, *test, neighbours)
    assert knn_accuracy(*train, *test, neighbours=neighbours) == pytest.approx(expected)


@few
@given(st.integers(0, 99), st.floats(0.01, 100.0))
def test_neighbours_do_not_see_rotation_and_scale(seed, scale):
    train, test = blobs(40, 4, seed), blobs(30, 4, seed + 1000)
    turn = scale * orthogonal(6, seed)
    turned = knn_accuracy(train[0] @ turn, train[1], test[0] @ turn, test[1])
    # Of 30 images one may stand on the fence, where a rounding decides.
    assert turned == pytest.approx(knn_accuracy(*train, *test), abs=100 / 30 + 1e-6)


def test_more_test_images_than_are_looked_at_together():
    train, test = blobs(50, 3, 0, spread=0.3), blobs(2500, 3, 1, spread=0.3)
    parts = [knn_accuracy(*train, test[0][k::2], test[1][k::2]) for k in (0, 1)]
    assert knn_accuracy(*train, *test) == pytest.approx(sum(parts) / 2)


def test_the_probe_reads_what_is_linear_and_nothing_else():
    train, test = blobs(300, 4, 0, spread=0.4), blobs(200, 4, 1, spread=0.4)
    assert probe_accuracy(*train, *test) > 95
    shuffled = train[1][torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    assert probe_accuracy(train[0], shuffled, *test) < 50
    # A ring around a disc: neighbours tell them apart, a line does not.
    generator = torch.Generator().manual_seed(3)
    angles, radii = 2 * math.pi * torch.rand(400, generator=generator), torch.tensor([1.0, 3.0])
    labels = torch.arange(400) % 2
    ring = radii[labels, None] * torch.stack([angles.cos(), angles.sin()], 1)
    assert probe_accuracy(ring[:300], labels[:300], ring[300:], labels[300:]) < 70


def test_the_probe_is_sklearns_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    train, test = blobs(60, 3, 0), blobs(300, 3, 1)
    mean, std = train[0].mean(0), train[0].std(0, correction=0)
    reference = LogisticRegression(C=0.01, max_iter=1000, tol=1e-6)
    reference.fit(((train[0] - mean) / std).numpy(), train[1].numpy())
    expected = 100 * reference.score(((test[0] - mean) / std).numpy(), test[1].numpy())
    assert probe_accuracy(*train, *test) == pytest.approx(expected, abs=1.0)


def test_the_probe_sees_no_scale_of_single_features():
    train, test = blobs(100, 3, 0), blobs(100, 3, 1)
    scale = torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0, 7.0])
    scaled = probe_accuracy(train[0] * scale, train[1], test[0] * scale, test[1])
    assert scaled == pytest.approx(probe_accuracy(*train, *test), abs=1.0)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match="needs scikit-learn: pip install scikit-learn"):
        probe_accuracy(*blobs(9, 3, 0), *blobs(9, 3, 1))


def test_how_far_weights_have_moved():
    before = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    after = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[4.0]]), "adapter": torch.ones(9)}
    assert relative_distance(before, before) == 0.0
    assert relative_distance(before, after) == pytest.approx(0.2)
    assert relative_distance({"a": 10 * before["a"]}, {"a": 10 * after["a"]}) == pytest.approx(
        1 / 3
    )
    assert relative_distance({"a": torch.zeros(2)}, {"a": torch.ones(2)}) == math.inf
    with pytest.raises(ValueError, match="b: missing afterwards"):
        relative_distance(before, {"a": before["a"]})
    with pytest.raises(ValueError, match=r"a: \(3,\) afterwards"):
        relative_distance(before, {"a": torch.ones(3)})
