"""Matching all images at once gives what the official tools give, and weights repeat images."""

import copy
import json

import numpy as np
import pytest
from evaluation_cases import make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer.errors import UserError
from det_transfer.evaluation import load_backend
from det_transfer.evaluation.metrics import summary
from det_transfer.report.matching import match
from det_transfer.report.paired import METRICS, prepare
from det_transfer.report.truth import Found, read_found, read_truth
from det_transfer.run_folder import PredictionWriter, eval_folder


def official(path, detections, protocol, task, max_dets):
    """Our names -> values by pycocotools or lvis."""
    backend = load_backend("reference", str(path), protocol)
    limits = (1, 10, max_dets) if protocol == "coco" else (max_dets,)
    found = backend.accumulate(detections, task, limits)
    return summary(found, [c["frequency"] for c in backend.categories])


def ours(path, d, protocol, task, max_dets, weights=None):
    masks = task == "segm"
    truth = read_truth(path, protocol, masks=masks)
    found = Found(
        np.searchsorted(truth.image_ids, d.image_ids),
        np.searchsorted(truth.category_ids, d.category_ids),
        d.scores.astype(np.float64),
        d.boxes.astype(np.float64),
        d.rles if masks else None,
    )
    prepared = prepare(match(truth, found, max_dets))
    one = np.ones((1, len(truth.image_ids)), np.int64)
    values = prepared.metrics(one if weights is None else weights)[0]
    return dict(zip(METRICS, values.tolist(), strict=True))


def assert_equal(found, expected):
    for metric in METRICS:
        assert found[metric] == pytest.approx(expected[metric], abs=1e-9, nan_ok=True), metric


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(("protocol", "max_dets"), [("coco", 100), ("coco", 3), ("lvis", 20)])
@pytest.mark.parametrize("seed", range(6))
def test_as_the_official_tools(seed, protocol, max_dets, task, tmp_path):
    content, detections = make_case(seed, images=5, instances=30, detections=120)
    path = tmp_path / "case.json"
    path.write_text(json.dumps(content))
    expected = official(path, detections, protocol, task, max(max_dets, 10))
    assert_equal(ours(path, detections, protocol, task, max(max_dets, 10)), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=4, max_size=4), st.booleans())
def test_an_image_drawn_twice_counts_as_two_images(tmp_path_factory, seed, times, lvis):
    """Against the official tools on a dataset in which each image stands as often as it counts."""
    if sum(times) == 0:
        times = [1, 0, 2, 0]
    content, d = make_case(seed, images=4, instances=25, detections=60, ties=False)
    folder = tmp_path_factory.mktemp("drawn")
    path = folder / "case.json"
    path.write_text(json.dumps(content))
    protocol = "lvis" if lvis else "coco"
    weighted = ours(path, d, protocol, "bbox", 30, np.array([times]))
    repeated, detections = repeat(content, d, times)
    (folder / "repeated.json").write_text(json.dumps(repeated))
    assert_equal(weighted, official(folder / "repeated.json", detections, protocol, "bbox", 30))


def repeat(content, d, times):
    """The dataset and the detections with the k-th image `times[k]` times."""
    content = copy.deepcopy(content)
    images, annotations, rows, ids = [], [], [], []
    for image, count in zip(content["images"], times, strict=True):
        mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        found = np.flatnonzero(d.image_ids == image["id"])
        for _ in range(count):
            new = len(images) + 1
            images.append({**image, "id": new})
            annotations += [
                {**a, "image_id": new, "id": len(annotations) + k + 1} for k, a in enumerate(mine)
            ]
            rows += found.tolist()
            ids += [new] * len(found)
    content |= {"images": images, "annotations": annotations}
    rows = np.array(rows, np.int64)
    columns = (d.category_ids[rows], d.scores[rows], d.boxes[rows])
    return content, type(d)(np.array(ids, np.int64), *columns, [d.rles[k] for k in rows])


def test_nothing_found_and_nothing_there(tmp_path):
    content, d = make_case(1, detections=0)
    path = tmp_path / "case.json"
    path.write_text(json.dumps(content))
    assert ours(path, d, "coco", "bbox", 100)["AP"] == 0
    path.write_text(json.dumps({**content, "annotations": []}))
    _, d = make_case(1, detections=9)
    assert np.isnan(ours(path, d, "coco", "bbox", 100)["AP"])


def test_predictions_of_other_data_are_refused(tmp_path):
    content, _ = make_case(1)
    path = tmp_path / "case.json"
    path.write_text(json.dumps(content))
    truth = read_truth(path)
    part = eval_folder(tmp_path, "d") / "predictions/part-0.npz"
    for image, category, words in ((99, 1, "image 99"), (3, 98, "category 98")):
        with PredictionWriter(part) as writer:
            writer.add(image, [category], [0.5], [[0, 0, 5, 5]])
        with pytest.raises(UserError, match=f"{words}, which the annotation file"):
            read_found(tmp_path, "d", truth)
    with PredictionWriter(part) as writer:
        writer.add(3, [1], [0.5], [[0, 0, 5, 5]])
    with pytest.raises(UserError, match="has no masks"):
        read_found(tmp_path, "d", truth, masks=True)


def test_an_image_that_two_processes_saw_counts_once(tmp_path):
    content, _ = make_case(1)
    path = tmp_path / "case.json"
    path.write_text(json.dumps(content))
    folder = eval_folder(tmp_path, "d") / "predictions"
    for rank, score in ((0, 0.5), (1, 0.9)):
        with PredictionWriter(folder / f"part-{rank}.npz") as writer:
            writer.add(3, [1], [score], [[0, 0, 5, 5]])
    found = read_found(tmp_path, "d", read_truth(path))
    assert found.scores.tolist() == [0.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [("no json", "is not json"), ("[]", "cannot be read"), ('{"images": []}', "cannot be read")],
)
def test_a_broken_annotation_file_is_said(text, said, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_truth(path)
    with pytest.raises(UserError, match="does not exist"):
        read_truth(tmp_path / "none.json")
