"""What a run trains on: choices of images, counts of objects, and the file that says so."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import get_fed_loss_cls_weights

from det_transfer.config import load_config, validate
from det_transfer.data import (
    build_train_loader,
    counted,
    describe,
    hold_to_subset,
    register_datasets,
    set_image_counts,
)
from det_transfer.data.training_set import training_set
from det_transfer.errors import UserError
from det_transfer.testing import make_tiny_dataset


def config(data, *opts):
    options = ["DATASETS.TRAIN", ("part",), "DATASETS.TEST", ()]
    options += ["DATASETS.CUSTOM", [["part", *map(str, data)]], *opts]
    cfg = load_config(None, [str(opt) for opt in options]).cfg
    validate(cfg)
    register_datasets(cfg)
    describe("part")
    return cfg


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 images; class 2 in three of them alone."""
    folder = tmp_path_factory.mktemp("part")
    json_file, images = make_tiny_dataset(folder, images=40)
    content = json.loads(json_file.read_text())
    content["annotations"] = [
        a for a in content["annotations"] if a["category_id"] != 2 or a["image_id"] <= 3
    ]
    content["annotations"][0]["iscrowd"] = 1
    json_file.write_text(json.dumps(content))
    return json_file, images


def counts_of(data):
    annotations = json.loads(data[0].read_text())["annotations"]
    return [sum(a["category_id"] == k and not a["iscrowd"] for a in annotations) for k in (1, 2, 3)]


def test_all_images_by_default(data):
    training = training_set(config(data))
    assert training.subset is None
    assert training.objects.tolist() == counts_of(data)


def test_a_fraction_and_the_file_that_says_which(data, tmp_path):
    training = training_set(config(data, "DATASETS.TRAIN_FRACTION", 0.5))
    ids = [record["image_id"] for record in training.records]
    assert 0.4 * 40 < len(ids) < 0.6 * 40
    assert training.subset["images"] == ids
    assert training.objects.sum() < sum(counts_of(data))
    hold_to_subset(str(tmp_path), training.subset)
    (tmp_path / "last_checkpoint").touch()
    hold_to_subset(str(tmp_path), training.subset)  # resumed
    assert json.loads((tmp_path / "train_subset.json").read_text()) == training.subset
    other = training_set(
        config(data, "DATASETS.TRAIN_FRACTION", 0.5, "DATASETS.SUBSET_SEED", 1)
    ).subset
    with pytest.raises(UserError, match="SUBSET_SEED have changed"):
        hold_to_subset(str(tmp_path), other)
    # The seed of the training has no part in it.
    again = training_set(config(data, "DATASETS.TRAIN_FRACTION", 0.5, "SEED", 77))
    assert again.subset == training.subset


def test_a_resumed_run_stays_on_its_images(data, tmp_path):
    half = training_set(config(data, "DATASETS.TRAIN_FRACTION", 0.5)).subset
    for before, now, message in (
        (half, None, r"begun on \d+ images with checksum \w{12}, and now they are all images"),
        (None, half, r"begun on all images, and now they are \d+ images with checksum"),
    ):
        checkpoint = tmp_path / "last_checkpoint"
        checkpoint.unlink(missing_ok=True)
        hold_to_subset(str(tmp_path), before)
        assert (tmp_path / "train_subset.json").exists() == (before is not None)
        checkpoint.touch()
        with pytest.raises(UserError, match=message):
            hold_to_subset(str(tmp_path), now)


def test_shots(data):
    training = training_set(config(data, "DATASETS.TRAIN_SHOTS", 2))
    assert all(have >= min(2, n) for have, n in zip(training.objects, counts_of(data), strict=True))
    assert len(training.records) <= 6
    plenty = training_set(config(data, "DATASETS.TRAIN_SHOTS", 99))
    assert plenty.objects.tolist() == counts_of(data)


def test_a_class_left_empty_is_named(data, caplog):
    training = training_set(config(data, "DATASETS.TRAIN_FRACTION", 0.05))
    assert 0 in training.objects.tolist()
    assert "leaves 1 of 3 classes without an object" in caplog.text
    assert "take more, or DATASETS.TRAIN_SHOTS" in caplog.text


@pytest.fixture
def third_party():
    """Registers a dataset as somebody else would; gives the options to train on it."""

    def register(dicts, **metadata):
        DatasetCatalog.register("theirs", lambda: dicts)
        MetadataCatalog.get("theirs").set(**metadata)
        return ["DATASETS.TRAIN", ("theirs",), "DATALOADER.NUM_WORKERS", 0]

    yield register
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("theirs")


def test_a_dataset_without_images_is_one_line(data, third_party):
    opts = third_party([])
    for keep in (False, True):
        with pytest.raises(UserError, match=r"DATASETS.TRAIN theirs: no image; name a dataset"):
            training_set(config(data, *opts, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", keep))


def test_images_without_an_id_can_be_trained_on_but_not_chosen_from(data, third_party):
    record = {"file_name": "a.png", "annotations": [{"category_id": 0}]}
    opts = third_party([dict(record) for _ in range(4)], thing_classes=["a"])
    assert training_set(config(data, *opts)).objects.tolist() == [4]
    for choice, everything in (("TRAIN_FRACTION", 1), ("TRAIN_SHOTS", 0)):
        value = 0.5 if choice == "TRAIN_FRACTION" else 3
        match = (
            rf"DATASETS.{choice} {value}: \d of \d .*no image_id.*DATASETS.{choice} to {everything}"
        )
        with pytest.raises(UserError, match=match):
            training_set(config(data, *opts, f"DATASETS.{choice}", value))
    with pytest.raises(UserError, match=r"GROUPING True: 4 of 4 images.*or set it to False"):
        build_train_loader(config(data, *opts))
    opts += ["DATALOADER.ASPECT_RATIO_GROUPING", False]
    assert build_train_loader(config(data, *opts)).objects.tolist() == [4]


def test_uncounted_images_are_counted_as_one_inside_alone(data):
    fed = ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True]
    cfg = config(data, *fed, "MODEL.ROI_HEADS.NUM_CLASSES", 3)
    before = set(MetadataCatalog)
    with counted(cfg) as inside:
        assert get_fed_loss_cls_weights(inside.DATASETS.TRAIN).tolist() == [1, 1, 1]
    assert set(MetadataCatalog) == before
    assert MetadataCatalog.get("part").get("class_image_count") is None
    images = set_image_counts(cfg)
    with counted(cfg) as inside:
        assert get_fed_loss_cls_weights(inside.DATASETS.TRAIN).tolist() == images
    # Counted for other classes, under the same name.
    with counted(config(data, *fed, "MODEL.ROI_HEADS.NUM_CLASSES", 5)) as inside:
        assert get_fed_loss_cls_weights(inside.DATASETS.TRAIN).tolist() == [1] * 5


def test_the_federated_loss_gets_its_counts(data):
    cfg = config(data)
    set_image_counts(cfg)
    counts = MetadataCatalog.get("part").class_image_count
    assert [c["id"] for c in counts] == [1, 2, 3]
    assert counts[1]["image_count"] == counts_of(data)[1] == 1
    assert 1 < counts[0]["image_count"] <= counts_of(data)[0]
    set_image_counts(cfg)  # what is there stays


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["DATASETS.TRAIN_FRACTION", 0.0], "must be 0 < fraction <= 1"),
        (["DATASETS.TRAIN_SHOTS", -1], "must be >= 0"),
        (["DATASETS.TRAIN_FRACTION", 0.5, "DATASETS.TRAIN_SHOTS", 1], "both choose images"),
        (["MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA", 1.0], "must be 0 <= beta < 1"),
        (["MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BACKGROUND", -0.1], "is -0.1; it must be >= 0"),
        (
            ["MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BACKGROUND", 0.5],
            "BACKGROUND 0.5 is a weight of the class-balanced loss; set MODEL.*BETA, or this to 0",
        ),
        (["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True], "needs MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"),
        (
            [
                *("MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA", 0.9),
                *("MODEL.META_ARCHITECTURE", "RetinaNet"),
            ],
            "is for the box heads of R-CNN",
        ),
        (["MODEL.REUSE.TRAIN_ONLY", "['x']", "MODEL.WEIGHTS", "''"], "MODEL.WEIGHTS is empty"),
    ],
)
def test_contradictions_are_one_line(data, opts, message):
    with pytest.raises(UserError, match=message):
        config(data, *opts)
