"""Real COCO and LVIS annotations, with predictions that are these annotations, disturbed."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from det_transfer.evaluation import Detections, load_backend

SHARED = Path(__file__).parents[2] / "../shared/data"


def disturbed(content, rng):
    """Each annotation twice: moved by some pixels, with another class at times; mask of the box."""
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    classes = [c["id"] for c in content["categories"]]
    rows = []
    for annotation in content["annotations"] * 2:
        x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, 2, 4)
        box = [x, y, max(w, 1), max(h, 1)]
        category_id = annotation["category_id"] if rng.random() < 0.8 else rng.choice(classes)
        corners = [x, y, x + w, y, x + w, y + h, x, y + h]
        rle = mask_util.frPyObjects([corners], *sizes[annotation["image_id"]])[0]
        rows.append((annotation["image_id"], category_id, rng.random(), box, rle))
    image_ids, category_ids, scores, boxes, rles = zip(*rows, strict=True)
    return Detections(
        np.array(image_ids),
        np.array(category_ids),
        np.array(scores, np.float32),
        np.array(boxes, np.float32),
        list(rles),
    )


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("minicoco/annotations/instances_val2017.json", "coco"),
        ("lvis_v0.5/lvis_v0.5_val_9.json", "lvis"),
    ],
)
def test_hotcoco_equals_the_official_tools_on_real_annotations(path, protocol):
    path = SHARED / path
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    content = json.loads(path.read_text())
    found = disturbed(content, np.random.default_rng(0))
    limits = (1, 10, 100) if protocol == "coco" else (300,)
    fast, reference = (load_backend(n, str(path), protocol) for n in ("hotcoco", "reference"))
    for task in ("bbox", "segm"):
        got, wanted = (b.accumulate(found, task, limits) for b in (fast, reference))
        assert np.nanmean(wanted.precision) > 0.05
        np.testing.assert_allclose(got.precision, wanted.precision, rtol=0, atol=1e-12)
        np.testing.assert_allclose(got.recall, wanted.recall, rtol=0, atol=1e-12)
