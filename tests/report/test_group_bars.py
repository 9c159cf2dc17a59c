"""README's picture: bars are the numbers of the json, and the picture is not older than they."""

import re
from pathlib import Path

import pytest

from det_transfer.errors import UserError
from det_transfer.report.curve import same_drawing
from det_transfer.report.group_bars import group_bars
from det_transfer.run_folder import read_json

ROOT = Path(__file__).parents[2]
METRICS = ["AP", "APr", "APc", "APf"]


def group(label, minutes, **metrics):
    results = {metric: {"mean": value} for metric, value in metrics.items()}
    return {"label": label, "training_s": {"mean": 60 * minutes}, "results": {"val": results}}


def test_every_number_is_written_on_its_bar():
    groups = [group("still", 2.0, bbox=None), group("moving", 7.5, bbox=None)]
    for one, values in zip(groups, [(41, 13), (52, 7)], strict=True):
        one["results"]["val"]["bbox"] = {
            metric: {"mean": value} for metric, value in zip(["AP", "APr"], values, strict=True)
        }
    svg = group_bars({"groups": groups}, ["AP", "APr"]).decode()
    written = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert {"41", "13", "52", "7", "2.0", "7.5", "still", "moving", "rare"} <= set(written)
    assert svg == group_bars({"groups": groups}, ["AP", "APr"]).decode()


def test_a_metric_that_is_not_there():
    with pytest.raises(UserError, match="'still' has no bbox/APr"):
        group_bars({"groups": [group("still", 1.0)]}, ["APr"])


def test_the_picture_is_that_of_the_json():
    content = read_json(ROOT / "docs/results/quickstart.json")
    picture = (ROOT / "docs/pictures/quickstart.svg").read_bytes()
    assert same_drawing(group_bars(content, METRICS), picture), "run make results"
