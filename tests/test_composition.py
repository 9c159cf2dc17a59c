"""Runs on one trunk: what a composition's file says, what it answers, and what it refuses."""

import json
import sys

import pytest
import torch
import yaml
from PIL import Image

import det_transfer
from det_transfer.composition import compose, load_composition, read_composition
from det_transfer.engine.launch import run as run_program
from det_transfer.errors import UserError
from det_transfer.testing import make_tiny_dataset
from tools import compose as tool

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


def test_what_is_missing_is_said_for_all_tasks(tmp_path):
    path = tmp_path / "lost.yaml"
    path.write_text("tasks: {a: {run: x}, b: {run: y}}\nfingerprint: a")
    with pytest.raises(UserError) as error:
        load_composition(path)
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["task a", "task b"]


# The program -------------------------------------------------------------------------------------


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
    assert "adapted" in capsys.readouterr().out
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
        pictures = sorted((found / name / "pictures").glob("*.jpg"))
        assert len(pictures) == 3
        assert Image.open(pictures[0]).width > 0


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
