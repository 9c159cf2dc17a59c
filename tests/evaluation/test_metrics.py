"""Means over precision and recall made by hand."""

import numpy as np
import pytest

from det_transfer.evaluation.backends import Accumulated
from det_transfer.evaluation.metrics import category_metrics, summary, summary_recalls


@pytest.fixture
def accumulated():
    """Three categories: all found, half found at the lowest IoU alone, without ground truth."""
    precision = np.zeros((10, 101, 3, 4))
    precision[:, :, 0] = 1
    precision[0, :, 1] = 0.5
    recall = precision[:, 0, :, :, None].repeat(3, axis=-1)
    precision[:, :, 2] = recall[:, 2] = -1
    precision[:, :, :, 3] = -1  # nothing is large
    return Accumulated.of({"precision": precision, "recall": recall}, (1, 10, 100))


def test_absent_categories_are_left_out(accumulated):
    got = summary(accumulated)
    assert got["AP"] == pytest.approx(100 * (1 + 0.05) / 2)
    assert got["AP50"] == pytest.approx(75)
    assert got["AP75"] == pytest.approx(50)
    assert np.isnan(got["APl"])
    assert list(got) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def test_frequencies(accumulated):
    got = summary(accumulated, ["c", "r", "f"])
    assert got["APc"] == pytest.approx(100)
    assert got["APr"] == pytest.approx(5)
    assert np.isnan(got["APf"])


def test_categories(accumulated):
    got = category_metrics(accumulated)
    np.testing.assert_allclose(got["AP"], [100, 5, np.nan])
    np.testing.assert_allclose(got["AP50"], [100, 50, np.nan])
    np.testing.assert_allclose(got["AP75"], [100, 0, np.nan])
    np.testing.assert_allclose(got["AR"], [100, 5, np.nan])


def test_recalls(accumulated):
    got = summary_recalls(accumulated)
    assert list(got) == ["AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"]
    assert got["AR@100"] == pytest.approx(52.5)
