"""Views of images in a file, for all runs that show the same ones."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from ..run_folder import replacing
from .data.loader import FixedViews

__all__ = ["read_views", "views_file", "write_views"]


def views_file(folder: str | Path, cfg: CfgNode, dataset: FixedViews) -> Path:
    """Where the views of a training set lie; another config, seed or list of images, another file.

    What the images themselves show is taken to stay as it is.
    """
    files = [file for images, _ in dataset.dicts.parts for file in images.files]
    known = [cfg.INPUT.dump(), dataset.seed, dataset.views, files]
    return Path(folder) / f"{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]}.npz"


def write_views(file: Path, batches: Iterable[Sequence[dict[str, Any]]]) -> None:
    """Keep the samples of :class:`~.data.loader.FixedViews`, in their order.

    ``images`` (N, 3, H, W) uint8, ``index`` (N,) int64: which image of the list each shows, which
    is another one where an image does not decode.
    """
    images, index = [], []
    for batch in batches:
        images.append(torch.stack([sample["image"] for sample in batch]).to(torch.uint8).numpy())
        index += [sample["index"] for sample in batch]
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, images=np.concatenate(images), index=np.array(index, np.int64))


def read_views(
    file: Path, records: Sequence[dict[str, Any]], batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    """The samples that were kept, in batches; "image" is (3, H, W) uint8.

    Args:
        records: those of the dataset
    """
    with np.load(file) as found:
        images, index = torch.from_numpy(found["images"]), found["index"].tolist()
    for start in range(0, len(index), batch_size):
        rows = range(start, min(start + batch_size, len(index)))
        yield [{**records[index[row]], "images": None, "image": images[row]} for row in rows]
