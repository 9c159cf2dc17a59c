"""The benchmark's sides agree on a small set of its own data."""

import numpy as np

from det_transfer.evaluation.metrics import summary
from tools.benchmarks import evaluation as benchmark


def test_sides_agree(tmp_path):
    benchmark.make_data(tmp_path, images=6, categories=9, boxes=80, detections=20, seed=1)
    for protocol, official in (("lvis", benchmark._lvis), ("coco", benchmark._pycocotools)):
        for task in ("bbox", "segm"):
            _, ours = benchmark._ours(protocol, task, tmp_path)
            _, theirs = official(protocol, task, tmp_path)
            np.testing.assert_allclose(ours.precision, theirs.precision, rtol=0, atol=1e-12)
            assert summary(ours)["AP"] > 1


def test_data_follow_the_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        benchmark.make_data(tmp_path / name, 3, 5, 9, 4, seed)
    a, b, c = ((tmp_path / n / "predictions.json").read_bytes() for n in "abc")
    assert a == b != c
