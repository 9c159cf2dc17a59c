"""The halves of a dataset's classes, and the files that say them."""

import subprocess

import numpy as np
import pytest

from det_transfer.classification.class_splits import (
    ClassSplit,
    file_of,
    halves_of,
    keep_halves,
    read_split,
)
from det_transfer.classification.data import read_images
from det_transfer.errors import UserError
from det_transfer.run_folder import sha256

CLASSES = tuple(f"class_{k:02d}" for k in range(41))


def random(seed):
    return halves_of(ClassSplit("r", "random", seed), CLASSES)


@pytest.mark.parametrize("seed", range(4))
def test_random_halves_are_all_classes_each_once(seed):
    halves = random(seed)
    assert sorted([*halves["A"], *halves["B"]]) == list(CLASSES)
    assert (len(halves["A"]), len(halves["B"])) == (20, 21)
    assert all(list(names) == sorted(names) for names in halves.values())
    assert halves == random(seed)
    assert halves != random(seed + 1)


def test_a_seed_gives_the_papers_halves_of_imagenet():
    """Their --seed is a list of one, and NumPy seeds a list otherwise than its number.

    Source: yosinski/convnet_transfer, ilsvrc12/make_reduced_dataset.py: sorted(choice(arange(1000),
    500, replace=False)) after seed([s]).
    """
    classes = tuple(f"n{k:08d}" for k in range(1000))
    halves = halves_of(ClassSplit("r", "random", 2), classes)
    before = np.random.get_state()
    np.random.seed([2])
    drawn = sorted(np.random.choice(np.arange(1000), 500, replace=False))
    np.random.set_state(before)
    assert list(halves["A"]) == [classes[k] for k in drawn]
    first = halves_of(ClassSplit("r", "random", 0), classes)["A"][:8]
    assert [int(name[1:]) for name in first] == [0, 1, 2, 5, 9, 10, 15, 16]


def test_from_files_and_by_kind(tmp_path):
    (tmp_path / "a.txt").write_text("class_03\nclass_01\n")
    (tmp_path / "b.txt").write_text("class_02\nclass_40\n")
    split = read_split("f", {"kind": "file", "A": tmp_path / "a.txt", "B": tmp_path / "b.txt"})
    found = halves_of(split, CLASSES)
    assert found == {"A": ("class_01", "class_03"), "B": ("class_02", "class_40")}
    kinds = "".join(f"{name}\t{'made' if k % 3 else 'grown'}\n" for k, name in enumerate(CLASSES))
    (tmp_path / "kinds.tsv").write_text(kinds)
    content = {"kind": "dissimilar", "file": tmp_path / "kinds.tsv", "A": "made", "B": "grown"}
    found = halves_of(read_split("d", content), CLASSES)
    assert found == {
        "A": tuple(name for k, name in enumerate(CLASSES) if k % 3),
        "B": CLASSES[::3],
    }


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("class_01 class_02", "class_02 class_03", "A and B overlap in 1 classes, e.g. class_02"),
        ("class_01 class_02", "class_03", "B has the class class_03 alone"),
        ("class_01 class_99", "class_03 class_04", "A names 1 classes that the dataset has not"),
        ("class_01 class_02", "", "b.txt names no classes"),
    ],
)
def test_halves_that_cannot_be(tmp_path, a, b, words):
    for name, text in (("a", a), ("b", b)):
        (tmp_path / f"{name}.txt").write_text(text.replace(" ", "\n"))
    split = read_split("f", {"kind": "file", "A": tmp_path / "a.txt", "B": tmp_path / "b.txt"})
    with pytest.raises(UserError) as caught:
        halves_of(split, CLASSES)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_two_classes_are_too_few_for_halves():
    with pytest.raises(UserError, match="A has the class"):
        halves_of(ClassSplit("r", "random", 0), CLASSES[:2])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"kind": "ranom"}, "kind is 'ranom'; it can be random, file, dissimilar"),
        ({"kind": "random"}, "has no seed"),
        ({"kind": "random", "seed": "x"}, "seed is 'x'"),
        ({"kind": "file", "A": "a", "B": "b", "C": "c"}, "has a key C"),
        (["random"], "kind is None"),
    ],
)
def test_an_entry_that_is_wrong(content, words):
    with pytest.raises(UserError) as caught:
        read_split("mine", content)
    assert str(caught.value).startswith("split mine: ")
    assert words in str(caught.value)


def test_what_is_written_is_read_back_and_has_a_checksum(tmp_path):
    halves = {"A": ("3", "1"), "B": ("0", "7", "9")}
    found = keep_halves(tmp_path, "mine", halves)
    path = file_of(tmp_path, "mine")
    assert found == sha256(path) == keep_halves(tmp_path, "mine", halves)
    keep_halves(tmp_path, "other", random(1))
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    images = {half: read_images("d", "digits", "", f"train@{path}={half}") for half in halves}
    assert {half: found.classes for half, found in images.items()} == halves
    everything = read_images("d", "digits", "", "train")
    counts = dict(zip(everything.classes, everything.counts(), strict=True))
    for found in images.values():
        assert [counts[name] for name in found.classes] == found.counts().tolist()


def test_a_class_name_may_have_spaces_but_no_comma(tmp_path):
    keep_halves(tmp_path, "fruit", {"A": ("red apple", "pear"), "B": ("fig", "sour cherry")})
    assert "red apple\tA\n" in file_of(tmp_path, "fruit").read_text()
    with pytest.raises(UserError, match="class 'apple, red' has a comma"):
        keep_halves(tmp_path, "more", {"A": ("apple, red", "pear"), "B": ("fig", "plum")})


def test_files_that_were_changed_are_refused(tmp_path):
    halves = random(0)
    keep_halves(tmp_path, "r", halves)
    with pytest.raises(UserError, match="names other classes than the plan's split does now"):
        keep_halves(tmp_path, "r", random(1))
    path = file_of(tmp_path, "r")
    path.write_text(path.read_text().replace("\tA", "\tB", 1))
    with pytest.raises(UserError, match=r"r\.tsv is not as it was written \(SHA256SUMS"):
        keep_halves(tmp_path, "r", halves)
