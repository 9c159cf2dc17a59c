"""tools/run_growth.py in this process: what it ends with."""

from pathlib import Path

import pytest
import yaml

from det_transfer.engine.launch import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(monkeypatch, capsys):
    """The tool: (exit code, stdout, stderr)."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import run_growth

    def program(*words):
        args = run_growth.parse_args([str(word) for word in words])
        try:
            code = run(run_growth.main, args)
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return program


def test_a_plan_whose_only_run_fails_has_failed(call, tmp_path):
    """Not a mistake in the plan, though there is nothing to make a page of."""
    plan = {
        "program": str(ROOT / "tests/engine/fake_program.py"),
        "output": str(tmp_path / "growth_table1"),
        "options": {"SOLVER.MAX_ITER": 2},
        "runs": {"bug": None},
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    code, out, _ = call(path)
    assert code == 1
    assert "failed: bug: exit code 1: RuntimeError: a bug" in out
    assert out.splitlines()[-1].endswith("results.csv has no finished run yet")


def test_what_cannot_be_begun(call, tmp_path):
    assert call()[0] == 2
    code, _, err = call("--relations", tmp_path / "nowhere")
    assert code == 2
    assert "there is no such folder of a plan" in err
