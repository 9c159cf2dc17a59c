"""The page of a transferability experiment, its two tables, the tool, and the json of results."""

import base64
import csv
import io
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_transfer import make_experiment
from PIL import Image

from det_transfer.errors import UserError
from det_transfer.report import transferability
from det_transfer.report.conditions import Said
from det_transfer.report.html import Figure, Picture, render
from det_transfer.report.results import render as render_results
from det_transfer.report.transferability import read_experiment, transferability_page
from det_transfer.report.transferability.filters import filter_pictures, grid, smoothness
from det_transfer.run_folder import write_json

ROOT = Path(__file__).parents[2]
FILE = "transferability.json"
FEW = {"cuts": (3, 7), "treatments": ("BnB", "AnB", "AnB+")}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two random splits and a dissimilar one, two seeds; one run is still to come."""
    splits = ("random0", "random1", "dissimilar")
    folder = tmp_path_factory.mktemp("transfer") / "plan"
    return make_experiment(folder, splits, skip=["random1_A7B+_s1"])


@pytest.fixture(scope="module")
def page(plan):
    return transferability_page(read_experiment(plan))


def parts(page, kind):
    return [part for section in page.sections for part in section.parts if isinstance(part, kind)]


def figure(page, title):
    return next(part for part in parts(page, Figure) if part.title == title)


def top1(plan, name):
    results = json.loads((plan / name / "eval/test/results.json").read_text())
    return results["metrics"]["accuracy"]["top1"]


# The page ----------------------------------------------------------------------------------------


def test_the_top(page):
    assert page.lead.startswith("Of the paper's 6 claims: 6 reproduced (BnB dips in the middle; ")
    assert page.subtitle == "311 of 312 runs finished · 3 splits · 2 seeds · 8 layers"
    assert [tile.label for tile in page.tiles][:2] == ["BnB dips in the middle", "AnB falls with n"]
    assert page.tiles[0].note == "points; reproduced"
    assert page.missing[0] == "random1_A7B+_s1: not run yet"
    assert (
        "dissimilar splits: one split; what another would change is in no interval" in page.missing
    )
    titles = [section.title for section in page.sections]
    assert titles[0] == "Claims"
    assert "Fewer examples, further layers" not in titles  # there are none


def test_numbers_of_the_accuracy_figure(page, plan):
    table = figure(page, "Accuracy against n, random splits").table
    assert table.head == ["mean, runs", "BnB", "BnB+", "AnB", "AnB+"]
    names = [f"random{k}_{t}_s{s}" for k in (0, 1) for s in (0, 1) for t in ("A3B", "B3A")]
    mean = statistics.fmean(top1(plan, name) for name in names)
    row = next(row for row in table.rows if row[0] == "n = 3")
    assert row[3] == f"{mean:.1f}, 8"
    last = next(row for row in table.rows if row[0] == "n = 7")
    assert last[4].endswith(", 7")  # one is still to come


def test_numbers_of_the_drop_add_up(page):
    table = figure(page, "Why accuracy drops, random splits").table
    lost = figure(page, "Difference to the base, random splits").table
    column = lost.head.index("AnB")
    for parts_of, whole in zip(table.rows, lost.rows, strict=True):
        first = [float(cell.split(" ")[0]) for cell in (*parts_of[1:], whole[column])]
        assert first[0] + first[1] == pytest.approx(-first[2], abs=0.16)  # each is rounded


def test_means_over_unlike_targets_are_said(page):
    assert "Runs are missing" in figure(page, "Accuracy against n, random splits").note
    assert "Runs are missing" not in figure(page, "Accuracy against n, dissimilar splits").note


def test_a_plan_of_one_direction(tmp_path):
    """The base of A only gives layers: it is in no mean."""
    plan = make_experiment(tmp_path / "plan", ("random0",), **FEW)
    content = json.loads((plan / FILE).read_text())
    content["runs"] = [
        run for run in content["runs"] if run["target"] == "B" or run["treatment"] == "base"
    ]
    (plan / FILE).write_text(json.dumps(content))
    experiment = read_experiment(plan)
    assert {run.target for run in experiment.bases("random")} == {"B"}
    page = transferability_page(experiment)
    accuracy = figure(page, "Accuracy against n, random splits")
    mean = statistics.fmean(top1(plan, f"random0_baseB_s{s}") for s in (0, 1))
    assert accuracy.table.rows[0][1] == f"{mean:.1f}, 2"
    assert "Runs are missing" not in accuracy.note
    assert page.missing == ["random splits: one split; what another would change is in no interval"]


def test_over_training(page, plan):
    rows = figure(page, "AnB+ minus base while training, random splits").table.rows
    gaps = [
        (top1(plan, f"random{k}_{a}3{b}+_s{s}") - top1(plan, f"random{k}_base{b}_s{s}")) / 3
        for k in (0, 1) for s in (0, 1) for a, b in ("AB", "BA")
    ]  # fmt: skip
    assert ["n = 3", "100", f"{statistics.fmean(gaps):+.1f}", "8"] in rows
    assert len([row for row in rows if row[0] == "n = 3"]) == 3


def test_the_paper_can_be_left_out(plan, page):
    without = transferability_page(read_experiment(plan), with_paper=False)
    assert "The same in the paper" not in [part.title for part in parts(without, Figure)]
    assert not any("Dashed" in part.note for part in parts(without, Figure))
    title = "Difference to the base, random splits"
    assert figure(page, title).svg.count("stroke-dasharray") > figure(without, title).svg.count(
        "stroke-dasharray"
    )
    assert figure(page, title).table == figure(without, title).table


def test_every_figure_has_its_numbers(page):
    figures = parts(page, Figure)
    assert len(figures) >= 9
    assert all(part.table.rows for part in figures)
    assert len({part.title for part in figures}) == len(figures)


@pytest.mark.parametrize("treatments", [(), ("AnB",), ("random",)])
def test_the_first_runs_of_a_plan(tmp_path, treatments):
    """One split, one seed, bases alone or with one treatment: what there is is shown."""
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,), cuts=(3,), treatments=treatments)
    text = render(transferability_page(read_experiment(plan)))
    assert "random splits: one split and one seed; what another" in text
    assert "not decided at this spread" in text
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower()


def test_fewer_examples(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,), cuts=(3,), treatments=("AnB+",))
    content = json.loads((plan / FILE).read_text())
    for run in content["runs"]:
        run["shots"] = 10
    for run in list(content["runs"]):
        if run["treatment"] == "base":  # what gives layers has all its examples
            content["runs"].append({**run, "name": f"{run['name']}_all", "shots": None})
        few = {**run, "name": f"{run['name']}_few", "shots": 5}
        content["runs"].append(few)
        (plan / few["name"]).symlink_to(plan / run["name"])
    (plan / FILE).write_text(json.dumps(content))
    experiment = read_experiment(plan)
    assert experiment.main_shots == 10
    page = transferability_page(experiment)
    table = figure(page, "Fewer examples a class, random splits").table
    assert [row[0] for row in table.rows] == ["5", "10"]
    assert table.rows[0][1] == table.rows[1][1]  # they are the same runs
    names = ("A3B+", "B3A+")
    gaps = [top1(plan, f"random0_{n}_s0") - top1(plan, f"random0_base{n[2]}_s0") for n in names]
    assert table.rows[0][1].startswith(f"{statistics.fmean(gaps):+.1f} (")


# Filters -----------------------------------------------------------------------------------------


def test_a_grid_shows_every_weight_once():
    weights = np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)
    shown = grid(weights)
    assert shown.shape == (2 * 5 - 1, 4 * 5 + 2, 4)
    assert (shown[..., 3] == 255).sum() == 5 * 16
    first = shown[:4, :4, :3].astype(int)
    low, high = weights[0].min(), weights[0].max()
    expected = np.round(255 * (weights[0].transpose(1, 2, 0) - low) / (high - low))
    np.testing.assert_array_equal(first, expected)
    assert grid(np.ones((1, 3, 2, 2), np.float32))[0, 0, 0] == 128  # flat: in the middle


def test_noise_is_not_smooth():
    rng = np.random.default_rng(0)
    assert smoothness(rng.standard_normal((500, 3, 5, 5))) == pytest.approx(0, abs=0.02)
    ramp = np.broadcast_to(np.arange(7.0), (1, 3, 7, 7))
    assert smoothness(ramp) > 0.7
    assert smoothness(np.ones((1, 3, 1, 1))) == 0


def test_pictures_of_filters(plan, page):
    found = parts(page, Picture)
    assert len(found) == 12
    assert [shows for _, shows, _, _ in found[0].images] == ["trained", "initial"]
    uri, _, width, height = found[0].images[0]
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        assert picture.size == (width, height)
        assert width >= 400


def test_filters_that_are_not_there_or_broken(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), **FEW)
    (plan / "random0_baseA_s0/filters.npz").unlink()
    (plan / "random0_baseB_s0/filters.npz").write_bytes(b"no zip")
    np.savez(plan / "random0_baseA_s1/filters.npz", trained=np.ones((2, 3)), initial=np.ones(2))
    pictures, missing = filter_pictures(read_experiment(plan))
    assert [picture.title for picture in pictures] == ["random0_baseB_s1"]
    assert "random0_baseA_s0 has no filters.npz" in missing[0]
    assert "random0_baseB_s0/filters.npz cannot be read" in missing[1]
    assert "of shape (2, 3), not (N, 3, h, w)" in missing[2]


# Tables and tool ---------------------------------------------------------------------------------


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tool(*words):
    """The tool where neither torch nor Detectron2 can be imported."""
    code = (
        "import runpy, sys; sys.modules.update(torch=None, detectron2=None); "
        f"sys.argv = ['report_transferability.py', *{list(map(str, words))!r}]; "
        f"runpy.run_path({str(ROOT / 'tools/report_transferability.py')!r}, run_name='__main__')"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_the_tool_writes_page_and_tables(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), skip=["random0_A3B_s1"], **FEW)
    done = tool(plan, "--without-paper")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {plan / 'transferability.html'} (")
    text = (plan / "transferability.html").read_text()
    assert "Made-up transfer" in text
    assert "random0_A3B_s1: not run yet" in text
    runs = {row["name"]: row for row in read_csv(plan / "transferability.csv")}
    assert len(runs) == 28
    assert runs["random0_baseB_s0"]["difference"] == ""
    row = runs["random0_A7B_s0"]
    base = top1(plan, "random0_baseB_s0")
    assert float(row["top1"]) == top1(plan, "random0_A7B_s0")
    assert float(row["difference"]) == top1(plan, "random0_A7B_s0") - base
    assert (row["treatment"], row["source"], row["n"], row["why"]) == ("AnB", "A", "7", "")
    assert runs["random0_A3B_s1"]["top1"] == runs["random0_A3B_s1"]["difference"] == ""
    assert runs["random0_A3B_s1"]["why"] == "not run yet"


def test_the_table_of_differences(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), **FEW)
    transferability.write(plan)
    rows = [
        row
        for row in read_csv(plan / "transferability_differences.csv")
        if (row["minuend"], row["subtrahend"], row["n"]) == ("AnB", "base", "7")
    ]
    pairs, (mean,) = rows[:-1], rows[-1:]
    assert [(row["target"], row["seed"]) for row in pairs] == [
        (t, s) for t in "AB" for s in "01"
    ]  # fmt: skip
    values = [float(row["difference"]) for row in pairs]
    assert (mean["split"], mean["pairs"]) == ("", "4")
    assert float(mean["difference"]) == pytest.approx(statistics.fmean(values))
    half = 3.18244630528 * statistics.stdev(values) / 2  # t(0.975, 3)
    assert float(mean["high"]) - float(mean["difference"]) == pytest.approx(half, abs=1e-6)


@pytest.mark.parametrize("what", ["nothing", "no plan", "nothing finished"])
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, what):
    folder = tmp_path / "plan"
    if what == "no plan":
        folder.mkdir()
    elif what == "nothing finished":
        make_experiment(folder, ("random0",), (0,), **FEW)
        for path in folder.glob("*/run.json"):
            path.unlink()
    done = tool(folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    assert not (folder / "transferability.html").exists()


# The json of results -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(plan, tmp_path_factory):
    """A checkout with the json of the experiment."""
    root = tmp_path_factory.mktemp("checkout")
    said = Said(
        "How transferable",
        "Where is it general?",
        ["Mind *this*."],
        "a made-up processor",
        f"tools/make_results.py transferability demo {plan}",
    )
    made_by = "python tools/run_transferability.py plan.yaml"
    content = transferability.collect(plan, root, said, made_by=made_by)
    write_json(root / "docs/results/demo.json", content)
    return root


def test_the_json(checkout, plan):
    content = json.loads((checkout / "docs/results/demo.json").read_text())
    assert content["kind"] == "transferability"
    assert content["seeds"] == [0, 1]
    assert content["machine"]["cpu"] == "a made-up processor"
    assert content["versions"]["torch"] == "2.14.1"
    assert content["measured"] == "2026-01-02"
    assert content["missing"][0] == "random1_A7B+_s1: not run yet"
    assert [claim["verdict"] for claim in content["claims"]] == ["reproduced"] * 6
    assert len(content["runs"]) == 312
    assert str(plan.parent) not in json.dumps(content)
    row = next(
        r
        for r in content["differences"]
        if (r["minuend"], r["subtrahend"], r["kind"], r["n"]) == ("AnB", "base", "random", 7)
    )
    gaps = [
        top1(plan, f"random{k}_{a}7{b}_s{s}") - top1(plan, f"random{k}_base{b}_s{s}")
        for k in (0, 1) for s in (0, 1) for a, b in ("AB", "BA")
    ]  # fmt: skip
    assert row["mean"] == pytest.approx(statistics.fmean(gaps))


def test_the_page_of_results_shows_it(checkout):
    files = render_results(checkout)
    text = files[Path("docs/results/README.md")].decode()
    content = json.loads((checkout / "docs/results/demo.json").read_text())
    claim = content["claims"][0]
    number = f"{claim['mean']:+.1f} ({claim['low']:+.1f} to {claim['high']:+.1f})"
    assert f"| BnB dips in the middle | reproduced | {number} | points | 8 | -1.7 |" in text
    assert "Not here: random1_A7B+_s1: not run yet." in text
    for expected in (
        "## How transferable",
        "Mind *this*.",
        "python tools/run_transferability.py plan.yaml",
        "| AnB - base | ",
        "pictures/demo_differences.svg",
        "| 3 to 7, random splits | ",
    ):
        assert expected in text
    drawing = files[Path("docs/results/pictures/demo_differences.svg")]
    assert b"AnB+, dissimilar" in drawing


def test_make_results_collects_and_renders(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_results

    plan = make_experiment(tmp_path / "out" / "plan", ("random0",), (0,), treatments=(), cuts=())
    root = ["--root", str(tmp_path)]
    words = ["transferability", "demo", str(plan), "--title", "T", "--question", "Q?"]
    monkeypatch.setattr(sys, "argv", ["tools/make_results.py", *root, *words])
    assert make_results.main() == 0
    monkeypatch.setattr(sys, "argv", ["tools/make_results.py", *root])
    assert make_results.main() == 0
    text = (tmp_path / "docs/results/README.md").read_text()
    assert "| BnB dips in the middle | not decided at this spread | - | points | 0 | -1.7 |" in text
    monkeypatch.setattr(sys, "argv", ["tools/make_results.py", *root, "--check"])
    assert make_results.main() == 0
    words[1] = "de/mo"
    monkeypatch.setattr(sys, "argv", ["tools/make_results.py", *root, *words])
    assert make_results.main() == 2
    assert "NAME is 'de/mo'" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no folder"):
        transferability.collect(tmp_path / "no", tmp_path, Said("T", "Q"))
