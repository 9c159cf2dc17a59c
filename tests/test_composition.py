"""Runs on one trunk: what a composition's file says, what it answers, and what it refuses."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import det_transfer
from det_transfer.composition import compose, load_composition, read_composition
from det_transfer.engine.launch import run as run_program
from det_transfer.errors import UserError
from det_transfer.modeling import SharedBackboneDetector
from det_transfer.testing import make_tiny_dataset
from tools import compose as tool
from tools import predict

TINY = "tests/engine/tiny.yaml"
SCORES = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.001]  # for detections to look at


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("composition")


@pytest.fixture(scope="module")
def runs(folder):
    """Task -> run folder; all begin with one random trunk, which SEED draws."""
    data = {
        "shapes": make_tiny_dataset(folder / "shapes"),
        "things": make_tiny_dataset(folder / "things", classes=2, seed=1),
    }

    def train(name, data_name, *more):
        options = ["DATASETS.CUSTOM", [["tiny", *map(str, data[data_name])]], *SCORES, *more]
        return det_transfer.train(TINY, [*options, "OUTPUT_DIR", str(folder / name)]).folder

    return {
        "shapes": train("run_shapes", "shapes"),
        "things": train("run_things", "things"),
        "adapted": train("run_adapted", "things", "MODEL.REUSE.MODE", "adapters"),
        "finetuned": train("run_finetuned", "things", "MODEL.REUSE.MODE", "finetune"),
        "small": train("run_small", "things", "INPUT.MIN_SIZE_TEST", 32),
    }


def of(runs, *names):
    return {name: runs[name] for name in names}


@pytest.fixture(scope="module")
def images(folder, runs):
    return sorted((folder / "shapes" / "images").glob("*.png"))[:3]


@pytest.fixture(scope="module")
def made(folder, runs):
    path = folder / "shared.yaml"
    compose(path, of(runs, "shapes", "things", "adapted"))
    return path


def test_it_answers_as_the_runs_do(made, runs, images):
    composed = load_composition(made)
    for image in images:
        answers = composed(image)
        assert list(answers) == ["shapes", "things", "adapted"]
        for name, found in answers.items():
            alone = det_transfer.load(runs[name])(image)
            assert len(found)
            assert torch.equal(found.pred_boxes.tensor, alone.pred_boxes.tensor)
            assert torch.equal(found.scores, alone.scores)
            assert found.pred_class_names == alone.pred_class_names
    assert [list(answer) for answer in composed(images)] == [list(answers)] * len(images)


def test_tasks_come_and_go(made, runs, images):
    composed = load_composition(made, score_threshold=0.002)
    composed.remove("shapes")
    assert list(composed(images[0])) == ["things", "adapted"]
    composed.add("again", det_transfer.load(runs["shapes"]))
    assert list(composed(images[0])) == ["things", "adapted", "again"]
    with pytest.raises(UserError, match="task bad: its trunk is another one"):
        composed.add("bad", det_transfer.load(runs["finetuned"]))


def test_the_file_moves_with_its_runs(made):
    content = yaml.safe_load(made.read_text())
    assert content["tasks"]["things"] == {"run": "run_things", "weights": "model_final.pth"}
    assert len(content["fingerprint"]) == 64


def test_other_sizes_are_refused_or_decided(folder, runs, images):
    path = folder / "sizes.yaml"
    message = r"INPUT\.MIN_SIZE_TEST 64 and 32, .* fed once; say which counts with input"
    with pytest.raises(UserError, match=message):
        compose(path, of(runs, "shapes", "small"))
    assert not path.exists()
    compose(path, of(runs, "shapes", "small"), input={"min_size": 48})
    found = load_composition(path)(images[0])["small"]
    alone = det_transfer.load(runs["small"], options={"INPUT.MIN_SIZE_TEST": 48})(images[0])
    assert torch.equal(found.scores, alone.scores)


def test_a_run_that_was_trained_again(made, tmp_path, folder):
    content = yaml.safe_load(made.read_text())
    content["fingerprint"] = "0" * 64
    path = folder / "old.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"had fingerprint 000000000000 and now has \w{12}"):
        load_composition(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "it is not a mapping with tasks"),
        ("{", "cannot be read"),
        ("tasks: {}\nfingerprint: a", "it has no task"),
        ("tasks: {a: {run: x}}", "it has no fingerprint"),
        ("tasks: {a: {rnu: x}}\nfingerprint: a", "task a is {'rnu': 'x'}"),
        ("tasks: {a: {run: }}\nfingerprint: a", "task a is {'run': None}"),
        ("tasks: {a: {run: x}}\nfingerprint: a\ninputs: 1", "there is no key inputs; there is"),
        ("tasks: {a: {run: x}}\nfingerprint: a\ninput: {min: 1}", "input is {'min': 1}"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_composition(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["cells=gone", "rooms=gone"],
            "composition cells=gone: its name must end in .yaml",
        ),
        (
            ["c.yaml", "cells=gone", "--input-size", 0, 64],
            "input is {'min_size': 0, 'max_size': 64}",
        ),
    ],
    ids=["no file", "no size"],
)
def test_said_before_anything_is_loaded(start, capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert start("make", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_said_for_all_tasks(tmp_path):
    path = tmp_path / "lost.yaml"
    path.write_text("tasks: {a: {run: x}, b: {run: y}}\nfingerprint: a")
    with pytest.raises(UserError) as error:
        load_composition(path)
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["task a", "task b"]


# The program -------------------------------------------------------------------------------------


@pytest.fixture
def predicts(monkeypatch, capsys):
    """tools/predict.py; gives exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
        code = run_program(lambda: predict.main(predict.parse()))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def start(monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["compose.py", *map(str, words)])
        return run_program(lambda: (args := tool.parse()).function(args))

    return run


def test_from_making_to_detecting(start, runs, folder, images, tmp_path, capsys):
    path = tmp_path / "shared.yaml"
    tasks = [f"{name}={runs[name]}" for name in ("shapes", "adapted")]
    assert start("make", path, *tasks) == 0
    out = capsys.readouterr().out
    assert "a pass of its own: adapters" in out
    assert "shapes and adapted have 2 classes of one name, e.g. shape_1: answers are kept" in out
    assert start("list", path) == 0
    out = capsys.readouterr().out
    assert "2: shape_1, shape_2" in out
    assert "adapters" in out
    assert start("check", path) == 0
    assert "fits" in capsys.readouterr().out
    found = tmp_path / "found"
    assert start("run", path, *images, "--output", found, "--score-threshold", 0.01) == 0
    out = capsys.readouterr().out
    for name in ("shapes", "adapted"):
        rows = json.loads((found / name / "predictions.json").read_text())
        assert f"{name}: {len(rows)} detections in 3 images" in out
        alone = det_transfer.load(runs[name], score_threshold=0.01)(images)
        assert len(rows) == sum(map(len, alone)) > 0
    pictures = sorted((found / "pictures").glob("*.jpg"))
    assert len(pictures) == 3
    assert Image.open(pictures[0]).width > 0


def test_predict_takes_a_composition_as_it_takes_a_run(made, runs, images, tmp_path, predicts):
    """Its json of a task is that of the task's run, to the last digit; also in batches."""
    flags = ["--score-threshold", 0.01, "--no-pictures"]
    code, out, err = predicts(made, *images, "--output", tmp_path / "all", *flags)
    assert code == 0, err
    assert "in 3 images, by " in out
    for name in ("shapes", "things", "adapted"):
        assert f"{name}: " in out
        predicts(runs[name], *images, "--output", tmp_path / name, *flags)
        for file in ("predictions.json", "images.json"):
            assert (tmp_path / "all" / name / file).read_text() == (
                tmp_path / name / file
            ).read_text()
    assert predicts(made, *images, "--output", tmp_path / "two", *flags, "--batch", 2)[0] == 0
    one, two = (
        json.loads((tmp_path / folder / "things/predictions.json").read_text())
        for folder in ("all", "two")
    )
    assert [row["image_id"] for row in one] == [row["image_id"] for row in two]
    for flag in ("--ids", "--weights"):
        code, _, err = predicts(made, *images, "--output", tmp_path / "x", flag, "y")
        assert code == 2
        assert f"error: {flag} is for one run; {made} is a composition of several" in err


def test_a_picture_shows_every_task(made, images, tmp_path, predicts, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "det_transfer.prediction.pictures.annotated",
        lambda picture, title, shapes, scale: drawn.append(shapes) or picture,
    )
    flags = ["--output", tmp_path / "found", "--score-threshold", 0.01]
    assert predicts(made, images[0], *flags)[0] == 0
    (shapes,) = drawn
    families = {shape.name.partition(": ")[0]: shape.family for shape in shapes}
    assert families == {"shapes": 0, "things": 1, "adapted": 2}


# Evaluation --------------------------------------------------------------------------------------


def measured(folder):
    """What an evaluation left, but for how long it took."""
    content = json.loads((folder / "results.json").read_text())
    del content["seconds"]
    with np.load(folder / "predictions/part-0.npz") as part:
        arrays = {name: part[name].tobytes() for name in part.files}
    return content, arrays, (folder / "per_category.csv").read_text()


def test_an_evaluation_equals_those_of_the_runs(made, runs, folder, capsys, start, monkeypatch):
    passes = []
    forward = SharedBackboneDetector.forward
    monkeypatch.setattr(
        SharedBackboneDetector,
        "forward",
        lambda self, inputs, tasks: passes.append(tuple(tasks)) or forward(self, inputs, tasks),
    )
    assert start("eval", made) == 0
    out = capsys.readouterr().out
    for name in ("shapes", "things", "adapted"):
        ours = measured(folder / "shared" / name / "eval" / "tiny")
        assert ours == measured(runs[name] / "eval" / "tiny")
        assert f"{name}: tiny: bbox AP " in out
    # Two look at the same images: one pass for both.
    assert passes == [("shapes",)] * 8 + [("things", "adapted")] * 8


def test_test_sets_that_are_missing(made, runs, folder, start, capsys):
    moved = (folder / "things").rename(folder / "elsewhere")
    try:
        assert start("eval", made, "--output", folder / "nothing") == 2
    finally:
        moved.rename(folder / "things")
    error = capsys.readouterr().err.splitlines()
    assert [line.partition(": dataset")[0] for line in error] == [
        "error: task things",
        "task things",
        "task adapted",
        "task adapted",
    ]
    assert f"{folder / 'things' / 'annotations.json'} is missing" in error[0]
    assert not (folder / "nothing").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=x", "a=y"], "two tasks have one name"),
        (["a"], "'a': write NAME=RUN_FOLDER"),
        (["a.b=x"], "a name has letters, digits, - and _"),
        (["a=nowhere"], "task a: nowhere is no run folder"),
    ],
)
def test_mistakes(start, tmp_path, capsys, words, message):
    assert start("make", tmp_path / "c.yaml", *words) == 2
    assert message in capsys.readouterr().err


def test_other_trunks_are_refused_with_both_fingerprints(start, runs, tmp_path, capsys):
    tasks = [f"{name}={runs[name]}" for name in ("shapes", "finetuned")]
    assert start("make", tmp_path / "c.yaml", *tasks) == 2
    error = capsys.readouterr().err
    assert "task finetuned: its trunk is another one, fingerprint" in error
    assert not (tmp_path / "c.yaml").exists()
