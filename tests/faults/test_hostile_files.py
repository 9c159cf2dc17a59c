"""Files that were made to do harm: none of them runs code, leaves its place or fills the memory."""

import pickle
import struct
import tarfile
import zlib

import pytest
import torch
import yaml

from det_transfer.classification.data.archives import Archive
from det_transfer.composition.file import read_composition
from det_transfer.config import load_config
from det_transfer.data.checks import check_images, format_findings
from det_transfer.data.datasets.coco_format import read_annotations
from det_transfer.documents import read_json, read_yaml
from det_transfer.engine.plan import read_plan
from det_transfer.errors import UserError
from det_transfer.prediction.sources import Reader, find_sources
from det_transfer.report.runs import read_config
from det_transfer.reuse import read_checkpoint

# A mark that code would leave.
MARK = "pwned"


class Touch:
    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path(MARK),)


@pytest.fixture(autouse=True)
def untouched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / MARK).exists(), "code of the file was run"


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "pkl"])
def test_a_pickle_that_would_run_code(tmp_path, suffix):
    path = tmp_path / f"evil.{suffix}"
    if suffix == "pkl":
        path.write_bytes(pickle.dumps({"model": {}, "x": Touch()}))
    else:
        torch.save({"model": {}, "x": Touch()}, path)
    with pytest.raises(UserError, match="needs tensors and plain values only"):
        read_checkpoint(path)


PYTHON = "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [pwned]]"
READERS = {
    "config": lambda path: load_config(str(path)),
    "plan": read_plan,
    "composition": read_composition,
    "yaml": read_yaml,
    "run": lambda path: read_config(path.parent),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_yaml_that_would_run_code(tmp_path, reader):
    path = tmp_path / "config.yaml"
    path.write_text(f"MODEL:\n  WEIGHTS: {PYTHON}\n")
    with pytest.raises(
        UserError,
        match=r"line \d+ has a tag of Python, !!python/object/apply:pa",
    ):
        READERS[reader](path)


def test_a_base_that_would_run_code(tmp_path):
    (tmp_path / "base.yaml").write_text(f"OUTPUT_DIR: {PYTHON}\n")
    path = tmp_path / "config.yaml"
    path.write_text("_BASE_: base.yaml\n")
    with pytest.raises(UserError, match=r"base.yaml cannot be read"):
        load_config(str(path))


def test_bases_in_a_circle(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\n")
    with pytest.raises(UserError, match="has it as a base itself"):
        load_config(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("reader", READERS)
def test_a_yaml_that_unfolds_to_billions(tmp_path, reader):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="with its aliases written out it has over"):
        READERS[reader](path)


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: *a}", "[" * 5000, "{a: " * 200 + "1"])
def test_a_yaml_without_an_end(tmp_path, text):
    path = tmp_path / "endless.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(path)


@pytest.mark.parametrize("depth", [5000, 200_000])
def test_a_json_nested_without_end(tmp_path, depth):
    path = tmp_path / "deep.json"
    path.write_text('{"images": ' + "[" * depth)
    for read in (read_json, lambda p: read_annotations(str(p))):
        with pytest.raises(UserError, match=r"nested too deep|is not json"):
            read(path)


def test_values_that_a_sound_yaml_may_have(tmp_path):
    path = tmp_path / "sound.yaml"
    content = {"a": [1, 2.5, None, True], "b": {"c": "text"}}
    path.write_text(yaml.dump(content))
    assert read_yaml(path) == content


def test_an_archive_whose_names_climb_out(tmp_path):
    """Nothing is unpacked, and no name leads to a file beside the archive."""
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo("../secret.txt")
        member.size = 0
        tar.addfile(member)
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "../secret.txt"
        tar.addfile(link)
    archive = Archive(tmp_path / "evil.tar")
    assert list(archive) == ["../secret.txt"]
    assert archive.read("../secret.txt") == b""
    assert "link.txt" not in archive
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.tar", "secret.txt"]


def huge_png(path, side=50_000):
    """A picture that says to have 2.5 billion pixels, in a few bytes."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_an_image_of_fifty_thousand_pixels_in_a_dataset(tmp_path):
    huge_png(tmp_path / "huge.png")
    image = {"id": 1, "file_name": "huge.png", "height": 50_000, "width": 50_000}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    found = check_images(content, tmp_path, 0)
    assert found.skip_images == {1}
    assert "images larger than Pillow decodes" in format_findings(found.findings)


def test_an_image_of_fifty_thousand_pixels_to_predict(tmp_path):
    huge_png(tmp_path / "huge.png")
    said = []
    reader = Reader(find_sources([tmp_path / "huge.png"], tmp_path / "out"), said.append)
    assert list(reader) == []
    assert "huge.png" in said[0]
    assert "pixels" in said[0]
