"""Checkpoints of classifiers: they say what was grown, and loading is strict."""

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from ..config import load_config
from ..engine.checkpoint import TransferCheckpointer, last_checkpoint
from ..errors import UserError
from ..reuse import Weights, frozen_tensors, is_frozen
from ..run_folder import CONFIG
from .building import DESCRIPTION, build_described, describe, source_of_transfer
from .classifier import ImageClassifier
from .transfer import Transfer

__all__ = ["ClassifierCheckpointer", "load_run"]

logger = logging.getLogger(__name__)

# Network -> prefix in the weights of others -> our layer; "" is the classifier.
# Source: torchvision.models.alexnet and vgg16.
_LAYERS = {
    "alexnet": {"classifier.1.": "FC6", "classifier.4.": "FC7", "classifier.6.": ""},
    "vgg16": {"classifier.0.": "FC6", "classifier.3.": "FC7", "classifier.6.": ""},
    "timm": {"fc.": "", "classifier.": "", "head.fc.": "", "head.": ""},
}


class ClassifierCheckpointer(TransferCheckpointer):
    """As its base; of a checkpoint of ours every tensor must find its place.

    Only what this run adds, and classifiers of tasks that it leaves out, may be without partner.
    """

    model: ImageClassifier

    def __init__(self, model: nn.Module, save_dir: str = "", *, cfg: CfgNode, **checkpointables):
        super().__init__(model, save_dir, cfg=cfg, **checkpointables)
        self._cfg = cfg

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As its base; with MODEL.TRANSFER only the layers that it names are taken."""
        transfer = Transfer.from_config(self._cfg)
        if transfer is None or not path or (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=resume)
        source = source_of_transfer(self._cfg)
        reader = ClassifierCheckpointer(source, cfg=self._cfg)
        reader.load_classifier(path)
        names = transfer.copy(source, self.model, path)
        self.origin, self._frozen_entry, self._frozen_origin = path, None, path
        logger.info("Copied %s from %s; the rest is drawn anew", ", ".join(names), path)
        return {}

    def load_classifier(self, path: str) -> None:
        """Load a checkpoint of ours, all of it, or what others' weights have of this network."""
        if describe(path):
            self.load_detector(path)
        else:
            self.load(path, checkpointables=[])

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        model = self.model
        said = {
            "architecture": model.architecture.as_dict(),
            "new": sorted(model.new),
            "classes": model.classes,
        }
        super().save(name, tag=tag, **{DESCRIPTION: said}, **kwargs)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        names = set(checkpoint["model"])
        wrong = super()._load_model(checkpoint)
        missing = sorted(set(wrong.missing_keys) - self.model.new)
        shapes = [name for name, *_ in wrong.incorrect_shapes]
        left = [name for name in names - set(self.model.state_dict()) if not self._left_out(name)]
        if not missing and not shapes and not left:
            return wrong
        parts = [
            f"{len(found)} {what} ({', '.join(sorted(found)[:2])})"
            for what, found in (
                ("tensors that it lacks", missing),
                ("of another shape", shapes),
                ("that have no place here", left),
            )
            if found
        ]
        raise UserError(
            f"{self.origin} is a checkpoint of another growth than {self.model.architecture}: "
            f"{', '.join(parts)}"
        )

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """What has no partner here was looked at already, and is as it should be."""

    def _left_out(self, name: str) -> bool:
        """A classifier of a task that is not in this run."""
        table, _, rest = name.partition(".")
        return table == "classifiers" and rest.partition(".")[0] not in self.model.classifiers

    def _as_detectron2(self) -> bool:
        return False

    def _needs_whole_trunk(self) -> bool:
        return super()._needs_whole_trunk() or is_frozen(self.model.backbone)

    def _load_trunk(self, weights: Weights) -> None:
        super()._load_trunk(weights)
        found = self._load_layers(weights)
        frozen = frozen_tensors(self.model)
        lacking = [
            name
            for name in frozen
            if name.startswith(("layers.", "classifiers."))
            and name not in found
            and name not in self.model.new
        ]
        if lacking:
            words = "MODEL.CLASSIFIER.SCOPE freezes at random; train it, e.g. with SCOPE FC6-New"
            if Transfer.from_config(self._cfg):
                words = "MODEL.TRANSFER.UP_TO copies; copy fewer layers"
            raise UserError(
                f"{weights.origin} has no weights for {', '.join(lacking[:2])}, which {words}"
            )

    @torch.no_grad()
    def _load_layers(self, weights: Weights) -> set[str]:
        """Fill FC6, FC7 and a classifier that the weights know by other names; gives ours."""
        found: set[str] = set()
        for prefix, layer in _LAYERS.get(self.model.architecture.network, {}).items():
            weight, bias = (weights.state.get(f"{prefix}{kind}") for kind in ("weight", "bias"))
            for name, module in self._places(layer):
                target = next(iter(module.weights.values()), None)
                if weight is None or len(module.weights) != 1 or target.shape != weight.shape:
                    continue
                target.copy_(weight)
                found |= {f"{name}.weights.{key}" for key in module.weights}
                if bias is not None:
                    module.bias.copy_(bias)
                    found.add(f"{name}.bias")
        names = sorted({name.rsplit(".weights.")[0] for name in found if ".weights." in name})
        logger.info("Layers above pool5: %s from %s", ", ".join(names) or "none", weights.origin)
        return found

    def _places(self, layer: str) -> list[tuple[str, nn.Module]]:
        model = self.model
        if layer:
            return [(f"layers.{layer}", model.layers[layer])] if layer in model.layers else []
        return [
            (f"classifiers.{task}", module)
            for task, module in model.classifiers.items()
            if not any(name.startswith(f"classifiers.{task}.") for name in model.new)
        ]


def load_run(folder: Path) -> tuple[CfgNode, ImageClassifier]:
    """The config of a run folder and the classifier of its last checkpoint, in evaluation mode.

    On the run's device, or on the CPU where torch finds no CUDA device for it.

    Raises:
        UserError: it is no run folder, or has no checkpoint
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run folder: it has no {CONFIG}")
    cfg = load_config(str(folder / CONFIG)).cfg
    source = str(last_checkpoint(folder) or "")
    if not source:
        raise UserError(f"{folder} has no checkpoint yet")
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_described(cfg, source).to(cfg.MODEL.DEVICE)
    model.new = set()
    ClassifierCheckpointer(model, cfg=cfg).load_detector(source)
    return cfg, model.eval()
