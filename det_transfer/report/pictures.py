"""Predicted images: the ground truth on the left, what the detector saw on the right."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..run_folder import eval_folder, prediction_parts, read_predictions, replacing

__all__ = ["draw_predictions"]

# Eight hues that stay apart for colour-blind eyes. Source: Okabe and Ito 2008, without the yellow
# that vanishes on white, and a grey.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#882255", "#666666")
_GAP = 8  # pixels between the two halves


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
    content = json.loads(Path(json_file).read_text(encoding="utf-8"))
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
            _annotated(picture, title, side.get(image["id"], ()), names, scale)
            for title, side in (("ground truth", truth), ("predicted", predicted))
        ]
        path = Path(run) / folder / f"{dataset}_{Path(relative).stem}.jpg"
        with replacing(path) as temporary:
            _beside(halves).save(temporary, format="JPEG", quality=88)
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


def _annotated(
    picture: Image.Image,
    title: str,
    objects: Sequence[tuple],
    names: dict[int, str],
    scale: float,
) -> Image.Image:
    """`picture` magnified with a title bar, and a box and a name for each object."""
    font = ImageFont.load_default(size=13)
    bar = 20
    width, height = round(picture.width * scale), round(picture.height * scale)
    canvas = Image.new("RGB", (width, height + bar), "white")
    canvas.paste(picture.resize((width, height)), (0, bar))
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 2), f"{title}: {len(objects)}", fill="black", font=font)
    for category, (x, y, w, h), score in sorted(objects, key=lambda o: -o[1][2] * o[1][3]):
        colour = _COLOURS[category % len(_COLOURS)]
        left, top = x * scale, y * scale + bar
        draw.rectangle((left, top, left + w * scale, top + h * scale), outline=colour, width=2)
        label = names[category] if score is None else f"{names[category]} {score:.2f}"
        _label(draw, label, left, top, colour, font, canvas.size, bar)
    return canvas


def _label(draw, text, left, top, colour, font, size, bar) -> None:
    """The name on a filled strip above the box, moved where it would leave the picture."""
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    width, height = x1 - x0 + 6, y1 - y0 + 6
    left = max(min(left, size[0] - width), 0)
    top = min(max(top - height, bar), size[1] - height)
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    draw.text((left + 3 - x0, top + 3 - y0), text, fill="white", font=font)


def _beside(halves: Sequence[Image.Image]) -> Image.Image:
    width = sum(half.width for half in halves) + _GAP * (len(halves) - 1)
    result = Image.new("RGB", (width, max(half.height for half in halves)), "white")
    left = 0
    for half in halves:
        result.paste(half, (left, 0))
        left += half.width + _GAP
    return result
