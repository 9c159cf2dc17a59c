"""Features of labelled images, computed once: kept in a file named by the content of both sides."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL.Image import DecompressionBombError
from torch import Tensor
from tqdm import tqdm

from ..engine.progress import watched
from ..errors import UserError
from ..reuse import digests
from ..reuse.fingerprint import fingerprint
from ..run_folder import replacing
from ..stream import BROKEN
from .backbones import Backbone
from .data import ClassificationMapper, ImageSet
from .data.loader import CentralCrop

__all__ = ["Batch", "Features", "LabelledImages", "Source", "extract", "say_skipped"]

_FORMAT = "1"  # of the files; another one makes all that are there stale
_BATCH = 32

# What is read: numbers of the samples, their features (N, D), their probabilities or None.
Batch = tuple[list[int], Tensor, Tensor | None]


class Source(Protocol):
    """Labelled samples that a backbone can be shown."""

    name: str
    labels: NDArray[np.int64]  # (N,) indices into `classes`
    classes: tuple[str, ...]

    def digest(self) -> str:
        """A checksum of all that decides the features, labels apart."""

    def read(self, backbone: Backbone, size: int, device: str) -> Iterator[Batch]:
        """Show them; those that cannot be read are named on stderr and left out."""


@dataclass(frozen=True)
class Features:
    """What a backbone made of a source.

    Attributes:
        values: (N, D) float32
        probabilities: (N, Z) float32 of the backbone's own classes; None where it has none
        labels: (N,) int64
    """

    values: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None
    labels: NDArray[np.int64]


def extract(
    backbone: Backbone, source: Source, *, size: int, cache: Path, device: str = "cpu"
) -> Features:
    """Read from the cache what was computed before from the same weights and samples.

    Args:
        size: pixels, see the source's ``read``
        cache: a folder

    Raises:
        UserError: none of the samples can be read, or the network does not take their size
    """
    path = cache / f"{_key(backbone, source, size)}.npz"
    if not path.is_file():
        _write(path, _compute(backbone, source, size, device))
    with np.load(path, allow_pickle=False) as found:
        probabilities = found.get("probabilities")
        return Features(found["values"], probabilities, source.labels[found["rows"]])


def _key(backbone: Backbone, source: Source, size: int) -> str:
    weights = fingerprint(digests(backbone.net.state_dict()))
    # Networks of the same tensors may differ in strides, which their text tells.
    network = f"{backbone.net!r} {backbone.preprocessing} {backbone.no_head}"
    words = (_FORMAT, network, weights, source.digest(), str(size))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def _compute(backbone: Backbone, source: Source, size: int, device: str) -> dict[str, NDArray]:
    backbone.net.to(device)
    rows: list[int] = []
    parts: list[tuple[Tensor, Tensor | None]] = []
    try:
        for numbers, *made in source.read(backbone, size, device):
            rows += numbers
            parts.append(tuple(None if part is None else part.cpu() for part in made))
    # What networks raise on images of a size that they were not built for.
    except (RuntimeError, AssertionError, IndexError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{backbone.origin} cannot be shown images of {size} px ({reason}); take another --size"
        ) from error
    if not rows:
        raise UserError(f"dataset {source.name}: none of its images can be read")
    found = {"rows": np.array(rows), "values": torch.cat([part for part, _ in parts]).numpy()}
    if parts[0][1] is not None:
        found["probabilities"] = torch.cat([part for _, part in parts]).numpy()
    return found


def _write(path: Path, arrays: dict[str, NDArray]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


class LabelledImages:
    """An image set as a source: the middle square of each image, its side resized to `size`."""

    def __init__(self, images: ImageSet):
        self.images = images
        self.name, self.labels, self.classes = images.name, images.labels, images.classes

    def digest(self) -> str:
        total = hashlib.sha256()
        for number in range(len(self.images)):
            content = self.images.open(number)
            is_array = isinstance(content, np.ndarray)
            total.update(hashlib.sha256(content.tobytes() if is_array else content).digest())
        return total.hexdigest()

    def read(self, backbone: Backbone, size: int, device: str) -> Iterator[Batch]:
        look = ClassificationMapper(
            augmentations=[T.ResizeShortestEdge(size, sys.maxsize), CentralCrop(size)],
            image_format=backbone.preprocessing.format,
        )
        rows: list[int] = []
        pixels: list[Tensor] = []
        for number in watched(range(len(self.images)), total=len(self.images), unit="image"):
            try:
                record = {**self.images.record(number), "images": self.images}
                pixels.append(look(record)["image"])
                rows.append(number)
            except (*BROKEN, DecompressionBombError) as error:
                say_skipped(self.images.files[number], error)
            if len(rows) == _BATCH or (rows and number == len(self.images) - 1):
                reading = backbone(torch.stack(pixels).to(device))
                yield rows, reading.features, reading.probabilities
                rows, pixels = [], []


def say_skipped(file: str, error: Exception) -> None:
    tqdm.write(f"skipped: {file}: {type(error).__name__}: {error}", file=sys.stderr)
