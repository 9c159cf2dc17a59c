"""Where rank_backbones.py meets detection: objects in boxes, and the trunks of detectors."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from compare_features import read_config, trunk_after
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from torch import Tensor, nn
from torchvision.ops import roi_align

from det_transfer.classification.backbones import Backbone, Reading, open_backbone
from det_transfer.classification.extraction import Batch, say_skipped
from det_transfer.data.datasets import JsonDataset
from det_transfer.data.mapper import BROKEN
from det_transfer.engine.progress import watched
from det_transfer.errors import UserError
from det_transfer.reuse import Preprocessing
from det_transfer.run_folder import sha256

__all__ = ["LabelledBoxes", "open_any"]

_CELLS = 7  # a box is averaged over so many cells a side. Source: Detectron2's POOLER_RESOLUTION


class LabelledBoxes:
    """The objects of a COCO- or LVIS-format json, crowds apart, as a source of features.

    The features of an object are the mean of the backbone's last map in its ground-truth box; what
    its classifier would say of an object is not known.

    Raises:
        UserError: the json is missing or in neither format, or has no objects
    """

    def __init__(self, json_file: str, image_folder: str, flag: str = "--data"):
        self.name, self.json_file = json_file, json_file
        dataset = JsonDataset(flag, json_file, image_folder)
        self.classes = tuple(dataset.classes)
        self.records = dataset()
        self.objects = [
            (number, annotation)
            for number, record in enumerate(self.records)
            for annotation in record["annotations"]
            if not annotation["iscrowd"]
        ]
        if not self.objects:
            raise UserError(f"{flag} {json_file} has no objects")
        self.labels = np.array([found["category_id"] for _, found in self.objects], np.int64)

    def digest(self) -> str:
        total = hashlib.sha256(f"{_CELLS} {sha256(self.json_file)}".encode())
        for record in self.records:
            file = Path(record["file_name"])
            total.update((sha256(file) if file.is_file() else "missing").encode())
        return total.hexdigest()

    def read(self, backbone: Backbone, size: int, device: str) -> Iterator[Batch]:
        """One image after the other, its short side resized to `size`."""
        of_image: dict[int, list[int]] = {}
        for row, (number, _) in enumerate(self.objects):
            of_image.setdefault(number, []).append(row)
        resize = T.ResizeShortestEdge(size, sys.maxsize)
        for number, rows in watched(of_image.items(), total=len(of_image), unit="image"):
            record = self.records[number]
            try:
                seen = T.AugInput(read_image(record["file_name"], backbone.preprocessing.format))
                resize(seen)
            except BROKEN as error:
                say_skipped(record["file_name"], error)
                continue
            pixels = np.ascontiguousarray(seen.image.transpose(2, 0, 1))
            grid = backbone(torch.from_numpy(pixels)[None].float().to(device)).grid
            if grid is None:
                raise UserError(
                    f"{backbone.origin} cannot be pooled in boxes: its features are no average "
                    "over a map of several cells; take one that ends in average pooling, as "
                    "ResNets do, or a larger --size"
                )
            yield rows, self._pooled(grid, record, rows), None

    def _pooled(self, grid: Tensor, record: dict, rows: list[int]) -> Tensor:
        """(boxes, D) of a map (1, D, h, w)."""
        found = [self.objects[row][1] for row in rows]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in found]
        height, width = grid.shape[2:]
        scale = grid.new_tensor([width / record["width"], height / record["height"]] * 2)
        placed = grid.new_tensor(boxes) * scale
        return roi_align(grid, [placed], _CELLS, aligned=True).mean(dim=(2, 3))


class _Trunk(nn.Module):
    """The coarsest map of a detector's trunk, and its mean."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk = trunk.eval()

    def forward(self, images: Tensor) -> Reading:
        unit = getattr(self.trunk, "size_divisibility", 0) or 1
        height, width = images.shape[2:]
        padded = nn.functional.pad(images, (0, -width % unit, 0, -height % unit))
        found = self.trunk(padded)
        coarsest = min(found.values(), key=lambda grid: grid.shape[2] * grid.shape[3])
        used = [
            max(round(n * side / full), 1)
            for n, side, full in zip(
                coarsest.shape[2:], (height, width), padded.shape[2:], strict=True
            )
        ]
        grid = coarsest[:, :, : used[0], : used[1]].float()
        return Reading(grid.mean(dim=(2, 3)), None, grid)


def open_any(source: str) -> Backbone:
    """As :func:`open_backbone`; a run folder of tools/train_net.py gives its detector's trunk."""
    folder = Path(source)
    if not folder.is_dir():
        return open_backbone(source)
    cfg = read_config(folder, "cpu")
    if cfg.DATASETS.CLASSIFICATION:
        return open_backbone(source)
    preprocessing = Preprocessing(
        cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    )
    trunk = trunk_after(cfg, folder, "")
    return Backbone(_Trunk(trunk), preprocessing, source, "a detector has no classifier of images")
