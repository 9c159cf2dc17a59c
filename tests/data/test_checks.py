"""Each bad input is found as what it is; training skips what can be skipped, and stops in time."""

import json
from pathlib import Path

import bad_inputs
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from det_transfer import stream
from det_transfer.config import load_config
from det_transfer.data import TransferDatasetMapper, build_train_loader
from det_transfer.data.catalog import check_datasets, register_datasets
from det_transfer.data.checks import KINDS, Severity, check_annotations, check_images
from det_transfer.data.checks import images as image_checks
from det_transfer.data.checks.images import first_matches
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError, own_words
from det_transfer.stream import PositionedDataset


@pytest.mark.parametrize("case", bad_inputs.CASES, ids=lambda case: case[0])
def test_a_bad_input_is_found_as_what_it_is(case):
    _, kind, _, stops = case
    outcome = bad_inputs.check(case)
    assert outcome["code"] == (2 if stops else 0)
    assert any(line.startswith(KINDS[kind].what) for line in outcome["lines"])
    assert set(outcome["kinds"]) <= {
        kind,
        "class without images",
        "class of crowds",
        "missing image",
        "same picture twice",
    }


def test_a_sound_dataset_has_nothing_wrong(tmp_path):
    content, images = bad_inputs.make_sound(tmp_path)
    assert check_annotations(content, images, masks=True).findings == []
    assert check_images(content, images, workers=2).findings == []


def test_every_kind_has_a_case():
    shown = {kind for _, kind, *_ in bad_inputs.CASES}
    assert set(KINDS) - shown == {"same picture in both"}  # needs two sets: below


def test_the_page_is_what_the_checks_say():
    assert bad_inputs.PAGE.read_text() == bad_inputs.page(), (
        "docs/data_checks.md is stale: python tests/data/bad_inputs.py"
    )


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("images", {"width": 0}, "width 0, not an integer > 0"),
        ("images", {"height": -48}, "height -48, not an integer > 0"),
        ("images", {"file_name": None}, "file_name None, not text"),
        ("images", {"file_name": ""}, "file_name '', not text"),
        ("images", {"neg_category_ids": None}, "neg_category_ids None, not a list of integers"),
        ("images", {"neg_category_ids": [[1]]}, r"neg_category_ids \[\[1\]\], not a list"),
        ("annotations", {"id": 10**20}, "not a 64-bit integer"),
        ("annotations", {"image_id": "7"}, "image_id '7', not a 64-bit integer"),
    ],
)
def test_what_no_reader_could_take_is_said_in_a_line(tmp_path, part, changes, said):
    content, images = bad_inputs.make_sound(tmp_path)
    content[part][6].update(changes)
    (tmp_path / "data.json").write_text(json.dumps(content))
    tool = bad_inputs.load_tool()
    with pytest.raises(UserError, match=rf"data\.json: {part}\[6\] has .*{said}") as error:
        tool.main(tool.parse_args([str(tmp_path / "data.json"), str(images), "--no-images"]))
    assert str(error.value).count("\n") == 0


def test_a_warning_skips_nothing(tmp_path):
    content, images = bad_inputs.make_sound(tmp_path)
    bad_inputs._sixteen_bits(content, images)
    (images / "009.png").write_bytes(b"broken")
    assert check_images(content, images, workers=1).skip_images == {9}


def test_what_is_ignored_needs_no_mask(tmp_path):
    """Training leaves it out by what it is: it is not among the skipped."""
    content, _ = bad_inputs.make_sound(tmp_path)
    content["annotations"][0].update(ignore=1, segmentation=[])
    check = check_annotations(content, masks=True)
    assert (check.findings, check.skip_annotations) == ([], set())
    for entry in content["annotations"]:
        entry["ignore"] = 1
    assert [f.kind for f in check_annotations(content).fatal] == ["no object left"]


def without_masks(content, images):
    for entry in content["annotations"]:
        entry.pop("segmentation")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["MODEL.MASK_ON", True], "no object has a mask; set MODEL.MASK_ON False, or add masks"),
        (["INPUT.COPY_PASTE.ENABLED", True], "set INPUT.COPY_PASTE.BOXES True, or add masks"),
        (["INPUT.COPY_PASTE.ENABLED", True, "INPUT.COPY_PASTE.BOXES", True], ""),
        ([], ""),
    ],
)
def test_masks_that_are_needed_and_not_there_are_one_line(dataset, options, said):
    cfg = dataset(without_masks, *options)
    if not said:
        check_datasets(cfg)
        return
    with pytest.raises(UserError) as raised:
        check_datasets(cfg)
    (line,) = str(raised.value).splitlines()
    assert said in line


def test_masks_that_are_not_there_hide_nothing_else(dataset):
    def spoil(content, images):
        without_masks(content, images)
        for entry in content["images"]:
            entry["file_name"] += "x"

    with pytest.raises(UserError) as raised:
        check_datasets(dataset(spoil, "MODEL.MASK_ON", True))
    lines = str(raised.value).splitlines()
    assert "no object has a mask" in lines[0]
    assert any("images missing" in line for line in lines)
    assert lines[-1].startswith("see all with")


def test_findings_come_worst_first(tmp_path):
    content, images = bad_inputs.make_sound(tmp_path)
    content["categories"].append({"id": 4, "name": "ghost"})
    (images / "001.png").unlink()
    content["annotations"][1]["bbox"] = [0, 0, 0, 0]
    findings = check_annotations(content, images).findings
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities)
    assert {Severity.SKIPPED, Severity.WARNING} == set(severities)


def test_boxes_against_a_naive_reading(tmp_path):
    """Vectorised against one box at a time, on random boxes of every kind."""
    rng = np.random.default_rng(0)
    content, _ = bad_inputs.make_sound(tmp_path)
    boxes = rng.integers(-40, 90, (300, 4)).astype(float)
    boxes[:, 2:] = rng.integers(-2, 60, (300, 2))
    boxes[rng.random(300) < 0.1, 0] = np.inf
    skipped, over = set(), 0
    for entry, (x, y, w, h) in zip(content["annotations"], boxes.tolist(), strict=True):
        entry["bbox"] = [x, y, w, h]
        bad = not np.isfinite(x) or w <= 0 or h <= 0
        if bad or x + w <= 0 or y + h <= 0 or x >= 64 or y >= 48:
            skipped.add(entry["id"])
        elif x < -1 or y < -1 or x + w > 65 or y + h > 49:
            over += 1
    check = check_annotations(content)
    assert check.skip_annotations == skipped
    (finding,) = [f for f in check.findings if f.kind == "box over the edge"]
    assert finding.count == over > 0


# The same picture --------------------------------------------------------------------------------


def test_train_pictures_in_val_are_found(tmp_path, capsys):
    content, images = bad_inputs.make_sound(tmp_path / "train")
    other, other_images = bad_inputs.make_sound(tmp_path / "val")
    for path in other_images.glob("*.png"):  # other pictures, but for one
        if path.name != "005.png":
            Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    for folder, part in ((tmp_path / "train", content), (tmp_path / "val", other)):
        (folder / "data.json").write_text(json.dumps(part))
    tool = bad_inputs.load_tool()
    against = ["--against", str(tmp_path / "val" / "data.json"), str(other_images)]
    tool.main(tool.parse_args([str(tmp_path / "train" / "data.json"), str(images), *against]))
    said = capsys.readouterr().out
    assert f"{KINDS['same picture in both'].what}: 1 ({images}/005.png" in said


def test_matches_are_those_of_the_distances(monkeypatch):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2**63, (130, 4), dtype=np.uint64)
    codes[7] = codes[3] ^ np.uint64(0b1111)
    codes[9] = codes[3] ^ np.uint64(0b1111111)  # 28 bits away: another picture
    codes[20, 2] ^= codes[21, 2]  # alike in the first half alone
    codes[20, :2] = codes[21, :2]
    codes[rng.integers(30, 130, 40)] = codes[rng.integers(30, 130, 40)]
    distance = np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2)
    assert (distance[3, 7], distance[3, 9]) == (16, 28)
    before = [[a for a in range(b) if distance[a, b] <= 24] for b in range(130)]
    others = [[a for a in range(50) if distance[a + 60, b] <= 24] for b in range(130)]
    for rows, columns in ((128, 4096), (16, 9)):  # whatever is compared at a time
        monkeypatch.setattr(image_checks, "_ROWS", rows)
        monkeypatch.setattr(image_checks, "_COLUMNS", columns)
        assert first_matches(codes).tolist() == [min(p, default=-1) for p in before]
        found = first_matches(codes, codes[60:110]).tolist()
        assert found == [min(p, default=-1) for p in others]
    assert first_matches(codes, codes[:0]).tolist() == [-1] * 130


def test_flat_pictures_are_not_the_same(tmp_path):
    for k in range(6):
        Image.new("RGB", (32, 32), (40 * k, 0, 0)).save(tmp_path / f"{k}.png")
    images = [{"id": k, "file_name": f"{k}.png", "width": 32, "height": 32} for k in range(6)]
    assert check_images({"images": images}, tmp_path, workers=1).findings == []
    (tmp_path / "5.png").write_bytes((tmp_path / "2.png").read_bytes())
    (finding,) = check_images({"images": images}, tmp_path, workers=1).findings
    assert (finding.kind, finding.count) == ("same picture twice", 1)


def test_the_other_set_is_checked_too(tmp_path, capsys):
    content, images = bad_inputs.make_sound(tmp_path)
    spoilt = json.loads(json.dumps(content))
    bad_inputs._many_bad(spoilt, images)
    spoilt["categories"][2]["name"] = "another"
    for name, part in (("train", content), ("val", spoilt)):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    tool = bad_inputs.load_tool()
    train, val, root = tmp_path / "train.json", tmp_path / "val.json", str(images)
    options = ["--no-images", "--json", str(tmp_path / "report.json")]
    with pytest.raises(UserError) as error:
        tool.main(tool.parse_args([str(train), root, "--against", str(val), root, *options]))
    stops, classes = str(error.value).splitlines()
    assert stops.startswith(f"{val}: training would stop")
    assert classes == f"{train} and {val} have different classes"
    said = capsys.readouterr().out.split(f"\n\n{val}\n")
    assert "nothing was found" in said[0]
    assert "boxes without area: 4" in said[1]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["stops"]
    assert report["findings"] == []
    assert report["against"]["findings"][0]["kind"] == "box without area"


def test_a_picture_of_no_format_is_said_at_once(tmp_path):
    tool = bad_inputs.load_tool()
    with pytest.raises(UserError, match=r"out\.xyz: a picture ends in"):
        tool.main(tool.parse_args(["no.json", "nowhere", "--picture", str(tmp_path / "out.xyz")]))


# Training ----------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    """Write a dataset after `spoil` and register it; gives the config."""

    def make(spoil=lambda content, images: None, *opts, train=True):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        content, images = bad_inputs.make_sound(folder)
        spoil(content, images)
        path = folder / "data.json"
        path.write_text(json.dumps(content))
        used = ("x",) if train else ()
        names = ["DATASETS.TRAIN", used, "DATASETS.TEST", () if train else ("x",)]
        custom = [["x", str(path), str(images)]]
        cfg = load_config(None, ["DATASETS.CUSTOM", custom, *names, *opts]).cfg
        register_datasets(cfg)
        return cfg

    return make


def spoil_some(count):
    def spoil(content, images):
        for entry in content["annotations"][:count]:
            entry["bbox"] = [4, 4, 0, 10]

    return spoil


def test_what_can_be_skipped_is_skipped_and_told(dataset):
    cfg = dataset(spoil_some(3))
    (line,) = check_datasets(cfg)
    assert line.startswith("dataset x: boxes without area: 3 (annotation 1")
    dicts = DatasetCatalog.get("x")
    assert len(dicts) == bad_inputs.IMAGES
    assert [len(d["annotations"]) for d in dicts[:4]] == [0, 0, 0, 1]


def test_more_than_one_in_a_hundred_stops(dataset):
    with pytest.raises(UserError, match=r"1\.3% would be skipped, more than DATASETS\.MAX_SKIPPED"):
        check_datasets(dataset(spoil_some(4)))
    assert check_datasets(dataset(spoil_some(0))) == []


def test_training_needs_an_object_and_an_evaluation_does_not(dataset):
    with pytest.raises(UserError, match="datasets without an object to train on"):
        check_datasets(dataset(bad_inputs._crowds_alone))
    check_datasets(dataset(bad_inputs._crowds_alone, train=False))


def test_an_evaluation_needs_every_image(dataset):
    cfg = dataset(lambda _, images: (images / "007.png").unlink(), train=False)
    with pytest.raises(UserError, match="an evaluation needs them all"):
        check_datasets(cfg)


def test_masks_are_looked_at_where_they_are_trained(dataset):
    def spoil(content, images):
        content["annotations"][0]["segmentation"] = [[1, 2, 3]]

    assert check_datasets(dataset(spoil)) == []
    (line,) = check_datasets(dataset(spoil, "MODEL.MASK_ON", True))
    assert "masks without a polygon" in line


def test_run_length_codes_need_bitmasks(dataset):
    def spoil(content, images):
        content["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [0, 48 * 64]}

    with pytest.raises(UserError, match=r"set INPUT\.MASK_FORMAT bitmask"):
        check_datasets(dataset(spoil, "MODEL.MASK_ON", True))
    check_datasets(dataset(spoil, "MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask"))


def read(cfg, batches, workers=0):
    cfg.DATALOADER.NUM_WORKERS = workers
    stream = iter(build_train_loader(cfg))
    return [Path(sample["file_name"]).name for _ in range(batches) for sample in next(stream)]


SMALL = ("INPUT.MIN_SIZE_TRAIN", (48,), "SOLVER.IMS_PER_BATCH", 20, "SEED", 1)


def test_plain_run_length_codes_are_trained_on(dataset):
    """COCO's plain form, which pycocotools' decoder itself does not take."""

    def spoil(content, images):
        plain = {"size": [48, 64], "counts": [48 * 4 + 4, 10, 48 * 60 - 14]}
        content["annotations"][0].update(bbox=[4, 4, 1, 10], segmentation=plain)

    cfg = dataset(spoil, "MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask", *SMALL)
    assert check_datasets(cfg) == []
    (record,) = [d for d in DatasetCatalog.get("x") if d["image_id"] == 1]
    sample = TransferDatasetMapper(cfg, True)(record)
    assert sample["instances"].gt_masks.tensor.sum() == 10


@pytest.mark.parametrize("value", [float("nan"), 1e9, "4", None])
def test_a_bad_polygon_is_not_drawn(dataset, value):
    """One that was would take all memory, or end the run with a traceback of NumPy's."""

    def spoil(content, images):
        content["annotations"][0]["segmentation"] = [[4, 4, value, 4, 24, 14]]

    (line,) = check_datasets(dataset(spoil, "MODEL.MASK_ON", True))
    assert "masks without a polygon" in line
    dicts = DatasetCatalog.get("x")
    assert [len(d["annotations"]) for d in dicts[:2]] == [0, 1]


@pytest.mark.parametrize(
    "break_it", [bad_inputs._truncate, bad_inputs._no_image, bad_inputs._damage]
)
def test_a_broken_image_does_not_end_a_run(dataset, monkeypatch, break_it):
    warned = []
    monkeypatch.setattr(stream.logger, "warning", lambda text, what: warned.append(what))
    sound = read(dataset(lambda *_: None, *SMALL), 20)
    spoilt = dataset(break_it, *SMALL)
    found = read(spoilt, 20)  # 400 samples of 300 images: each comes by at least once
    changed = [(a, b) for a, b in zip(sound, found, strict=True) if a != b]
    assert set(changed) == {("007.png", "008.png")}
    assert len(warned) == 1  # once, though the image came by twice
    assert "007.png" in warned[0]
    assert read(spoilt, 20, workers=2) == found  # whoever loads it


def test_too_many_broken_images_do():
    def mapper(record):
        if record["broken"]:
            raise OSError("image file is truncated")
        return record

    records = [{"file_name": f"{k}.jpg", "broken": k < 3} for k in range(100)]
    dataset = PositionedDataset(records, mapper, seed=0, max_skipped=0.02)
    dataset = PositionedDataset(records, mapper, seed=0, max_skipped=0.03)
    assert dataset[0, 0]["file_name"] == "3.jpg"
    dataset = PositionedDataset(records, mapper, seed=0, max_skipped=0.02)
    with pytest.raises(UserError, match=r"2\.jpg: OSError.*3 of 100 images cannot be used"):
        dataset[0, 0]


def test_a_bug_in_a_mapper_is_no_broken_image():
    def mapper(record):
        return record["key that is not there"]

    with pytest.raises(KeyError):
        PositionedDataset([{}], mapper, seed=0, max_skipped=1.0)[0, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_test_image_is_named_without_a_traceback(arguments_for, workers):
    cfg, images = arguments_for(workers)
    (images / "000003.png").write_bytes(b"broken")
    trainer = DetectionTrainer(cfg)
    with pytest.raises(UserError) as error:
        trainer.test(cfg, trainer.model)
    said = own_words(error.value)
    assert said.startswith(f"{images}/000003.png: UnidentifiedImageError")
    assert "Traceback" not in said


@pytest.fixture
def arguments_for(tmp_path):
    """The tiny detector on a copy of the tiny dataset that may be broken."""
    import argparse

    from det_transfer.testing import make_tiny_dataset

    def make(workers):
        data, images = make_tiny_dataset(tmp_path / "tiny")
        args = argparse.Namespace(
            config_file="tests/engine/tiny.yaml",
            opts=[
                *("DATASETS.CUSTOM", [["tiny", str(data), str(images)]]),
                *("OUTPUT_DIR", str(tmp_path / "run"), "DATALOADER.NUM_WORKERS", workers),
            ],
            resume=False,
            eval_only=False,
        )
        return setup(args, prepare), images

    return make
