"""The report of a run: its numbers are the files', and what is missing is said."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_runs import make_run

from det_transfer import run_folder
from det_transfer.errors import UserError
from det_transfer.report.html import render
from det_transfer.report.run_page import make_report, run_page
from det_transfer.report.runs import read_run
from tools import make_report as program

ROOT = Path(__file__).parents[2]


class Tables(HTMLParser):
    """All tables of a page as rows of text, and whatever the page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.links, self.cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset")]
        assert tag not in ("script", "iframe", "object", "embed")
        assert not [k for k, _ in attributes if k.startswith("on")]

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell.strip())
            self.cell = None

    def row(self, *start):
        """The first row that begins with these cells."""
        rows = (row for table in self.tables for row in table)
        return next(row for row in rows if tuple(row[: len(start)]) == start)


@pytest.fixture(scope="module")
def page(evaluated):
    return make_report(evaluated / "frozen_s1").read_text(encoding="utf-8")


def shown(value):
    return "-" if value is None else f"{value:.1f}"


def test_numbers_are_the_files(page, evaluated):
    run = evaluated / "frozen_s1"
    results = run_folder.read_json(run / "eval/drawn/results.json")["metrics"]["bbox"]
    tables = Tables(page)
    for metric, words in (
        ("AP", "AP, mean over IoU 0.50 to 0.95"),
        ("AP50", "AP at IoU 0.50"),
        ("APl", "large, over 96² pixels"),
        ("APr", "rare"),
    ):
        assert tables.row(words)[1] == shown(results[metric]), metric
    for row in read_run(run).evaluations["drawn"].categories("bbox"):
        cells = tables.row(row["name"])
        assert cells[1] == shown(row["AP"])
        assert cells[4] == str(row["n_gt"])
    assert tables.row("backbone.bottom_up")[1:4] == ["3,000,000", "0", "frozen"]
    assert tables.row("operations of a step")[1] == "2 G FLOP"
    assert f"Box AP {results['AP']:.1f}" in page
    assert "what is frozen is to the last bit as it was at the start" in page


def test_it_is_one_file_that_asks_for_nothing(page):
    links = Tables(page).links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert len([link for link in links if link.startswith("data:image/")]) == 2 * 12
    assert not re.search(r"url\((?!#)", page)
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page
    assert len(page) < 5_000_000
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert all(f'id="{link[1:]}"' in page for link in links if link.startswith("#"))


def test_every_figure_has_its_numbers(page):
    figures = re.findall(r"<figure><h3>.*?</figure>", page, re.DOTALL)
    assert len(figures) >= 8
    for figure in figures:
        assert "<svg" in figure
        assert re.search(r"<details>.*<td", figure, re.DOTALL), figure[:80]


def test_the_same_files_give_the_same_page(page, evaluated, tmp_path):
    again = make_report(evaluated / "frozen_s1", tmp_path / "again.html")
    assert again.read_text(encoding="utf-8") == page


@pytest.fixture
def run(evaluated, tmp_path, monkeypatch):
    """A copy that a test may break; drawings, which take the time, are left out."""
    monkeypatch.setattr("det_transfer.report.charts.draw", lambda *_: "<svg></svg>")
    return Path(shutil.copytree(evaluated / "frozen_s1", tmp_path / "frozen_s1"))


def missing(run, **options):
    return "\n".join(run_page(read_run(run, **options)).missing)


def change(path, **entries):
    run_folder.write_json(path, run_folder.read_json(path) | entries)


def test_an_interrupted_run(run):
    change(run / "run.json", status="interrupted", reason="by hand at iteration 7")
    page = run_page(read_run(run))
    assert "was interrupted" in page.missing[0]
    assert "by hand at iteration 7" in page.missing[0]
    assert "Errors" in [section.title for section in page.sections]


def test_a_run_without_evaluation(tmp_path):
    folder = make_run(tmp_path / "bare")
    page = run_page(read_run(folder))
    assert any("has no evaluation" in line for line in page.missing)
    titles = [section.title for section in page.sections]
    assert "Training" in titles
    assert "Accuracy" not in titles
    assert "Not evaluated" in page.lead
    render(page)


def test_no_predictions_no_dataset_no_images(run, tmp_path):
    assert missing(run) == ""
    change(run / "eval/drawn/results.json", image_root=str(tmp_path / "moved"))
    assert "image folder" in missing(run)
    titles = [section.title for section in run_page(read_run(run)).sections]
    assert "Errors" in titles
    assert "Pictures" not in titles
    (run / "eval/drawn/predictions/part-0.npz").unlink()
    assert "has no predictions" in missing(run)
    change(run / "eval/drawn/results.json", json_file=str(tmp_path / "moved.json"))
    assert "annotation file" in missing(run)


def test_a_moved_dataset_can_be_given(run, evaluated, tmp_path):
    change(run / "eval/drawn/results.json", image_root="/moved", json_file="/moved.json")
    data = evaluated / "data"
    assert missing(run, json_file=str(data / "annotations.json"), images=str(data / "images")) == ""


def test_another_test_set_is_said(run, tmp_path):
    content = json.loads(
        Path(run_folder.read_json(run / "eval/drawn/results.json")["json_file"]).read_text()
    )
    content["images"] = content["images"][:-1]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    assert "it is another test set" in missing(run, json_file=str(other))


def test_unreadable_images_are_counted(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "12 images cannot be read" in missing(run, images=str(tmp_path / "empty"))


def test_images_too_large_for_pillow_are_counted(run, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    assert "12 images cannot be read" in missing(run)


def test_a_class_without_ground_truth(run, tmp_path):
    results = run_folder.read_json(run / "eval/drawn/results.json")
    content = json.loads(Path(results["json_file"]).read_text())
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 2]
    path = tmp_path / "less.json"
    path.write_text(json.dumps(content))
    assert "1 of 4 classes have no object in drawn (shape_2)" in missing(run, json_file=str(path))


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "eval/drawn/results.json",
        "config.yaml",
        "metrics.json",
        "eval/drawn/predictions/part-0.npz",
    ],
)
def test_a_file_that_is_broken_or_not_there(name, run):
    (run / name).write_text("{broken: [")
    page = run_page(read_run(run))
    assert page.missing
    render(page)
    (run / name).unlink()
    page = run_page(read_run(run))
    assert page.missing
    render(page)


def test_broken_curves_are_left_out(run):
    (run / "eval/drawn/curves.npz").write_text("broken")
    titles = [section.title for section in run_page(read_run(run)).sections]
    assert "Precision and recall" not in titles
    assert "Errors" in titles


def test_what_the_backbone_kept(run):
    stage = {"stage": "res5", "weights_distance": 0.123, "cka": 0.875}
    stage |= {"knn": {"before": 50.0, "after": 40.5}, "probe": {"before": 60.0, "after": 55.0}}
    start = {**stage, "stage": "res4", "weights_distance": None}
    data = {"name": "tiny", "images": 80, "classes": 10}
    run_folder.write_json(
        run / "features.json", {"data": data, "start": "x", "stages": [start, stage]}
    )
    text = render(run_page(read_run(run)))
    row = Tables(text).row("frozen_s1", "res5")
    assert row[2:] == ["0.123", "0.875", "50.0", "40.5", "60.0", "55.0"]
    assert Tables(text).row("frozen_s1", "res4")[2] == "-"


def test_names_are_escaped(run):
    change(run / "run.json", weights="<script>alert(1)</script>", command="a && b <c>")
    Tables(render(run_page(read_run(run))))  # which refuses a script


def test_the_program(run, capsys, tmp_path):
    program.main(program.parse([str(run)]))
    assert "wrote" in capsys.readouterr().out
    assert (run / "report.html").is_file()
    with pytest.raises(UserError, match="is no folder"):
        program.main(program.parse([str(tmp_path / "none")]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no run folder"):
        program.main(program.parse([str(tmp_path / "empty")]))
    with pytest.raises(UserError, match="report of one run"):
        program.main(program.parse([str(run), str(run), "--output", "x.html"]))


def test_without_torch_and_detectron2(run, tmp_path):
    """As on a laptop: neither can be imported, and the page is made all the same."""
    poison = (
        "import importlib.util, runpy, sys\n"
        "gone = {'torch', 'detectron2', 'timm', 'torchvision'}\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in gone:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n in gone else find(n, *a)\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "assert not gone & set(sys.modules)\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for command in (
        ["tools/make_report.py", run],
        ["tools/compare_runs.py", run, "--draws", "5"],
    ):
        words = [sys.executable, "-c", poison, *map(str, command)]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        if "compare" in str(command[0]):
            assert done.returncode == 2
            assert done.stderr.splitlines()[-1].startswith("error: there is only one side")
        else:
            assert done.returncode == 0, done.stderr
