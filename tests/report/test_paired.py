"""Intervals over images: the AP is the evaluator's, and the interval covers what it should."""

import json

import numpy as np
import pytest

from det_transfer import run_folder
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.evaluation.paired import match_run, paired_intervals
from tools import compare_runs


def make_truth(path, images=30, categories=3):
    rng = np.random.default_rng(0)
    boxes = [
        {
            "id": k + 1,
            "image_id": k % images + 1,
            "category_id": int(rng.integers(categories)) + 1,
            "bbox": [*rng.uniform(0, 60, 2), *rng.uniform(10, 30, 2)],
            "iscrowd": int(k % 17 == 0),
        }
        for k in range(4 * images)
    ]
    for box in boxes:
        box["area"] = box["bbox"][2] * box["bbox"][3]
    content = {
        "images": [
            {"id": k + 1, "width": 100, "height": 100, "file_name": f"{k}"} for k in range(images)
        ],
        "annotations": boxes,
        "categories": [{"id": k + 1, "name": f"c{k}"} for k in range(categories)],
    }
    path.write_text(json.dumps(content))
    return content


def predict(folder, truth, shift, seed):
    """A run that finds every object, off by up to `shift` pixels, and some that are not there."""
    rng = np.random.default_rng(seed)
    folder = run_folder.eval_folder(folder, "d") / "predictions"
    folder.mkdir(parents=True)
    with run_folder.PredictionWriter(folder / "part-0.npz") as writer:
        for image in truth["images"]:
            mine = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
            boxes = np.array([a["bbox"] for a in mine]) + rng.uniform(-shift, shift, (len(mine), 4))
            wrong = rng.uniform(5, 40, (3, 4))
            labels = [a["category_id"] for a in mine] + rng.integers(1, 4, 3).tolist()
            scores = np.round(rng.uniform(0, 1, len(mine) + 3), 1)  # with ties
            writer.add(image["id"], np.array(labels), scores, np.vstack([boxes, wrong]))


@pytest.fixture
def runs(tmp_path):
    truth = make_truth(tmp_path / "truth.json")
    for name, shift in [("good", 2.0), ("bad", 5.0)]:
        for seed in (1, 2):
            predict(tmp_path / f"{name}{seed}", truth, shift, seed)
    return tmp_path


def matched(runs, name):
    return match_run(runs / name, "d", runs / "truth.json")


def reference(runs, name):
    """COCO's own AP."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    (chunk,) = run_folder.read_predictions(
        runs / name / "eval" / "d" / "predictions" / "part-0.npz"
    )
    found = [
        {"image_id": int(i), "category_id": int(c), "score": float(s), "bbox": b.tolist()}
        for i, c, s, b in zip(
            *(chunk[k] for k in ("image_id", "category_id", "score", "box")), strict=True
        )
    ]
    truth = COCO(str(runs / "truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return 100 * evaluation.stats[:2]


@pytest.mark.parametrize("name", ["good1", "bad2"])
def test_unweighted_it_is_cocos_ap(runs, name):
    run = matched(runs, name)
    found = run.metrics(np.ones((1, run.images)))[0]
    assert np.allclose(found, reference(runs, name), atol=1e-9)


def test_a_clear_difference_and_none(runs):
    good, bad = ([matched(runs, f"{name}{seed}") for seed in (1, 2)] for name in ("good", "bad"))
    intervals = paired_intervals(good, bad, draws=200)
    assert intervals["AP"].decided
    assert 5 < intervals["AP"].low < intervals["AP"].difference < intervals["AP"].high
    means = [np.mean([reference(runs, f"{n}{s}") for s in (1, 2)], axis=0) for n in ("good", "bad")]
    assert intervals["AP"].difference == pytest.approx(means[0][0] - means[1][0])
    swapped = paired_intervals(bad, good, draws=200)
    assert swapped["AP"].low == pytest.approx(-intervals["AP"].high)
    same = paired_intervals(good, good, draws=50)
    assert (same["AP"].difference, same["AP"].low, same["AP"].high) == (0, 0, 0)
    assert not same["AP50"].decided
    assert str(same["AP"]) == "+0.0 (+0.0 to +0.0)"
    assert paired_intervals(good, bad, draws=20) == paired_intervals(good, bad, draws=20)


def test_pairing_narrows_the_interval(runs):
    """Drawn apart, the sides would spread by what images are worth to both."""
    good, bad = ([matched(runs, f"{name}1")] for name in ("good", "bad"))
    rng = np.random.default_rng(0)
    chances = np.full(30, 1 / 30)
    a, b = (rng.multinomial(30, chances, 300) for _ in range(2))
    apart = np.std(good[0].metrics(a)[:, 0] - bad[0].metrics(b)[:, 0])
    together = np.std(good[0].metrics(a)[:, 0] - bad[0].metrics(a)[:, 0])
    assert together < apart


def test_a_draw_without_a_category(runs):
    run = matched(runs, "good1")
    weights = np.zeros((1, run.images))
    weights[0, 0] = 1
    assert np.isfinite(run.metrics(weights)).all()


def test_mistakes(runs, tmp_path):
    with pytest.raises(UserError, match="has no predictions"):
        match_run(runs / "none", "d", runs / "truth.json")
    other = make_truth(tmp_path / "other.json", images=5)
    predict(tmp_path / "small", other, 1.0, 0)
    small = match_run(tmp_path / "small", "d", tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"with \[5, 30\] images"):
        paired_intervals([matched(runs, "good1")], [small])


def compare(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["compare_runs.py", *map(str, words)])
    return run(lambda: compare_runs.main(compare_runs.parse()))


def test_the_program(runs, monkeypatch, capsys):
    output = runs / "out.json"
    words = [runs / "truth.json", "--dataset", "d", "--draws", 50, "--output", output]
    sides = ["--side", f"bad={runs}/bad?", "--side", f"good={runs}/good?"]
    assert compare(monkeypatch, *words, *sides) == 0
    assert "good - bad" in capsys.readouterr().out
    found = json.loads(output.read_text())["results"]["good - bad"]["AP"]
    assert found["min"] < found["median"] < found["max"]
    assert compare(monkeypatch, *words, *sides[:2]) == 2
    assert "at least two sides" in capsys.readouterr().err
    assert compare(monkeypatch, *words, *sides, "--side", "x=/nowhere*") == 2
    assert "no folder is '/nowhere*'" in capsys.readouterr().err
