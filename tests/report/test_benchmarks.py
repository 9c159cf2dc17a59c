"""The page of benchmarks: every number of a json stands in a group of its own kind."""

from pathlib import Path

import pytest

from det_transfer.report.benchmarks import Measured, measured, write_page
from det_transfer.run_folder import read_json

ROOT = Path(__file__).parents[2]
SPREAD = {"median": 2.0, "min": 1.0, "max": 4.0}


def named(results):
    return {what: [n.name for n in numbers] for what, numbers in measured(results).items()}


def test_tables_of_sides():
    results = {"seconds of a step:": {"ours": SPREAD, "stock": 3.0}, "times": {"stock / ours": 1.5}}
    found = measured(results)
    assert found["seconds of a step"] == [
        Measured("ours", 2.0, 1.0, 4.0),
        Measured("stock", 3.0, 3.0, 3.0),
    ]
    assert found["times"] == [Measured("stock / ours", 1.5, 1.5, 1.5)]


def test_tables_with_the_same_columns_are_turned():
    results = {
        "K = 1": {"seconds, apart": 2.0, "peak MB": 9},
        "K = 2": {"seconds, apart": 3.0, "peak MB": 8},
    }
    assert named(results) == {"seconds, apart": ["K = 1", "K = 2"], "peak MB": ["K = 1", "K = 2"]}
    scores = {"logme": {"s": SPREAD, "cpu_s": 1.0}, "knn": {"s": SPREAD, "cpu_s": 2.0}}
    assert named(scores) == {"s": ["logme", "knn"], "CPU seconds": ["logme", "knn"]}


def test_tables_of_one_side_are_not_turned():
    results = {"seconds:": {"ours": 2.0}, "percent of the disk:": {"ours": 50.0}}
    assert named(results) == {"seconds": ["ours"], "percent of the disk": ["ours"]}


def test_rows_go_by_their_units():
    rows = [
        {
            "protocol": "lvis",
            "task": "bbox",
            "ours": {"call_s": SPREAD, "call_cpu_s": SPREAD, "peak_mb": 5, "metrics": {"AP": 1}},
            "official_over_ours": {"call_s": 7.0},
            "largest_difference": 0.0,
        },
        {"side": "stream", "images_per_s": 3.0, "goal": None, "fast": True, "mb_with_4_workers": 9},
    ]
    assert named(rows) == {
        "seconds": ["lvis bbox ours call"],
        "CPU seconds": ["lvis bbox ours call"],
        "MB": ["lvis bbox ours peak", "stream with 4 workers"],
        "times": ["lvis bbox official over ours call s"],
        "a second": ["stream images"],
    }


def test_every_committed_benchmark_has_bars():
    files = sorted((ROOT / "docs/results").glob("benchmark_*.json"))
    assert files
    for file in files:
        groups = measured(read_json(file)["results"])
        assert groups
        assert all(n.low <= n.value <= n.high for g in groups.values() for n in g), file
        assert all(n.name for g in groups.values() for n in g), file


@pytest.fixture
def report():
    return {
        "title": "Benchmark: steps <b>",
        "command": "python tools/benchmarks/steps.py",
        "machine": {"cpu": "some cpu", "cores": 2},
        "versions": {"python": "3.11", "torch": "2.6"},
        "results": {
            "seconds:": {"ours": SPREAD, "a side with a long name / another of that kind": 1.0}
        },
    }


def test_the_page(tmp_path, report):
    many = {**report, "results": {"parts": {str(k): k for k in range(99)}}}
    path = tmp_path / "page.html"
    write_page(path, {"steps": report, "many": many}, {"growth": "no memory left"})
    text = path.read_text()
    assert text.count("<svg") == 1  # of 99 bars none
    for words in (
        "steps &lt;b&gt;",
        "some cpu",
        "growth: no memory left",
        "2 benchmarks; 1 could not run",
    ):
        assert words in text
    assert "python tools/benchmarks/steps.py" in text
