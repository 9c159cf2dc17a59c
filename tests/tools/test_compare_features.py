"""tools/compare_features.py on runs of the tiny detector and images drawn by class."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import det_transfer
from det_transfer.engine.launch import run
from tools import compare_features
from tools.compare_features import find_images, take_in_turn

TINY = "tests/engine/tiny.yaml"


def draw_classes(folder, counts, seed=0):
    """Images of noise whose mean colour is the class's, weakly."""
    rng = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 200, (40, 30 + k, 3))
            pixels[:, :, number % 3] += 20
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw_classes(folder / "train", {"a": 9, "b": 9, "c": 9})
    draw_classes(folder / "val", {"a": 5, "b": 5, "c": 5}, seed=1)
    return folder


@pytest.fixture(scope="module")
def trained(tiny_coco, tmp_path_factory):
    """A function from a name and further options to a run folder."""
    made = {}

    def folder(name, **options):
        if name not in made:
            output = tmp_path_factory.mktemp("features") / name
            given = {
                "DATASETS.CUSTOM": [["tiny", *map(str, tiny_coco)]],
                "OUTPUT_DIR": str(output),
                "DATASETS.TEST": "()",
                **options,
            }
            made[name] = det_transfer.train(TINY, given).folder
        return made[name]

    return folder


@pytest.fixture
def start(trained):
    """Weights to start from: the whole detector of another run, which is frozen."""
    options = {"MODEL.REUSE.MODE": "finetune", "SEED": 8}
    path = trained("start", **options) / "model_final.pth"
    content = torch.load(path, weights_only=False)
    for name, tensor in content["model"].items():
        if name.endswith("bn2.weight"):  # with which timm lets branches begin at zero
            tensor.fill_(0.5)
    torch.save(content, path)
    return str(path)


@pytest.fixture
def call(monkeypatch, capsys):
    def program(folder, data, *words):
        given = [str(folder), "--data", str(data), "--size", "32", *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["compare_features.py", *given])
        code = run(lambda: compare_features.main(compare_features.parse()))
        said = capsys.readouterr()
        return code, said.out, said.err

    return program


def report_of(folder):
    return json.loads((folder / "features.json").read_text())


def test_a_frozen_trunk_has_kept_everything(call, trained, start, pictures):
    folder = trained("frozen", **{"MODEL.WEIGHTS": start})
    code, out, err = call(folder, pictures)
    assert code == 0, err
    report = report_of(folder)
    assert report["start"] == start
    assert report["data"] == {
        "name": pictures.name,
        "images": 42,
        "test_images": 15,
        "classes": 3,
    }
    assert [entry["stage"] for entry in report["stages"]] == ["stem", "res2", "res3", "res4"]
    for entry in report["stages"]:
        assert entry["weights_distance"] == 0.0
        assert entry["cka"] == 1.0
        for key in ("knn", "probe"):
            assert entry[key]["before"] == entry[key]["after"]
            assert 0 <= entry[key]["before"] <= 100
    assert "42 images of 3 classes" in out
    assert out.count("0.0000  1.0000") == 4


def test_a_fine_tuned_trunk_has_not(call, trained, start, pictures):
    options = {"MODEL.WEIGHTS": start, "MODEL.REUSE.MODE": "finetune", "SOLVER.BASE_LR": 0.05}
    folder = trained("finetune", **options)
    code, _, err = call(folder, pictures)
    assert code == 0, err
    for entry in report_of(folder)["stages"]:
        assert entry["weights_distance"] > 1e-4
        assert entry["cka"] < 1 - 1e-6
    # Against the checkpoint in between it has moved less.
    moved = [entry["weights_distance"] for entry in report_of(folder)["stages"]]
    assert call(folder, pictures, "--weights", "model_0000001.pth")[0] == 0
    before = [entry["weights_distance"] for entry in report_of(folder)["stages"]]
    assert sum(before) < sum(moved)


def test_adapters_leave_the_weights_and_change_the_features(call, trained, start, pictures):
    options = {"MODEL.WEIGHTS": start, "MODEL.REUSE.MODE": "adapters", "SOLVER.BASE_LR": 0.05}
    folder = trained("adapters", **options)
    code, _, err = call(folder, pictures)
    assert code == 0, err
    stages = {entry["stage"]: entry for entry in report_of(folder)["stages"]}
    assert all(entry["weights_distance"] == 0.0 for entry in stages.values())
    assert stages["stem"]["cka"] == 1.0  # where there are none
    assert stages["res4"]["cka"] < 1 - 1e-7


def test_a_random_start_is_drawn_again(call, trained, pictures):
    folder = trained("random", **{"MODEL.WEIGHTS": ""})
    code, out, err = call(folder, pictures)
    assert code == 0, err
    report = report_of(folder)
    assert report["start"] == "random"
    for entry in report["stages"]:
        assert entry["weights_distance"] is None
        assert entry["cka"] == 1.0  # it was frozen
    assert "started from random" in out


def test_a_fast_trunk_is_compared_too(call, trained, start, pictures):
    folder = trained("fast", **{"MODEL.WEIGHTS": start, "MODEL.REUSE.FAST": True})
    assert call(folder, pictures)[0] == 0
    assert [entry["cka"] for entry in report_of(folder)["stages"]] == [1.0] * 4


def test_images_without_train_and_val_are_divided(tmp_path):
    draw_classes(tmp_path, {"a": 10, "b": 5, "c": 1})
    images = find_images(tmp_path, 100)
    assert (len(images.train), len(images.test), images.classes) == (13, 3, 3)
    assert not set(images.train) & set(images.test)
    assert [label for _, label in sorted(images.test)] == [0, 0, 1]
    again = find_images(tmp_path, 6)
    assert again.train == images.train[:6]
    assert [label for _, label in again.train] == [0, 1, 2, 0, 1, 0]


def test_taking_in_turn():
    assert take_in_turn([[1, 2, 3], [4], [], [5, 6]], 5) == [1, 4, 5, 2, 6]


def test_broken_images_are_left_out(call, trained, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data/val/a/0.png").write_text("no picture")
    folder = trained("random", **{"MODEL.WEIGHTS": ""})
    code, _, err = call(folder, tmp_path / "data")
    assert code == 0
    assert "skipped: " in err
    assert report_of(folder)["data"]["test_images"] == 14


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        ("nowhere", [], "is no folder"),
        ("flat", [], "there is no folder for each class in it"),
        ("one", [], "1 classes, 2 images to learn from, 1 to test; there must be two classes"),
        ("odd", [], "train and val differ in class 'b'"),
        ("PICTURES", ["--size", 40], "--size 40: this trunk wants a multiple of 32"),
        ("PICTURES", ["--max-images", 0], "--max-images 0: it must be at least 1"),
        ("PICTURES", ["--weights", "model_x.pth"], "has no checkpoint model_x.pth"),
    ],
)
def test_mistakes(call, trained, pictures, tmp_path, data, words, message):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat/a.png")
    draw_classes(tmp_path / "one", {"a": 3})
    draw_classes(tmp_path / "odd/train", {"a": 2, "b": 2})
    draw_classes(tmp_path / "odd/val", {"a": 2})
    folder = trained("random", **{"MODEL.WEIGHTS": ""})
    code, _, err = call(folder, pictures if data == "PICTURES" else tmp_path / data, *words)
    assert code == 2
    assert message in err
    assert err.splitlines()[-1].startswith("error: ")


def test_no_run(call, pictures, tmp_path):
    code, _, err = call(tmp_path, pictures)
    assert code == 2
    assert "is no run folder" in err
