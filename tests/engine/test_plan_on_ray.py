"""A plan on a Ray cluster of two nodes on this machine."""

import csv
import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_program.py"


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


def test_a_plan_on_two_nodes(cluster, tmp_path):
    text = f"""
        program: {FAKE}
        output: {tmp_path / "runs"}
        options: {{SOLVER.MAX_ITER: 40, SOLVER.BASE_LR: 0.05}}
        runs:
          first: {{seeds: [1, 2, 3, 4]}}
          second:
            seeds: [1, 2, 3, 4]
            needs: first
            options: {{MODEL.WEIGHTS: "{{first}}/model_final.pth"}}
          bug: {{}}
          after: {{needs: bug}}
    """
    path = tmp_path / "plan.yaml"
    path.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, "tools/run_plan.py", str(path), "--ray", cluster],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr  # of the bug
    assert "not started: after, which needs bug" in done.stdout
    rows = {row["run"]: row for row in csv.DictReader((tmp_path / "runs/results.csv").open())}
    finished = [name for name, row in rows.items() if row["status"] == "finished"]
    assert len(finished) == 8
    assert rows["bug"]["status"] == "failed"
    # Two at a time, since there are two nodes: some began before others had ended.
    ends = {
        name: (
            (tmp_path / "runs" / name / "starts.txt").stat().st_mtime,
            (tmp_path / "runs" / name / "run.json").stat().st_mtime,
        )
        for name in finished
    }
    spans = sorted(ends.values())
    assert any(b[0] < a[1] for a, b in itertools.pairwise(spans))


def test_no_cluster_is_a_line(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(f"program: {FAKE}\noutput: {tmp_path / 'runs'}\n")
    done = subprocess.run(
        [sys.executable, "tools/run_plan.py", str(path), "--ray", "127.0.0.1:1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "error: --ray 127.0.0.1:1: no cluster there" in done.stderr
