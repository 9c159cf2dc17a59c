"""hotcoco is held to pycocotools and lvis; both give one answer where those stumble."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from evaluation_cases import make_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from det_transfer.errors import UserError
from det_transfer.evaluation import backends
from det_transfer.evaluation.backends import Detections, load_backend

LIMITS = {"coco": [(1, 10, 100), (1, 10, 20), (1, 5)], "lvis": [(300,), (10,), (-1,)]}
CASES = {
    "crowds, ties, federated lists": {},
    "no ties": {"ties": False},
    "over 300 detections an image": {"images": 1, "detections": 420, "instances": 30},
    "no predictions": {"detections": 0},
    "no ground truth": {"instances": 0},
    "single image and class": {"images": 1, "categories": 1},
    "ids from zero": {"first_id": 0},
}


def both(content, folder, protocol):
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return [load_backend(name, str(path), protocol) for name in ("hotcoco", "reference")]


def assert_same(content, found, folder, protocol, task, limits):
    fast, reference = both(content, folder, protocol)
    assert fast.num_instances == reference.num_instances
    for max_dets in limits:
        got = fast.accumulate(found, task, max_dets)
        wanted = reference.accumulate(found, task, max_dets)
        np.testing.assert_allclose(got.precision, wanted.precision, rtol=0, atol=1e-12)
        np.testing.assert_allclose(got.recall, wanted.recall, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("protocol", LIMITS)
@pytest.mark.parametrize("case", CASES)
def test_hotcoco_equals_the_official_tools(tmp_path, case, protocol, task):
    for seed in range(1 if "300" in case else 3):
        content, found = make_case(seed, **CASES[case])
        assert_same(content, found, tmp_path, protocol, task, LIMITS[protocol])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 5),
    categories=st.integers(1, 5),
    instances=st.integers(0, 15),
    detections=st.integers(0, 50),
    crowds=st.sampled_from([0.0, 0.5, 1.0]),
    ties=st.booleans(),
    protocol=st.sampled_from(["coco", "lvis"]),
    task=st.sampled_from(["bbox", "segm"]),
    limit=st.integers(1, 60),
    at_once=st.sampled_from([1, 7, 40, 10**6]),
)
def test_hotcoco_equals_the_official_tools_anywhere(
    tmp_path,
    seed,
    images,
    categories,
    instances,
    detections,
    crowds,
    ties,
    protocol,
    task,
    limit,
    at_once,
):
    content, found = make_case(
        seed, images, categories, instances, detections, crowds=crowds, ties=ties
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "_AT_ONCE", at_once)
        assert_same(content, found, tmp_path, protocol, task, [(limit,)])


def one_box(category_id=1, image_id=1, score=0.9, box=(10, 10, 20, 20), n=1):
    return Detections(
        np.full(n, image_id), np.full(n, category_id), np.full(n, score), np.tile(box, (n, 1))
    )


def stacked(first, second):
    fields = ("image_ids", "category_ids", "scores", "boxes")
    return Detections(*(np.concatenate([getattr(d, f) for d in (first, second)]) for f in fields))


def one_annotation(annotation_id=1, **image):
    return {
        "images": [
            {"id": 1, "height": 99, "width": 99, "neg_category_ids": [2]}
            | {"not_exhaustive_category_ids": []}
            | image
        ],
        "categories": [{"id": c, "name": str(c), "frequency": "r"} for c in (1, 2, 3)],
        "annotations": [
            {"id": annotation_id, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
            | {"area": 400, "iscrowd": 0, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
        ],
    }


@pytest.mark.parametrize("name", [0, 1], ids=["hotcoco", "reference"])
class TestByHand:
    """Answers known without any tool."""

    def test_perfect(self, tmp_path, name):
        truth = both(one_annotation(), tmp_path, "lvis")[name]
        got = truth.accumulate(one_box(), "bbox", (300,))
        assert got.precision.shape == (10, 101, 3, 4)
        assert got.recall.shape == (10, 3, 4, 1)
        assert np.all(got.precision[:, :, 0, 0] > 1 - 1e-12)
        # absent categories, and the area ranges without an object
        assert np.isnan(got.precision[:, :, 1:]).all()
        assert np.isnan(got.precision[:, :, 0, 2:]).all()

    @pytest.mark.parametrize("protocol", ["coco", "lvis"])
    def test_no_predictions_score_zero(self, tmp_path, name, protocol):
        truth = both(one_annotation(), tmp_path, protocol)[name]
        for task in ("bbox", "segm"):
            got = truth.accumulate(one_box(n=0), task, LIMITS[protocol][0])
            assert (got.precision[:, :, 0, 0] == 0).all()
            assert (got.recall[:, 0, 0] == 0).all()
            assert np.isnan(got.precision[:, :, 1:]).all()

    @pytest.mark.parametrize("protocol", ["coco", "lvis"])
    def test_annotation_zero_can_be_found(self, tmp_path, name, protocol):
        truth = both(one_annotation(annotation_id=0), tmp_path, protocol)[name]
        got = truth.accumulate(one_box(), "bbox", LIMITS[protocol][0])
        assert got.recall[0, 0, 0, -1] == 1

    def test_lvis_cuts_an_image_before_its_categories(self, tmp_path, name):
        truth = both(one_annotation(), tmp_path, "lvis")[name]
        noise = one_box(category_id=3, score=0.95, n=300)
        found = stacked(noise, one_box())
        recall = [truth.accumulate(found, "bbox", (n,)).recall[0, 0, 0, 0] for n in (300, 301, -1)]
        assert recall == [0, 1, 1]


def test_lvis_counts_more_than_300_of_a_category_where_asked(tmp_path):
    content = one_annotation()
    wrong = one_box(score=0.95, box=(60, 60, 9, 9), n=400)
    found = stacked(wrong, one_box())
    for truth in both(content, tmp_path, "lvis"):
        assert truth.accumulate(found, "bbox", (-1,)).recall[0, 0, 0, 0] == 1


@pytest.mark.parametrize("name", [0, 1], ids=["hotcoco", "reference"])
def test_masks_are_sized_by_their_own_area(tmp_path, name):
    """An unmatched thin mask in a large box is a false positive among the small."""
    thin = np.zeros((99, 99), np.uint8, order="F")
    thin[90, 2:98] = 1
    right = np.zeros((99, 99), np.uint8, order="F")
    right[10:30, 10:30] = 1
    found = Detections(
        image_ids=np.array([1, 1]),
        category_ids=np.array([1, 1]),
        scores=np.array([0.9, 0.5]),
        boxes=np.array([[0, 0, 99, 99], [10, 10, 20, 20]]),
        rles=[mask_util.encode(thin), mask_util.encode(right)],
    )
    truth = both(one_annotation(), tmp_path, "coco")[name]
    precision = truth.accumulate(found, "segm", (100,)).precision
    assert precision[0, :, 0, 1] == pytest.approx(0.5)


def test_numpy_stays_as_it_is():
    backends.import_lvis()
    assert not hasattr(np, "float")


def test_auto_falls_back(tmp_path, monkeypatch):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(one_annotation()))
    assert load_backend("auto", str(path), "coco").name.startswith("hotcoco ")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert load_backend("auto", str(path), "coco").name.startswith("pycocotools ")
    assert load_backend("auto", str(path), "lvis").name.startswith("lvis ")


@pytest.mark.parametrize("name", ["hotcoco", "reference"])
@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_no_json(tmp_path, name, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.json cannot be read as COCO json"):
        load_backend(name, str(path), "coco")
    (tmp_path / "none.json").write_text('{"images": [], "categories": [], "annotations": []}')
    for name in ("hotcoco", "reference"):
        with pytest.raises(UserError, match=r"none\.json has no categories"):
            load_backend(name, str(tmp_path / "none.json"), "coco")
    with pytest.raises(UserError, match=r"gone\.json is missing"):
        load_backend(name, str(tmp_path / "gone.json"), "coco")


def test_misspelt_backend(tmp_path):
    with pytest.raises(UserError, match="did you mean hotcoco"):
        load_backend("hotcocoa", "any.json", "coco")
