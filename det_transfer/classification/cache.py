"""Activations computed once: what lies below all that is trained or random in training."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader
from tqdm import tqdm

from ..errors import UserError
from ..reuse import is_frozen
from ..reuse.freeze import DROPOUTS
from ..stream import TrainLoader, as_list
from .architecture import POOL5
from .classifier import IMAGE, FeatureBatch, ImageClassifier
from .growth import free_memory
from .views import read_views, write_views

__all__ = ["CachedLoader", "constant_activations", "needed_activations"]

logger = logging.getLogger(__name__)


def constant_activations(model: ImageClassifier) -> set[str]:
    """Names of the activations that are the same whenever a view is shown.

    Those of frozen layers whose inputs are constant, without an active dropout.
    """
    was_training = model.training
    model.train()  # so that every dropout says whether it is active
    constant = set()
    if is_frozen(model.backbone) and not _is_random(model.backbone.modules()):
        constant.add(POOL5)
        # Batch norms of a frozen column are in evaluation mode.
        constant |= {name for name, column in model.columns.items() if is_frozen(column)}
    for level in model.levels:
        for name in level:
            layer = model.layers[name]
            steady = set(layer.inputs) <= constant and not _is_random(layer.modules())
            if is_frozen(layer) and steady:
                constant.add(name)
    model.train(was_training)
    return constant


def needed_activations(
    model: ImageClassifier, constant: set[str], *others: ImageClassifier
) -> list[str]:
    """Those of `constant` that something reads which is not constant itself.

    None where channels beside the trunk are trained: they read a map, which is not kept.

    Args:
        others: networks with the same constant layers that see the same batches
    """
    needed: set[str] = set()
    maps: set[str] = set()

    def visit(net: ImageClassifier, names: Iterable[str]) -> None:
        for name in names:
            if name in constant:
                needed.add(name)
            elif name in net.architecture.layers:
                visit(net, net.architecture.layers[name].inputs)
            elif name in net.columns:
                maps.add(name)

    for net in (model, *others):
        for layer in net.architecture.classifiers.values():
            visit(net, layer.inputs)
    if maps:
        return []
    return [name for name in (*model.architecture.base, *model.layers) if name in needed]


def _is_random(modules: Iterable[nn.Module]) -> bool:
    return any(isinstance(m, DROPOUTS) and m.training and _rate(m) > 0 for m in modules)


def _rate(dropout: nn.Module) -> float:
    for name in ("p", "drop_prob", "prob"):
        if getattr(dropout, name, None) is not None:
            return float(getattr(dropout, name))
    return 1.0


@dataclass
class _Table:
    """Activations of all views: view v of image i is row v * images + i."""

    activations: Mapping[str, Tensor]
    labels: Tensor
    samples: list[dict]


class CachedLoader:
    """Gives the batches of a :class:`~det_transfer.stream.TrainLoader` as their activations.

    Where no activation is constant it keeps the views themselves, as uint8.

    Args:
        loader: over :class:`~.data.loader.FixedViews`
        model: with its weights; what is below its first trained or random layer is computed now
        others: see :func:`needed_activations`
        batch_size: images at a time
        views: file that keeps the views for other runs, see :mod:`.views`; None: none does

    Raises:
        UserError: they do not fit into memory
    """

    def __init__(
        self,
        loader: TrainLoader,
        model: ImageClassifier,
        *others: ImageClassifier,
        batch_size: int = 50,
        views: Path | None = None,
    ):
        self.dataset, self.batches = loader.dataset, loader.batches
        self.num_workers = loader.num_workers
        constant = constant_activations(model)
        self.names = needed_activations(model, constant, *others)
        if not self.names:  # all is trained: what can be spared is reading and drawing views
            self.names = [IMAGE]
        self._table = self._compute(model, batch_size, views)

    def start_at(self, iteration: int) -> None:
        self.batches.start = iteration

    def __iter__(self) -> Iterator[FeatureBatch]:
        table, images = self._table, len(self.dataset)
        for pairs in self.batches:
            rows = np.array([self.dataset.view_at(at) * images + i for at, i in pairs])
            index = torch.from_numpy(rows)
            yield FeatureBatch(
                {name: tensor[index] for name, tensor in table.activations.items()},
                table.labels[index],
                [table.samples[row] for row in rows.tolist()],
            )

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._table.activations.values())

    def _empty(self, rows: int, name: str, like: Tensor) -> Tensor:
        """A table for so many rows of what `like` (N, ...) has."""
        dtype = torch.uint8 if name == IMAGE else torch.float32
        table = torch.empty(0, dtype=dtype)
        need, free = rows * like[0].numel() * table.element_size(), free_memory("cpu")
        if need > free:
            raise UserError(
                f"MODEL.CLASSIFIER.CACHE: {name} of {rows} views takes {need / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB are free; take fewer views with INPUT.VIEW.FIXED, or set "
                "CACHE to False"
            )
        return table.new_empty(rows, *like.shape[1:])

    def _values(self, model: ImageClassifier, batch: list[dict]) -> dict[str, Tensor]:
        if self.names == [IMAGE]:
            return {IMAGE: torch.stack([sample[IMAGE] for sample in batch])}
        activations = model.activations(batch)
        return {name: activations[name] for name in self.names}

    def _samples(
        self, keys: list[tuple[int, int]], batch_size: int, views: Path | None
    ) -> Iterable[list[dict]]:
        """All views in batches, drawn or as they were kept."""
        if views and views.is_file():
            return read_views(views, self.dataset.dicts, batch_size)
        drawn = DataLoader(
            self.dataset,
            batch_sampler=BatchSampler(keys, batch_size, drop_last=False),
            num_workers=self.num_workers,
            collate_fn=as_list,
            generator=torch.Generator(),
        )
        if not views:
            return drawn
        write_views(views, drawn)
        return read_views(views, self.dataset.dicts, batch_size)

    @torch.no_grad()
    def _compute(self, model: ImageClassifier, batch_size: int, views: Path | None) -> _Table:
        images = len(self.dataset)
        keys = [(v * images, i) for v in range(self.dataset.views) for i in range(images)]
        batches = self._samples(keys, batch_size, views)
        found: dict[str, Tensor] = {}
        samples: list[dict] = []
        was_training = model.training
        model.eval()
        for batch in tqdm(batches, "caching", unit="batch", disable=None):
            rows = slice(len(samples), len(samples) + len(batch))
            for name, values in self._values(model, batch).items():
                if name not in found:
                    found[name] = self._empty(len(keys), name, values)
                found[name][rows] = values
            hidden = ("image", "images")
            samples += [{k: v for k, v in sample.items() if k not in hidden} for sample in batch]
        model.train(was_training)
        labels = torch.tensor([sample["label"] for sample in samples])
        logger.info(
            "Cached %s of %d views of %d images", ", ".join(found), self.dataset.views, images
        )
        return _Table(found, labels, samples)
