"""The quickstart's own logic: five lines, going on after a break, nothing done twice."""

import importlib.util
from pathlib import Path

import pytest

from det_transfer import run_folder

ROOT = Path(__file__).parent.parent.parent
RESULTS = {"bbox": {"AP": 35.16, "AP50": 53.7, "APr": 7.75, "APc": None, "APf": 51.4}}


@pytest.fixture
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "tools" / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(folder, status, **more):
    content = {"status": status, **more}
    run_folder.write_json(folder / run_folder.RUN, content)


def test_five_lines_with_the_numbers_of_the_run(quickstart, tmp_path):
    record(
        tmp_path,
        "finished",
        results=RESULTS,
        seconds={"training": 301.2, "evaluation": 45.0},
        peak_memory_bytes={"host": 3_000_000_000},
    )
    lines = quickstart.summary(tmp_path, [tmp_path / "pictures" / "a.jpg"]).splitlines()
    assert len(lines) == 5
    assert "Box AP 35.2 (rare 7.8, common -, frequent 51.4), AP50 53.7" in lines[0]
    assert "training 5 min 01 s, evaluation 0 min 45 s; peak memory 3.0 GB" in lines[1]
    assert f"{tmp_path}/pictures: 1 images" in lines[2]
    assert "results.json" in lines[3]
    assert "model_final.pth" in lines[3]
    assert "DATASETS.CUSTOM" in lines[4]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, []),
        ("running", ["--resume"]),
        ("interrupted", ["--resume"]),
        ("failed", ["--resume"]),
        ("finished", None),
    ],
)
def test_goes_on_where_it_was(quickstart, tmp_path, monkeypatch, status, expected):
    calls = []
    monkeypatch.setattr(quickstart, "call", lambda *command: calls.append(command))
    run = tmp_path / "run"
    if status:
        record(run, status)
    quickstart.train(run, "configs/quickstart.yaml", ["SEED", "2"])
    if expected is None:
        assert calls == []
        return
    (command,) = calls
    assert [word for word in command if word == "--resume"] == expected
    assert command[-4:] == ("OUTPUT_DIR", str(run), "SEED", "2")


def test_a_program_that_fails_ends_it_with_its_exit_code(quickstart, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit(2)")
    with pytest.raises(SystemExit) as end:
        quickstart.call(str(script))
    assert end.value.code == 2
