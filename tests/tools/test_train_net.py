"""tools/train_net.py as a user starts it: exit codes, plain lines, one process and two."""

import os
import subprocess
import sys
from pathlib import Path

import programs
import pytest

from det_transfer import run_folder

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "tests" / "engine" / "tiny.yaml"


def start(*command, timeout=300):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=timeout,
    )


def options(data, output):
    entries = repr([["tiny", *map(str, data)]])
    return "--config-file", TINY, "DATASETS.CUSTOM", entries, "OUTPUT_DIR", output


def test_a_mistake_is_one_line_and_exit_code_2(tiny_coco, tmp_path):
    output = tmp_path / "run"
    done = start(
        sys.executable,
        "tools/train_net.py",
        *options(tiny_coco, output),
        "SOLVER.MAX_ITR",
        "3",
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: command line: there is no config key SOLVER.MAX_ITR; did you mean SOLVER.MAX_ITER?"
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert not output.exists()


def test_a_dry_run_says_the_cost_and_writes_nothing(tiny_coco, tmp_path):
    output = tmp_path / "run"
    done = programs.start("tools/train_net.py", "--dry-run", *options(tiny_coco, output))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Dry run, nothing was written." in done.stdout
    assert not output.exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "num-gpus"])
def test_two_processes(launcher, tiny_coco, tmp_path):
    """Train and evaluate in two gloo processes; each writes its own predictions."""
    output = tmp_path / "run"
    command = {
        "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        "num-gpus": (),
    }[launcher]
    flags = ("--num-gpus", "2", "--dist-url", "auto") if launcher == "num-gpus" else ()
    done = start(
        sys.executable, *command, "tools/train_net.py", *flags, *options(tiny_coco, output)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = run_folder.read_json(output / "run.json")
    assert record["status"] == "finished"
    assert record["processes"] == 2
    parts = run_folder.prediction_parts(run_folder.eval_folder(output, "tiny") / "predictions")
    assert [part.name for part in parts] == ["part-0.npz", "part-1.npz"]
    images = [set(c["images"].tolist()) for p in parts for c in run_folder.read_predictions(p)]
    assert len(images[0] | images[1]) == 8
    assert not images[0] & images[1]


@pytest.mark.slow
def test_two_processes_evaluate_the_model_that_they_save(tiny_coco, tmp_path):
    """With batch norms that train, each process has seen other images."""
    output = tmp_path / "run"
    flags = ("--num-gpus", "2", "--dist-url", "auto", *options(tiny_coco, output))
    more = ("MODEL.REUSE.MODE", "finetune", "SOLVER.MAX_ITER", "6", "SOLVER.BASE_LR", "0.02")
    low = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0001")
    done = start(sys.executable, "tools/train_net.py", *flags, *more, *low)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = run_folder.eval_folder(output, "tiny")
    together = scores(folder)
    weights = ("MODEL.WEIGHTS", output / "model_final.pth")
    alone = start(
        sys.executable,
        "tools/train_net.py",
        "--eval-only",
        *options(tiny_coco, output),
        *more,
        *low,
        *weights,
    )
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert scores(folder) == together


def scores(folder):
    """All scores of an evaluation, in order of size, one process or two."""
    parts = run_folder.prediction_parts(folder / "predictions")
    chunks = [chunk for part in parts for chunk in run_folder.read_predictions(part)]
    return sorted(score for chunk in chunks for score in chunk["score"].tolist())


@pytest.mark.slow
def test_a_mistake_in_two_processes_is_said_once(tiny_coco, tmp_path):
    done = start(
        sys.executable,
        "tools/train_net.py",
        "--num-gpus",
        "2",
        "--dist-url",
        "auto",
        *options(tiny_coco, tmp_path / "run"),
        "SOLVER.IMS_PER_BATCH",
        "3",
    )
    assert done.returncode == 2
    assert done.stderr.count("cannot be divided among 2 processes") == 1
