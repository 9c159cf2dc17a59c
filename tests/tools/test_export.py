"""tools/export.py: the file, what stands beside it, the exit code, and mistakes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import det_transfer
from det_transfer.engine.launch import run as run_program
from tools import export

TINY = str(Path(__file__).parents[1] / "engine/tiny.yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from det_transfer.testing import make_tiny_dataset

    folder = tmp_path_factory.mktemp("export")
    options = {
        "DATASETS.CUSTOM": [["tiny", *map(str, make_tiny_dataset(folder / "data"))]],
        "DATASETS.TEST": [],
        "OUTPUT_DIR": str(folder / "run"),
        "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": (),
        "MODEL.REUSE.FAST": True,  # which the program leaves out
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.001,
    }
    return det_transfer.train(TINY, options).folder


@pytest.fixture
def call(trained, monkeypatch, capsys):
    """The program; gives exit code, stdout and stderr."""

    def program(*words, of=trained):
        monkeypatch.setattr(sys, "argv", ["export.py", str(of), *map(str, words)])
        try:
            code = run_program(lambda: export.main(export.parse()))
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return program


def test_a_trunk(call, tmp_path, monkeypatch):
    out = tmp_path / "parts" / "trunk.pt2"
    words = ["--part", "trunk", "--out", out, "--size", 64, 96]
    code, said, err = call(*words)
    assert code == 0, err
    assert f"{out}: trunk for 64 x 96 px and any multiples of 32, " in said
    assert "largest difference on 3 images: " in said
    content = json.loads(out.with_name("trunk.pt2.json").read_text())
    assert content["check"]["within"] is True
    assert content["check"]["largest_difference"] <= 1e-4
    assert content["image_format"] == "BGR"
    assert content["outputs"] == {
        "res3": {"channels": 128, "stride": 8},
        "res4": {"channels": 256, "stride": 16},
    }
    features = torch.export.load(out).module()(torch.zeros(1, 3, 128, 64))
    assert features["res4"].shape == (1, 256, 8, 4)
    monkeypatch.setattr(export, "largest_difference", lambda found, expected: 0.5)
    code, said, _ = call(*words)
    assert code == 1
    assert "largest difference on 3 images: 5.0e-01 of 1e-04" in said
    assert json.loads(out.with_name("trunk.pt2.json").read_text())["check"]["within"] is False


@pytest.mark.slow
def test_a_detector_on_pictures(call, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    out = tmp_path / "detector.pt2"
    words = ["--part", "detector", "--out", out, "--size", 64, 96, "--images", tmp_path / "a.png"]
    code, said, err = call(*words)
    assert code == 0, err
    assert "largest difference on 1 images, " in said
    assert "nothing was detected" not in said
    content = json.loads((tmp_path / "detector.pt2.json").read_text())
    assert content["classes"] == ["shape_1", "shape_2", "shape_3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "FOLDER"], "is a folder; name a file"),
        (["--out", "FOLDER/x", "--images", "a.png"], "--images is for --part detector"),
        (["--out", "FOLDER/x", "--size", 64, 100], "the trunk takes multiples of 32 px"),
        (["--out", "FOLDER/x", "--weights", "model_9.pth"], "has no model_9.pth"),
    ],
)
def test_mistakes(call, tmp_path, words, message):
    words = [str(word).replace("FOLDER", str(tmp_path)) for word in words]
    code, _, err = call("--part", "trunk", *words)
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


def test_pictures_are_looked_for_before_anything_is_loaded(call, tmp_path, monkeypatch):
    monkeypatch.setattr(det_transfer, "load", lambda *args, **options: pytest.fail("was loaded"))
    words = ["--part", "detector", "--out", tmp_path / "x.pt2", "--images", tmp_path / "gone.png"]
    code, _, err = call(*words)
    assert code == 2
    assert "gone.png does not exist" in err
