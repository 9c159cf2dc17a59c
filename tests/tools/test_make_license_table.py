"""The table of licences is that of the locked packages, and none is unknown."""

import re
from email.message import Message
from pathlib import PurePosixPath

import pytest

from det_transfer.run_folder import read_json
from tools import make_license_table as table


class Package:
    """An installed package, as far as the table looks at it."""

    def __init__(self, version="1", files=None, classifiers=(), **said):
        self.version = version
        self.metadata = Message()
        for key, value in said.items():
            self.metadata[key.replace("_", "-")] = value
        for classifier in classifiers:
            self.metadata["Classifier"] = classifier
        self.files = []
        for name, text in (files or {}).items():
            path = type("File", (PurePosixPath,), {"read_text": lambda self, text=text: text})
            self.files.append(path(name))


def test_it_is_up_to_date(capsys):
    """For what is installed here in a locked version; the rest is as it was read elsewhere."""
    code = table.main(["--check"])
    assert code == 0, capsys.readouterr().out


def test_every_locked_package_has_a_licence():
    pins, entries = table.locked(), read_json(table.ROOT / table.FOUND)
    assert list(entries) == list(pins)
    for name, entry in entries.items():
        assert entry["version"] in pins[name]
        assert entry["license"].strip(), name
        assert not re.search("unknown", entry["license"], re.IGNORECASE), name


def test_no_package_would_change_our_licence():
    """Weak copyleft (MPL: a file's) and NVIDIA's own terms are there, and said on the page."""
    for name, entry in read_json(table.ROOT / table.FOUND).items():
        assert not re.search(r"\b[AL]?GPL", entry["license"]), name


def test_the_floor_brings_no_other_package():
    floor = (table.ROOT / "requirements/floor.txt").read_text()
    names = set(re.findall(r"^([a-z0-9._-]+)==", floor, re.MULTILINE)) - set(table.locked())
    assert all(name.startswith("nvidia-") for name in names)


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        (Package(License_Expression="MIT", License="other"), ("MIT", "License-Expression")),
        (
            Package(License="Apache 2.0", classifiers=["License :: Other"]),
            ("Apache 2.0", "License"),
        ),
        (Package(License="UNKNOWN"), None),
        (Package(), None),
        (
            Package(License="Copyright\nlong text", classifiers=["License :: OSI :: BSD License"]),
            ("BSD License", "classifier"),
        ),
        (Package(License="MIT License\n\nCopyright"), ("MIT License", "License")),
        (Package(License="Copyright\n\nlong text"), None),
    ],
)
def test_where_a_licence_is_read(package, expected):
    assert table.license_of("one", package) == expected


def test_a_licence_known_by_its_file():
    name, (license, words) = next(iter(table.BY_FILE.items()))
    files = {"x.dist-info/LICENSE": f"{words}\nand so on", "x/code.py": ""}
    assert table.license_of(name, Package(files=files)) == (license, "its file LICENSE")
    changed = Package(files={"x.dist-info/LICENSE": "All rights reserved"})
    assert table.license_of(name, changed) is None


def test_what_is_kept_and_what_is_read_anew():
    pins = {"a": ["1", "2"], "b": ["1"], "c": ["2"], "d": ["1"], "e": ["1"]}
    entry = {"version": "1", "license": "MIT", "source": "License"}
    known = dict.fromkeys("abce", entry)
    here = {
        "a": Package("2", License="BSD"),  # read for the other Python, whose pin stands
        "c": Package("2", License="BSD"),  # has moved
        "d": Package("1"),
        "e": Package("1", License="BSD"),  # the committed one is wrong
    }
    entries, problems = table.collect(pins, known, here.get)
    assert {name: found["license"] for name, found in entries.items()} == {
        "a": "MIT",
        "b": "MIT",
        "c": "BSD",
        "e": "BSD",
    }
    assert problems == ["d 1 does not say its licence"]
    _, problems = table.collect({"f": ["1", "2"]}, known, here.get)
    assert problems == ["f 1 or 2 is not installed here"]


def test_the_page_keeps_what_is_around_the_table():
    text = "before\n<!-- licenses -->\nold\n<!-- /licenses -->\nafter\n"
    entry = {"version": "1", "license": "MIT", "source": "License"}
    new = table.page(text, {"a": ["1", "2"]}, {"a": entry})
    assert re.search(r"^\| a +\| 1, 2 +\| MIT +\| License +\|$", new, re.MULTILINE)
    assert new.startswith("before\n")
    assert new.endswith("<!-- /licenses -->\nafter\n")
    assert "old" not in new
