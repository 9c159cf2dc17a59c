"""The benchmark's sides agree on a small set of its own data."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from det_transfer.evaluation.metrics import summary

PATH = Path(__file__).parents[2] / "tools/benchmarks/evaluation.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_evaluation", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sides_agree(benchmark, tmp_path):
    benchmark.make_data(tmp_path, images=6, categories=9, boxes=80, detections=20, seed=1)
    for protocol, official in (("lvis", benchmark._lvis), ("coco", benchmark._pycocotools)):
        for task in ("bbox", "segm"):
            _, ours = benchmark._ours(protocol, task, tmp_path)
            _, theirs = official(protocol, task, tmp_path)
            np.testing.assert_allclose(ours.precision, theirs.precision, rtol=0, atol=1e-12)
            assert summary(ours)["AP"] > 1


def test_data_follow_the_seed(benchmark, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        benchmark.make_data(tmp_path / name, 3, 5, 9, 4, seed)
    a, b, c = ((tmp_path / n / "predictions.json").read_bytes() for n in "abc")
    assert a == b != c
