"""Random little datasets with predictions near the truth, hard where evaluation is hard."""

import json

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from det_transfer.evaluation import Detections

HEIGHT, WIDTH = 120, 110  # pixels: boxes reach all of small, medium and large


def make_case(
    seed, images=3, categories=4, instances=12, detections=40, *, first_id=1, crowds=0.2, ties=True
):
    """A json's content in LVIS format and predictions on it.

    The last of several categories has no ground truth; federated lists are drawn at random, so a
    detection can be of a verified, a negative, a not exhaustive or an unknown category.

    Returns:
        (the json as a dict, Detections with masks)
    """
    rng = np.random.default_rng(seed)
    category_ids = [2 * c + 1 for c in range(categories)]
    image_ids = [7 * i + 3 for i in range(images)]
    with_truth = category_ids[:-1] or category_ids
    annotations = [
        _annotation(rng, first_id + k, rng.choice(image_ids), rng.choice(with_truth), crowds)
        for k in range(instances)
    ]
    rows = [_detection(rng, annotations, image_ids, category_ids) for _ in range(detections)]
    scores = rng.random(detections)
    content = {
        "images": [_image(rng, i, category_ids) for i in image_ids],
        "categories": [
            {"id": c, "name": f"class {c}", "frequency": "rcf"[c % 3], "image_count": 10 * c}
            for c in category_ids
        ],
        "annotations": annotations,
    }
    return content, Detections(
        image_ids=np.array([r[0] for r in rows], np.int64),
        category_ids=np.array([r[1] for r in rows], np.int64),
        scores=(scores.round(1) if ties else scores).astype(np.float32),
        boxes=np.array([r[2] for r in rows], np.float32).reshape(-1, 4),
        rles=[mask_util.encode(r[3]) for r in rows],
    )


def _image(rng, image_id, category_ids):
    order = rng.permutation(category_ids).tolist()
    first, second = sorted(rng.integers(0, len(order) + 1, 2))
    return {
        "id": image_id,
        "file_name": f"{image_id}.jpg",
        "height": HEIGHT,
        "width": WIDTH,
        "neg_category_ids": order[:first],
        "not_exhaustive_category_ids": order[first:second],
    }


def _box(rng):
    if rng.random() < 0.2:  # over 96^2
        return [
            int(rng.integers(0, 8)),
            int(rng.integers(0, 8)),
            *rng.integers(97, 102, 2).tolist(),
        ]
    x, y = int(rng.integers(0, WIDTH - 8)), int(rng.integers(0, HEIGHT - 8))
    return [x, y, int(rng.integers(2, WIDTH - x)), int(rng.integers(2, HEIGHT - y))]


def _mask(rng, box, holes=0.0):
    x, y, w, h = (int(v) for v in box)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y : y + h, x : x + w] = rng.random(mask[y : y + h, x : x + w].shape) >= holes
    return mask


def _annotation(rng, annotation_id, image_id, category_id, crowds):
    x, y, w, h = box = _box(rng)
    if rng.random() < 0.4:
        corners = [x, y, x + w, y, x + w, y + h, x + 0.5, y + h]
        segmentation, area = [corners], w * h - h * 0.25
    else:
        mask = _mask(rng, box, holes=0.2)
        rle = mask_util.encode(mask)
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
        area = float(mask.sum())
    return {
        "id": int(annotation_id),
        "image_id": int(image_id),
        "category_id": int(category_id),
        "bbox": box,
        "area": area,
        "iscrowd": int(rng.random() < crowds),
        "segmentation": segmentation,
    }


def _detection(rng, annotations, image_ids, category_ids):
    if annotations and rng.random() < 0.6:
        near = annotations[rng.integers(len(annotations))]
        image_id, category_id = near["image_id"], near["category_id"]
        box = np.clip(np.array(near["bbox"]) + rng.integers(-2, 3, 4), 0, None)
        box += np.array([0, 0, 1, 1])
    else:
        image_id, category_id = rng.choice(image_ids), rng.choice(category_ids)
        box = _box(rng)
    return image_id, category_id, box + rng.random(4) * 0.3, _mask(rng, box)


def register(name, content, folder, kind):
    """Write and register a case; returns the json's path."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    ids = [c["id"] for c in content["categories"]]
    MetadataCatalog.get(name).set(
        json_file=str(path),
        evaluator_type=kind,
        thing_classes=[c["name"] for c in content["categories"]],
        thing_dataset_id_to_contiguous_id={c: k for k, c in enumerate(ids)},
    )
    return path


def as_outputs(content, found, image_ids=None, masks=True):
    """The detections as a model gives them: (inputs, outputs) for Detectron2's evaluators."""
    classes = {c["id"]: k for k, c in enumerate(content["categories"])}
    ids = [i["id"] for i in content["images"]] if image_ids is None else image_ids
    outputs = []
    for image_id in ids:
        rows = np.flatnonzero(found.image_ids == image_id)
        instances = Instances((HEIGHT, WIDTH))
        boxes = torch.from_numpy(found.boxes[rows])
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.from_numpy(found.scores[rows])
        instances.pred_classes = torch.tensor(
            [classes[c] for c in found.category_ids[rows].tolist()], dtype=torch.int64
        )
        if masks:
            decoded = [mask_util.decode(found.rles[r]) for r in rows]
            stacked = np.array(decoded, np.uint8).reshape(-1, HEIGHT, WIDTH)
            instances.pred_masks = torch.from_numpy(stacked).bool()
        outputs.append({"instances": instances})
    return [{"image_id": i} for i in ids], outputs
