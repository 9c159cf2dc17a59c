"""One copy of the annotations for all processes, and what is kept of it for the next start."""

import json
import logging
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances

from det_transfer.config import load_config
from det_transfer.data import records as module
from det_transfer.data import register_datasets
from det_transfer.data.catalog import content_of, register
from det_transfer.data.records import Content, Records, content_of_file, outline_of
from det_transfer.errors import UserError
from det_transfer.testing import make_tiny_dataset


@pytest.fixture
def data(tmp_path):
    return make_tiny_dataset(tmp_path / "data", images=6)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache that takes small files too."""
    monkeypatch.setattr(module, "KEPT_FROM", 0)
    return str(tmp_path / "cache")


class Reader:
    """Counts, in a file, how often it was read."""

    def __init__(self, data, folder):
        self.json_file, self.images = data
        self.log = folder / "log"

    def __call__(self):
        with self.log.open("a") as file:
            print(os.getpid(), file=file)
        return load_coco_json(str(self.json_file), str(self.images)), {"facts": {1, 2}}

    @property
    def readers(self):
        return [int(line) for line in self.log.read_text().split()]

    def content(self, cache_dir, key=()):
        return content_of_file(str(self.json_file), self, cache_dir=cache_dir, key=key)


@pytest.fixture
def reader(data, tmp_path):
    return Reader(data, tmp_path)


def test_records_are_the_dicts(data):
    dicts = load_coco_json(*map(str, data))
    records = Records.of(dicts)
    assert len(records) == len(dicts)
    assert [records[index] for index in range(len(records))] == dicts
    assert list(records) == dicts
    records[0]["annotations"].clear()  # belongs to who asked
    assert records[0] == dicts[0]
    for beyond in (-1, len(dicts)):
        with pytest.raises(IndexError):
            records[beyond]


def test_an_outline_leaves_what_all_are_asked_for():
    box = {"bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 1, 0, 1, 1]]}
    dicts = [
        {"file_name": "a", "height": 1, "width": 2, "image_id": 3, "neg_category_ids": [4]},
        {"file_name": "b", "annotations": [{**box, "category_id": 7, "iscrowd": 1}]},
        {"file_name": "c", "annotations": [{**box, "category_id": 7}, {**box, "category_id": 7}]},
    ]
    outline = outline_of(dicts)
    assert outline[0] == {"file_name": "a", "height": 1, "width": 2, "image_id": 3}
    assert outline[1]["annotations"] == [{"category_id": 7, "iscrowd": 1}]
    assert outline[2]["annotations"] == [{"category_id": 7, "iscrowd": 0}] * 2
    assert outline[2]["annotations"][0] is outline[2]["annotations"][1]


def test_the_second_start_reads_what_was_kept(reader, kept):
    first, second = reader.content(kept), reader.content(kept)
    expected = load_coco_json(str(reader.json_file), str(reader.images))
    for content in (first, second):
        assert list(content.records) == expected
        assert content.outline == outline_of(expected)
        assert content.facts == {"facts": {1, 2}}
    assert len(reader.readers) == 1
    assert reader.readers != [os.getpid()]  # in a process of its own
    assert not second.records.block.flags.writeable


def changed_json(reader, monkeypatch):
    reader.json_file.write_text(reader.json_file.read_text() + " ")


def image_added(reader, monkeypatch):
    (reader.images / "one_more.png").touch()


def other_code(reader, monkeypatch):
    monkeypatch.setattr(module, "_code", lambda: "another")


def damaged(reader, monkeypatch):
    for state in reader.json_file.parent.parent.rglob("state.json"):
        state.write_text("{")


@pytest.mark.parametrize("change", [changed_json, image_added, other_code, damaged])
def test_read_anew_after_a_change(change, reader, kept, monkeypatch):
    reader.content(kept)
    change(reader, monkeypatch)
    before = list(reader.content(kept).records)
    assert len(reader.readers) == 2
    assert list(reader.content(kept).records) == before
    assert len(reader.readers) == 2


def entry_in(kept):
    (entry,) = (path for path in Path(kept).iterdir() if path.is_dir())
    return entry


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def gone(path):
    path.unlink()


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)


DAMAGES = [
    (damage, f"{name}.npy")
    for damage in (cut, emptied, gone, flipped)
    for name in ("records", "ends", "sums", "outline", "facts")
    if (damage, name) != (flipped, "records")  # held to its sums record by record: the next test
]


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_what_is_damaged_is_made_anew(damage, name, reader, kept, caplog):
    before = list(reader.content(kept).records)
    damage(entry_in(kept) / name)
    content = reader.content(kept)
    assert "is damaged" in caplog.text
    assert len(reader.readers) == 2
    assert list(content.records) == before
    assert content.facts == {"facts": {1, 2}}
    reader.content(kept)
    assert len(reader.readers) == 2


def test_a_record_in_which_a_bit_has_flipped(reader, kept):
    reader.content(kept)
    entry = entry_in(kept)
    flipped(entry / "records.npy")
    records = reader.content(kept).records
    assert records[0]["image_id"] == 1  # the others serve
    with pytest.raises(UserError, match=r"is damaged: image 5 .* delete the folder") as caught:
        records[5]
    assert str(entry) in str(caught.value)


@pytest.mark.parametrize("state", ["{}", "[]", "3", '{"code": 1}', "[" * 100_000, "\0"])
def test_an_odd_state_is_made_anew(state, reader, kept):
    reader.content(kept)
    (entry_in(kept) / "state.json").write_text(state)
    assert len(reader.content(kept).records) == 6
    assert len(reader.readers) == 2


class Touch:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def forge(entry, name, content):
    """Exchange a file of an entry, with sums that fit, as who can write to the folder may."""
    data = np.frombuffer(pickle.dumps(content), dtype=np.uint8)
    np.save(entry / f"{name}.npy", data)
    if name == "records":
        np.save(entry / "ends.npy", np.array([len(data)]))
        np.save(entry / "sums.npy", np.array([zlib.crc32(data)], dtype=np.uint32))
    state = json.loads((entry / "state.json").read_text())
    state["written"] = {file: module._sum_of(entry / file) for file in state["written"]}
    (entry / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("name", ["facts", "outline", "records"])
def test_no_code_of_a_shared_folder_is_run(name, reader, kept, tmp_path, caplog):
    reader.content(kept)
    forge(entry_in(kept), name, Touch(tmp_path / "pwned"))
    use = {
        "facts": lambda content: content.facts,
        "outline": lambda content: content.outline,
        "records": lambda content: content.records[0],
    }[name]
    if name == "facts":  # read at once, and made anew
        assert use(reader.content(kept)) == {"facts": {1, 2}}
        assert "asks for pathlib.Path" in caplog.text
    else:
        with pytest.raises(UserError, match=r"is damaged: it asks for pathlib.*delete the folder"):
            use(reader.content(kept))
    assert not (tmp_path / "pwned").exists()


def test_another_key_is_another_entry(reader, kept):
    reader.content(kept, key=("masks",))
    reader.content(kept, key=("boxes",))
    reader.content(kept, key=("masks",))
    assert len(reader.readers) == 2


def test_small_files_and_no_folder_keep_nothing(reader, kept, monkeypatch):
    reader.content("")
    monkeypatch.setattr(module, "KEPT_FROM", 10**9)
    reader.content(kept)
    assert reader.readers == [os.getpid()] * 2
    assert not os.path.exists(kept)


def test_nowhere_to_write(reader, tmp_path, kept, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        content = reader.content(str(tmp_path / "file" / "cache"))
    assert len(content.records) == 6
    assert "DATASETS.CACHE_DIR" in caplog.text


def test_mistakes_and_bugs_in_reading_are_told(reader, kept):
    def mistake():
        raise UserError("the file is odd")

    def bug():
        raise KeyError("bbox")

    def killed():
        os._exit(9)

    path = str(reader.json_file)
    with pytest.raises(UserError, match="the file is odd"):
        content_of_file(path, mistake, cache_dir=kept)
    with pytest.raises(RuntimeError, match=r"(?s)in bug\n.*KeyError: 'bbox'"):
        content_of_file(path, bug, cache_dir=kept)
    with pytest.raises(RuntimeError, match="ended with 9"):
        content_of_file(path, killed, cache_dir=kept)
    assert len(reader.content(kept).records) == 6  # the lock is free


def test_a_dataset_of_ones_own(data, kept):
    register("mine", *data, cache_dir=kept)
    first = DatasetCatalog["mine"]
    register("mine", *data, cache_dir=kept)
    second = DatasetCatalog["mine"]
    assert second() == first() == load_coco_json(*map(str, data), "of_detectron2")
    assert second.content.facts == first.content.facts
    assert second.check.images == 6
    data[1].joinpath("000001.png").unlink()
    register("mine", *data, cache_dir=kept)
    assert DatasetCatalog["mine"].check.skip_images == {1}


@pytest.fixture
def detectron2s(data):
    register_coco_instances("theirs", {}, *map(str, data))
    yield "theirs"
    DatasetCatalog.remove("theirs")
    MetadataCatalog.remove("theirs")


def test_detectron2s_readers_too_with_what_they_say_of_classes(detectron2s, data, kept):
    cfg = load_config(None, ["DATASETS.CACHE_DIR", kept]).cfg
    expected = list(content_of(cfg, "theirs").records)
    names = MetadataCatalog.get("theirs").thing_classes
    ids = MetadataCatalog.get("theirs").thing_dataset_id_to_contiguous_id
    DatasetCatalog.remove("theirs")
    MetadataCatalog.remove("theirs")
    register_coco_instances("theirs", {}, *map(str, data))  # as the next process does
    assert list(content_of(cfg, "theirs").records) == expected
    assert MetadataCatalog.get("theirs").thing_classes == names
    assert MetadataCatalog.get("theirs").thing_dataset_id_to_contiguous_id == ids
    assert len(os.listdir(kept)) == 2  # the entry and its lock


@pytest.fixture
def read_by_a_function(data):
    DatasetCatalog.register("by_a_function", lambda: load_coco_json(*map(str, data)))
    MetadataCatalog.get("by_a_function").json_file = str(data[0])
    yield "by_a_function"
    DatasetCatalog.remove("by_a_function")
    MetadataCatalog.remove("by_a_function")


def test_of_other_readers_nothing_is_kept(read_by_a_function, kept):
    cfg = load_config(None, ["DATASETS.CACHE_DIR", kept]).cfg
    assert len(content_of(cfg, read_by_a_function).records) == 6
    assert not os.path.exists(kept)


def test_the_config_says_where(data, kept):
    entry = [["mine", *map(str, data)]]
    opts = ["DATASETS.CUSTOM", repr(entry), "DATASETS.CACHE_DIR", kept]
    cfg = load_config(None, opts).cfg
    register_datasets(cfg)
    content_of(cfg, "mine")
    assert os.listdir(kept)


def test_shared_objects_stay_shared(data):
    content = Content.of(load_coco_json(*map(str, data)))
    annotations = [a for record in content.outline for a in record["annotations"]]
    assert len({id(a) for a in annotations}) == len({tuple(a.items()) for a in annotations})
    assert len(pickle.dumps(content.outline)) < len(content.records.block)
    assert np.all(np.diff(content.records.ends) > 0)
