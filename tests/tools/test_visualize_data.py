"""tools/visualize_data.py: each image as it is annotated beside what the loader makes of it."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from det_transfer.engine.launch import run
from det_transfer.report.drawing import Shape, annotated
from tools import visualize_data

SIDE = 128


@pytest.fixture
def draw(monkeypatch, tmp_path, tiny_coco):
    """Draws sheets of the tiny dataset, 128 px a picture."""

    def start(*words, output="sheet.png", code=0):
        opts = [
            *("DATASETS.CUSTOM", [["mine", *map(str, tiny_coco)]]),
            *("DATASETS.TRAIN", "('mine',)", "INPUT.LSJ.SIZE", SIDE),
        ]
        given = ["--config-file", "configs/frozen_cascade_lvis.yaml", "--side", SIDE]
        argv = ["--output", tmp_path / output, *given, *words, *opts]
        argv += ["MODEL.ROI_HEADS.NUM_CLASSES", 0]
        monkeypatch.setattr(sys, "argv", ["visualize_data.py", *map(str, argv)])
        assert run(lambda: visualize_data.main(visualize_data.parse())) == code
        path = tmp_path / output
        return np.asarray(Image.open(path).convert("RGB")).astype(int) if path.exists() else None

    return start


def test_a_row_an_image_with_the_same_content_each_time(draw, capsys):
    sheet = draw("--count", 3)
    assert "3 images before and after" in capsys.readouterr().out
    gap, bar = 8, 20
    fed = slice(SIDE + gap, None)
    rows = [slice(k * (bar + SIDE + gap) + bar, (k + 1) * (bar + SIDE + gap) - gap) for k in (1, 2)]
    assert sheet.shape[1] == 2 * SIDE + gap
    assert all(sheet[row, fed].std() > 10 for row in rows)
    assert (draw("--count", 3) == sheet).all()


def test_from_an_iteration_on_and_without_pasting(draw):
    first = draw("--count", 2)
    assert (draw("--count", 2, "--iteration", 5) != first).any()
    plain = draw("--count", 2, "INPUT.COPY_PASTE.ENABLED", False)
    assert (plain[20 : 20 + SIDE, :SIDE] == first[20 : 20 + SIDE, :SIDE]).all()  # as annotated
    assert (plain != first).any()


def test_polygons_and_pool(draw):
    plain = ["INPUT.COPY_PASTE.ENABLED", False]
    bitmasks = draw("--count", 1, *plain)
    assert np.abs(draw("--count", 1, *plain, "INPUT.MASK_FORMAT", "polygon") - bitmasks).mean() < 2
    assert draw("--count", 1, "INPUT.COPY_PASTE.SOURCE", "pool") is not None


def test_what_was_pasted_has_a_white_and_black_edge():
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    shape = Shape(0, "a", (20, 20, 20, 20), mask)
    for outlined in (False, True):
        drawn = np.asarray(annotated(grey, "one", [replace(shape, outlined=outlined)]))
        below = drawn[20:][41:45, 30]
        for colour in (0, 255):
            assert (below == colour).all(axis=-1).any() == outlined


def test_a_mistake_in_the_config(draw, capsys):
    draw("INPUT.COPY_PASTE.SOURCE", "pol", code=2)
    assert "INPUT.COPY_PASTE.SOURCE is 'pol'" in capsys.readouterr().err


def test_a_picture_of_no_known_kind(draw, capsys):
    with pytest.raises(SystemExit):
        draw(output="sheet.svg")
    assert "does not end in .jpg" in capsys.readouterr().err
