"""What a dataset holds: counts by class as a table, distributions as a picture."""

from collections import Counter
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from ..errors import UserError
from ..run_folder import replacing

__all__ = ["ClassFacts", "DatasetFacts", "check_picture", "draw_dataset"]

# LVIS: rare, common, frequent. A palette that the colour-blind can tell apart.
# Source: Okabe and Ito 2008.
_COLOURS = {"r": "#D55E00", "c": "#0072B2", "f": "#009E73"}
_NAMES = {"r": "rare", "c": "common", "f": "frequent"}
_FARTHEST = 1e9  # pixels; no box is larger, and a json may hold numbers that no float holds
# Pixels: the sides at which COCO calls an object medium, and large.
_COCO_SIDES = (32, 96)
_SHOWN = 5  # classes at either end of the table
_NAMED = 40  # classes up to which the picture has room for names


@dataclass(frozen=True)
class ClassFacts:
    name: str
    images: int  # with an object that is no crowd
    instances: int  # crowds apart

    @property
    def frequency(self) -> str:
        """LVIS' letter. Source: Gupta et al. 2019: to 10 images rare, to 100 common."""
        return "r" if self.images <= 10 else "c" if self.images <= 100 else "f"


@dataclass(frozen=True)
class DatasetFacts:
    """Attributes:
    classes: by falling number of images
    image_sizes: (N, 2) width and height in pixels
    boxes: (M, 2) width and height in pixels, of objects that are no crowds and have an area
    objects: (N,) objects an image
    """

    classes: list[ClassFacts]
    image_sizes: np.ndarray
    boxes: np.ndarray
    objects: np.ndarray

    @classmethod
    def of(cls, content: dict[str, Any]) -> "DatasetFacts":
        """From a parsed json in COCO or LVIS format."""
        real = [a for a in content["annotations"] if not a.get("iscrowd")]
        instances = Counter(a["category_id"] for a in real)
        pairs = {(a["image_id"], a["category_id"]) for a in real}
        images = Counter(category for _, category in pairs)
        classes = [
            ClassFacts(str(c["name"]), images[c["id"]], instances[c["id"]])
            for c in content["categories"]
        ]
        sides = [a["bbox"][2:] for a in real if _has_area(a["bbox"])]
        by_image = Counter(a["image_id"] for a in real)
        return cls(
            classes=sorted(classes, key=lambda c: (-c.images, c.name)),
            image_sizes=np.array([(i["width"], i["height"]) for i in content["images"]]),
            boxes=np.array(sides, float).reshape(-1, 2),
            objects=np.array([by_image[i["id"]] for i in content["images"]]),
        )

    def table(self) -> str:
        """Counts in lines for a person; of many classes the most and the least seen."""
        letters = Counter(c.frequency for c in self.classes)
        groups = ", ".join(f"{letters[letter]} {_NAMES[letter]}" for letter in "rcf")
        empty = int((self.objects == 0).sum())
        lines = [
            f"{len(self.objects)} images ({empty} without objects), {self.objects.sum()} objects, "
            f"{len(self.classes)} classes ({groups})"
        ]
        shown = self.classes
        if len(shown) > 2 * _SHOWN + 1:
            shown = [*shown[:_SHOWN], None, *shown[-_SHOWN:]]
        for entry in shown:
            lines.append(
                "  ..."
                if entry is None
                else f"  {entry.frequency} {entry.images:7} images {entry.instances:8} objects  "
                f"{entry.name}"
            )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For json: counts by class, and quartiles of the distributions."""
        return {
            "images": len(self.objects),
            "objects": int(self.objects.sum()),
            "classes": [{**vars(c), "frequency": c.frequency} for c in self.classes],
            "quartiles": {
                "objects_an_image": _quartiles(self.objects),
                "box_side_px": _quartiles(np.sqrt(self.boxes.prod(axis=1))),
                "box_width_over_height": _quartiles(self.boxes[:, 0] / self.boxes[:, 1]),
                "image_width_px": _quartiles(self.image_sizes[:, 0]),
                "image_height_px": _quartiles(self.image_sizes[:, 1]),
            },
        }


def _has_area(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and abs(v) <= _FARTHEST for v in box)  # no NaN either
        and box[2] > 0
        and box[3] > 0
    )


def _quartiles(values: np.ndarray) -> list[float]:
    """Minimum, quartiles and maximum."""
    return np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(values) else []


# The picture -------------------------------------------------------------------------------------


def check_picture(path: str | PathLike) -> None:
    """Raise a :class:`UserError` where matplotlib knows no format of this suffix."""
    known = Figure().canvas.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise UserError(f"{path}: a picture ends in .{', .'.join(sorted(known))}")


def draw_dataset(facts: DatasetFacts, path: str | PathLike) -> None:
    """Draw class counts, box sizes and shapes, objects an image and image sizes into a file.

    Args:
        path: the suffix decides the format, e.g. .png or .svg
    """
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplot_mosaic(
        [["classes", "classes", "classes"], ["side", "ratio", "objects"]], height_ratios=[1.2, 1]
    )
    _draw_classes(axes["classes"], facts.classes)
    _draw_sides(axes["side"], np.sqrt(facts.boxes.prod(axis=1)))
    _histogram(
        axes["ratio"], facts.boxes[:, 0] / facts.boxes[:, 1], "width / height of a box", log=True
    )
    _histogram(axes["objects"], facts.objects, "objects an image")
    widths, heights = facts.image_sizes.T
    figure.suptitle(
        f"{len(facts.objects)} images of {widths.min()} to {widths.max()} x {heights.min()} to "
        f"{heights.max()} px, {facts.objects.sum()} objects, {len(facts.classes)} classes"
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:].lower())


def _draw_classes(axes: Axes, classes: list[ClassFacts]) -> None:
    counts = np.array([c.images for c in classes])
    places = np.arange(len(classes))
    letters = np.array([c.frequency for c in classes])
    for letter in _NAMES:
        mine = letters == letter
        width = 0.9 if len(classes) <= _NAMED else 1.0
        axes.bar(places[mine], counts[mine], width=width, color=_COLOURS[letter])
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("images with the class")
    axes.margins(x=0.01)
    axes.legend(
        title="LVIS group",
        handles=[
            Patch(color=_COLOURS[letter], label=f"{name}: {(letters == letter).sum()}")
            for letter, name in _NAMES.items()
        ],
    )
    if len(classes) <= _NAMED:
        axes.set_xticks(places, [c.name for c in classes], rotation=60, ha="right")
    else:
        axes.set_xlabel("classes, most seen first")


def _draw_sides(axes: Axes, sides: np.ndarray) -> None:
    _histogram(axes, sides, "side of a box, root of its area, px", log=True)
    for side in _COCO_SIDES:
        axes.axvline(side, color="black", linestyle=":", linewidth=1)
    low, high = (sides.min(), sides.max()) if len(sides) else (1, 1)
    for name, at in (("small", 16), ("medium", 55), ("large", 160)):
        if low < at < high:
            axes.text(at, axes.get_ylim()[1], name, ha="center", va="top", fontsize="small")


def _histogram(axes: Axes, values: np.ndarray, label: str, *, log: bool = False) -> None:
    if len(values):
        low, high = values.min(), values.max()
        if log and high > low:
            bins = np.geomspace(low, high, 41)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif np.issubdtype(values.dtype, np.integer) and high - low < 60:
            bins = np.arange(low, high + 2) - 0.5
        else:
            bins = 40
        axes.hist(values, bins=bins, color="#56B4E9", edgecolor="white", linewidth=0.3)
    axes.set_xlabel(label)
