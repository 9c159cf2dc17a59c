"""Registering datasets, and what is said where one is missing, broken or contradicts the config."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from det_transfer.config import load_config
from det_transfer.data import register_datasets, take_class_count
from det_transfer.data.catalog import register
from det_transfer.errors import UserError


def config_for(*entries, opts=()):
    names = [entry[0] for entry in entries]
    return load_config(
        None,
        [
            "DATASETS.CUSTOM",
            repr([list(map(str, entry)) for entry in entries]),
            "DATASETS.TRAIN",
            repr(names[:1]),
            "DATASETS.TEST",
            repr(names[1:]),
            *opts,
        ],
    )


def prepared(*entries, opts=()):
    config = config_for(*entries, opts=opts)
    register_datasets(config.cfg)
    return config, take_class_count(config)


@pytest.mark.parametrize("style", ["coco", "lvis"])
def test_format_is_recognised_and_classes_are_taken(style, request):
    files = request.getfixturevalue(f"tiny_{style}")
    config, line = prepared(("mine", *files))
    assert MetadataCatalog.get("mine").evaluator_type == style
    assert config.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert config.cfg.MODEL.RETINANET.NUM_CLASSES == 3
    assert "3, taken from dataset mine" in line
    content = json.loads(Path(files[0]).read_text())
    names = [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]
    assert MetadataCatalog.get("mine").thing_classes == names


def test_dicts_equal_detectron2s_reader(tiny_coco):
    from detectron2.data.datasets import load_coco_json

    register("mine", *tiny_coco)
    expected = load_coco_json(str(tiny_coco[0]), str(tiny_coco[1]), "theirs")
    assert DatasetCatalog.get("mine") == expected
    # Read a second time, after the parsed file was let go.
    assert DatasetCatalog.get("mine") == expected


def test_lvis_dicts_carry_what_was_verified(tiny_lvis):
    register("mine", *tiny_lvis)
    for record in DatasetCatalog.get("mine"):
        assert {"neg_category_ids", "not_exhaustive_category_ids"} <= set(record)
        assert Path(record["file_name"]).is_file()


def test_a_class_count_that_disagrees(tiny_coco):
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", "7"]
    with pytest.raises(
        UserError, match=r"NUM_CLASSES is 7 but dataset mine has 3 classes.*or to 0"
    ):
        prepared(("mine", *tiny_coco), opts=opts)


def test_a_count_that_agrees_or_is_zero(tiny_coco):
    for count in ("3", "0"):
        config, _ = prepared(("mine", *tiny_coco), opts=["MODEL.ROI_HEADS.NUM_CLASSES", count])
        assert config.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3


def test_train_and_test_with_other_classes(tiny_coco, tmp_path):
    content = json.loads(Path(tiny_coco[0]).read_text())
    content["categories"][1]["name"] = "another"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"mine and other disagree: class 1 is .* 'another'"):
        prepared(("mine", *tiny_coco), ("other", other, tiny_coco[1]))


def test_missing_files_and_names(tiny_coco, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"dataset mine: .*nowhere\.json is missing"):
        register_datasets(config_for(("mine", tmp_path / "nowhere.json", tiny_coco[1])).cfg)
    config = load_config(None, ["DATASETS.TRAIN", "('coco_2017_trian',)"])
    with pytest.raises(
        UserError, match=r"coco_2017_trian is not registered; did you mean coco_2017"
    ):
        register_datasets(config.cfg)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    config = load_config(None, ["DATASETS.TRAIN", "('openmoji_train',)"])
    with pytest.raises(
        UserError, match=r"is missing; make it with: python datasets/prepare_openmoji"
    ):
        register_datasets(config.cfg)


def test_a_name_that_is_taken(tiny_coco):
    with pytest.raises(UserError, match="coco_2017_train is taken by another dataset"):
        register("coco_2017_train", *tiny_coco)
    register("mine", *tiny_coco)
    register("mine", *tiny_coco)  # one's own can be registered anew


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1, 2]", "a json list"),
        ("{", "is not json"),
        (
            '{"images": [], "shapes": []}',
            r"no list categories, annotations \(found: images, shapes\)",
        ),
        (
            '{"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": []}',
            r"images\[0\] has no height, width",
        ),
        (
            '{"images": [{"id": 1, "height": 1, "width": 1}], "categories": [], "annotations": []}',
            r"images\[0\] has no file_name",
        ),
        (
            '{"images": [], "categories": [{"id": 1, "name": "a"}, 7], "annotations": []}',
            r"categories\[1\] has no id, name",
        ),
        ('{"images": [], "categories": [], "annotations": []}', "no categories"),
        (
            '{"images": [{"id": 1, "height": 1, "width": 1, "file_name": "a"}], '
            '"categories": [{"id": 1, "name": "a"}], "annotations": '
            '[{"id": 5, "image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}]}',
            r"not in categories: 1 \(annotation 5: category_id 9\)",
        ),
    ],
)
def test_json_of_another_format(tmp_path, content, expected):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(UserError, match=expected) as error:
        prepared(("broken", path, tmp_path))
    assert str(path) in str(error.value)
