"""Predicted images: the ground truth on the left, what the detector saw on the right."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..documents import read_json
from ..run_folder import eval_folder, prediction_parts, read_predictions, replacing
from .drawing import Shape, annotated, beside

__all__ = ["draw_predictions"]


def draw_predictions(
    run: str | Path,
    dataset: str,
    json_file: str | Path,
    image_root: str | Path,
    *,
    count: int = 8,
    min_score: float = 0.25,
    scale: float = 2.0,
    folder: str = "pictures",
) -> list[Path]:
    """Draw `count` images, evenly spread over the evaluated ones, into ``<run>/<folder>``.

    Args:
        run: the run folder; its ``eval/<dataset>/predictions`` are drawn
        json_file, image_root: the dataset in COCO or LVIS format
        min_score: predictions below are left out
        scale: magnification, so that names are readable on small images

    Returns:
        the written files; empty where the run has no predictions
    """
    content = read_json(json_file, "annotation file")
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = sorted(content["images"], key=lambda image: image["id"])
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    chosen = [images[place] for place in places]
    truth = _by_image(
        (a["image_id"], a["category_id"], a["bbox"], None) for a in content["annotations"]
    )
    predicted = _by_image(_predictions(eval_folder(run, dataset), min_score))
    if not prediction_parts(eval_folder(run, dataset) / "predictions"):
        return []
    written = []
    for image in chosen:
        relative = image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])
        with Image.open(Path(image_root) / relative) as file:
            picture = file.convert("RGB")
        halves = [
            _half(picture, title, side.get(image["id"], ()), names, scale)
            for title, side in (("ground truth", truth), ("predicted", predicted))
        ]
        path = Path(run) / folder / f"{dataset}_{Path(relative).stem}.jpg"
        with replacing(path) as temporary:
            beside(halves).save(temporary, format="JPEG", quality=88)
        written.append(path)
    return written


def _predictions(folder: Path, min_score: float) -> Iterable[tuple]:
    for part in prediction_parts(folder / "predictions"):
        for chunk in read_predictions(part):
            for i in np.flatnonzero(chunk["score"] >= min_score):
                score, box = float(chunk["score"][i]), chunk["box"][i].tolist()
                yield int(chunk["image_id"][i]), int(chunk["category_id"][i]), box, score


def _by_image(rows: Iterable[tuple]) -> dict[int, list[tuple]]:
    result: dict[int, list[tuple]] = {}
    for image_id, *row in rows:
        result.setdefault(image_id, []).append(tuple(row))
    return result


def _half(
    picture: Image.Image, title: str, rows: Sequence[tuple], names: dict[int, str], scale: float
) -> Image.Image:
    shapes = [
        Shape(category, names[category] + (f" {score:.2f}" if score is not None else ""), box)
        for category, box, score in rows
    ]
    return annotated(picture, f"{title}: {len(shapes)}", shapes, scale)
