"""The classifier: a trunk, fully connected layers that may have grown, a classifier a task."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, nearest
from .architecture import POOL5, Architecture, Layer
from .columns import Conv
from .dense import Dense
from .trunks import build_trunk

__all__ = ["IMAGE", "Activations", "FeatureBatch", "ImageClassifier"]

IMAGE = "image"  # what pool5 is computed from
_MAP = "map"  # what the last stage reads, and new channels beside it


class Activations(Mapping):
    """Activations by name, computed when they are asked for: pool5 (N, channels), FC6 (N, units).

    Args:
        given: those that are known already, or "image" (N, 3, H, W), normalised
    """

    def __init__(self, model: "ImageClassifier", given: Mapping[str, Tensor]):
        self._model, self.given, self._known = model, given, dict(given)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            model = self._model
            if name in (POOL5, _MAP) and model.columns:
                both = model.backbone.with_map(self._known[IMAGE])
                self._known[POOL5], self._known[_MAP] = both
            elif name == POOL5:
                self._known[name] = model.backbone(self._known[IMAGE])
            elif name in model.columns:
                self._known[name] = model.columns[name](self[_MAP])
            else:
                self._known[name] = model.layers[name](self)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._model.architecture.base, *self._model.layers])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def norms(self) -> dict[str, float]:
        """Mean L2 norm of those that were computed or given, without images."""
        return {
            name: tensor.detach().norm(dim=1).mean().item()
            for name, tensor in self._known.items()
            if name not in (IMAGE, _MAP)
        }


class FeatureBatch(Sequence):
    """A batch whose activations are known: what a list of samples would be, without the samples.

    Args:
        activations: name -> (N, channels); or "image" -> (N, 3, H, W) in grey levels
        labels: (N,) int64
        samples: dicts with "task" and "file_name"
    """

    def __init__(self, activations: Mapping[str, Tensor], labels: Tensor, samples: Sequence[dict]):
        self.activations, self.labels, self.samples = dict(activations), labels, samples

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            cut = {name: tensor[key] for name, tensor in self.activations.items()}
            return FeatureBatch(cut, self.labels[key], self.samples[key])
        return self.samples[key]


class ImageClassifier(nn.Module):
    """Takes and gives what Detectron2's models do.

    Children: ``backbone`` (a :class:`~.trunks.Trunk`), and by name ``columns`` (grown beside its
    last stage, :class:`~.columns.Conv`), ``layers`` and ``classifiers`` (:class:`~.dense.Dense`).

    Args:
        architecture: what stands on the trunk
        pixel_mean, pixel_std: in grey levels, in the channel order of the images

    Attributes:
        new (set[str]): names of parameters that this run has added to what it began with
        classes (dict[str, list[str]]): task -> names, for checkpoints
        training_tasks (tuple[str, ...]): whose classifiers are trained; empty: all
        labelled_tasks (tuple[str, ...]): those of them that the training data have labels for
        test_blocks (bool): in evaluation, also give the logits of each block alone
        watched (dict[str, float] | None): where it is not None, the next step in training puts the
            mean norm of each layer's activation there
        teacher: gives further losses, see :mod:`.distillation`; no part of the model
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ):
        super().__init__()
        self.backbone = build_trunk(architecture.network, dict(architecture.options))
        if self.backbone.width != architecture.pool5:
            raise UserError(
                f"{architecture.network}: pool5 has {self.backbone.width} channels here, but "
                f"{architecture.pool5} in the description"
            )
        self.columns = nn.ModuleDict()
        self.layers = nn.ModuleDict()
        self.classifiers = nn.ModuleDict()
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.new: set[str] = set()
        self.classes: dict[str, list[str]] = {}
        self.training_tasks: tuple[str, ...] = ()
        self.labelled_tasks: tuple[str, ...] = ()
        self.teacher: Any = None
        self.watched: dict[str, float] | None = None
        self.test_blocks = False
        self.rewire(architecture)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def rewire(self, architecture: Architecture) -> list[str]:
        """Become another architecture on the same trunk; what stays keeps its weights.

        Returns:
            names of the parameters that are new; weights among them are 0 (see :mod:`.growth`)
        """
        before = {name for name, _ in self.named_parameters()}
        self.architecture = architecture
        for name, made in architecture.columns.items():
            if name not in self.columns:
                column: Conv = self.backbone.column(made.channels)
                self.columns[name] = column.to(self.device).train(self.training)
        for table, layers, relu in (
            (self.layers, architecture.layers, True),
            (self.classifiers, architecture.classifiers, False),
        ):
            for name in [name for name in table if name not in layers]:
                del table[name]
            for name, layer in layers.items():
                self._wire(table, name, layer, relu)
        return [name for name, _ in self.named_parameters() if name not in before]

    def _wire(self, table: nn.ModuleDict, name: str, layer: Layer, relu: bool) -> None:
        net = self.architecture
        widths = {other: net.width(other) for other in layer.inputs}
        dropout = {other: net.dropout for other in layer.inputs if other in net.dropped}
        if name in table and table[name].width == layer.width:
            table[name].rewire(layer, widths, dropout)
        else:
            made = Dense(layer, widths, dropout, relu=relu)
            table[name] = made.to(self.device).train(self.training)

    def named_layers(self) -> dict[str, tuple[nn.Module, ...]]:
        """Name -> modules of all layers below the classifiers, in the order in which they run."""
        above = {name: (self.layers[name],) for level in self.levels for name in level}
        beside = {name: (column,) for name, column in self.columns.items()}
        return {**self.backbone.named_layers(), **beside, **above}

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        return self.architecture.levels

    def from_layer(self, name: str) -> list[nn.Module]:
        """The modules of a layer, of those beside it and of all above, without the classifiers.

        Raises:
            UserError: there is no such layer
        """
        names = list(self.named_layers())
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise UserError(f"there is no layer {name}; {hint}This network has {', '.join(names)}")
        level = next((level for level in self.levels if name in level), (name,))
        first = min(names.index(other) for other in level)
        return [m for other in names[first:] for m in self.named_layers()[other]]

    def grown_modules(self) -> dict[str, nn.Module]:
        """Name -> module of all that lies below the classifiers and not in the trunk."""
        return {**self.columns, **self.layers}

    def parts(self) -> dict[str, list[str]]:
        """Part -> names of parameters, for MODEL.REUSE.LR_MULT and WEIGHT_DECAY."""
        scales = {name for name, _ in self.named_parameters() if ".scales." in name}
        return {
            "new": sorted(self.new - scales),
            "new_scales": sorted(self.new & scales),
            "scales": sorted(scales),
        }

    # -- Running -----------------------------------------------------------------------------

    def forward(self, batch: Sequence[dict]) -> Any:
        """Losses in training, else the logits of each image.

        Args:
            batch: dicts with "image" (3, H, W) in grey levels, "task" and in training "label"; or a
                :class:`FeatureBatch`

        Returns:
            in training {"loss_<task>": mean cross entropy of the task's images, times their share,
            0 where the batch has none};
            else a list of {"logits": (classes,)}, with ``test_blocks`` also "blocks": name ->
            (classes,) of each layer that the classifier reads, alone
        """
        if not self.training and not len(batch):  # of images that do not decode
            return []
        activations = self.activations(batch)
        if not self.training:
            return self._answers(activations, batch)
        labels = self._labels(batch)
        losses = {}
        by_task = self._by_task(batch)
        for task in dict.fromkeys([*self.labelled_tasks, *by_task]):
            logits, rows = self.logits(activations, task), by_task.get(task, [])
            share = len(rows) / len(batch)
            # One that this batch lacks has a loss too: of all processes each has the same keys, and
            # DDP waits for no gradient that never comes.
            losses[f"loss_{task}"] = (
                share * F.cross_entropy(logits[rows], labels[rows]) if rows else 0.0 * logits.sum()
            )
        if self.teacher:
            losses |= self.teacher.losses(self, activations, set(self.labelled_tasks))
        if self.watched is not None:
            self.watched = activations.norms()
        return losses

    def activations(self, batch: Sequence[dict]) -> Activations:
        """The activations of a batch, see :class:`Activations`."""
        if isinstance(batch, FeatureBatch):
            known = {name: tensor.to(self.device) for name, tensor in batch.activations.items()}
            if IMAGE in known:
                known[IMAGE] = self._normalised(known[IMAGE].float())
            return Activations(self, known)
        sizes = {tuple(sample["image"].shape) for sample in batch}
        if len(sizes) > 1:
            shapes = " and ".join(f"{h} x {w}" for _, h, w in sorted(sizes)[:2])
            raise UserError(f"images of one batch differ in size ({shapes}): set INPUT.VIEW.CROP")
        images = torch.stack([sample["image"] for sample in batch]).to(self.device)
        return Activations(self, {IMAGE: self._normalised(images)})

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.pixel_mean) / self.pixel_std

    def logits(
        self, activations: Mapping[str, Tensor], task: str, only: Sequence[str] = ()
    ) -> Tensor:
        """(N, classes) of a task.

        Args:
            only: of the layers that the classifier reads, the others count as 0. Source: gyeongmoon
                CNN-DM, which so scores an old or a new block alone
        """
        return self.classifiers[task](activations, only)

    def _answers(self, activations: Activations, batch: Sequence[dict]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{} for _ in range(len(batch))]
        for task, rows in self._by_task(batch).items():
            logits = self.logits(activations, task)
            names = self.classifiers[task].inputs if self.test_blocks else ()
            alone = {name: self.logits(activations, task, (name,)) for name in names}
            for row in rows:
                found[row]["logits"] = logits[row]
                if self.test_blocks:
                    found[row]["blocks"] = {name: block[row] for name, block in alone.items()}
        return found

    def _labels(self, batch: Sequence[dict]) -> Tensor:
        if isinstance(batch, FeatureBatch):
            return batch.labels.to(self.device)
        return torch.tensor([sample["label"] for sample in batch], device=self.device)

    def _by_task(self, batch: Sequence[dict]) -> dict[str, list[int]]:
        """Task -> rows of the batch."""
        samples = batch.samples if isinstance(batch, FeatureBatch) else batch
        rows: dict[str, list[int]] = {}
        for row, sample in enumerate(samples):
            rows.setdefault(sample["task"], []).append(row)
        return rows
