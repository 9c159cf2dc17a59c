"""A plan of both programs: a classifier's trunk, and a detector on it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from det_transfer import run_folder
from det_transfer.testing import make_tiny_images

ROOT = Path(__file__).parent.parent.parent
VIEW = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530],
    "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
}


@pytest.mark.slow
def test_a_classifier_then_detectors(tiny_coco, tmp_path):
    images = str(make_tiny_images(tmp_path / "shapes"))
    sets = [[name, "images", images, name] for name in ("train", "test")]
    plan = {
        "runs": {
            "pretrained": {
                "program": "tools/train_classifier.py",
                "config": str(ROOT / "tests" / "classification" / "tiny_classifier.yaml"),
                "options": {"DATASETS.CLASSIFICATION": sets},
                "grid": {"wrong": {0: {}, 50: {"DATASETS.LABEL_NOISE": 0.5}}},
            },
            "detector": {
                "needs": "pretrained",
                "config": str(ROOT / "tests" / "engine" / "tiny.yaml"),
                "options": {
                    **VIEW,
                    "MODEL.WEIGHTS": "{pretrained}/model_final.pth",
                    "MODEL.TRUNK.NAME": "build_plain_backbone",
                    "MODEL.PLAIN.NAME": "compact_alexnet",
                    "MODEL.PLAIN.COMPACT_WIDTH": 4,
                    "MODEL.PLAIN.OUT_FEATURES": ["res3", "res4"],
                    "DATASETS.CUSTOM": [["tiny", *map(str, tiny_coco)]],
                },
                "seeds": [1],
                "grid": {
                    "wrong": {0: {}, 50: {}},
                    "cut": {
                        "3": {},
                        "2+": {"MODEL.REUSE.MODE": "finetune", "MODEL.REUSE.LOAD_STAGES": 2},
                    },
                },
            },
        }
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    done = subprocess.run(
        [sys.executable, "tools/run_plan.py", path, "--output", tmp_path / "out"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = {r["run"]: r for r in csv.DictReader((tmp_path / "out" / "results.csv").open())}
    assert {row["status"] for row in rows.values()} == {"finished"}
    assert rows["pretrained_50"]["accuracy/top1"]
    assert rows["detector_50_2+_s1"]["bbox/AP"]
    record = run_folder.read_json(tmp_path / "out" / "pretrained_50" / "run.json")
    assert record["label_noise"]["sets"]["train"] == {"exchanged": 12, "of": 24}
    for name, counts in (("3", (10, 0)), ("2+", (4, 6))):
        trunk = run_folder.read_json(tmp_path / "out" / f"detector_0_{name}_s1" / "run.json")[
            "trunk"
        ]
        assert (trunk["loaded"], trunk["left_as_initialised"]) == counts
