"""Each score against a direct evaluation of its formula, its known values, and what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.covariance import LedoitWolf

from det_transfer.classification.scores import (
    SCORES,
    cka_with_labels,
    h_score,
    knn,
    leep,
    linear_probe,
    log_me,
    nce,
    regularized_h_score,
    trans_rate,
)
from det_transfer.classification.scores.covariance import shrinkage
from det_transfer.classification.scores.reading import held_out
from det_transfer.errors import UserError
from tools.benchmarks import transferability

# (images, units, classes): more images than units, as many, fewer.
SHAPES = [(60, 7, 3), (40, 39, 5), (30, 30, 4), (25, 80, 4)]
OF_FEATURES = [name for name, score in SCORES.items() if not score.reads_head]
OF_HEADS = [name for name, score in SCORES.items() if score.reads_head]


def data(images, units, classes, seed=0, spread=1.5):
    """Features (N, D) of classes that overlap, away from 0, of unequal scale; labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % classes)
    centres = rng.normal(size=(classes, units))
    features = centres[labels] + spread * rng.normal(size=(images, units)) + 1.0
    return features * rng.uniform(0.2, 3.0, units), labels


def heads(images=50, source=9, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % classes)
    logits = rng.normal(size=(images, source))
    logits[np.arange(images), labels] += 1.5
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


# LogME -------------------------------------------------------------------------------------------


def evidence(features, target, alpha, beta):
    """log N(y; 0, I / beta + f f' / alpha), the marginal likelihood as it is defined."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    sign, logdet = np.linalg.slogdet(covariance)
    assert sign > 0
    fit = target @ np.linalg.solve(covariance, target)
    return -0.5 * (fit + logdet + len(target) * math.log(2 * math.pi))


def greatest_evidence(features, target):
    """By scipy over log alpha and log beta, from several starts."""

    def cost(point):
        return -evidence(features, target, *np.exp(point))

    starts = [(0.0, 0.0), (-3.0, 3.0), (4.0, 2.0), (8.0, 1.0)]
    options = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000}
    found = [minimize(cost, s, method="Nelder-Mead", options=options).fun for s in starts]
    return -min(found)


@pytest.mark.parametrize("shape", SHAPES)
def test_logme_is_the_greatest_evidence(shape):
    features, labels = data(*shape)
    targets = [(labels == c).astype(float) for c in range(shape[2])]
    expected = np.mean([greatest_evidence(features, y) for y in targets]) / shape[0]
    assert log_me(features, labels) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_logme_of_features_that_say_nothing():
    """The evidence rises towards weights of 0, where labels are noise of their mean square."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(400, 3)) * 1e-3, np.arange(400) % 2
    features -= features[labels == 0].mean(0) * (labels == 0)[:, None]
    features -= features[labels == 1].mean(0) * (labels == 1)[:, None]
    expected = 0.5 * (math.log(1 / (2 * math.pi * 0.5)) - 1)
    assert log_me(features, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_logme_stops_where_the_original_stops(shape):
    features, labels = data(*shape)
    images, units = features.shape
    s = np.linalg.svd(features, compute_uv=False)
    found = []
    for c in range(shape[2]):
        y = (labels == c).astype(float)
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            mean = np.linalg.solve(features.T @ features + t * np.eye(units), features.T @ y)
            gamma = (s**2 / (s**2 + t)).sum()
            error = ((y - features @ mean) ** 2).sum()
            alpha = gamma / ((mean**2).sum() + 1e-5)
            beta = (images - gamma) / (error + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        _, volume = np.linalg.slogdet(alpha * np.eye(units) + beta * features.T @ features)
        found.append(
            units / 2 * math.log(alpha)
            + images / 2 * math.log(beta / (2 * math.pi))
            - volume / 2
            - beta / 2 * error
            - alpha / 2 * (mean**2).sum()
        )
    expected = np.mean(found) / images
    assert log_me(features, labels, stop="original") == pytest.approx(expected, rel=1e-6)
    assert log_me(features, labels) >= log_me(features, labels, stop="original") - 1e-9


# H-scores and TransRate --------------------------------------------------------------------------


def class_means(features, labels):
    return np.stack([features[labels == c].mean(0) for c in labels])


@pytest.mark.parametrize("shape", SHAPES)
def test_h_score_is_its_formula(shape):
    features, labels = data(*shape)
    spread = np.linalg.pinv(np.cov(features, rowvar=False), rcond=1e-10)
    expected = np.trace(spread @ np.cov(class_means(features, labels), rowvar=False))
    assert h_score(features, labels) == pytest.approx(expected, rel=1e-6)


def test_h_score_of_few_images_tells_nothing():
    """The bound that docs/scores.md warns of."""
    for seed in range(3):
        features, labels = data(25, 80, 4, seed)
        assert h_score(features, labels) == pytest.approx(3, rel=1e-9)
    assert regularized_h_score(features, labels) < 2.9


@pytest.mark.parametrize("shape", SHAPES)
def test_regularized_h_score_is_its_formula(shape):
    features, labels = data(*shape)
    centred = features - features.mean(0)
    shrunk = LedoitWolf().fit(centred)
    between = np.cov(class_means(centred, labels), rowvar=False, bias=True)
    expected = (1 - shrunk.shrinkage_) * np.trace(np.linalg.inv(shrunk.covariance_) @ between)
    assert regularized_h_score(features, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_shrinkage_is_that_of_scikit_learn(shape):
    features = data(*shape)[0]
    features = torch.from_numpy(features - features.mean(0))
    squared = torch.linalg.svdvals(features).square()
    expected = LedoitWolf().fit(features.numpy()).shrinkage_
    assert shrinkage(features, squared) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 0.5])
def test_trans_rate_is_its_formula(shape, eps):
    features, labels = data(*shape)
    centred = features - features.mean(0)

    def rate(f):
        return 0.5 * np.linalg.slogdet(np.eye(f.shape[1]) + f.T @ f / (len(f) * eps))[1]

    within = [rate(centred[labels == c]) for c in range(shape[2])]
    expected = rate(centred) - np.mean(within)
    assert trans_rate(features, labels, eps=eps) == pytest.approx(expected, rel=1e-6)


# LEEP and NCE ------------------------------------------------------------------------------------


def test_leep_is_its_formula():
    probabilities, labels = heads()
    joint = np.zeros((9, 4))
    for theta, y in zip(probabilities, labels, strict=True):
        joint[:, y] += theta / len(labels)
    likelihood = [
        sum(joint[z, y] / joint[z].sum() * theta[z] for z in range(9))
        for theta, y in zip(probabilities, labels, strict=True)
    ]
    assert leep(probabilities, labels) == pytest.approx(np.log(likelihood).mean(), rel=1e-9)


def test_nce_is_its_formula():
    probabilities, labels = heads()
    source = probabilities.argmax(1)
    expected = 0.0
    for z in set(source.tolist()):
        counts = np.bincount(labels[source == z])
        shares = counts[counts > 0] / counts.sum()
        expected += (source == z).mean() * (shares * np.log(shares)).sum()
    assert nce(probabilities, labels) == pytest.approx(expected, rel=1e-9)
    assert nce(source, labels) == pytest.approx(expected, rel=1e-9)


def test_leep_and_nce_of_a_source_that_knows_all_and_nothing():
    labels = np.arange(40) % 4
    assert leep(np.eye(6)[labels], labels) == pytest.approx(0, abs=1e-12)
    assert nce(labels + 100, labels) == pytest.approx(0, abs=1e-12)
    assert leep(np.full((40, 6), 1 / 6), labels) == pytest.approx(-math.log(4))
    assert nce(np.zeros(40, int), labels) == pytest.approx(-math.log(4))


# Probe, neighbours, CKA --------------------------------------------------------------------------


def test_cka_is_its_formula():
    features, labels = data(60, 7, 3)
    centre = np.eye(60) - 1 / 60
    k = centre @ features @ features.T @ centre
    m = centre @ (labels[:, None] == labels).astype(float) @ centre
    expected = (k * m).sum() / (np.linalg.norm(k) * np.linalg.norm(m))
    assert cka_with_labels(features, labels) == pytest.approx(expected, rel=1e-9)


def test_every_fifth_image_of_a_class_is_tested():
    labels = torch.tensor([0, 1, 0, 0, 0, 0, 0, 1, 2])
    assert held_out(labels).nonzero()[:, 0].tolist() == [0, 1, 6]


def test_probe_and_neighbours_read_classes():
    features, labels = data(200, 6, 4, spread=0.3)
    assert linear_probe(features, labels) > 90
    assert knn(features, labels) > 90
    shuffled = np.random.default_rng(1).permutation(labels)
    assert linear_probe(features, shuffled) < 60
    assert knn(features, shuffled) < 60


# All ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_FEATURES)
def test_better_features_score_higher(name):
    score = SCORES[name].function
    good, bad = (data(300, 10, 4, spread=spread) for spread in (0.5, 4.0))
    assert score(*good) > score(*bad)
    as_tensors = score(torch.from_numpy(good[0]).float(), torch.from_numpy(good[1]))
    assert isinstance(as_tensors, float)
    assert as_tensors == pytest.approx(score(*good), rel=1e-4)


@pytest.mark.parametrize("name", [*OF_FEATURES, *OF_HEADS])
def test_names_and_order_of_classes_do_not_count(name):
    features, labels = heads(classes=3) if SCORES[name].reads_head else data(60, 7, 3)
    renamed = np.array([70, -3, 5])[labels]
    score = SCORES[name].function
    assert score(features, renamed) == pytest.approx(score(features, labels), rel=1e-9)


@pytest.mark.parametrize("name", ["hscore", "hscore_regularized", "logme", "transrate"])
def test_units_that_are_dead_do_not_count(name):
    """A rectified unit that is 0 in every image, as many networks have some."""
    features, labels = data(60, 7, 3)
    dead = np.hstack([features, np.zeros((60, 2))])
    score = SCORES[name].function
    # The shrinkage of Ledoit and Wolf alone knows of the dimension.
    within = 0.1 if name == "hscore_regularized" else 1e-8
    assert score(dead, labels) == pytest.approx(score(features, labels), rel=within)


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OF_FEATURES, *OF_HEADS])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers(name, value):
    values, labels = heads()
    values[[7, 30], 3] = value
    expected = f"of 2 of 50 images are not finite: image 7, unit 3 is {value}"
    with pytest.raises(UserError, match=expected):
        SCORES[name].function(values, labels)


@pytest.mark.parametrize("name", [*OF_FEATURES, *OF_HEADS])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(50, int), "all 50 images are of one class, 0"),
        (np.arange(50), "50 images of 50 classes: no class has two"),
        (np.arange(49) % 3, r"labels have shape \(49,\), but there are 50 images"),
        (np.arange(50) % 3 + 0.5, "labels are torch.float64; they must be whole numbers"),
    ],
)
def test_labels_that_tell_nothing(name, labels, message):
    with pytest.raises(UserError, match=message):
        SCORES[name].function(heads()[0], labels)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_features_too_large_to_be_squared(name):
    features, labels = data(60, 7, 3)
    assert math.isfinite(SCORES[name].function(1e17 * features / np.abs(features).max(), labels))
    with pytest.raises(UserError, match=r"features reach 1.0e\+200, more than scores can square"):
        SCORES[name].function(1e200 * features / np.abs(features).max(), labels)


def test_other_mistakes():
    features, labels = data(60, 7, 3)
    with pytest.raises(UserError, match="all images have the same features"):
        cka_with_labels(np.ones_like(features), labels)
    with pytest.raises(UserError, match=r"features have shape \(60,\)"):
        log_me(features[:, 0], labels)
    with pytest.raises(UserError, match="stop is 'soon'"):
        log_me(features, labels, stop="soon")
    with pytest.raises(UserError, match="all features are 0"):
        log_me(0 * features, labels)
    with pytest.raises(UserError, match="eps is 0; it must be > 0"):
        trans_rate(features, labels, eps=0)
    with pytest.raises(UserError, match="probabilities of image 0 have the sum"):
        leep(np.abs(features), labels)
    with pytest.raises(UserError, match="probabilities of image 2 have the sum 1 and the minimum"):
        leep(np.array([[0.5, 0.5], [1, 0], [1.5, -0.5]]), [0, 1, 1])
    with pytest.raises(UserError, match="source labels are torch"):
        nce(features[:, 0], labels)


def test_the_benchmark_measures_every_score():
    for name in SCORES:
        transferability.side(name, 60, 8, 4)()
