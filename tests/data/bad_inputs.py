"""A table of what can be wrong with a dataset; the tests go through it and docs show it.

python tests/data/bad_inputs.py  # writes docs/data_checks.md anew
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "data_checks.md"
IMAGES = 300  # so that one of them is less than 1 %


@cache
def _drawn() -> tempfile.TemporaryDirectory:
    """The images of all cases, drawn once."""
    folder = tempfile.TemporaryDirectory()
    rng = np.random.default_rng(0)
    for k in range(1, IMAGES + 1):
        blocks = Image.fromarray(rng.integers(0, 256, (16, 17), np.uint8))
        shown = blocks.resize((64, 48), Image.Resampling.NEAREST)
        shown.save(Path(folder.name, f"{k:03}.png"))
    return folder


def make_sound(folder: Path) -> tuple[dict[str, Any], Path]:
    """A sound dataset of flat images that differ, three classes, with masks."""
    images = folder / "images"
    shutil.copytree(_drawn().name, images)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for k in range(1, IMAGES + 1):
        name = f"{k:03}.png"
        content["images"].append({"id": k, "file_name": name, "width": 64, "height": 48})
        content["annotations"].append(
            {
                "id": k,
                "image_id": k,
                "category_id": 1 + k % 3,
                "bbox": [4, 4, 20, 10],
                "area": 200,
                "iscrowd": 0,
                "segmentation": [[4, 4, 24, 4, 24, 14, 4, 14]],
            }
        )
    content["categories"] = [{"id": k, "name": f"class {k}"} for k in (1, 2, 3)]
    return content, images


def annotation(**changes: Any) -> Callable[[dict, Path], None]:
    """Change one annotation."""
    return lambda content, images: content["annotations"][6].update(changes)


def image_entry(**changes: Any) -> Callable[[dict, Path], None]:
    return lambda content, images: content["images"][6].update(changes)


def _truncate(content: dict, images: Path) -> None:
    path = images / "007.png"
    path.write_bytes(path.read_bytes()[:-200])


def _damage(content: dict, images: Path) -> None:
    path = images / "007.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _no_image(content: dict, images: Path) -> None:
    (images / "007.png").write_text("<html>404</html>")


def _bomb(content: dict, images: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(images / "007.png")


def _turned(content: dict, images: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = images / "007.png"
    Image.open(path).save(path, exif=exif)


def _turned_unseen(content: dict, images: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    path = images / "007.png"
    Image.open(path).save(path, exif=exif)


def _sixteen_bits(content: dict, images: Path) -> None:
    path = images / "007.png"
    deep = np.asarray(Image.open(path), np.uint16) * 257
    Image.fromarray(deep).save(path)


def _transparent(content: dict, images: Path) -> None:
    path = images / "007.png"
    picture = Image.open(path).convert("RGBA")
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.save(path)


def _crowds_alone(content: dict, images: Path) -> None:
    for entry in content["annotations"]:
        entry["iscrowd"] = 1


def _copied(content: dict, images: Path) -> None:
    (images / "007.png").write_bytes((images / "008.png").read_bytes())


def _compressed(content: dict, images: Path) -> None:
    smooth = Image.open(images / "008.png").resize((640, 480), Image.Resampling.BICUBIC)
    smooth.save(images / "big.png")
    smooth.resize((320, 240)).save(images / "small.jpg", quality=60)
    content["images"][6].update(file_name="big.png", width=640, height=480)
    content["images"][7].update(file_name="small.jpg", width=320, height=240)


def _crowds(content: dict, images: Path) -> None:
    for entry in content["annotations"]:
        entry["iscrowd"] = int(entry["category_id"] == 2)


def _all_missing(content: dict, images: Path) -> None:
    for path in images.glob("*.png"):
        path.unlink()


def _many_bad(content: dict, images: Path) -> None:
    for entry in content["annotations"][:4]:
        entry["bbox"] = [4, 4, 0, 10]


def _lvis_class(content: dict, images: Path) -> None:
    content["categories"][0].update(frequency="f", image_count=100)


def _unknown_negative(content: dict, images: Path) -> None:
    for entry in content["images"]:
        entry.update(neg_category_ids=[9], not_exhaustive_category_ids=[])


# (what is wrong, the kind that is found, what makes it so, whether training stops)
CASES: list[tuple[str, str, Callable[[dict, Path], None], bool]] = [
    ("an image id is there twice", "image id twice", image_entry(id=8), True),
    ("an annotation id is there twice", "annotation id twice", annotation(id=8), True),
    (
        "a category id is there twice",
        "category id twice",
        lambda c, _: c["categories"].append({"id": 1, "name": "other"}),
        True,
    ),
    ("an annotation of no image", "unknown image", annotation(image_id=999), True),
    ("an annotation of no category", "unknown category", annotation(category_id=9), True),
    ("LVIS negatives of no category", "unknown category", _unknown_negative, True),
    ("all images missing", "no image left", _all_missing, True),
    ("crowds alone", "no object left", _crowds_alone, True),
    ("a missing image", "missing image", lambda _, i: (i / "007.png").unlink(), False),
    ("a truncated image", "broken image", _truncate, False),
    ("a damaged image", "broken image", _damage, False),
    ("a page of html for an image", "broken image", _no_image, False),
    ("an image of 400 million pixels", "oversized image", _bomb, False),
    ("another size than the json says", "other size", image_entry(width=65), False),
    ("the size before EXIF turns it", "turned by EXIF", _turned, False),
    (
        "a name in other letters",
        "missing image",
        image_entry(file_name="007.PNG"),
        False,
    ),
    ("a box of three numbers", "box not of numbers", annotation(bbox=[1, 2, 3]), False),
    ("a box with NaN", "box not of numbers", annotation(bbox=[1, 2, float("nan"), 4]), False),
    ("a box of text", "box not of numbers", annotation(bbox=["1", "2", "3", "4"]), False),
    ("a box of true and false", "box not of numbers", annotation(bbox=[True] * 4), False),
    ("a box of 400 digits", "box not of numbers", annotation(bbox=[0, 0, 10**400, 5]), False),
    ("a box without width", "box without area", annotation(bbox=[4, 4, 0, 10]), False),
    ("a box beside the image", "box outside", annotation(bbox=[64, 4, 20, 10]), False),
    ("no mask", "no mask", annotation(segmentation=[]), False),
    ("a polygon of seven values", "bad polygon", annotation(segmentation=[[1] * 7]), False),
    ("a polygon of two points", "bad polygon", annotation(segmentation=[[1, 2, 3, 4]]), False),
    ("a polygon of text", "bad polygon", annotation(segmentation=[["1"] * 6]), False),
    (
        "a polygon with nothing in it",
        "bad polygon",
        annotation(segmentation=[[1, None] * 3]),
        False,
    ),
    (
        "a polygon with NaN",
        "bad polygon",
        annotation(segmentation=[[4, 4, float("nan"), 4, 24, 14]]),
        False,
    ),
    (
        "a polygon to beyond the moon",
        "bad polygon",
        annotation(segmentation=[[4, 4, 1e9, 4, 24, 14]]),
        False,
    ),
    (
        "run-length code of too few pixels",
        "bad run-length code",
        annotation(segmentation={"size": [48, 64], "counts": [10, 5]}),
        False,
    ),
    (
        "run-length code without a size",
        "bad run-length code",
        annotation(segmentation={"size": None, "counts": [0, 48 * 64]}),
        False,
    ),
    (
        "run-length code of another size",
        "bad run-length code",
        annotation(segmentation={"size": [64, 48], "counts": "0"}),
        False,
    ),
    ("more than 1 % to skip", "box without area", _many_bad, True),
    ("a file copied", "same picture twice", _copied, False),
    ("a picture smaller and compressed anew", "same picture twice", _compressed, False),
    ("turned upside down by EXIF", "turned unseen", _turned_unseen, False),
    ("16 bits a pixel", "other mode", _sixteen_bits, False),
    ("a transparent pixel", "other mode", _transparent, False),
    ("two entries of one file", "file twice", image_entry(file_name="008.png"), False),
    ("a box over the edge", "box over the edge", annotation(bbox=[60, 4, 20, 10]), False),
    (
        "one bad polygon of two",
        "polygon dropped",
        annotation(segmentation=[[1, 2], [4, 4, 24, 4, 24, 14]]),
        False,
    ),
    (
        "a class that is in no image",
        "class without images",
        lambda c, _: c["categories"].append({"id": 4, "name": "ghost"}),
        False,
    ),
    ("a class of crowds", "class of crowds", _crowds, False),
    (
        "two classes of one name",
        "class name twice",
        lambda c, _: c["categories"][1].update(name="class 1"),
        False,
    ),
    (
        "a class without a name",
        "blank class name",
        lambda c, _: c["categories"][1].update(name=" "),
        False,
    ),
    ("an LVIS frequency that is not its count's", "frequency", _lvis_class, False),
]


@cache
def check(case: tuple) -> dict[str, Any]:
    """Run tools/check_dataset.py's main on the bad dataset, once for test and page.

    Returns:
        ``code``, ``lines`` (of all findings or of the error), ``kinds``
    """
    with tempfile.TemporaryDirectory() as folder:
        return _check(case, Path(folder, "data"))


def _check(case: tuple, folder: Path) -> dict[str, Any]:
    from det_transfer.errors import UserError

    content, images = make_sound(folder)
    case[2](content, images)
    json_file, report = folder / "data.json", folder / "report.json"
    json_file.write_text(json.dumps(content))
    tool = load_tool()
    arguments = [json_file, images, "--workers", 1, "--json", report]
    code, lines = 0, []
    try:
        tool.main(tool.parse_args([*map(str, arguments)]))
    except UserError as error:
        code, lines = 2, str(error).splitlines()
    findings = json.loads(report.read_text())["findings"] if report.exists() else []
    lines = [finding["line"] for finding in findings] or lines
    return {
        "code": code,
        "lines": [line.split(".json: ")[-1].replace(f"{images}/", "") for line in lines],
        "kinds": [finding["kind"] for finding in findings],
    }


def load_tool():
    spec = importlib.util.spec_from_file_location(
        "check_dataset", ROOT / "tools" / "check_dataset.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def page() -> str:
    """docs/data_checks.md, from what the checks really say of each case."""
    from det_transfer.data.checks import KINDS

    lines = [
        "<!-- Made by tests/data/bad_inputs.py: do not edit. -->",
        "# What can be wrong with a dataset",
        "",
        "`tools/check_dataset.py` finds all of this, worst first; training does the cheap part",
        "before it starts. **Fatal**: training would fail, or evaluation be wrong: exit code 2.",
        "**Skipped**: training leaves it out and counts it, and stops where that is more than",
        "`DATASETS.MAX_SKIPPED` (1 %) of the images or annotations. **Warning**: it goes on.",
        "",
        f"Each line was said of a dataset of {IMAGES} images in which this one thing is wrong.",
        "",
        "| wrong | is | what is said | exit code |",
        "|---|---|---|---|",
    ]
    for case in CASES:
        outcome = check(case)
        kind = KINDS[case[1]]
        line = next(line for line in outcome["lines"] if line.startswith(kind.what))
        severity = kind.severity.name.lower()
        lines.append(f"| {case[0]} | {severity} | {line} | {outcome['code']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
