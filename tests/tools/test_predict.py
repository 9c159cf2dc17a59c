"""tools/predict.py against what an evaluation wrote, and its mistakes."""

import json
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import det_transfer
from det_transfer import run_folder
from det_transfer.engine.launch import run
from det_transfer.prediction import category_ids
from tools import predict

MASKS = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny dataset with ids that are not 1, 2, ..."""
    from det_transfer.testing import make_tiny_dataset

    path, images = make_tiny_dataset(tmp_path_factory.mktemp("data"))
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["id"] = 1000 - image["id"]
    for category in content["categories"]:
        category["id"] *= 7
    for annotation in content["annotations"]:
        annotation["image_id"] = 1000 - annotation["image_id"]
        annotation["category_id"] *= 7
    path.write_text(json.dumps(content))
    return path, images


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    options = {
        "DATASETS.CUSTOM": [["tiny", *map(str, data)]],
        "OUTPUT_DIR": str(tmp_path_factory.mktemp("predict") / "run"),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.001,
        "TEST.WRITE_JSON": True,
        **MASKS,
    }
    return det_transfer.train("tests/engine/tiny.yaml", options).folder


@pytest.fixture
def call(trained, tmp_path, monkeypatch, capsys):
    """The program on the trained run; gives exit code, stdout and stderr."""

    def program(*words, of=trained, output=tmp_path / "out"):
        given = [str(of), *map(str, words)] + (["--output", str(output)] if output else [])
        monkeypatch.setattr(sys, "argv", ["predict.py", *given])
        code = run(lambda: predict.main(predict.parse()))
        said = capsys.readouterr()
        return code, said.out, said.err

    return program


def rows(path):
    content = json.loads(path.read_text())
    return sorted(content, key=lambda row: json.dumps(row, sort_keys=True))


def test_the_json_equals_the_evaluations(call, data, trained, tmp_path):
    words = ["--ids", data[0], "--score-threshold", 0, "--no-pictures"]
    code, out, err = call(data[1], *words)
    assert code == 0, err
    expected = rows(trained / "eval/tiny/predictions.json")
    assert len(expected) > 20
    assert "segmentation" in expected[0]
    assert rows(tmp_path / "out/predictions.json") == expected
    assert f"{len(expected)} detections in 8 images" in out
    assert not (tmp_path / "out/pictures").exists()


def test_a_run_folder_alone_knows_the_ids_of_its_classes(call, data, tmp_path):
    code, _, err = call(data[1], "--score-threshold", 0)
    assert code == 0, err
    known = COCO(str(tmp_path / "out/images.json"))
    assert [(c["id"], c["name"]) for c in known.dataset["categories"]] == [
        (7, "shape_1"),
        (14, "shape_2"),
        (21, "shape_3"),
    ]
    loaded = known.loadRes(str(tmp_path / "out/predictions.json"))
    assert len(loaded.anns) > 20
    names = [image["file_name"] for image in known.dataset["images"]]
    assert names == [f"{number:06d}.png" for number in range(1, 9)]
    drawn = sorted((tmp_path / "out/pictures").iterdir())
    assert [path.name for path in drawn] == [f"{number:06d}.jpg" for number in range(1, 9)]
    assert Image.open(drawn[0]).size[0] == 640


def test_the_threshold_is_for_json_and_pictures(call, data, tmp_path):
    one = data[1] / "000001.png"
    call(one, "--score-threshold", 0)
    scores = sorted(row["score"] for row in rows(tmp_path / "out/predictions.json"))
    full = (tmp_path / "out/pictures/000001.jpg").read_bytes()
    middle = scores[len(scores) // 2]
    call(one, "--score-threshold", middle)
    kept = sorted(row["score"] for row in rows(tmp_path / "out/predictions.json"))
    assert kept == [score for score in scores if score >= middle]
    assert (tmp_path / "out/pictures/000001.jpg").read_bytes() != full
    code, out, _ = call(one, "--score-threshold", 1.1)
    assert code == 0
    assert rows(tmp_path / "out/predictions.json") == []
    assert "0 detections" in out


def test_batches_find_the_same(call, data, tmp_path):
    """Also where sizes change in between, and none is left over."""
    mixed = tmp_path / "mixed"
    shutil.copytree(data[1], mixed)
    for name in ("000003.png", "000006.png"):
        with Image.open(mixed / name) as image:
            image.rotate(90, expand=True).save(mixed / name)
    found = {}
    for batch in (1, 3):
        words = [mixed, "--score-threshold", 0, "--batch", batch, "--no-pictures"]
        assert call(*words, output=tmp_path / str(batch))[0] == 0
        found[batch] = json.loads((tmp_path / str(batch) / "predictions.json").read_text())
    assert [r["image_id"] for r in found[1]] == [r["image_id"] for r in found[3]]
    for key in ("score", "bbox"):
        one, three = (np.array([row[key] for row in found[batch]]) for batch in (1, 3))
        assert np.allclose(one, three, rtol=1e-3, atol=1e-3)


def test_each_holds_no_more_than_a_batch(trained, data):
    detector = det_transfer.load(trained)
    taken = []

    def images():
        for path in sorted(data[1].iterdir()):
            taken.append(path)
            yield path

    found = detector.each(images(), batch=2)
    next(found)
    assert len(taken) <= 3
    assert len(list(found)) == 7


def test_a_video_becomes_a_video(call, tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12.0, (97, 65))
    for number in range(4):
        writer.write(np.full((65, 97, 3), 50 * number, np.uint8))
    writer.release()
    code, out, err = call(path, "--score-threshold", 0, "--batch", 3)
    assert code == 0, err
    assert "in 4 images" in out
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert [(i["id"], i["file_name"], i["frame"]) for i in images] == [
        (number + 1, "clip.avi", number) for number in range(4)
    ]
    video = cv2.VideoCapture(str(tmp_path / "out/pictures/clip.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert video.get(cv2.CAP_PROP_FPS) == 12.0
    assert [p.name for p in (tmp_path / "out/pictures").iterdir()] == ["clip.mp4"]


def test_what_cannot_be_read_is_left_out(call, data, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(data[1] / "000001.png", folder)
    (folder / "broken.jpg").write_text("no picture")
    code, out, err = call(folder)
    assert code == 0
    assert f"skipped: {folder}/broken.jpg: no image of a known format" in err
    assert "1 of 2 files were skipped, see above" in out
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["000001.png"]


def test_nothing_that_can_be_read(call, tmp_path):
    (tmp_path / "broken.jpg").write_text("no picture")
    code, _, err = call(tmp_path / "broken.jpg")
    assert code == 2
    assert err.splitlines()[-1] == "error: none of 1 files could be read"
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "error: nowhere does not exist"),
        (["IMAGES", "--batch", 0], "error: --batch 0: it must be at least 1"),
        (["IMAGES", "--device", "tpu9"], "error: device 'tpu9':"),
        (["IMAGES", "--weights", "model_x.pth"], "has no model_x.pth; it has model_0000001.pth"),
        (["IMAGES", "--ids", "nowhere.json"], "--ids nowhere.json does not exist"),
    ],
)
def test_mistakes(call, data, words, message):
    code, _, err = call(*[data[1] if word == "IMAGES" else word for word in words])
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(call, data):
    code, _, err = call(data[1], "--device", "cuda")
    assert code == 2
    assert "error: device 'cuda': torch finds no CUDA device here" in err


def test_no_run(call, data, tmp_path):
    code, _, err = call(data[1], of=tmp_path)
    assert code == 2
    assert "is no run folder" in err


def test_ids_of_another_dataset(call, data, tmp_path):
    content = json.loads(data[0].read_text())
    content["images"] = content["images"][1:]
    content["categories"] = content["categories"][1:]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    code, _, err = call(data[1], "--ids", other)
    assert code == 2
    assert "lacks 1 of the files, e.g. 000001.png" in err
    assert "lacks 1 of the classes, e.g. shape_1" in err


def test_an_interruption_leaves_no_half_json(call, data, tmp_path, monkeypatch):
    call(data[1] / "000001.png")
    before = (tmp_path / "out/predictions.json").read_bytes()
    calls = []

    def add(self, frame, found):
        calls.append(frame)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("det_transfer.prediction.Found.add", add)
    assert call(data[1])[0] == 130
    assert (tmp_path / "out/predictions.json").read_bytes() == before
    assert not list((tmp_path / "out").glob(".*"))


def test_ids_where_no_evaluation_says_them(trained, tmp_path):
    assert category_ids(tmp_path, ["a", "b"]) == [1, 2]
    assert category_ids(trained, ["shape_3", "shape_1", "shape_2"]) == [21, 7, 14]
    assert category_ids(trained, ["a"]) == [1]
    assert run_folder.EVAL == "eval"
