"""Configs, plans, splits and compositions."""

from pathlib import Path

import pytest
import yaml
from damage import broken, damaged, many, told
from hypothesis import given
from hypothesis import strategies as st

from det_transfer.classification.class_splits import halves_of, keep_halves, read_split
from det_transfer.classification.transfer_plan import SECTION, expand
from det_transfer.composition.file import read_composition
from det_transfer.config import load_config, validate
from det_transfer.engine.plan import read_plan
from det_transfer.testing import make_tiny_images

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "tests/engine/tiny.yaml").read_text())
PLAN = {
    "program": "tools/train_net.py",
    "config": str(ROOT / "tests/engine/tiny.yaml"),
    "seeds": [1, 2],
    "options": {"SOLVER.BASE_LR": 0.1, "DATASETS.TRAIN": ["a", "b"]},
    "runs": {
        "first": {"grid": {"mode": {"frozen": {"MODEL.REUSE.MODE": "frozen"}, "other": {}}}},
        "second": {
            "needs": "first",
            "options": {"MODEL.WEIGHTS": "{first}/model_final.pth"},
            "grid": {"mode": {"frozen": {}}},
            "exclude": [{"mode": "other"}],
        },
    },
}
COMPOSITION = {
    "fingerprint": "12ab",
    "tasks": {"cells": {"run": "../cells", "weights": "model_final.pth"}, "b": {"run": "b"}},
    "input": {"min_size": 320, "max_size": 480},
}
CLASSES = ("ant", "bee", "cat", "dog", "eel")
SPLITS = {
    "drawn": {"kind": "random", "seed": 0},
    "given": {"kind": "file", "A": "a.txt", "B": "b.txt"},
    "kinds": {"kind": "dissimilar", "file": "kinds.tsv", "A": "land", "B": "water"},
}
FILES = {
    "a.txt": "ant\nbee\n",
    "b.txt": "cat\ndog\n",
    "kinds.tsv": "ant\tland\nbee\tland\ncat\twater\ndog\twater\n",
}


def write(path, content):
    path.write_text(yaml.dump(content, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


def checked_config(path):
    config = load_config(str(path))
    validate(config.cfg, config.explicit)


@many
@given(st.data())
def test_configs(folder, data):
    told(checked_config, write(folder / "config.yaml", data.draw(damaged(CONFIG))))


@many
@given(st.data())
def test_broken_configs(folder, data):
    path = folder / "config.yaml"
    path.write_bytes(data.draw(broken(yaml.dump(CONFIG).encode())))
    told(checked_config, path)


@many
@given(st.data())
def test_plans(folder, data):
    told(read_plan, write(folder / "plan.yaml", data.draw(damaged(PLAN))))


@many
@given(st.data())
def test_broken_plans(folder, data):
    path = folder / "plan.yaml"
    path.write_bytes(data.draw(broken(yaml.dump(PLAN).encode())))
    told(read_plan, path)


@many
@given(st.data())
def test_compositions(folder, data):
    told(read_composition, write(folder / "composition.yaml", data.draw(damaged(COMPOSITION))))


@many
@given(st.data())
def test_splits(folder, data):
    for name, content in FILES.items():
        (folder / name).write_text(content)
    name = data.draw(st.sampled_from(sorted(SPLITS)))
    split = told(read_split, name, data.draw(damaged(SPLITS[name])))
    if split is not None:
        told(halves_of, split, CLASSES, str(folder))


@many
@given(st.data())
def test_files_of_splits(folder, data):
    for name, content in FILES.items():
        (folder / name).write_bytes(data.draw(broken(content.encode())))
    for name in ("given", "kinds"):
        told(halves_of, read_split(name, SPLITS[name]), CLASSES, str(folder))


@many
@given(st.data())
def test_kept_splits(folder, data):
    """What a plan folder says of its halves, changed behind the plan's back."""
    halves = halves_of(read_split("drawn", SPLITS["drawn"]), CLASSES)
    files = [folder / "drawn.tsv", folder / "SHA256SUMS"]
    for file in files:
        file.unlink(missing_ok=True)
    keep_halves(folder, "drawn", halves)
    changed = data.draw(st.sampled_from(files))
    changed.write_bytes(data.draw(broken(changed.read_bytes())))
    told(keep_halves, folder, "drawn", halves)


@pytest.fixture(scope="module")
def transfer_plan(folder):
    """A plan of a transferability experiment on a few images."""
    images = make_tiny_images(folder / "images", classes=4, per_class=2)
    return {
        "program": "tools/train_classifier.py",
        "config": str(ROOT / "tests/classification/tiny_classifier.yaml"),
        SECTION: {
            "train": ["images", str(images), "train"],
            "test": ["images", str(images), "test"],
            "splits": {"drawn": SPLITS["drawn"]},
            "layers": [1, 2],
            "treatments": ["BnB", "AnB+"],
            "seeds": [0],
            "directions": ["A"],
            "extra": [0],
            "shots": [None, 1],
        },
    }


@many
@given(st.data())
def test_plans_of_transfer(folder, transfer_plan, data):
    content = {**transfer_plan, SECTION: data.draw(damaged(transfer_plan[SECTION]))}
    path = write(folder / "transfer.yaml", content)
    told(read_plan, path, folder / "runs", sections={SECTION: expand})
