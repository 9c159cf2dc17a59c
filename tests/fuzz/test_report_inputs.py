"""What lies in a run folder and a plan folder, as the pages read it."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from damage import broken, damaged, many, some, told
from hypothesis import given
from hypothesis import strategies as st

from det_transfer import run_folder
from det_transfer.report.collect import collect
from det_transfer.report.conditions import Said
from det_transfer.report.run_page import make_report
from det_transfer.report.transferability.reading import read_experiment
from det_transfer.report.truth import read_found, read_truth
from det_transfer.testing import make_tiny_dataset

sys.path.append(str(Path(__file__).parents[1] / "report"))
from made_up_runs import make_run
from made_up_transfer import make_experiment

RESULTS = {
    "protocol": "coco",
    "max_dets": [1, 10, 100],
    "metrics": {"bbox": {"AP": 30.0, "AP50": 50.0, "APs": None}},
}
FEATURES = {
    "data": {"name": "set", "images": 3, "classes": 2},
    "stages": [
        {"stage": "res4", "cka": 0.9, "weights_distance": 0.1, "knn": {"before": 1.0, "after": 2.0}}
    ],
}
FROZEN = {"verdict": "unchanged", "tensors": 9, "fingerprint": "12ab", "changed": []}
CATEGORIES = (
    "task,id,name,frequency,image_count,n_gt,AP,AP50,AP75,AR\n"
    "bbox,1,cat,r,2,4,30.0,50.0,28.0,40.0\n"
    "bbox,2,dog,f,9,5,,,,\n"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, and the content of each of its files."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "run_s1", frozen=FROZEN)
    evaluation = run_folder.eval_folder(folder, "made_up")
    evaluation.mkdir(parents=True)
    (evaluation / "results.json").write_text(json.dumps(RESULTS))
    (evaluation / "per_category.csv").write_text(CATEGORIES)
    (folder / run_folder.FEATURES).write_text(json.dumps(FEATURES))
    (folder / run_folder.TRAIN_CLASSES).write_text("name,images,objects\ncat,2,5\ndog,9,9\n")
    curves = {"precision": np.ones((1, 101, 2)), "recall": np.linspace(0, 1, 101)}
    np.savez(evaluation / "curves.npz", **curves)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return folder, {path: path.read_bytes() for path in files}


def restore(files):
    for path, content in files.items():
        path.write_bytes(content)


def shown(folder):
    assert make_report(folder).stat().st_size > 1000


@some
@given(st.data())
def test_damaged_json_of_a_run(run, data):
    folder, files = run
    restore(files)
    path = data.draw(st.sampled_from([p for p in files if p.suffix in (".json", ".yaml")]))
    if path.name == run_folder.METRICS:
        rows = [json.loads(line) for line in files[path].decode().splitlines()[-3:]]
        damage = data.draw(damaged(rows))
        content = "\n".join(
            json.dumps(r) for r in (damage if isinstance(damage, list) else [damage])
        )
    else:
        content = json.dumps(data.draw(damaged(json.loads(files[path]))))
    path.write_text(content)
    told(shown, folder)
    told(collect, [folder], folder, Said("t", "q"))


@some
@given(st.data())
def test_broken_files_of_a_run(run, data):
    folder, files = run
    restore(files)
    path = data.draw(st.sampled_from(sorted(files)))
    path.write_bytes(data.draw(broken(files[path])))
    told(shown, folder)


@some
@given(st.data())
def test_damaged_tables_of_a_run(run, data):
    folder, files = run
    restore(files)
    path = data.draw(st.sampled_from([p for p in files if p.suffix == ".csv"]))
    rows = data.draw(damaged(list(csv.reader(io.StringIO(files[path].decode())))))
    with path.open("w", newline="", encoding="utf-8") as file:
        for row in rows if isinstance(rows, list) else [rows]:
            file.write(",".join(map(str, row)) if isinstance(row, list) else str(row))
            file.write("\n")
    told(shown, folder)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """A run folder, the file of its predictions and the truth that they are of."""
    folder = tmp_path_factory.mktemp("predictions")
    file, _ = make_tiny_dataset(folder, images=3, classes=2)
    truth = read_truth(file)
    part = run_folder.eval_folder(folder, "made_up") / "predictions/part-0.npz"
    with run_folder.PredictionWriter(part) as writer:
        for image in truth.image_ids.tolist():
            rle = {"size": [96, 128], "counts": b"5d0"}
            writer.add(image, [1, 2], [0.9, 0.1], [[0, 0, 9, 9], [5, 5, 9, 9]], [rle, rle])
    return folder, part, part.read_bytes(), truth


@many
@given(st.data())
def test_broken_predictions(predictions, data):
    folder, part, content, truth = predictions
    part.write_bytes(data.draw(broken(content)))
    masks = data.draw(st.booleans())
    found = told(read_found, folder, "made_up", truth, masks=masks)
    if found is not None:
        assert len(found.boxes) == len(found.scores) == len(found)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A plan folder of a transferability experiment, and what its file says."""
    folder = make_experiment(tmp_path_factory.mktemp("transfer") / "plan")
    return folder, json.loads((folder / "transferability.json").read_text())


@many
@given(st.data())
def test_descriptions_of_experiments(experiment, data):
    folder, content = experiment
    content = {**content, "runs": content["runs"][:6]}
    (folder / "transferability.json").write_text(json.dumps(data.draw(damaged(content))))
    found = told(read_experiment, folder)
    if found is not None:
        assert found.finished
        assert [found.of(treatment, kind) for treatment in ("base", "AnB") for kind in found.kinds]
        assert found.cuts is not None
