"""The Python face: train, load, call."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from PIL import Image
from programs import start

import det_transfer
from det_transfer import run_folder
from det_transfer.api import Names
from det_transfer.errors import UserError
from det_transfer.reuse import read_checkpoint

TINY = "tests/engine/tiny.yaml"


@pytest.fixture(scope="module")
def run(tiny_coco, tmp_path_factory):
    options = {
        "DATASETS.CUSTOM": [["tiny", *map(str, tiny_coco)]],
        "OUTPUT_DIR": str(tmp_path_factory.mktemp("api") / "run"),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.001,  # for detections to look at
    }
    return det_transfer.train(TINY, options)


@pytest.fixture(scope="module")
def model(run):
    return run.load()


@pytest.fixture(scope="module")
def image(tiny_coco):
    return sorted(tiny_coco[1].glob("*.png"))[0]


def same(a: Instances, b: Instances) -> bool:
    return torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor) and torch.equal(a.scores, b.scores)


def test_training_gives_the_folder_and_the_results(run):
    record = run_folder.read_json(run.folder / "run.json")
    assert record["status"] == "finished"
    assert record["classes"] == ["shape_1", "shape_2", "shape_3"]
    assert run.results["bbox"]["AP"] == pytest.approx(record["results"]["bbox"]["AP"], nan_ok=True)


def test_a_second_run_in_one_process_has_its_own_log(run, tiny_coco, tmp_path):
    before = (run.folder / "log.txt").read_text()
    options = ["DATASETS.CUSTOM", [["tiny", *map(str, tiny_coco)]], "OUTPUT_DIR", str(tmp_path)]
    second = det_transfer.train(TINY, [*options, "SOLVER.MAX_ITER", 1])
    assert (run.folder / "log.txt").read_text() == before
    log = (second.folder / "log.txt").read_text()
    assert log.count("FRESH START") == 1


def test_a_mistake_is_an_exception_not_an_exit(run):
    with pytest.raises(UserError, match=r"did you mean SOLVER\.MAX_ITER"):
        det_transfer.train(TINY, {"SOLVER.MAX_ITR": 3})
    with pytest.raises(UserError, match="already holds a run"):
        det_transfer.train(TINY, {"OUTPUT_DIR": str(run.folder)})


def test_every_form_of_an_image_gives_the_same(model, image):
    rgb = np.asarray(Image.open(image).convert("RGB"))
    first = model(image)
    assert isinstance(first, Instances)
    assert len(first) > 0
    for form in (str(image), Image.open(image), cv2.imread(str(image)), rgb[:, :, ::-1]):
        assert same(model(form), first)
    listed = model([image, str(image)])
    assert [type(one) for one in listed] == [Instances, Instances]
    assert all(same(one, first) for one in listed)
    assert model([]) == []


def test_it_equals_detectron2s_own_predictor(model, image, tmp_path):
    """Independent reference: the same weights through DefaultPredictor."""
    cfg = model.cfg.clone()
    cfg.MODEL.WEIGHTS = str(tmp_path / "full.pth")  # Detectron2 knows no slim checkpoints
    torch.save(read_checkpoint(model.weights), cfg.MODEL.WEIGHTS)
    expected = DefaultPredictor(cfg)(cv2.imread(str(image)))["instances"]
    assert same(model(image), expected.to("cpu"))


def test_it_equals_the_evaluation(model, run, tiny_coco):
    """What evaluation wrote for the first image is what the loaded model finds."""
    folder = run_folder.eval_folder(run.folder, "tiny") / "predictions"
    (chunk,) = run_folder.read_predictions(run_folder.prediction_parts(folder)[0])
    of_first = np.sort(chunk["score"][chunk["image_id"] == 1])
    found = model(tiny_coco[1] / "000001.png")
    assert np.array_equal(np.sort(found.scores.numpy()), of_first)


def test_names_follow_the_instances(model, image):
    found = model(image)
    names = [f"shape_{index + 1}" for index in found.pred_classes.tolist()]
    assert found.pred_class_names == names
    best = found[found.scores > found.scores.median()]
    assert best.pred_class_names == names[: len(best)]
    assert found[0].pred_class_names == names[:1]
    assert Instances.cat([found, best]).pred_class_names == names + names[: len(best)]


def test_names_take_every_index_that_instances_take():
    names = Names("abcd")
    assert names[1] == "b"
    assert names[1:3] == ["b", "c"]
    assert names[torch.tensor([True, False, False, True])] == ["a", "d"]
    assert names[np.array([3, 0])] == ["d", "a"]
    assert names[torch.tensor([2, -1])] == ["c", "d"]
    assert isinstance(names[1:], Names)


def test_the_threshold_leaves_out_what_is_below(run, model, image):
    scores = model(image).scores
    middle = scores.median().item()
    kept = run.load(score_threshold=middle)(image)
    assert torch.equal(kept.scores, scores[scores >= middle])
    assert 0 < len(kept) < len(scores)


def test_an_image_turned_by_its_exif_data_stands_upright(model, image, tmp_path):
    upright = Image.open(image).convert("RGB")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to see it"
    path = tmp_path / "turned.png"
    turned.save(path, exif=exif)
    assert same(model(path), model(upright))


def test_grey_arrays_are_images_too(model, image):
    grey = np.asarray(Image.open(image).convert("L"))
    assert same(model(grey), model(np.stack([grey] * 3, axis=2)))


@pytest.mark.parametrize("array", [np.zeros((8, 8, 3), np.float32), np.zeros((3, 8, 8), np.uint8)])
def test_other_arrays_are_refused(model, array):
    with pytest.raises(ValueError, match="uint8"):
        model(array)


def test_which_checkpoint_is_loaded(run, tmp_path):
    assert run.load().weights.name == "model_final.pth"
    assert run.load(weights="model_0000001.pth").weights.name == "model_0000001.pth"
    with pytest.raises(UserError, match=r"has no model_x\.pth; it has model_0000001\.pth"):
        run.load(weights="model_x.pth")
    with pytest.raises(UserError, match="no run folder"):
        det_transfer.load(tmp_path)
    (tmp_path / "config.yaml").write_text((run.folder / "config.yaml").read_text())
    with pytest.raises(UserError, match="no checkpoint"):
        det_transfer.load(tmp_path)
    # A folder as stock Detectron2 leaves it has no run.json: numbers for names.
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    for path in (run.folder / "model_0000001.pth", *run.folder.glob("frozen-*.pth")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = det_transfer.load(tmp_path)
    assert model.weights.name == "model_0000001.pth"


def test_importing_the_package_does_not_wait_for_the_trainer():
    code = "import sys, det_transfer; sys.exit('det_transfer.engine' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        det_transfer.lod  # noqa: B018


FEDERATED = {
    "DATASETS.TRAIN": ("counted",),
    "DATASETS.TEST": ("counted",),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 2,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.001,
}


@pytest.fixture(scope="module")
def federated(tiny_coco, tmp_path_factory):
    """A run with the federated loss on a dataset of one's own, and then a process as a new one."""
    options = FEDERATED | {
        "DATASETS.CUSTOM": [["counted", *map(str, tiny_coco)]],
        "OUTPUT_DIR": str(tmp_path_factory.mktemp("federated") / "run"),
    }
    run = det_transfer.train(TINY, options)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("counted")
    return run


def test_a_detector_trained_with_the_federated_loss_is_loaded_without_its_data(federated, image):
    model = federated.load()
    counts = read_checkpoint(model.weights)["model"][
        "roi_heads.box_predictor.0.fed_loss_cls_weights"
    ]
    assert len(set(counts.tolist())) > 1  # of the training, no stand-ins
    assert torch.equal(model.model.roi_heads.box_predictor[0].fed_loss_cls_weights, counts)
    assert len(model(image)) > 0
    assert "counted" not in MetadataCatalog


def test_programs_take_such_a_detector_in_a_new_process(federated, image, tiny_coco, tmp_path):
    config = ["--config-file", federated.folder / "config.yaml"]
    options = FEDERATED | {
        "DATASETS.CUSTOM": [["counted", *map(str, tiny_coco)]],
        "MODEL.WEIGHTS": federated.folder / "model_final.pth",
        "OUTPUT_DIR": tmp_path / "again",
    }
    again = [word for pair in options.items() for word in pair]
    for words in (
        ["tools/predict.py", federated.folder, image, "--output", tmp_path / "found"],
        ["tools/train_net.py", "--config-file", TINY, "--eval-only", *again],
        ["tools/analyze_model.py", *config, "--size", 64, "--modes", "finetune"],
    ):
        done = start(*words)
        assert done.returncode == 0, done.stderr
    first, second = (
        run_folder.read_json(folder / "eval" / "counted" / "results.json")["metrics"]
        for folder in (federated.folder, tmp_path / "again")
    )
    assert first == second
    few = ["MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES", 9]
    words = ["tools/analyze_model.py", *few, "--modes", "finetune", *config]
    done = start(*words)
    assert done.returncode == 2
    assert "FED_LOSS_NUM_CLASSES is 9 but there are 3 classes; set it to 3 or less" in done.stderr


def test_the_federated_loss_draws_of_classes_that_have_images(tiny_coco, tmp_path):
    content = json.loads(tiny_coco[0].read_text())
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 2]
    path = tmp_path / "two.json"
    path.write_text(json.dumps(content))
    options = {
        "DATASETS.CUSTOM": [["two", str(path), str(tiny_coco[1])]],
        "DATASETS.TRAIN": ("two",),
        "DATASETS.TEST": (),
        "OUTPUT_DIR": str(tmp_path / "run"),
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True,
        "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 3,
        "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": (),
    }
    with pytest.raises(UserError, match=r"NUM_CLASSES is 3 but 2 of 3 classes have images.* 2 or"):
        det_transfer.train(TINY, options)
    det_transfer.train(TINY, options | {"MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 2})
    # By power 0 all are drawn alike.
    options |= {"MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": 0.0}
    det_transfer.train(TINY, options | {"OUTPUT_DIR": str(tmp_path / "alike")})
