"""Pictures of predictions: how many, of what, and readable."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from det_transfer.report import draw_predictions
from det_transfer.report.drawing import _label
from det_transfer.run_folder import PredictionWriter, eval_folder


@pytest.fixture
def run(tiny_coco, tmp_path):
    """A run folder whose predictions are the ground truth at score 0.9, and noise at 0.1."""
    content = json.loads(tiny_coco[0].read_text())
    part = eval_folder(tmp_path / "run", "tiny") / "predictions" / "part-0.npz"
    with PredictionWriter(part) as writer:
        for image in content["images"]:
            found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            boxes = np.array([a["bbox"] for a in found] + [[0, 0, 5, 5]], np.float32)
            classes = [a["category_id"] for a in found] + [1]
            writer.add(image["id"], classes, [0.9] * len(found) + [0.1], boxes)
    return tmp_path / "run"


@pytest.mark.parametrize(("count", "expected"), [(3, 3), (1, 1), (50, 8)])
def test_counts_and_files(run, tiny_coco, count, expected):
    written = draw_predictions(run, "tiny", *tiny_coco, count=count)
    assert len(written) == len(set(written)) == expected
    assert {path.parent for path in written} == {run / "pictures"}
    assert sorted((run / "pictures").iterdir()) == sorted(written)
    for path in written:
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == (2 * 256 + 8, 192 + 20)  # 128 x 96 twice, magnified by 2


def test_no_predictions(tiny_coco, tmp_path):
    assert draw_predictions(tmp_path, "tiny", *tiny_coco) == []
    assert not (tmp_path / "pictures").exists()


def test_boxes_are_drawn_from_the_score_on(run, tiny_coco):
    """Perfect predictions look like the truth but for the score in the label; noise is left out."""

    def halves(path):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.float32)[20:]
        return pixels[:, :256], pixels[:, -256:]

    def share_changed(min_score):
        path = draw_predictions(run, "tiny", *tiny_coco, count=1, min_score=min_score)[0]
        truth, predicted = halves(path)
        return (np.abs(truth - predicted).max(axis=2) > 60).mean()

    nothing, perfect, noise = (share_changed(score) for score in (0.95, 0.5, 0.05))
    assert perfect < nothing
    assert perfect < noise


class Recorder(ImageDraw.ImageDraw):
    def rectangle(self, xy, **options):
        self.strip = xy
        super().rectangle(xy, **options)


@given(st.floats(-50, 400), st.floats(-50, 300), st.text("abcxyz", min_size=1, max_size=20))
def test_label_stays_inside_the_picture(left, top, text):
    canvas = Image.new("RGB", (300, 220), "white")
    draw = Recorder(canvas)
    _label(draw, text, left, top, "#E69F00", ImageFont.load_default(size=13), canvas.size, 20)
    x0, y0, x1, y1 = draw.strip
    assert 0 <= x0 < x1 <= 300
    assert 20 <= y0 < y1 <= 220
