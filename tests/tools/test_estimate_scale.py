"""tools/estimate_scale.py: its page is up to date, its counts are right, mistakes are told."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from det_transfer.errors import exit_code
from tools import estimate_scale

ROOT = Path(__file__).resolve().parents[2]
COUNTS = json.loads((ROOT / "docs/results/benchmark_scale.json").read_text())
CONFIGS = json.loads((ROOT / "docs/configs.json").read_text())


def estimate(*words):
    """The program, in this process."""
    output, errors = io.StringIO(), io.StringIO()
    argv = ["tools/estimate_scale.py", *map(str, words)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        code = exit_code(estimate_scale.main, estimate_scale.parse())
    return SimpleNamespace(returncode=code, stdout=output.getvalue(), stderr=errors.getvalue())


def test_the_page_is_up_to_date():
    done = estimate("--check")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_page_that_is_not(tmp_path):
    page = tmp_path / "scale.md"
    page.write_text("# Mine\n\n<!-- scale:time -->\n<!-- /scale -->\n")
    done = estimate("--check", "--page", page)
    assert done.returncode == 1
    assert "is not what" in done.stdout
    assert estimate("--page", page).returncode == 0
    assert "R101 Cascade, 72 epochs, frozen" in page.read_text()
    assert estimate("--check", "--page", page).returncode == 0


def test_all_numbers_as_json(tmp_path):
    path = tmp_path / "costs.json"
    assert estimate("--output-json", path, "--gpus", 2, 4, "--reached", 0.2).returncode == 0
    found = json.loads(path.read_text())
    assert set(found) == {"assumed", "measured", "recipes", "networks"}
    assert found["assumed"]["reached"] == {
        "value": 0.2,
        "what": "share of the peak that a step reaches",
        "source": "given",
    }
    assert found["assumed"]["cores"]["source"] != "given"
    recipe = found["recipes"]["R101 Cascade, 72 epochs, frozen"]
    assert set(recipe["gpus"]) == set(found["networks"]) == {"2", "4"}


def test_another_machine_does_not_go_into_the_page():
    done = estimate("--cores", 16)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "default machine" in done.stderr
    shown = estimate("--show", "limits", "--cores", 16)
    assert shown.returncode == 0
    assert shown.stdout.startswith("limits\n\n| recipe |")


@pytest.mark.parametrize(
    "name", ["loading", "coco-evaluation", "lvis-evaluation", "counts", "runs"]
)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ("{", "is not json"),
        ("[]", "is not of type 'object'"),
        ('{"results": [], "runs": []}', ""),
    ],
)
def test_a_json_that_is_wrong(tmp_path, name, content, said):
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
    done = estimate(f"--{name}", path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {path}")
    assert said in done.stderr


@pytest.mark.parametrize("gpus", [3, 128])
def test_a_batch_that_cannot_be_shared(gpus):
    done = estimate("--show", "limits", "--gpus", 1, gpus)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --gpus {gpus}: the ")
    assert "cannot be shared evenly" in done.stderr


def test_rates_of_one_round_or_of_several(tmp_path):
    """What is reckoned with is the median."""
    known = json.loads((ROOT / "docs/results/benchmark_data_loading.json").read_text())
    wide = {"min": 1e-3, "max": 1e3}
    for row in known["results"]:
        row["images_per_cpu_s"] = {"median": median(row["images_per_cpu_s"]), **wide}
    key = "photos a CPU second, 256 px"
    photos = {"median": median(COUNTS["results"][key]), **wide}
    counts = {**COUNTS, "results": {**COUNTS["results"], key: photos}}
    words = []
    for name, content in (("loading", known), ("counts", counts)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        words += [f"--{name}", path]
    shown = estimate("--show", "time")
    assert shown.returncode == 0
    assert estimate("--show", "time", *words) == shown


def median(value):
    return value["median"] if isinstance(value, dict) else value


def test_a_json_without_a_side(tmp_path):
    path = tmp_path / "loading.json"
    shutil.copy(ROOT / "docs/results/benchmark_data_loading.json", path)
    content = json.loads(path.read_text())
    content["results"] = [row for row in content["results"] if row["side"] != "pool"]
    path.write_text(json.dumps(content))
    done = estimate("--loading", path)
    assert (done.returncode, done.stderr) == (2, f"error: {path}: it has no side pool\n")


@pytest.mark.parametrize("name", [n for n in COUNTS["recipes"] if "stage2" not in n])
def test_counts_are_those_of_the_table_of_recipes(name):
    """Without computing as with it; there 7 masks are counted, here as many as may be."""
    counted, known = COUNTS["recipes"][name], CONFIGS[name]
    assert counted["parameters"] == known["parameters"]
    assert counted["trained"] == known["trained"]
    if not counted["masks"]:
        assert counted["step"] == pytest.approx(known["operations"], rel=0.01)
    else:
        assert counted["step"] > known["operations"]


def test_what_a_frozen_trunk_does_not_send_is_the_trunk():
    """61.6 M of R101's 132.8 M. Source: the paper's table 3."""
    counted = COUNTS["recipes"]["configs/coco/rcnn_resnetrs101_nasfpn_cascade_frozen_72ep.yaml"]
    assert (counted["parameters"] - counted["trained"]) / 1e6 == pytest.approx(61.6, abs=0.1)
