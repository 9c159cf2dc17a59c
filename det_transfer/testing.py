"""For tests, ours and yours: a tiny dataset, and checks of the contracts that parts must keep.

    json, images = make_tiny_dataset("/tmp/tiny", style="lvis")
    check_backbone(MyBackbone())
    check_frozen(model.backbone.bottom_up, lambda: trainer.run_step())

A check that fails raises an ``AssertionError`` that says what was found and what was expected.
"""

import colorsys
import copy
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

__all__ = ["check_backbone", "check_frozen", "make_tiny_dataset", "make_tiny_images"]

_CELLS = 4  # objects stand in the cells of a 2 x 2 grid: none hides another


def make_tiny_dataset(
    folder: str | os.PathLike,
    *,
    images: int = 8,
    classes: int = 3,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    style: str = "coco",
    masks: bool = True,
) -> tuple[Path, Path]:
    """Write a dataset of coloured shapes on noise, learnable in a few hundred iterations.

    A class has a shape and a colour of its own, and every class is present. Category ids count
    from 1. In LVIS style the frequencies r, c, f are dealt out in turn, whatever the counts, so
    that each group has a class; half of the absent classes of an image are its negatives, and in
    every fourth image one class is not exhaustively annotated. The same arguments give the same
    bytes.

    Args:
        folder: gets ``annotations.json`` and ``images/*.png``
        size: height and width of the images in pixels
        style: "coco" or "lvis" (v1)
        masks: whether annotations have a polygon beside their box

    Returns:
        the json file and the image folder. Detectron2's ``load_lvis_json`` takes the image's
        folder from ``coco_url`` and so wants ``f"{folder}/"``.

    Raises:
        ValueError: an unknown style, or more classes than the images can show
    """
    if style not in ("coco", "lvis"):
        raise ValueError(f"style is {style!r}; it can be 'coco' or 'lvis'")
    if not 1 <= classes <= _CELLS * images:
        raise ValueError(f"{images} images show 1 to {_CELLS * images} classes, not {classes}")
    folder = Path(folder)
    image_folder = folder / "images"
    image_folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    at_least = math.ceil(classes / images)
    image_records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        picture = Image.fromarray(rng.integers(80, 140, (*size, 3), dtype=np.uint8))
        cells = rng.permutation(_CELLS)[: rng.integers(at_least, _CELLS + 1)]
        for cell in cells.tolist():
            # In turn, so that none is left out.
            annotations.append(_draw(picture, cell, len(annotations), classes, rng, masks))
            annotations[-1]["image_id"] = image_id
        name = f"{image_id:06d}.png"
        picture.save(image_folder / name)
        image_records.append(
            {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}
        )
    categories = [{"id": k + 1, "name": f"shape_{k + 1}"} for k in range(classes)]
    if style == "lvis":
        _make_lvis(image_records, annotations, categories)
    else:
        for annotation in annotations:
            annotation["iscrowd"] = 0
        for category in categories:
            category["supercategory"] = "shape"
    path = folder / "annotations.json"
    content = {
        "info": {"description": "det_transfer's tiny dataset"},
        "licenses": [],
        "images": image_records,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, image_folder


def _draw(
    picture: Image.Image,
    cell: int,
    count: int,
    classes: int,
    rng: np.random.Generator,
    masks: bool,
) -> dict[str, Any]:
    """Draw object number `count` into a cell of the picture; return its annotation."""
    kind = count % classes
    corners = (24, 4, 3)[kind % 3]  # a disc, a diamond, a triangle
    cell_size = np.array([picture.width // 2, picture.height // 2])
    radius = cell_size * rng.uniform(0.3, 0.48, 2)
    centre = cell_size * [cell % 2, cell // 2] + cell_size / 2
    angles = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    colour = colorsys.hsv_to_rgb(kind / classes, 1.0, rng.uniform(0.8, 1.0))
    ImageDraw.Draw(picture).polygon(
        [tuple(point) for point in points.tolist()], fill=tuple(int(255 * c) for c in colour)
    )
    low, high = points.min(0), points.max(0)
    x, y = points.T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))  # the shoelace formula
    annotation: dict[str, Any] = {
        "id": count + 1,
        "category_id": kind + 1,
        "bbox": [round(v, 2) for v in [*low.tolist(), *(high - low).tolist()]],
        "area": round(float(area), 2),
    }
    if masks:
        annotation["segmentation"] = [[round(v, 2) for v in points.ravel().tolist()]]
    return annotation


def _make_lvis(images: list[dict], annotations: list[dict], categories: list[dict]) -> None:
    """Add the fields that LVIS v1 has and COCO has not."""
    present: dict[int, set[int]] = {image["id"]: set() for image in images}
    for annotation in annotations:
        present[annotation["image_id"]].add(annotation["category_id"])
    for number, image in enumerate(images):
        here = present[image["id"]]
        absent = [c["id"] for c in categories if c["id"] not in here]
        image["coco_url"] = f"http://localhost/images/{image['file_name']}"
        image["neg_category_ids"] = absent[: math.ceil(len(absent) / 2)]
        image["not_exhaustive_category_ids"] = [min(here)] if number % 4 == 3 else []
    for number, category in enumerate(categories):
        category |= {
            "frequency": "fcr"[number % 3],
            "synset": f"{category['name']}.n.01",
            "synonyms": [category["name"]],
            "def": f"drawn shape number {category['id']}",
            "image_count": sum(category["id"] in here for here in present.values()),
            "instance_count": sum(a["category_id"] == category["id"] for a in annotations),
        }


def make_tiny_images(
    folder: str | os.PathLike,
    *,
    classes: int = 4,
    per_class: int = 6,
    size: int = 40,
    seed: int = 0,
    splits: Sequence[str] = ("train", "test"),
) -> Path:
    """Write labelled images, ``<split>/<class>/*.png``: a shape and colour a class, on noise.

    Args:
        per_class: images of each class in each split
        size: height and width in pixels

    Returns:
        `folder`
    """
    rng = np.random.default_rng(seed)
    for split in splits:
        for kind in range(classes):
            target = Path(folder) / split / f"shape_{kind}"
            target.mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                picture = Image.fromarray(rng.integers(80, 140, (size, size, 3), dtype=np.uint8))
                _draw(picture, int(rng.integers(_CELLS)), kind, classes, rng, masks=False)
                picture.save(target / f"{number}.png")
    return Path(folder)


# Contracts ---------------------------------------------------------------------------------------


def check_backbone(
    backbone: nn.Module, sizes: Sequence[tuple[int, int]] = (), *, in_channels: int = 3
) -> None:
    """Check that a backbone keeps Detectron2's contract; the backbone is left as it was.

    Names, channels and strides of ``output_shape()`` equal those of the real outputs, which are
    finite and (N, C, H, W), in the promised order; ``size_divisibility`` suits the strides; the
    gradient reaches the image from every output, and every trainable parameter has a part in the
    outputs (distributed training would wait for it in vain).

    Args:
        sizes: heights and widths in pixels to try, multiples of the size divisibility (where
            that is 0, of the largest stride); default: 2 x 3, 3 x 5 and 1 x 4 times that

    Raises:
        AssertionError: the contract is broken
        ValueError: a size that an image is never padded to
    """
    shapes = backbone.output_shape()
    _check(len(shapes) > 0, "output_shape() is empty")
    largest = max(spec.stride for spec in shapes.values())
    unit = backbone.size_divisibility
    # A decoder's coarsest levels may round up, hence no demand on the largest stride.
    finest = min(spec.stride for spec in shapes.values())
    _check(unit % finest == 0, f"size_divisibility {unit} does not suit the stride {finest}")
    unit = unit or largest
    for size in sizes:
        if size[0] % unit or size[1] % unit:
            raise ValueError(f"size {size}: images are padded to multiples of {unit} pixels")
    sizes = sizes or [(2 * unit, 3 * unit), (3 * unit, 5 * unit), (unit, 4 * unit)]
    # On a copy, in training as it is there: statistics move, some layers differ between modes.
    learner = copy.deepcopy(backbone).train()
    was_training = backbone.training
    backbone.eval()
    try:
        for size in sizes:
            _check_outputs(backbone, shapes, size, in_channels)
    finally:
        backbone.train(was_training)
    with torch.random.fork_rng():
        _check_gradient(learner, sizes[0], in_channels)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _images(backbone: nn.Module, size: tuple[int, int], in_channels: int) -> torch.Tensor:
    like = next(backbone.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, in_channels, *size, generator=generator).to(like.device, like.dtype)


def _check_outputs(
    backbone: nn.Module, shapes: dict[str, Any], size: tuple[int, int], in_channels: int
) -> None:
    images = _images(backbone, size, in_channels)
    with torch.no_grad():
        outputs = backbone(images)
    where = f"for images of {size[0]} x {size[1]}"
    _check(
        list(outputs) == list(shapes),
        f"outputs {list(outputs)} {where}, but output_shape() has {list(shapes)}",
    )
    for name, spec in shapes.items():
        # Rounded up: the coarsest levels of a decoder are strided over an odd number of cells.
        cells = [math.ceil(side / spec.stride) for side in size]
        expected = (len(images), spec.channels, *cells)
        found = tuple(outputs[name].shape)
        _check(
            found == expected,
            f"{name} is {found} {where}, but output_shape() says {spec.channels} channels at "
            f"stride {spec.stride}, (N, C, H, W) = {expected}",
        )
        _check(bool(outputs[name].isfinite().all()), f"{name} is not finite {where}")


def _check_gradient(backbone: nn.Module, size: tuple[int, int], in_channels: int) -> None:
    images = _images(backbone, size, in_channels).requires_grad_()
    outputs = backbone(images)
    generator = torch.Generator().manual_seed(1)
    # A random direction in the outputs: a plain sum is constant behind a normalisation.
    sums = {
        name: (out * torch.randn(out.shape, generator=generator).to(out)).sum()
        for name, out in outputs.items()
    }
    for name, total in sums.items():
        _check(total.requires_grad, f"no gradient flows through {name}")
        (gradient,) = torch.autograd.grad(total, images, retain_graph=True, allow_unused=True)
        reached = gradient is not None and bool(gradient.isfinite().all()) and gradient.any()
        _check(bool(reached), f"the gradient of {name} does not reach the image, or is not finite")
    trainable = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    if trainable:
        gradients = torch.autograd.grad(
            sum(sums.values()), list(trainable.values()), allow_unused=True
        )
        unused = [n for n, g in zip(trainable, gradients, strict=True) if g is None]
        _check(not unused, f"{len(unused)} parameters have no part in the outputs: {unused[:3]}")


def check_frozen(module: nn.Module, step: Callable[[], Any]) -> None:
    """Check that one or more training steps leave `module` bit for bit as it was.

    Args:
        module: the part that must stand still, e.g. ``model.backbone.bottom_up``
        step: runs training steps of the whole model, with forward, backward and optimizer

    Raises:
        AssertionError: a parameter or a buffer moved (it says which), or can get a gradient
    """
    live = [name for name, p in module.named_parameters() if p.requires_grad]
    _check(not live, f"{len(live)} parameters can get a gradient: {live[:3]}")
    before = {name: tensor.detach().clone() for name, tensor in _tensors(module).items()}
    step()
    after = _tensors(module)
    _check(before.keys() == after.keys(), "the module has other tensors than before")
    moved = [name for name, tensor in before.items() if not _same(tensor, after[name])]
    _check(not moved, f"{len(moved)} of {len(before)} tensors moved: {moved[:3]}")


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b.detach())
