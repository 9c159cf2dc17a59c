"""The options of prepare_openmoji.py: read from a command line, checked, all problems at once."""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openmoji_classes import CLASSES
from openmoji_plan import BadOptions, Content
from openmoji_scenes import Look

__all__ = ["options_from", "options_of", "parse_args"]

RECIPE = 1  # counts changes of the drawing: a set made by another one is made again


def default_folder() -> Path:
    root = os.environ.get("DETECTRON2_DATASETS")
    return (Path(root).expanduser() if root else Path(__file__).parent) / "openmoji"


def parse_args(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    content, look = Content(), Look()
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=default_folder(), help="folder of the dataset")
    add("--seed", type=int, default=0)
    add("--processes", type=int, default=len(os.sched_getaffinity(0)))
    for name, text in (
        ("rare", "classes in 3-10 train images"),
        ("common", "classes in 11-100 train images"),
        ("frequent", "classes in more than 100 train images"),
        ("train_images", "number of train images"),
        ("val_images", "number of val images"),
        ("val_least", "smallest number of val images of a class"),
        ("negatives", "classes an image is verified not to show"),
    ):
        add(_flag(name), type=int, default=getattr(content, name), help=text)
    add(
        "--not-exhaustive",
        type=float,
        default=content.not_exhaustive,
        help="share of the repeated classes of an image that are annotated only in part",
    )
    pair = {"type": int, "nargs": 2, "metavar": ("LEAST", "MOST")}
    add("--objects", default=content.objects, help="objects in an image", **pair)
    add("--short-side", default=look.short_side, help="of an object's box, pixels", **pair)
    add("--size", type=int, default=look.size, help="side of the images, pixels")
    add("--rotation", type=float, default=look.rotation, help="to either side, degrees")
    add("--colour", type=float, default=look.colour, help="strength of colour changes, 0 to 2")
    add("--occlusion", type=float, default=look.occlusion, help="largest hidden share of an object")
    add("--quality", type=int, default=look.quality, help="of the JPEGs, 1 to 95")
    return parser.parse_args(argv)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def options_from(args: argparse.Namespace) -> tuple[Content, Look]:
    """The options in their two halves. Raises: BadOptions with a line for each bad one."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(args).items()}
    content = Content(**{k: values[k] for k in asdict(Content())})
    look = Look(**{k: values[k] for k in asdict(Look())})
    if problems := list(_problems(values, content)):
        raise BadOptions("\n".join(problems))
    return content, look


# Option: smallest and largest value that makes sense.
_RANGES = {
    "seed": (0, 2**32),
    "processes": (1, 1024),
    "rare": (0, len(CLASSES)),
    "common": (0, len(CLASSES)),
    "frequent": (0, len(CLASSES)),
    "val_images": (1, 10**6),
    "train_images": (1, 10**6),
    "val_least": (1, 10**6),
    "negatives": (0, len(CLASSES)),
    "not_exhaustive": (0, 1),
    "objects": (1, 1000),
    "short_side": (4, 4096),
    "size": (32, 4096),
    "rotation": (0, 180),
    "colour": (0, 2),
    "occlusion": (0, 0.95),
    "quality": (1, 95),
}


def _problems(values: dict[str, Any], content: Content) -> Iterator[str]:
    for name, (least, most) in _RANGES.items():
        value = values[name]
        low, high = value if isinstance(value, tuple) else (value, value)
        if not least <= low <= high <= most:
            said = f"{low} {high}" if isinstance(value, tuple) else value
            order = ", the smaller first" if isinstance(value, tuple) else ""
            yield f"{_flag(name)} {said}: {least} to {most} are possible{order}"
    if not 1 <= content.classes <= len(CLASSES):
        yield (
            f"--rare, --common and --frequent add up to {content.classes} classes; "
            f"1 to {len(CLASSES)} are possible"
        )
    needed = max(3 * bool(content.rare), 11 * bool(content.common), 101 * bool(content.frequent))
    if content.train_images < needed:
        yield f"--train-images {content.train_images}: these classes need {needed} or more"
    if content.val_images < content.val_least:
        yield f"--val-images {content.val_images} is less than --val-least {content.val_least}"
    if values["short_side"][1] > values["size"]:
        yield f"--short-side goes up to {values['short_side'][1]}, --size is {values['size']}"


def options_of(content: Content, look: Look, seed: int) -> dict[str, Any]:
    """All that decides the bytes of the set, as it comes back from a json file."""
    options = {"recipe": RECIPE, "seed": seed, **asdict(content), **asdict(look)}
    return json.loads(json.dumps(options))
