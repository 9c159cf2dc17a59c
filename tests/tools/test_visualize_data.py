"""tools/visualize_data.py: each image as it is annotated beside what the loader makes of it."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from det_transfer.data.catalog import register
from det_transfer.engine.launch import run
from det_transfer.report.drawing import Shape, annotated
from tools import visualize_data

SIDE = 128


@pytest.fixture
def draw(monkeypatch, tmp_path, tiny_coco):
    """Draws sheets of the tiny dataset, 128 px a picture."""

    def start(*words, output="sheet.png", code=0, data=tiny_coco, train="mine"):
        opts = [
            *("DATASETS.CUSTOM", [["mine", *map(str, data)]]),
            *("DATASETS.TRAIN", (train,), "INPUT.LSJ.SIZE", SIDE),
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


def test_before_is_all_that_is_annotated_as_it_is(draw, tiny_coco, tmp_path, monkeypatch):
    """Boxes that their masks do not tell, crowds, and an object of whose mask no pixel is drawn."""
    content = json.loads(tiny_coco[0].read_text())
    for annotation in content["annotations"]:
        annotation["bbox"][0] -= 1.5
    (image,) = (i for i in content["images"] if i["id"] == 1)
    whole = {"size": [96, 128], "counts": [0, 96 * 128]}
    bad = {"size": [96, 128], "counts": [5, 5]}
    point = [[40, 40, 40.1, 40, 40.1, 40.1]]
    for n, (segmentation, crowd) in enumerate(((whole, 1), (bad, 1), (point, 0))):
        more = {"segmentation": segmentation, "iscrowd": crowd, "bbox": [5 + n, 6, 70, 80]}
        content["annotations"].append({**content["annotations"][0], **more, "id": 900 + n})
    path = tmp_path / "shifted.json"
    path.write_text(
        json.dumps(
            {
                **content,
                "images": [image],
                "annotations": [a for a in content["annotations"] if a["image_id"] == 1],
            }
        )
    )
    drawn = []
    monkeypatch.setattr(
        visualize_data,
        "annotated",
        lambda picture, title, shapes, scale: drawn.append((title, shapes)) or picture,
    )
    draw("--count", 1, data=(path, tiny_coco[1]))
    (title, shapes), (_, fed) = drawn
    expected = [a for a in content["annotations"] if a["image_id"] == 1]
    assert [list(shape.box) for shape in shapes] == [a["bbox"] for a in expected]
    assert f"{len(expected) - 2} objects, 2 crowds, 128 x 96 px" in title
    assert [shape.name.endswith(" (crowd)") for shape in shapes[-3:]] == [True, True, False]
    assert shapes[-3].mask.all()
    assert not shapes[-2].mask.any()
    assert not shapes[-1].mask.any()
    assert all(shape.mask.sum() > 50 for shape in shapes[:-3])
    assert not any(shape.name.endswith("(crowd)") for shape in fed)


def test_classes_without_names_have_numbers(tiny_coco, draw, monkeypatch):
    names = []
    register("mine", *tiny_coco)
    records = DatasetCatalog.get("mine")
    DatasetCatalog.register("bare", lambda: records)
    monkeypatch.setattr(
        visualize_data, "annotated", lambda p, t, shapes, s: names.extend(shapes) or p
    )
    draw("--count", 1, train="bare")
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("bare")
    assert {shape.name for shape in names} <= {"0", "1", "2"}
    assert names


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
