import copy
import json
from pathlib import Path

import coco_to_lvis
import lvis
import merge_categories
import pytest
from coco_to_lvis import convert, read_all
from merge_categories import by_mapping, by_supercategory, merge

from det_transfer.engine.launch import run
from det_transfer.errors import UserError

SHARED = Path(__file__).parents[2] / "../shared/data/minicoco/annotations"
SQUARE = [[1, 1, 9, 1, 9, 9, 1, 9]]


def annotation(number, image, category, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [1, 1, 8, 8],
        "area": 64,
        "iscrowd": 0,
        "segmentation": SQUARE,
        **more,
    }


@pytest.fixture
def coco():
    """Three classes with gaps in their ids: cat in 12 images, dog in 2, car in none but a crowd."""
    images = [
        {"id": 100 + k, "file_name": f"{k}.jpg", "height": 20, "width": 30} for k in range(12)
    ]
    annotations = [annotation(k + 1, 100 + k, 7) for k in range(12)]
    annotations += [annotation(20, 100, 3), annotation(21, 100, 3), annotation(22, 101, 3)]
    crowd = {"size": [20, 30], "counts": [0, 600]}
    annotations += [annotation(23, 102, 9, iscrowd=1, segmentation=crowd)]
    categories = [
        {"id": 7, "name": "cat", "supercategory": "animal"},
        {"id": 3, "name": "dog", "supercategory": "animal"},
        {"id": 9, "name": "car", "supercategory": "vehicle"},
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_frequencies_negatives_and_crowds(coco):
    before = copy.deepcopy(coco)
    (result,) = convert([coco])
    assert coco == before
    by_name = {c["name"]: c for c in result["categories"]}
    assert [c["name"] for c in result["categories"]] == ["dog", "cat", "car"]  # order of old ids
    assert [c["id"] for c in result["categories"]] == [1, 2, 3]
    assert {n: c["frequency"] for n, c in by_name.items()} == {"dog": "r", "cat": "c", "car": "r"}
    assert {n: c["image_count"] for n, c in by_name.items()} == {"dog": 2, "cat": 12, "car": 0}
    assert {n: c["instance_count"] for n, c in by_name.items()} == {"dog": 3, "cat": 12, "car": 0}
    images = {image["id"]: image for image in result["images"]}
    assert images[100]["neg_category_ids"] == [3]
    assert images[105]["neg_category_ids"] == [1, 3]
    # The crowd's class is neither absent nor exhaustive there.
    assert images[102]["neg_category_ids"] == [1]
    assert images[102]["not_exhaustive_category_ids"] == [3]
    assert len(result["annotations"]) == 15
    assert not any("iscrowd" in a for a in result["annotations"])


def test_the_first_file_decides_the_frequencies(coco):
    val = {**coco, "annotations": coco["annotations"][:1], "images": coco["images"][:1]}
    train, converted = convert([coco, val])
    assert converted["categories"] == train["categories"]
    other, _ = convert([val, coco])
    assert {c["name"]: c["frequency"] for c in other["categories"]}["cat"] == "r"


@pytest.mark.parametrize("most", [0, 1])
def test_negatives_can_be_fewer(coco, most):
    (all_of_them,), (result,), (again,) = (convert([coco], n) for n in (None, most, most))
    assert result == again
    for full, image in zip(all_of_them["images"], result["images"], strict=True):
        assert len(image["neg_category_ids"]) == min(most, len(full["neg_category_ids"]))
        assert set(image["neg_category_ids"]) <= set(full["neg_category_ids"])


def test_boxes_alone_get_an_area_and_no_mask(coco):
    for entry in coco["annotations"]:
        del entry["area"]
        entry["segmentation"] = []
    (result,) = convert([coco])
    assert all(a["area"] == 64 and "segmentation" not in a for a in result["annotations"])


def test_merged_and_converted_files(coco, tmp_path, capsys):
    train, val = tmp_path / "train.json", tmp_path / "val.json"
    train.write_text(json.dumps(coco))
    val.write_text(json.dumps({**coco, "images": coco["images"][:3], "annotations": []}))
    out = tmp_path / "out"
    merge_categories.main(merge_categories.parse_args([str(train), str(val), "--out", str(out)]))
    merged = [str(out / f"{name}_merged.json") for name in ("train", "val")]
    coco_to_lvis.main(coco_to_lvis.parse_args(merged))
    said = capsys.readouterr().out
    assert "1 rare, 1 common and 0 frequent" in said
    assert "left out: 1 crowd annotations" in said
    for name in ("train", "val"):
        api = lvis.LVIS(str(out / f"{name}_merged_lvis.json"))
        assert [api.cats[k]["name"] for k in (1, 2)] == ["animal", "vehicle"]


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert run(coco_to_lvis.main, coco_to_lvis.parse_args([str(tmp_path / "nowhere.json")])) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda c: c.pop("images"), "no list images"),
        (lambda c: c["annotations"][3].pop("category_id"), "category_id"),
        (lambda c: c["annotations"][3].pop("bbox"), "bbox"),
        (lambda c: c["annotations"][3].update(bbox=[1, 2]), "no bbox of four numbers"),
        (lambda c: c["annotations"][3].update(category_id=55), "category_id"),
        (
            lambda c: c["annotations"][3].update(id=1),
            "annotation ids that are there twice: 1 (id 1)",
        ),
        (lambda c: c["images"][0].update(neg_category_ids=[]), "in LVIS format already"),
    ],
)
def test_what_is_not_coco_is_said_in_a_line(coco, tmp_path, break_it, said):
    break_it(coco)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(coco))
    with pytest.raises(UserError, match=r"broken\.json") as caught:
        read_all([path])
    assert said in str(caught.value)


def test_files_must_agree(coco, tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    paths[0].write_text(json.dumps(coco))
    coco["categories"][0]["name"] = "lion"
    paths[1].write_text(json.dumps(coco))
    with pytest.raises(UserError, match="different categories"):
        read_all(paths)


def test_merging_keeps_every_annotation(coco):
    result = merge(coco, by_supercategory(coco["categories"]))
    assert result["categories"] == [{"id": 1, "name": "animal"}, {"id": 2, "name": "vehicle"}]
    assert [a["category_id"] for a in result["annotations"]] == [1] * 15 + [2]
    assert [a["bbox"] for a in result["annotations"]] == [a["bbox"] for a in coco["annotations"]]


def test_a_mapping_must_name_every_class(coco, tmp_path):
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"cat": "pet", "dgo": "pet", "car": "car"}))
    with pytest.raises(UserError, match="nothing of 'dog'") as caught:
        by_mapping(coco["categories"], path)
    assert "did you mean 'dog'?" in str(caught.value)
    path.write_text(json.dumps({"cat": "pet", "dog": "pet", "car": "car"}))
    groups = by_mapping(coco["categories"], path)
    assert [c["name"] for c in merge(coco, groups)["categories"]] == ["pet", "car"]


def test_no_supercategory_is_said(coco):
    del coco["categories"][1]["supercategory"]
    with pytest.raises(UserError, match=r"no supercategory, for one dog; .*--mapping"):
        by_supercategory(coco["categories"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="real COCO annotations are not here")
def test_real_coco():
    files = [SHARED / f"instances_{split}2017.json" for split in ("train", "val")]
    before = read_all(files)
    train, _ = convert(before)
    counts = [c["frequency"] for c in train["categories"]]
    assert [counts.count(letter) for letter in "rcf"] == [52, 27, 1]
    merged = merge(before[0], by_supercategory(before[0]["categories"]))
    assert len(merged["categories"]) == 12
