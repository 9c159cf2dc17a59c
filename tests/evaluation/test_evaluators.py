"""Evaluators as Detectron2 drives them: its numbers, our files, several ranks, bad input."""

import contextlib
import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator as Detectron2COCO
from detectron2.evaluation import LVISEvaluator as Detectron2LVIS
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from evaluation_cases import as_outputs, make_case, register

from det_transfer.errors import UserError
from det_transfer.evaluation import build_evaluator, evaluator
from det_transfer.evaluation.backends import import_lvis
from det_transfer.run_folder import prediction_parts, read_json

TASKS = ("bbox", "segm")


@pytest.fixture
def registered(tmp_path, request):
    """register(content, kind) -> dataset name, forgotten after the test."""
    names = []

    def add(content, kind="coco"):
        names.append(f"{request.node.name}_{len(names)}")
        register(names[-1], content, tmp_path, kind)
        return names[-1]

    yield add
    for name in names:
        MetadataCatalog.remove(name)


def run(evaluator, inputs, outputs):
    evaluator.reset()
    for given, found in zip(inputs, outputs, strict=True):
        evaluator.process([given], [found])
    with contextlib.redirect_stdout(io.StringIO()):  # Detectron2's print their tables
        return evaluator.evaluate()


def assert_equal(got, wanted):
    """The same numbers, NaN being absent; lvis says -1 (here -100) for absent."""
    for key, value in wanted.items():
        value = math.nan if value == -100 else value
        assert got[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [None, 20])
def test_coco_equals_detectron2(tmp_path, registered, seed, limit):
    content, found = make_case(seed, detections=120)
    name = registered(content)
    inputs, outputs = as_outputs(content, found)
    ours = build_evaluator(name, TASKS, tmp_path / "eval", max_dets_per_image=limit)
    theirs = Detectron2COCO(name, TASKS, use_fast_impl=False, max_dets_per_image=limit)
    got, wanted = run(ours, inputs, outputs), run(theirs, inputs, outputs)
    assert list(got) == list(wanted) == ["bbox", "segm"]
    for task in TASKS:
        # Ours has r/c/f where the json knows them, and nothing else besides.
        assert set(got[task]) - {"APr", "APc", "APf"} == set(wanted[task])
        assert_equal(got[task], wanted[task])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [None, 20])
def test_lvis_equals_detectron2(tmp_path, registered, seed, limit):
    import_lvis()  # lvis 0.5.3 needs the stand-in under Detectron2 too
    content, found = make_case(seed, images=2, detections=700, instances=30)
    name = registered(content, "lvis")
    inputs, outputs = as_outputs(content, found)
    ours = build_evaluator(name, TASKS, tmp_path / "eval", max_dets_per_image=limit)
    theirs = Detectron2LVIS(name, TASKS, max_dets_per_image=limit)
    got, wanted = run(ours, inputs, outputs), run(theirs, inputs, outputs)
    for task in TASKS:
        extra = {f"AP-{c['name']}" for c in content["categories"]}
        assert set(got[task]) == set(wanted[task]) | extra
        assert_equal(got[task], wanted[task])


def test_a_limit_under_ten(tmp_path, registered):
    """Detectron2 sorts [1, 10, 5] and takes the last: it evaluates ten. Ours takes five."""
    content, found = make_case(0)
    ours = build_evaluator(registered(content), ["bbox"], tmp_path, max_dets_per_image=5)
    run(ours, *as_outputs(content, found))
    metrics = read_json(tmp_path / "results.json")["metrics"]["bbox"]
    assert [key for key in metrics if key.startswith("AR@")] == ["AR@1", "AR@5"]


def test_lvis_without_a_mapping_counts_from_one(tmp_path, registered):
    content, found = make_case(0, categories=1)
    name = registered(content, "lvis")
    inputs, outputs = as_outputs(content, found)
    with_mapping = run(build_evaluator(name, TASKS, tmp_path), inputs, outputs)
    del MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    without = run(build_evaluator(name, TASKS, tmp_path), inputs, outputs)
    assert without["bbox"]["AP"] > 0
    assert without["bbox"] == pytest.approx(with_mapping["bbox"], nan_ok=True)


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_files(tmp_path, registered, kind):
    content, found = make_case(1)
    name = registered(content, kind)
    folder = tmp_path / "eval" / name
    results = run(
        build_evaluator(name, TASKS, folder, write_json=True), *as_outputs(content, found)
    )
    assert {p.name for p in folder.iterdir()} == {
        "results.json",
        "per_category.csv",
        "curves.npz",
        "predictions",
        "predictions.json",
    }

    written = read_json(folder / "results.json")
    assert written["protocol"] == kind
    assert written["backend"].startswith("hotcoco ")
    assert (written["images"], written["images_looked_at"]) == (3, 3)
    assert written["detections"] == len(found)
    assert set(written["seconds"]) == {"read", "bbox", "segm"}
    metrics = written["metrics"]["segm"]
    assert metrics["AP"] == results["segm"]["AP"]
    assert f"ARs@{100 if kind == 'coco' else 300}" in metrics

    with (folder / "per_category.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["task"] for r in rows] == ["bbox"] * 4 + ["segm"] * 4
    assert [r["id"] for r in rows[:4]] == ["1", "3", "5", "7"]
    assert rows[1]["frequency"] == "rcf"[3 % 3]
    assert rows[1]["image_count"] == "30"
    assert rows[3]["AP"] == rows[3]["AP75"] == ""  # no ground truth
    assert float(rows[0]["AP"]) == results["bbox"]["AP-class 1"]
    counted = [a for a in content["annotations"] if kind == "lvis" or not a["iscrowd"]]
    assert sum(int(r["n_gt"]) for r in rows[:4]) == len(counted)

    curves = np.load(folder / "curves.npz")
    assert curves["bbox_precision"].shape == (3, 4, 101)
    assert curves["bbox_recall"].shape == (10, 4)
    assert 100 * curves["bbox_precision"][2, 0].mean() == pytest.approx(
        results["bbox"]["AP-class 1"], rel=1e-5
    )

    rows = json.loads((folder / "predictions.json").read_text())
    assert len(rows) == len(found)
    assert set(rows[0]) == {"image_id", "category_id", "score", "bbox", "segmentation"}
    assert {r["category_id"] for r in rows} == set(found.category_ids.tolist())


@pytest.mark.parametrize("kind", ["coco", "lvis"])
@pytest.mark.parametrize("backend", ["hotcoco", "reference"])
def test_no_predictions_score_zero(tmp_path, registered, kind, backend):
    content, found = make_case(2, detections=0, crowds=0)
    name = registered(content, kind)
    results = run(
        build_evaluator(name, TASKS, tmp_path, backend=backend), *as_outputs(content, found)
    )
    for task in TASKS:
        assert results[task]["AP"] == 0
        assert math.isnan(results[task]["AP-class 7"])


def test_many_categories_stay_out_of_the_results(tmp_path, registered, monkeypatch):
    content, found = make_case(1)
    name = registered(content)
    monkeypatch.setattr(evaluator, "MAX_CATEGORIES_IN_RESULTS", 3)
    results = run(build_evaluator(name, TASKS, tmp_path), *as_outputs(content, found))
    assert not [key for key in results["bbox"] if key.startswith("AP-")]
    assert len((tmp_path / "per_category.csv").read_text().splitlines()) == 9


def test_tasks_are_those_of_the_predictions(tmp_path, registered):
    content, found = make_case(1)
    name = registered(content)
    with_masks = as_outputs(content, found)
    without = as_outputs(content, found, masks=False)
    assert list(run(build_evaluator(name, None, tmp_path), *with_masks)) == ["bbox", "segm"]
    assert list(run(build_evaluator(name, None, tmp_path), *without)) == ["bbox"]
    assert list(run(build_evaluator(name, ["bbox"], tmp_path), *with_masks)) == ["bbox"]


def test_a_dataset_of_dicts_gets_its_json_made(tmp_path, tiny_coco):
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import load_coco_json

    dicts = load_coco_json(*map(str, tiny_coco))
    classes = max(a["category_id"] for d in dicts for a in d["annotations"]) + 1
    DatasetCatalog.register("dicts_alone", lambda: dicts)
    MetadataCatalog.get("dicts_alone").thing_classes = [f"class {c}" for c in range(classes)]
    try:
        ours = build_evaluator("dicts_alone", ["bbox"], tmp_path)
        assert ours.protocol == "coco"
        content = {"images": [{"id": d["image_id"]} for d in dicts]}
        content["categories"] = [{"id": c} for c in range(classes)]
        results = run(ours, *as_outputs(content, make_case(0, detections=0)[1]))
        assert results["bbox"]["AP"] == 0
    finally:
        DatasetCatalog.remove("dicts_alone")
        MetadataCatalog.remove("dicts_alone")


# Ranks --------------------------------------------------------------------------------------------


def evaluate_on_ranks(monkeypatch, make, shards):
    """Run `make`'s evaluators as `len(shards)` ranks would, rank 0 last as if it had waited."""
    evaluators = []
    monkeypatch.setattr(comm, "get_world_size", lambda: len(shards))
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    for rank, shard in enumerate(shards):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        evaluators.append(make())
        evaluators[-1].reset()
        evaluators[-1].process(*shard)
    others = [e.evaluate() for e in evaluators[:0:-1]]
    assert all(other == {} for other in others)
    return evaluators[0].evaluate()


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_ranks_equal_a_single_process(tmp_path, registered, monkeypatch, kind):
    content, found = make_case(3, images=5, detections=90)
    name = registered(content, kind)
    ids = [i["id"] for i in content["images"]]
    single = run(build_evaluator(name, TASKS, tmp_path / "one"), *as_outputs(content, found))
    # Rank 0 ends on an image again, rank 1 starts on one of rank 0's, rank 2 has none.
    shares = [[ids[3], ids[0], ids[4], ids[4]], [ids[0], ids[2], ids[1]], []]
    shards = [as_outputs(content, found, share) for share in shares]
    ranked = evaluate_on_ranks(
        monkeypatch, lambda: build_evaluator(name, TASKS, tmp_path / "three"), shards
    )
    assert list(ranked) == list(single)
    for task in TASKS:
        assert ranked[task] == pytest.approx(single[task], abs=1e-12, nan_ok=True)
    assert read_json(tmp_path / "three" / "results.json")["detections"] == len(found)

    # The same folder again on one rank: the others' old parts are neither read nor kept.
    monkeypatch.undo()
    again = run(build_evaluator(name, TASKS, tmp_path / "three"), *as_outputs(content, found))
    for task in TASKS:
        assert again[task] == pytest.approx(single[task], abs=1e-12, nan_ok=True)
    assert len(prediction_parts(tmp_path / "three" / "predictions")) == 1


def test_a_rank_on_another_disk(tmp_path, registered, monkeypatch):
    content, found = make_case(3)
    name = registered(content)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    with pytest.raises(UserError, match=r"1 of 2 processes .* part-1\.npz.* shared disk"):
        run(build_evaluator(name, TASKS, tmp_path), *as_outputs(content, found))


def _work(rank, port, name, folder):
    content, found = make_case(3, images=5, detections=90)
    register(name, content, folder / str(rank), "lvis")
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    ids = [i["id"] for i in content["images"]][rank::2]
    ours = build_evaluator(name, TASKS, folder / "eval")
    results = run(ours, *as_outputs(content, found, ids))
    (folder / f"results-{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_real_processes(tmp_path, registered):
    content, found = make_case(3, images=5, detections=90)
    name = registered(content, "lvis")
    single = run(build_evaluator(name, TASKS, tmp_path / "one"), *as_outputs(content, found))
    for rank in "01":
        (tmp_path / rank).mkdir()
    port = comm_port()
    torch.multiprocessing.spawn(_work, (port, name, tmp_path), nprocs=2)
    assert json.loads((tmp_path / "results-1.json").read_text()) == {}
    got = json.loads((tmp_path / "results-0.json").read_text())
    for task in TASKS:
        assert got[task] == pytest.approx(single[task], abs=1e-12, nan_ok=True)


def comm_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Bad input ----------------------------------------------------------------------------------------


def test_broken_off_evaluation_leaves_nothing(tmp_path, registered):
    content, found = make_case(1)
    name = registered(content)
    inputs, outputs = as_outputs(content, found)
    ours = build_evaluator(name, TASKS, tmp_path / "eval")
    ours.reset()
    ours.process(inputs[:1], outputs[:1])
    results = run(ours, inputs, outputs)
    assert [p.name for p in (tmp_path / "eval" / "predictions").iterdir()] == ["part-0.npz"]
    fresh = run(build_evaluator(name, TASKS, tmp_path / "other"), inputs, outputs)
    assert results["bbox"] == pytest.approx(fresh["bbox"], nan_ok=True)


def test_no_images(tmp_path, registered):
    content, _ = make_case(1)
    name = registered(content)
    with pytest.raises(UserError, match="the data loader gave no images"):
        inference_on_dataset(lambda x: x, [], build_evaluator(name, TASKS, tmp_path))
    empty = registered({"images": [], "annotations": [], "categories": content["categories"]})
    with pytest.raises(UserError, match="no images, so nothing can be evaluated"):
        build_evaluator(empty, TASKS, tmp_path)


def test_no_annotations(tmp_path, registered):
    content, found = make_case(1)
    del content["annotations"]
    name = registered(content)
    assert run(build_evaluator(name, TASKS, tmp_path), *as_outputs(content, found)) == {}
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == len(found)


def test_images_of_another_json(tmp_path, registered):
    content, found = make_case(1)
    name = registered(content | {"images": content["images"][1:]})
    with pytest.raises(UserError, match=r"1 images .* \(image ids \[3\]\)"):
        run(build_evaluator(name, ["bbox"], tmp_path), *as_outputs(content, found))


def test_some_images_not_looked_at(tmp_path, registered, caplog):
    content, found = make_case(1)
    name = registered(content)
    run(build_evaluator(name, TASKS, tmp_path), *as_outputs(content, found, [3]))
    assert "saw 1 of 3 images" in caplog.text


def test_a_class_too_many(tmp_path, registered):
    content, found = make_case(1)
    name = registered(content)
    inputs, outputs = as_outputs(content, found)
    outputs[0]["instances"].pred_classes[0] = 4
    with pytest.raises(UserError, match=r"class 4, but .* has 4 classes .*NUM_CLASSES"):
        run(build_evaluator(name, TASKS, tmp_path), inputs, outputs)


def test_masks_asked_for(tmp_path, registered):
    content, found = make_case(1)
    name = registered(content)
    with pytest.raises(UserError, match="the model gives no masks"):
        run(build_evaluator(name, TASKS, tmp_path), *as_outputs(content, found, masks=False))
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    boxes_alone = registered(content)
    with pytest.raises(UserError, match="without 'segmentation'"):
        build_evaluator(boxes_alone, TASKS, tmp_path)
    results = run(build_evaluator(boxes_alone, None, tmp_path), *as_outputs(content, found))
    assert list(results) == ["bbox"]


def test_no_lvis_json(tmp_path, registered):
    content, _ = make_case(1)
    for image in content["images"]:
        del image["neg_category_ids"]
    content["categories"][0]["frequency"] = "rare"
    del content["categories"][1]["frequency"]
    with pytest.raises(UserError) as caught:
        build_evaluator(registered(content, "lvis"), TASKS, tmp_path)
    text = str(caught.value)
    assert "no image has 'neg_category_ids'" in text
    assert "1 of 4 categories have no 'frequency'" in text
    assert "frequency rare" in text


def test_a_metadata_of_other_categories(tmp_path, registered):
    content, _ = make_case(1)
    name = registered(content)
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id[99] = 4
    with pytest.raises(UserError, match=r"category ids \[99\]"):
        build_evaluator(name, TASKS, tmp_path)
    mapping = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    del mapping[99]
    mapping[1] = mapping[3]
    with pytest.raises(UserError, match="a class of its own, 0 to 3"):
        build_evaluator(name, TASKS, tmp_path)


def test_classes_known_only_when_the_dataset_is_loaded(tmp_path, registered):
    content, found = make_case(1)
    name = registered(content)
    metadata = MetadataCatalog.get(name)
    mapping = metadata.thing_dataset_id_to_contiguous_id
    del metadata.thing_dataset_id_to_contiguous_id
    ours = build_evaluator(name, ["bbox"], tmp_path)
    metadata.thing_dataset_id_to_contiguous_id = mapping
    assert run(ours, *as_outputs(content, found))["bbox"]["AP"] > 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tasks": ["keypoints"]}, "keypoints"),
        ({"tasks": []}, r"\(none\)"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"max_dets_per_image": 0}, "max_dets_per_image is 0"),
        ({"backend": "hotcoca"}, "did you mean hotcoco"),
    ],
)
@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_bad_arguments(tmp_path, registered, kind, kwargs, message):
    name = registered(make_case(0)[0], kind)
    kwargs = {"tasks": TASKS, "output_dir": tmp_path} | kwargs
    with pytest.raises(UserError, match=message):
        build_evaluator(name, **kwargs)


def test_unknown_kind_of_dataset(tmp_path, registered):
    name = registered(make_case(0)[0], "lviss")
    with pytest.raises(UserError, match="did you mean lvis"):
        build_evaluator(name, TASKS, tmp_path)


def test_a_model_without_instances(tmp_path, registered):
    name = registered(make_case(0)[0])
    with pytest.raises(UserError, match="the model gives proposals and no instances"):
        run(build_evaluator(name, TASKS, tmp_path), [{"image_id": 3}], [{"proposals": 1}])
