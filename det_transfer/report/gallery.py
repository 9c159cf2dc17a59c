"""Pictures inside a page: objects and detections, right and wrong in two colours."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from .drawing import Shape, annotated
from .matching import Matches
from .truth import Truth

__all__ = ["UNREADABLE", "Side", "choose", "illustrate"]

UNREADABLE = (OSError, Image.DecompressionBombError)  # what `illustrate` raises of an image

_SIDE = 420  # pixels: the longer one of a picture
_MOST = 40  # boxes in a picture
_RIGHT, _WRONG, _PLAIN = 3, 4, 7  # blue, vermilion and grey of the drawing's palette
_MOST_BYTES = 40_000


@dataclass(frozen=True)
class Side:
    """What one run found, as pictures show it.

    Attributes:
        min_score: from which on a detection is shown
        scores: (I,) of the images, see :func:`~det_transfer.report.diagnosis.image_scores`
    """

    name: str
    matches: Matches
    min_score: float
    scores: NDArray[np.float64]


def choose(scores: NDArray, weight: NDArray, count: int) -> dict[str, list[int]]:
    """Indices of the best, the typical and the worst images, none twice.

    Typical is nearest to the median. Between equals those with more objects (`weight`) come first;
    images without objects are left out while there are others.
    """
    places = np.flatnonzero(weight > 0)
    if not len(places):
        places = np.arange(len(scores))
    left = list(places[np.argsort(-weight[places], kind="stable")])
    middle = float(np.median(scores[places])) if len(places) else 0.0
    keys = {
        "best": lambda k: -scores[k],
        "worst": lambda k: scores[k],
        "typical": lambda k: abs(scores[k] - middle),
    }
    chosen: dict[str, list[int]] = {}
    for name, key in keys.items():
        chosen[name] = [int(k) for k in sorted(left, key=key)[:count]]
        left = [k for k in left if int(k) not in chosen[name]]
    return {name: chosen[name] for name in ("best", "typical", "worst")}


def illustrate(
    truth: Truth, sides: Sequence[Side], image: int, root: Path
) -> list[tuple[str, str, int, int]]:
    """The objects of an image, and what each side found: (data URI, words, width, height).

    Raises:
        OSError, Image.DecompressionBombError: the image cannot be read
    """
    with Image.open(root / truth.files[image]) as file:
        picture = file.convert("RGB")
    scale = _SIDE / max(picture.size)
    small = picture.resize([max(1, round(side * scale)) for side in picture.size])
    mine = np.flatnonzero(truth.images == image)
    shown = []
    hit = {}
    for side in sides:
        shapes, hit[side.name] = _detections(truth, side, image, mine)
        wrong = sum(shape.category == _WRONG for shape in shapes)
        words = f"{side.name}: {len(shapes) - wrong} right, {wrong} wrong"
        shown.append(_encoded(small, _scaled(shapes[:_MOST], scale), words))
    colours = dict.fromkeys(mine.tolist(), _PLAIN)
    words = f"ground truth: {len(mine)}"
    if len(sides) == 1:
        (found,) = hit.values()
        colours = {row: _RIGHT if row in found else _WRONG for row in colours}
        words += f", {len(mine) - len(found)} missed"
    objects = [
        Shape(colour, truth.names[truth.categories[row]], truth.boxes[row].tolist())
        for row, colour in colours.items()
    ]
    return [_encoded(small, _scaled(objects[:_MOST], scale), words), *shown]


def _detections(
    truth: Truth, side: Side, image: int, objects: NDArray
) -> tuple[list[Shape], set[int]]:
    """What was found, best first, and which objects that were."""
    matches = side.matches
    rows = np.flatnonzero((matches.images == image) & (matches.scores >= side.min_score))
    rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
    shapes, taken = [], set()
    for row in rows.tolist():
        right = bool(matches.hits["all"][0, row])
        category, box = int(matches.categories[row]), matches.boxes[row]
        if not right and not matches.counted["all"][0, row]:
            continue  # neither right nor wrong, e.g. in a crowd
        if right:
            free = [k for k in objects if truth.categories[k] == category and k not in taken]
            overlaps = [_overlap(box, truth.boxes[k]) for k in free]
            if overlaps:
                taken.add(free[int(np.argmax(overlaps))])
        name = f"{truth.names[category]} {matches.scores[row]:.2f}"
        shapes.append(Shape(_RIGHT if right else _WRONG, name, box.tolist()))
    return shapes, taken


def _overlap(a: NDArray, b: NDArray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
    common = float(np.clip(high - low, 0, None).prod())
    union = float(a[2:].prod() + b[2:].prod()) - common
    return common / union if union > 0 else 0.0


def _scaled(shapes: Sequence[Shape], scale: float) -> list[Shape]:
    return [Shape(s.category, s.name, [scale * side for side in s.box]) for s in shapes]


def _encoded(
    picture: Image.Image, shapes: Sequence[Shape], words: str
) -> tuple[str, str, int, int]:
    drawn = annotated(picture, "", shapes)
    kind = "WEBP" if features.check("webp") else "JPEG"
    for quality in (75, 50, 25):
        buffer = io.BytesIO()
        drawn.save(buffer, format=kind, quality=quality)
        if buffer.tell() <= _MOST_BYTES:
            break
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{data}", words, drawn.width, drawn.height
