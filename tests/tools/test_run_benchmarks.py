"""`make benchmark`: every script is in the suite, and one that fails does not end it."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import run_benchmarks  # noqa: E402

GOOD = """
import json, sys
report = {"title": "made up", "command": "x", "machine": {}, "versions": {}}
report["results"] = {"seconds:": {"ours": 1.0}}
json.dump(report, open(sys.argv[sys.argv.index("--output") + 1], "w"))
"""


def test_every_script_is_in_the_suite():
    scripts = {path.stem for path in (ROOT / "tools/benchmarks").glob("*.py")} - {
        "measurements",
        "sides",
    }
    assert {b.script for b in run_benchmarks.SUITE.values()} == scripts


@pytest.fixture
def suite(tmp_path, monkeypatch):
    folder = tmp_path / "tools/benchmarks"
    folder.mkdir(parents=True)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/prepare_openmoji.py").touch()
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text("raise SystemExit('no luck')")
    made = {"bad": run_benchmarks.Benchmark("bad"), "good": run_benchmarks.Benchmark("good")}
    monkeypatch.setattr(run_benchmarks, "ROOT", tmp_path)
    monkeypatch.setattr(run_benchmarks, "SUITE", made)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["run_benchmarks.py", "--output", str(tmp_path), *words])
        with pytest.raises(SystemExit) as stopped:
            sys.exit(run_benchmarks.run(run_benchmarks.main, run_benchmarks.parse()))
        return stopped.value.code, (tmp_path / "benchmarks.html")

    return call


def test_one_that_fails_does_not_end_the_suite(suite, tmp_path, capfd):
    code, page = suite()
    assert code == 1
    assert "failed  bad: no luck" in capfd.readouterr().out
    assert json.loads((tmp_path / "benchmark_good.json").read_text())["title"] == "made up"
    assert "bad: no luck" in page.read_text()
    code, page = suite("--page-only")
    assert code == 0
    assert "made up" in page.read_text()


def test_no_sizes_for_a_gpu(suite, capfd):
    assert suite("--only", "good", "--device", "cuda")[0] == 2
    assert "--only good: none has sizes for --device cuda" in capfd.readouterr().err
