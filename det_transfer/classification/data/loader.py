"""Loaders of labelled images on the positioned stream, and what is seen of an image."""

import math
import sys
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm
from fvcore.transforms.transform import CropTransform, PadTransform, Transform, TransformList
from PIL import Image
from PIL.Image import DecompressionBombError
from torch.utils.data import BatchSampler, DataLoader, Dataset

from ...errors import UserError
from ...stream import BROKEN, PositionedBatches, PositionedDataset, TrainLoader, seeded
from .image_set import ImageSet
from .tasks import Tasks, training_images

__all__ = ["ClassificationMapper", "build_test_loader", "build_train_loader", "view"]

_BROKEN = (*BROKEN, DecompressionBombError)
_VIEWS = 0x766965  # apart from the seeds of everything else


class ClassificationMapper:
    """From a record with its image to a sample: what Detectron2's mapper is to detection.

    Args:
        augmentations: of Detectron2
        image_format: "RGB" or "BGR"
    """

    @configurable
    def __init__(self, *, augmentations: list[T.Augmentation], image_format: str = "RGB"):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return {
            "augmentations": view(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Add "image", (3, H, W) float32 in grey levels, to "file_name", "label" and "task"."""
        record = dict(record)
        images: ImageSet = record.pop("images")
        image = images.image(record["image_id"])
        record["height"], record["width"] = image.shape[:2]
        given = T.AugInput(image)
        self.augmentations(given)
        image = given.image[:, :, ::-1] if self.image_format == "BGR" else given.image
        image = np.ascontiguousarray(image.transpose(2, 0, 1))
        record["image"] = torch.from_numpy(image).float()
        return record


def view(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """INPUT.VIEW as Detectron2's augmentations."""
    options = cfg.INPUT.VIEW
    found: list[T.Augmentation] = []
    scaled = is_train and options.CROP_KIND == "scaled"
    if options.RESIZE and not scaled:
        if options.WARP:
            found.append(T.Resize((options.RESIZE, options.RESIZE)))
        else:
            found.append(T.ResizeShortestEdge(options.RESIZE, sys.maxsize))
    if options.PAD and is_train:
        found.append(_Always(PadTransform(*[options.PAD] * 4)))
    if scaled:
        found.append(ScaledCrop(options.CROP))
    elif options.CROP and is_train:
        found.append(T.RandomCrop("absolute", (options.CROP, options.CROP)))
    elif options.CROP:
        found.append(CentralCrop(options.CROP))
    if not is_train:
        return found
    if cfg.INPUT.RANDOM_FLIP != "none":
        horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
        found.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    if options.JITTER:
        low, high = max(0.0, 1 - options.JITTER), 1 + options.JITTER
        found += [
            T.RandomBrightness(low, high),
            T.RandomContrast(low, high),
            T.RandomSaturation(low, high),
        ]
    return found


class _Always(T.Augmentation):
    def __init__(self, transform: Transform):
        super().__init__()
        self.transform = transform

    def get_transform(self, image: np.ndarray) -> Transform:
        return self.transform


class CentralCrop(T.Augmentation):
    """The square of `size` px in the middle; all of a side that is shorter."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        h, w = min(self.size, height), min(self.size, width)
        return CropTransform((width - w) // 2, (height - h) // 2, w, h)


class ScaledCrop(T.Augmentation):
    """A part of random area and shape, resized to a square.

    Source: Szegedy et al. 2015 (8 % to 100 % of the area, sides 3:4 to 4:3); like
    torchvision.transforms.RandomResizedCrop it takes the whole image where none fits in 10 tries.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        x, y, w, h = 0, 0, width, height
        for _ in range(10):
            area = height * width * np.random.uniform(0.08, 1.0)
            ratio = math.exp(np.random.uniform(math.log(3 / 4), math.log(4 / 3)))
            cut_w, cut_h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < cut_w <= width and 0 < cut_h <= height:
                x, y = np.random.randint(width - cut_w + 1), np.random.randint(height - cut_h + 1)
                w, h = cut_w, cut_h
                break
        resize = T.ResizeTransform(h, w, self.size, self.size, Image.BILINEAR)
        return TransformList([CropTransform(x, y, w, h), resize])


class Records(Dataset):
    """The records of several image sets as one list; each knows its set and its task."""

    def __init__(self, parts: list[tuple[ImageSet, str]]):
        self.parts = parts
        self._ends = np.cumsum([len(images) for images, _ in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        images, task = self.parts[part]
        local = index - (int(self._ends[part - 1]) if part else 0)
        return {**images.record(local), "task": task, "images": images}


class FixedViews(PositionedDataset):
    """Each image has `views` views, drawn once by (seed, image, view).

    The image at a position of the stream is in the pass through the data with number
    ``position // images``, and shows the view of that number.
    """

    def __init__(self, *args: Any, views: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.views = views

    def _sample(self, index: int) -> dict | None:
        with seeded(self.seed, _VIEWS, index, self._view):
            return super()._sample(index)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        self._view = self.view_at(key[0])
        return super().__getitem__(key)

    def view_at(self, position: int) -> int:
        return (position // len(self)) % self.views


def train_records(cfg: CfgNode) -> Records:
    """All training sets of the config, or the part of them that it asks for."""
    tasks = Tasks(cfg)
    names = cfg.DATASETS.TRAIN
    return Records([(training_images(cfg, tasks, name), tasks.of(name)) for name in names])


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """DATASETS.TRAIN as a positioned stream of batches.

    Raises:
        UserError: the batch cannot be divided among the processes
    """
    world_size = comm.get_world_size()
    parts = world_size * cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.IMS_PER_BATCH % parts:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world_size} "
            f"processes and SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} parts"
        )
    seed = max(cfg.SEED, 0)
    records = train_records(cfg)
    batches = PositionedBatches(
        TrainingSampler(len(records), seed=seed),
        cfg.SOLVER.IMS_PER_BATCH // world_size,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    options: dict[str, Any] = {"broken": _BROKEN}
    views = cfg.INPUT.VIEW.FIXED
    kind = FixedViews if views else PositionedDataset
    if views:
        options["views"] = views
    mapper = ClassificationMapper(cfg, True)
    dataset = kind(records, mapper, seed, cfg.DATASETS.MAX_SKIPPED, **options)
    return TrainLoader(dataset, batches, cfg.DATALOADER.NUM_WORKERS)


class _Tested(Dataset):
    """The samples of a test set; an image that does not decode has "broken" in place of "image"."""

    def __init__(self, records: Records, mapper: ClassificationMapper):
        self.records, self.mapper = records, mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        try:
            return self.mapper(record)
        except _BROKEN as error:
            del record["images"]
            return {**record, "broken": f"{type(error).__name__}: {error}"}


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Each image of a test set once, this process' share, in batches of TEST_BATCH."""
    tasks = Tasks(cfg)
    records = Records([(tasks.images(dataset_name), tasks.of(dataset_name))])
    dataset = _Tested(records, ClassificationMapper(cfg, False))
    sampler = InferenceSampler(len(dataset))
    return DataLoader(
        dataset,
        batch_sampler=BatchSampler(sampler, cfg.MODEL.CLASSIFIER.TEST_BATCH, drop_last=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_sound,
    )


def _sound(samples: list[dict]) -> list[dict]:
    return [sample for sample in samples if "broken" not in sample]
