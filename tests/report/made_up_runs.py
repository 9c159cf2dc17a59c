"""Run folders as training leaves them, with numbers of the tests' own."""

import json
from pathlib import Path

from PIL import Image

METRICS = {"AP": 30.0, "AP50": 50.0, "AP75": 28.0, "APs": None, "APm": 20.0, "APl": 40.0}


def make_run(folder, seed=1, ap=30.0, *, lr=0.01, mode="frozen", pictures=0, **changed):
    """Write a finished run; `changed` replaces entries of run.json."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    record = {
        "status": "finished",
        "command": f"tools/train_net.py OUTPUT_DIR {folder} SEED {seed}",
        "seed": seed,
        "processes": 1,
        "device": "cpu, 1 threads",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "reuse": [
            {"module": "backbone.bottom_up", "parameters": 3_000_000, "trainable": 0, "norm": "BN"},
            {"module": "roi_heads", "parameters": 1_000_000, "trainable": 1_000_000, "norm": "-"},
        ],
        "seconds": {"training": 100.0 + seed, "evaluation": 20.0, "step_median": 0.25},
        "ended": "2026-01-02T03:04:05+00:00",
        "start_iteration": 0,
        "max_iteration": 200,
        "weights": f"{folder.parent}/weights.pth",
        "precision": "fp32",
        "peak_memory_bytes": {"host": 2_000_000_000},
        "results": {"bbox": {**METRICS, "AP": ap, "AP-cat": 99.0}},
        **changed,
    }
    config = {
        "SEED": seed,
        "OUTPUT_DIR": str(folder),
        "SOLVER": {"IMS_PER_BATCH": 4, "BASE_LR": lr, "STEPS": [100, 150]},
        "MODEL": {"REUSE": {"MODE": mode}},
        "DATASETS": {"TEST": ["made_up"]},
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(json.dumps(config))  # json is YAML
    losses = [{"iteration": i, "total_loss": 100 / (i + 1)} for i in range(0, 200)]
    lines = [json.dumps(row) for row in [*losses, {"iteration": 200, "bbox/AP": ap}]]
    (folder / "metrics.json").write_text("\n".join(lines) + "\n")
    for i in range(pictures):
        path = folder / "pictures" / f"made_up_{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        noise = Image.effect_noise((1400, 700), 60).convert("RGB")
        noise.save(path, quality=95)
    return folder
