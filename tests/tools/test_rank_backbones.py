"""tools/rank_backbones.py: tables, the cache, detection data, and every mistake in one line."""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

import det_transfer
from det_transfer.classification.backbones import Backbone, open_backbone
from det_transfer.classification.extraction import Features
from det_transfer.classification.ranking import agreement, by_score, score_all
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.report.page import tables
from det_transfer.testing import make_tiny_images

TOOLS = Path(__file__).parents[2] / "tools"
TINY = TOOLS.parent / "tests/engine/tiny.yaml"
TWO = ("random:test_resnet", "random:test_efficientnet")
QUICK = ("logme", "hscore_regularized", "probe", "leep")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_tiny_images(tmp_path_factory.mktemp("ranked"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of a network whose classifier is whole."""
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(open_backbone("random:test_resnet").net.net.state_dict(), path)
    return path


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """The tool in this process: (exit code, stdout, stderr)."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import rank_backbones

    def program(data, *words, backbones=TWO, scores=QUICK):
        given = ["--data", data, "--backbones", *backbones, "--scores", *scores]
        given += ["--size", 32, "--out", tmp_path / "out", *words]
        monkeypatch.setattr(sys, "argv", ["tools/rank_backbones.py", *map(str, given)])
        code = run(lambda: rank_backbones.main(rank_backbones.parse()))
        said = capsys.readouterr()
        return code, said.out, said.err

    return program


def ranking(tmp_path):
    return json.loads((tmp_path / "out/ranking.json").read_text())


def test_from_images_to_tables(call, shapes, weights, tmp_path):
    backbones = (*TWO, f"whole=test_resnet@{weights}")
    data = f"images:{shapes}:train", "--test-data", f"images:{shapes}:test"
    code, out, err = call(*data, backbones=backbones)
    assert code == 0, err
    found = ranking(tmp_path)
    rows = {row["backbone"]: row for row in found["backbones"]}
    assert set(rows) == {*TWO, "whole"}
    assert rows["whole"]["features"] == 96
    assert rows["whole"]["scores"]["leep"] < 0
    assert rows[TWO[0]]["scores"]["leep"] == "its classifier is random"
    # The same weights: all scores of the features are alike.
    for name in ("logme", "hscore_regularized", "probe"):
        assert rows["whole"]["scores"][name] == rows[TWO[0]]["scores"][name]
    scores = [row["scores"]["logme"] for row in found["backbones"]]
    assert scores == sorted(scores, reverse=True)
    assert found["against"] == "probe"
    assert found["agreement"]["leep"] is None
    assert found["agreement"]["logme"]["backbones"] == 3
    assert "random:test_resnet has no LEEP: its classifier is random" in out
    with (tmp_path / "out/ranking.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["backbone"] for row in table] == [row["backbone"] for row in found["backbones"]]
    assert float(table[0]["logme"]) == pytest.approx(scores[0])


def test_features_are_computed_once(call, shapes, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    assert call(f"images:{data}:train")[0] == 0
    first = ranking(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "__call__", None)  # nothing is to be computed
        assert call(f"images:{data}:train")[0] == 0
        assert ranking(tmp_path)["backbones"] == first["backbones"]
    # Another content under the same name is another file of the cache.
    files = sorted((data / "train").rglob("*.png"))
    shutil.copyfile(files[0], files[-1])
    assert call(f"images:{data}:train", backbones=TWO[:1])[0] == 0
    assert len(list((tmp_path / "out/features").glob("*.npz"))) == 3


def test_against_fine_tuned_accuracies(call, shapes, tmp_path):
    """A plan's results.csv: the mean over seeds; what is not finished has no accuracy yet."""
    path = tmp_path / "results.csv"
    lines = ["run,backbone,status,accuracy/top1", "a_s1,a,finished,50", "a_s2,a,finished,60"]
    lines += ["b_s1,b,finished,70", "b_s2,b,failed,", "c_s1,c,finished,20"]
    path.write_text("\n".join(lines))
    backbones = [f"a={TWO[0]}", f"b={TWO[1]}", "c=random:test_vit3"]
    options = ("--accuracies", path, "--shots", 4, "--size", 160)
    code, out, err = call(f"images:{shapes}:train", *options, backbones=backbones)
    assert code == 0, err
    found = ranking(tmp_path)
    accuracies = {row["backbone"]: row["accuracy"] for row in found["backbones"]}
    assert accuracies == {"a": 55.0, "b": 70.0, "c": 20.0}
    assert all(row["images"] == 16 for row in found["backbones"])
    scores = [row["scores"]["logme"] for row in found["backbones"]]
    expected = kendalltau(scores, list(accuracies.values())).statistic
    assert found["agreement"]["logme"]["kendall"] == pytest.approx(expected)
    assert "Agreement with the order of the fine-tuned accuracy" in out


def test_a_ranking_becomes_a_page(call, shapes, tmp_path, monkeypatch, capsys):
    import make_results

    backbones = [f"a={TWO[0]}", f"b={TWO[1]}", "c=random:test_vit3"]
    assert call(f"images:{shapes}:train", "--size", 160, backbones=backbones)[0] == 0
    found = ranking(tmp_path)
    words = ["--root", tmp_path, "ranking", "which", tmp_path / "out", "--title", "T"]
    words += ["--question", "Q?"]

    def collect():
        monkeypatch.setattr(sys, "argv", ["tools/make_results.py", *map(str, words)])
        return make_results.main()

    assert collect() == 0
    content = json.loads((tmp_path / "docs/results/which.json").read_text())
    columns = {column.pop("side"): column for column in content["results"]}
    assert list(columns)[:3] == [row["backbone"] for row in found["backbones"]]
    best = found["backbones"][0]
    assert columns[best["backbone"]]["logme"] == best["scores"]["logme"]
    assert "leep" not in columns[best["backbone"]]  # of a random classifier there is none
    taus = {name: a["kendall"] for name, a in found["agreement"].items() if a}
    assert columns["Kendall's tau"] == taus
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]
    assert str(tmp_path) not in json.dumps(content)
    text = tables(content)
    assert "| logme |" in text
    assert "Measured: " in text
    before = {key: value for key, value in found.items() if key not in ("versions", "ended")}
    (tmp_path / "out/ranking.json").write_text(json.dumps(before))
    capsys.readouterr()
    assert collect() == 2
    assert "has no ended, versions: rank the backbones again" in capsys.readouterr().err


def test_objects_in_boxes(call, tiny_coco, weights, tmp_path):
    """A classifier says nothing of them, and one that has none nothing at all: both are told."""
    spec = ":".join(["boxes", *map(str, tiny_coco)])
    backbones = [f"whole=test_resnet@{weights}", TWO[1]]
    code, out, err = call(spec, "--size", 96, backbones=backbones)
    assert code == 0, err
    found = ranking(tmp_path)
    annotations = json.loads(Path(tiny_coco[0]).read_text())["annotations"]
    assert [row["images"] for row in found["backbones"]] == [len(annotations)] * 2
    assert found["data"]["classes"] == 3
    reasons = [row["scores"]["leep"] for row in found["backbones"]]
    assert reasons[0] == "its classifier is asked of whole images, not of objects in boxes"
    assert reasons[1].startswith("it")
    assert reasons[1] != reasons[0]
    assert f"whole has no LEEP: {reasons[0]}" in " ".join(out.split())


def test_a_box_is_averaged_where_it_lies(tiny_coco, monkeypatch):
    """A network that says where it looks: the features are the box's middle."""
    monkeypatch.syspath_prepend(str(TOOLS))
    from ranked_boxes import LabelledBoxes

    class Where(torch.nn.Module):
        def forward(self, images):
            height, width = (n // 4 for n in images.shape[2:])
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            grid = torch.stack([(x + 0.5) / width, (y + 0.5) / height])[None]
            return det_transfer.classification.backbones.Reading(grid.mean((2, 3)), None, grid)

    preprocessing = open_backbone("random:test_resnet").preprocessing
    source = LabelledBoxes(*map(str, tiny_coco))
    for rows, features, _ in source.read(Backbone(Where(), preprocessing, "where"), 192, "cpu"):
        for row, (x, y) in zip(rows, features.tolist(), strict=True):
            number, annotation = source.objects[row]
            left, top, width, height = annotation["bbox"]
            record = source.records[number]
            assert x == pytest.approx((left + width / 2) / record["width"], abs=0.01)
            assert y == pytest.approx((top + height / 2) / record["height"], abs=0.01)


def test_the_trunk_of_a_detector(call, shapes, tiny_coco, tmp_path):
    options = {"DATASETS.CUSTOM": [["tiny", *map(str, tiny_coco)]], "DATASETS.TEST": "()"}
    folder = det_transfer.train(str(TINY), {**options, "OUTPUT_DIR": str(tmp_path / "run")}).folder
    for spec in (f"images:{shapes}:train", ":".join(["boxes", *map(str, tiny_coco)])):
        code, _, err = call(spec, "--size", 64, backbones=[f"mine={folder}"])
        assert code == 0, err
        (row,) = ranking(tmp_path)["backbones"]
        assert row["scores"]["leep"] == "a detector has no classifier of images"
        assert math.isfinite(row["scores"]["logme"])


def test_broken_images_are_left_out(call, shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "data")
    file = sorted((tmp_path / "data/train").rglob("*.png"))[3]
    file.write_text("no picture")
    code, _, err = call(f"images:{tmp_path / 'data'}:train", backbones=TWO[:1])
    assert code == 0
    assert f"skipped: {file}: UnidentifiedImageError" in err
    count = len(list((tmp_path / "data/train").rglob("*.png")))
    assert ranking(tmp_path)["backbones"][0]["images"] == count - 1


def test_a_network_that_diverged(call, shapes, weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    state["layer4.0.conv1.weight"].fill_(math.nan)
    torch.save(state, tmp_path / "w.pth")
    code, _, err = call(f"images:{shapes}:train", backbones=[f"bad=test_resnet@{tmp_path}/w.pth"])
    assert code == 2
    assert err.splitlines()[-1].startswith("error: bad: features of")
    assert "are not finite: image 0, unit 0 is nan" in err


def test_best_first_and_those_without_a_score_last():
    rows = [{"x": value} for value in (1.0, "no head", 3.0, math.nan, 2.0)]
    assert by_score(rows, "x") == [2, 4, 0, 1, 3]


def test_tested_features_that_are_no_numbers():
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    train = Features(rng.normal(size=(20, 3)).astype(np.float32), None, labels)
    broken = Features(np.full((20, 3), np.nan, np.float32), None, labels)
    for name in ("probe", "knn"):
        with pytest.raises(UserError, match="features of 20 of 20 images are not finite"):
            score_all([name], None, train, broken)
        assert 0 <= score_all([name], None, train, train)[name] <= 100


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("photos", {}, "--data photos: write READER:PATH:SPLIT"),
        ("image:SHAPES:train", {}, "there is no reader 'image'; there is images"),
        ("images:nowhere:train", {}, "nowhere does not exist"),
        ("images:ONE:", {}, "--data has one class, a: there is nothing to tell apart"),
        ("boxes:nowhere.json:x", {}, "nowhere.json does not exist"),
        ("boxes:COCO", {"words": ("--shots", 3)}, "--shots 3: it chooses images"),
        ("boxes:COCO", {"backbones": ["random:test_convnext"], "words": ("--size", 96)}, "SEE"),
        ("images:SHAPES:train", {"scores": ["logmee"]}, "--scores logmee: there is logme"),
        (
            "images:SHAPES:train",
            {"backbones": ["random:resnet51", "x=nowhere.pth"]},
            "error: --backbones random:resnet51: backbone 'resnet51' is neither a network nor",
        ),
        ("images:SHAPES:train", {"backbones": [TWO[0]] * 2}, "has random:test_resnet twice"),
        ("images:SHAPES:train", {"backbones": ["random:test_vit"], "words": ("--size", 40)}, "VIT"),
        ("images:SHAPES:train", {"words": ("--size", 0)}, "--size 0 --shots 0: pixels and"),
        ("images:SHAPES:train", {"words": ("--accuracies", "no.csv")}, "no.csv does not exist"),
        ("images:SHAPES:train", {"words": ("--accuracies", "A.csv")}, "has no accuracy of random:"),
        ("images:SHAPES:train", {"words": ("--accuracies", "B.csv")}, "it needs backbone and"),
        ("images:SHAPES:train", {"words": ("--accuracies", "C.csv")}, "line 2: 'x' is no number"),
        ("images:SHAPES:train", {"words": ("--accuracies", "D.csv")}, "line 2: 'nan' is no number"),
        ("images:SHAPES:train", {"words": ("--device", "gpu")}, "--device gpu: take cpu, cuda or"),
        ("images:HOLE:", {}, "--data has classes without images: 1, e.g. empty; add some, or"),
        ("boxes:COCO", {"words": ("--size", 3)}, "no average over a map of several cells"),
        ("images:SHAPES:train", {"words": ("--test-data", "digits::test")}, "classes that --data"),
        ("boxes:COCO", {"words": ("--test-data", "boxes:no.json:x")}, "--test-data"),
    ],
)
def test_mistakes(call, shapes, tiny_coco, tmp_path, monkeypatch, data, options, message):
    (tmp_path / "one/a").mkdir(parents=True)
    shutil.copyfile(next((shapes / "train").rglob("*.png")), tmp_path / "one/a/1.png")
    shutil.copytree(shapes / "train", tmp_path / "hole")
    (tmp_path / "hole/empty").mkdir()
    (tmp_path / "A.csv").write_text("backbone,accuracy\nother,3\n")
    (tmp_path / "B.csv").write_text("network,accuracy\nother,3\n")
    (tmp_path / "C.csv").write_text("backbone,accuracy\nother,x\n")
    (tmp_path / "D.csv").write_text("backbone,accuracy\nother,nan\n")
    monkeypatch.chdir(tmp_path)
    data = data.replace("HOLE", "hole").replace("SHAPES", str(shapes)).replace("ONE", "one")
    data = data.replace("COCO", ":".join(map(str, tiny_coco)))
    long = {"SEE": "cannot be pooled in boxes: its features are no average"}
    long["VIT"] = "random:test_vit cannot be shown images of 40 px (Input height (40)"
    message = long.get(message, message)
    code, _, err = call(data, *options.pop("words", ()), **options)
    assert code == 2
    assert message in err[err.index("error: ") :]
    assert "Traceback" not in err


def test_agreement():
    found = agreement([1.0, 2.0, 3.0, "none"], [10, 20, 30, 40])
    assert found == {"kendall": 1, "weighted_kendall": 1, "spearman": 1, "backbones": 3}
    assert agreement([3.0, 2.0, 1.0], [1, 2, 3])["spearman"] == -1
    assert np.isnan(agreement([1.0, 1.0, 1.0], [1, 2, 3])["kendall"])
    assert agreement([1.0, 2.0, math.nan], [1, 2, 3]) is None
