"""tools/draw_predictions.py finds the dataset of a run in its config."""

import argparse
import json
from pathlib import Path

import pytest

from det_transfer.errors import UserError
from det_transfer.run_folder import PredictionWriter, eval_folder

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def draw(tiny_coco, tmp_path, monkeypatch):
    """Call the tool's main on a run that was evaluated on the tiny dataset."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import draw_predictions

    run = tmp_path / "run"
    with PredictionWriter(eval_folder(run, "tiny") / "predictions/part-0.npz") as writer:
        writer.add(1, [1], [0.9], [[5, 5, 20, 20]])
    datasets = {
        "CUSTOM": [["tiny", *map(str, tiny_coco)]],
        "TRAIN": ["not_here_any_more"],
        "TEST": ["tiny"],
    }
    (run / "config.yaml").write_text(json.dumps({"DATASETS": datasets}))  # json is YAML

    def call(**options):
        given = {"run": str(run), "dataset": None, "json": None, "images": None}
        given |= {"count": 2, "min_score": 0.4, **options}
        draw_predictions.main(argparse.Namespace(**given))
        return sorted((run / "pictures").iterdir())

    return call


def test_dataset_from_the_config(draw):
    assert len(draw()) == 2


def test_dataset_from_the_command_line(draw, tiny_coco, tmp_path):
    (tmp_path / "run/config.yaml").unlink()
    given = {"dataset": "tiny", "json": str(tiny_coco[0]), "images": str(tiny_coco[1])}
    assert len(draw(**given, count=3)) == 3
    with pytest.raises(UserError, match="go together"):
        draw(json=str(tiny_coco[0]))


def test_what_cannot_be_drawn(draw, tmp_path):
    with pytest.raises(UserError, match="tinny is not registered; did you mean tiny"):
        draw(dataset="tinny")
    (tmp_path / "run/eval/tiny/predictions/part-0.npz").unlink()
    with pytest.raises(UserError, match="has no predictions; tools"):
        draw()
