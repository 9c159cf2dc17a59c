"""The programs of docs/examples, copied to a folder of their own and run as another project's."""

import shutil
from pathlib import Path

import programs
import pytest
import torch

import det_transfer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SMALL = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TRAIN", "(96,)"]
SMALL += ["INPUT.MAX_SIZE_TRAIN", "128", "DATALOADER.NUM_WORKERS", "0", "MODEL.NASFPN.REPEATS", "1"]
LAZY = ["train.max_iter=2", "loader.total_batch_size=2", "size=96", "loader.num_workers=0"]


@pytest.fixture
def elsewhere(tmp_path):
    """A project that has the examples and nothing else of ours."""
    for path in EXAMPLES.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path


def start(folder, program, data, *options):
    done = programs.start(program, *data, "out", *options, folder=folder, seconds=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_loop_of_their_own(elsewhere, tiny_coco):
    said = start(elsewhere, "plain_loop.py", tiny_coco, *SMALL)
    assert "frozen tensors: unchanged" in said
    assert "trainable" in said
    assert len(list((elsewhere / "out").glob("frozen-*.pth"))) == 1
    # What it leaves is a run folder.
    model = det_transfer.load(elsewhere / "out", device="cpu")
    assert model.cfg.MODEL.REUSE.MODE == "adapters"
    assert len(model(next(tiny_coco[1].iterdir())).scores) >= 0


def test_a_lazy_config(elsewhere, tiny_coco):
    said = start(elsewhere, "lazy_trainer.py", tiny_coco, *LAZY, "model.backbone.repeats=1")
    assert "240 of 240 tensors" in said
    assert "frozen tensors: unchanged" in said
    saved = torch.load(elsewhere / "out" / "model_final.pth", weights_only=True)["model"]
    assert any("adapter" in name for name in saved)
    assert (elsewhere / "out" / "config.yaml").is_file()


def test_point_rend(elsewhere, tiny_coco):
    pytest.importorskip("detectron2.projects.point_rend")
    said = start(elsewhere, "point_rend.py", tiny_coco, *SMALL)
    assert "frozen tensors: unchanged" in said
    assert "point" in (elsewhere / "out" / "metrics.json").read_text()
