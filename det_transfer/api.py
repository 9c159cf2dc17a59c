"""The Python face: train a detector from a notebook, load it from its run folder, call it.

run = det_transfer.train("configs/quickstart.yaml", {"OUTPUT_DIR": "output/first"})
model = det_transfer.load("output/first")
instances = model("street.jpg")
"""

import argparse
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    _apply_exif_orientation,
    build_augmentation,
    convert_PIL_to_numpy,
)
from detectron2.structures import Instances
from PIL import Image

from . import run_folder
from .config import load_config
from .engine.checkpoint import TransferCheckpointer, find_checkpoint
from .engine.detection import DetectionTrainer, evaluations, prepare
from .engine.evaluation import Evaluation
from .engine.launch import quiet
from .engine.setup import setup
from .errors import UserError

__all__ = ["Detector", "ImageLike", "Names", "Run", "batches", "load", "train"]

# A path, a picture, or an array as OpenCV reads it: (H, W, 3) uint8 in BGR order, or (H, W) grey.
ImageLike = str | os.PathLike | Image.Image | np.ndarray


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder, see docs/run_folder.md
        results: of the last evaluation, Detectron2's keys, AP in 0 to 100
    """

    folder: Path
    results: dict[str, Any]

    def load(self, **options: Any) -> "Detector":
        """The trained detector; `options` as for :func:`load`."""
        return load(self.folder, **options)


def train(
    config_file: str | os.PathLike | None,
    options: Mapping[str, Any] | Sequence[Any] = (),
    *,
    resume: bool = False,
) -> Run:
    """Train and evaluate in this process, as ``tools/train_net.py`` does.

    Args:
        config_file: a YAML, or None for Detectron2's and our defaults
        options: config keys and values, as a mapping or as the list ``[KEY, VALUE, ...]``
        resume: go on with the run that is in OUTPUT_DIR
    Raises:
        UserError: what the program would say in one line and exit code 2
    """
    pairs = options.items() if isinstance(options, Mapping) else None
    args = argparse.Namespace(
        config_file=config_file and str(config_file),
        opts=list(options) if pairs is None else [word for pair in pairs for word in pair],
        resume=resume,
        eval_only=False,
        dry_run=False,
    )
    quiet()
    trainer = DetectionTrainer(setup(args, prepare))
    trainer.resume_or_load(resume=resume)
    return Run(Path(trainer.cfg.OUTPUT_DIR), trainer.train() or {})


def load(
    run: str | os.PathLike,
    *,
    weights: str = "",
    device: str = "",
    score_threshold: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> "Detector":
    """The detector of a run folder, ready to be called.

    Args:
        run: a run folder; one of stock Detectron2 (config.yaml and checkpoints) will do
        weights: a checkpoint's file name in the folder. Default: the first there is of
            model_best.pth, model_final_ema.pth, model_final.pth and the last checkpoint
        device: "cpu", "cuda", ...; default: the config's, the CPU where there is no CUDA
        score_threshold: leaves out detections with a lower score, beyond the config's
            MODEL.ROI_HEADS.SCORE_THRESH_TEST
        options: config keys and values in place of the run's, e.g. {"INPUT.MIN_SIZE_TEST": 640}
    Raises:
        UserError: no run, no checkpoint, one that does not fit the config, or no such device
    """
    quiet()
    _check_device(device)
    folder = Path(run)
    if run_folder.is_classifier(folder):
        raise UserError(
            f"{folder} is a run of a classifier, not of a detector; tools/compose.py puts it "
            "beside detectors of its trunk"
        )
    config_file = folder / run_folder.CONFIG
    if not config_file.is_file():
        raise UserError(f"{folder} is no run folder: it has no {run_folder.CONFIG}")
    pairs = [word for pair in (options or {}).items() for word in pair]
    cfg = load_config(str(config_file), pairs).cfg
    if device or not torch.cuda.is_available():
        cfg.MODEL.DEVICE = device or "cpu"
    checkpoint = find_checkpoint(folder, weights)
    model = DetectionTrainer.build_model(cfg)
    TransferCheckpointer(model, cfg=cfg).load_detector(str(checkpoint))
    return Detector(
        model,
        cfg,
        _classes(folder, cfg),
        weights=checkpoint,
        score_threshold=score_threshold,
    )


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device or "cpu").type
    except RuntimeError as error:
        raise UserError(f"device {device!r}: {str(error).splitlines()[0]}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device!r}: torch finds no CUDA device here")


def _classes(folder: Path, cfg: CfgNode) -> list[str]:
    """Class names as the run kept them; for a stock run those of its registered dataset."""
    record = folder / run_folder.RUN
    if record.is_file():
        return run_folder.read_json(record).get("classes", [])
    names = [MetadataCatalog.get(name).get("thing_classes") for name in cfg.DATASETS.TRAIN[:1]]
    return list(names[0] or []) if names else []


class Detector:
    """A trained detector that takes images in any form and gives Detectron2's ``Instances``.

    Images of different sizes never go through the model together: in a padded batch a prediction
    would depend, by a little, on the other images.

    Attributes:
        model: the Detectron2 model, in evaluation mode
        cfg: its config
        classes (list[str]): names by class index; empty where the run did not keep them
        weights (Path): the checkpoint it was loaded from
    """

    def __init__(
        self,
        model: torch.nn.Module,
        cfg: CfgNode,
        classes: Sequence[str],
        *,
        weights: Path | None = None,
        score_threshold: float = 0.0,
    ):
        self.model = model.eval()
        self.cfg = cfg
        self.classes = list(classes)
        self.weights = weights
        self.score_threshold = score_threshold
        self._augmentation = T.AugmentationList(build_augmentation(cfg, is_train=False))

    def __call__(
        self, images: ImageLike | Iterable[ImageLike], *, batch: int = 1
    ) -> Instances | list[Instances]:
        """Detect in one image or in several.

        Args:
            images: one or more of: a path; a PIL image; an array (H, W, 3) uint8 in **BGR** order
                as OpenCV reads it and Detectron2's DefaultPredictor takes it, or (H, W) grey
            batch: up to so many that follow each other and have one size go through the model
                together, which is faster on a GPU and differs from one by one by rounding

        Returns:
            for one image its ``Instances`` on the CPU, for several a list of them: Detectron2's
            fields (``pred_boxes`` in pixels of the image, ``scores``, ``pred_classes``, with masks
            ``pred_masks``) and ``pred_class_names``, in order of falling score
        Raises:
            ValueError: an array of another shape or type
        """
        if isinstance(images, ImageLike):
            return self._detect([self.sample(images)])[0]
        return list(self.each(images, batch=batch))

    def each(self, images: Iterable[ImageLike], *, batch: int = 1) -> Iterator[Instances]:
        """As a call on several, one after the other: of `images` only a batch is held at a time."""
        for samples in batches(map(self.sample, images), batch):
            yield from self._detect(samples)

    def sample(self, image: ImageLike) -> dict[str, Any]:
        """An image as the model takes it: resized, channels in the config's order."""
        array = convert_PIL_to_numpy(_picture(image), self.cfg.INPUT.FORMAT)
        height, width = array.shape[:2]
        augmented = T.AugInput(array)
        self._augmentation(augmented)
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        return {"image": torch.from_numpy(pixels), "height": height, "width": width}

    @torch.no_grad()
    def _detect(self, samples: list[dict[str, Any]]) -> list[Instances]:
        return list(map(self.answer, self.model(samples)))

    def evaluations(self, output: str | os.PathLike) -> Iterator[Evaluation]:
        """See :func:`det_transfer.engine.detection.evaluations`."""
        return evaluations(self.cfg, self.classes, output)

    def answer(self, output: dict[str, Any]) -> Instances:
        """What the model found, above the threshold and with the names of its classes."""
        found = output["instances"].to("cpu")
        found = found[found.scores >= self.score_threshold]
        indices = found.pred_classes.tolist()
        found.pred_class_names = Names(
            self.classes[index] if self.classes else str(index) for index in indices
        )
        return found


def batches(samples: Iterable[dict[str, Any]], most: int) -> Iterator[list[dict[str, Any]]]:
    """Up to `most` samples that follow each other and whose images have one size."""
    for _, alike in itertools.groupby(samples, key=lambda sample: sample["image"].shape):
        while some := list(itertools.islice(alike, most)):
            yield some


def _picture(image: ImageLike) -> Image.Image:
    """As a PIL image that stands upright, whatever its EXIF data say."""
    if isinstance(image, str | os.PathLike):
        image = Image.open(image)
    if isinstance(image, Image.Image):
        return _apply_exif_orientation(image)
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(
            f"an image array is (H, W, 3) or (H, W) of uint8, not {image.shape} of {image.dtype}"
        )
    return Image.fromarray(image if grey else image[:, :, ::-1])


class Names(list):
    """A list of str that ``Instances`` can index as it does its tensors: by slice, mask, index."""

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, int | slice):
            chosen = super().__getitem__(item)
            return Names(chosen) if isinstance(item, slice) else chosen
        array = np.asarray(item)
        indices = np.flatnonzero(array) if array.dtype == bool else array
        return Names(super(Names, self).__getitem__(int(index)) for index in indices)
