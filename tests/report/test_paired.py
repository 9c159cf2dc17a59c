"""Intervals over images: what is decided and what is not, and that pairing helps."""

import numpy as np
import pytest

from det_transfer.report.paired import (
    METRICS,
    Interval,
    draw_weights,
    intervals,
    prepare,
)
from tools.benchmarks.reports import made_up_pair, measure_coverage, true_differences


@pytest.fixture(scope="module")
def pair():
    """Two detectors, the second better, on 60 images with 5 classes."""
    return [prepare(m) for m in made_up_pair(np.random.default_rng(3), 60, 5)]


def naive(matches, weights):
    """AP by the definition, a class and a threshold at a time, images repeated one by one."""
    recalls = np.linspace(0, 1, 101)
    values = []
    for k in range(matches.truths["all"].shape[0]):
        rows = np.flatnonzero(matches.categories == k)
        total = int((matches.truths["all"][k] * weights).sum())
        for hits in matches.hits["all"]:
            steps = []
            found = said = 0
            for row in rows:
                for _ in range(weights[matches.images[row]]):
                    said += 1
                    found += hits[row]
                    steps.append((found / max(total, 1), found / said))
            if total:
                best = [max((p for r, p in steps if r >= recall), default=0) for recall in recalls]
                values.append(np.mean(best))
    return 100 * np.mean(values)


def test_weighted_as_by_the_definition():
    matches = made_up_pair(np.random.default_rng(1), 12, 3)[1]
    weights = draw_weights(12, 3, seed=5)
    found = prepare(matches).metrics(weights)[:, 0]
    assert found == pytest.approx([naive(matches, row) for row in weights], abs=1e-9)


def test_a_clear_difference_and_none(pair):
    weights = draw_weights(60, 200)
    worse, better = (run.metrics(weights) for run in pair)
    better[:, 0] += 20  # beyond what chance can do
    found = intervals(better, worse)
    assert found["AP"].decided
    assert 15 < found["AP"].low < found["AP"].difference < found["AP"].high
    swapped = intervals(worse, better)
    assert swapped["AP"].low == pytest.approx(-found["AP"].high)
    same = intervals(better, better)
    assert (same["AP"].difference, same["AP"].low, same["AP"].high) == (0, 0, 0)
    assert not same["AP50"].decided
    assert str(same["AP"]) == "+0.0 (+0.0 to +0.0)"
    assert "APs" not in found  # nobody measured it
    assert np.array_equal(draw_weights(60, 5), draw_weights(60, 5))


def test_pairing_narrows_the_interval(pair):
    """Drawn apart, the sides would spread by what images are worth to both."""
    a, b = draw_weights(60, 300, seed=1), draw_weights(60, 300, seed=2)
    apart = np.std(pair[0].metrics(a)[:, 0] - pair[1].metrics(b)[:, 0])
    together = np.std(pair[0].metrics(a)[:, 0] - pair[1].metrics(a)[:, 0])
    assert together < 0.8 * apart


def test_draws_in_parts_are_the_same(pair, monkeypatch):
    weights = draw_weights(60, 7)
    whole = pair[0].metrics(weights)
    monkeypatch.setattr("det_transfer.report.paired._AT_ONCE", 100)
    assert np.array_equal(pair[0].metrics(weights), whole, equal_nan=True)


def test_a_draw_without_a_category(pair):
    weights = np.zeros((1, 60), np.int64)
    weights[0, 0] = 60
    assert np.isfinite(pair[0].metrics(weights)[0, 0])


@pytest.mark.parametrize(
    ("low", "high", "decided"), [(0.1, 1, True), (-1, -0.1, True), (-0.1, 1, False), (0, 1, False)]
)
def test_decided(low, high, decided):
    assert Interval(0.5, low, high).decided is decided


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """A small part of tools/benchmarks/reports.py: 95 % of 40 sets, give or take chance."""
    truth = true_differences(4, images=6000)
    found = measure_coverage(40, 100, 4, 80, truth)
    assert 80 <= found["coverage_AP_percent"] <= 100
    shifted = {metric: truth[metric] + 15 for metric in METRICS}
    assert measure_coverage(10, 100, 4, 80, shifted)["coverage_AP_percent"] < 20
