"""Run folders as training leaves them, with numbers of the tests' own."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from det_transfer import run_folder

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


def make_evaluated_run(folder, data, mode, seed, shift, *, name="drawn", noise=4):
    """A run that our evaluator has evaluated on `data`, its boxes up to `shift` pixels off.

    Every tenth object is missed, some get another class, and each image has `noise` detections of
    nothing.
    """
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.structures import Boxes, Instances

    from det_transfer.evaluation import build_evaluator

    content = json.loads(Path(data[0]).read_text())
    classes = [category["name"] for category in content["categories"]]
    lvis = "neg_category_ids" in content["images"][0]
    make_run(folder, seed, mode=mode, classes=classes, pictures=0)
    metadata = MetadataCatalog.get(name)
    metadata.set(json_file=str(data[0]), image_root=str(data[1]), thing_classes=classes)
    metadata.set(evaluator_type="lvis" if lvis else "coco")
    metadata.set(thing_dataset_id_to_contiguous_id={k + 1: k for k in range(len(classes))})
    try:
        output = run_folder.eval_folder(folder, name)
        evaluator = build_evaluator(name, ("bbox",), output, distributed=False)
        evaluator.reset()
        rng = np.random.default_rng([seed, len(mode)])
        for image in content["images"]:
            mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            mine = [a for a in mine if rng.random() > 0.1]
            boxes = np.array([a["bbox"] for a in mine]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            boxes += rng.uniform(-shift, shift, boxes.shape)
            corners = rng.uniform(0, 80, (noise, 2))
            boxes = np.vstack([boxes, np.c_[corners, corners + rng.uniform(5, 30, (noise, 2))]])
            labels = [a["category_id"] - 1 for a in mine]
            labels = [c if rng.random() > 0.1 else int(rng.integers(len(classes))) for c in labels]
            labels += rng.integers(len(classes), size=noise).tolist()
            scores = np.r_[rng.beta(5, 2, len(mine)), rng.beta(1, 6, noise)].round(2)
            found = Instances((image["height"], image["width"]))
            found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
            found.scores = torch.tensor(scores, dtype=torch.float32)
            found.pred_classes = torch.tensor(labels, dtype=torch.int64)
            evaluator.process([{"image_id": image["id"]}], [{"instances": found}])
        results = evaluator.evaluate()
    finally:
        MetadataCatalog.pop(name)
    counts = [
        sum(a["category_id"] == k + 1 for a in content["annotations"]) for k in range(len(classes))
    ]
    run_folder.write_train_classes(
        folder, classes, [10 ** (k + 1) for k in range(len(classes))], counts
    )
    record = run_folder.read_json(folder / run_folder.RUN)
    frozen = {"fingerprint": "0123456789abcdef", "tensors": 7, "verdict": "unchanged"}
    flat = run_folder.flat_metrics(results)
    entries = [
        {
            "iteration": i,
            "metrics": {k: None if v is None else v * i / 199 for k, v in flat.items()},
        }
        for i in (99, 199)
    ]
    record |= {"results": results, "frozen": frozen, "evaluations": entries}
    record["step_operations"] = 2_000_000_000 if mode == "frozen" else 3_000_000_000
    run_folder.write_json(folder / run_folder.RUN, record)
    return Path(folder)
