"""A trained classifier without its trunk, to stand on the same trunk of a detector.

It meets the detector through its features alone: what :mod:`det_transfer.composition` loads is a
:class:`TrainedHead`, and what takes the features is a :class:`ClassifierHead`.
"""

import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from .. import run_folder
from ..config import load_config
from ..engine.checkpoint import find_checkpoint
from ..engine.evaluation import Evaluation
from ..errors import UserError
from ..reuse import changed, digests, fingerprint
from ..reuse.names import match_names
from .building import build_described, check_classes
from .classifier import IMAGE, Activations, ImageClassifier
from .data import Tasks, build_test_loader
from .trainer import ClassificationTrainer
from .trunks import TimmTrunk, units

__all__ = ["ClassifierHead", "TrainedHead", "load_head"]

_TOP = 5  # classes in an answer
# Of the largest activation. Convolutions of one weight in two implementations differ by some 1e-6.
_TOLERANCE = 1e-4


def load_head(run: str | os.PathLike, name: str, *, weights: str = "", **_: Any) -> "TrainedHead":
    """The head of a run of ``tools/train_classifier.py``.

    Args:
        name: of the classifier's tasks; where it has one alone, any name
        weights: see :func:`det_transfer.engine.checkpoint.find_checkpoint`

    Raises:
        UserError: no run, no checkpoint, or several tasks of other names
    """
    folder = Path(run)
    cfg = load_config(str(folder / run_folder.CONFIG)).cfg
    cfg.MODEL.DEVICE = "cpu"  # until the trunk says where
    checkpoint = find_checkpoint(folder, weights)
    model = build_described(cfg, str(checkpoint))
    model.new = set()
    ClassificationTrainer.build_checkpointer(cfg, model).load_detector(str(checkpoint))
    task = name if name in model.classifiers else next(iter(model.classifiers))
    if task != name and len(model.classifiers) > 1:
        raise UserError(
            f"{folder} has classifiers for {', '.join(model.classifiers)}; call the task by one of "
            "these names"
        )
    return TrainedHead(model.eval(), cfg, task, checkpoint)


class TrainedHead:
    """A trained classifier, for a composition.

    Attributes:
        model (ImageClassifier): with its own trunk
        cfg: its config
        task: whose classifier answers
        classes (list[str]): names by class index
        weights (Path): the checkpoint
    """

    def __init__(self, model: ImageClassifier, cfg: CfgNode, task: str, weights: Path):
        self.model, self.cfg, self.task, self.weights = model, cfg, task, weights
        self.classes = list(model.classes[task])

    def head_on(self, trunk: nn.Module) -> "ClassifierHead":
        """What of the classifier stands above the trunk's deepest features.

        Args:
            trunk: a Detectron2 backbone

        Raises:
            UserError: the classifier's trunk is another network, or has other weights
        """
        shapes = trunk.output_shape()
        feature = max(shapes, key=lambda name: shapes[name].stride)
        self._check_trunk(trunk)
        head = ClassifierHead(self.model, self.task, feature, shapes[feature].stride)
        head.to(next(trunk.parameters()).device).eval()
        self._check_head(trunk, head)
        return head

    def answer(self, output: Mapping[str, Tensor]) -> Instances:
        """The likeliest classes of a picture, without boxes.

        Returns:
            ``scores`` (K,) probabilities, best first, ``pred_classes`` and ``pred_class_names`` of
            the K = min(5, classes) likeliest; on the CPU
        """
        logits = output["logits"].float()
        scores, classes = logits.softmax(dim=0).topk(min(_TOP, len(self.classes)))
        names = [self.classes[index] for index in classes.tolist()]
        fields = {"scores": scores.cpu(), "pred_classes": classes.cpu(), "pred_class_names": names}
        return Instances((0, 0), **fields)

    def evaluations(self, output: str | os.PathLike) -> Iterator[Evaluation]:
        """On those of DATASETS.TEST that are of the task, into ``output/eval/<dataset>``.

        Raises:
            UserError: there is none, its images are missing, or its classes are others
        """
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = str(output)
        tasks = Tasks(cfg)
        names = [name for name in cfg.DATASETS.TEST if tasks.of(name) == self.task]
        if not names:
            raise UserError(f"DATASETS.TEST of its config has no images of task {self.task}")
        check_classes({"classes": self.model.classes}, tasks, str(self.weights))
        for name in names:
            yield Evaluation(
                name,
                (str(self.weights.resolve()), self.task, name),  # labels and views are its own
                partial(build_test_loader, cfg, name),
                partial(ClassificationTrainer.build_evaluator, cfg, name),
            )

    def _check_trunk(self, trunk: nn.Module) -> None:
        own, shared = self.model.backbone.state_dict(), trunk.state_dict()
        ours = {mine: own[theirs] for mine, theirs in match_names(shared, own).items()}
        wanted, found = digests(shared), digests(ours)
        odd = [n for n in wanted if n not in ours or ours[n].shape != shared[n].shape]
        if odd or not isinstance(self.model.backbone, TimmTrunk):
            name = self.model.architecture.options.get("name", self.model.architecture.network)
            raise UserError(
                f"its trunk, {name}, is another network than the shared one, fingerprint "
                f"{fingerprint(found)[:12]}, not {fingerprint(wanted)[:12]}"
            )
        other = changed(wanted, found)
        if other:
            raise UserError(
                f"its trunk is another one, fingerprint {fingerprint(found)[:12]}, not "
                f"{fingerprint(wanted)[:12]}; {len(other)} tensors differ, e.g. {other[0]}. Train "
                "the classifier with MODEL.CLASSIFIER.SCOPE Classifier on the detectors' weights"
            )

    @torch.no_grad()
    def _check_head(self, trunk: nn.Module, head: "ClassifierHead") -> None:
        """Weights are not all: is the same computed of them?"""
        side = 2 * (trunk.size_divisibility or head.stride)
        device = next(trunk.parameters()).device
        image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        expected = self.model.to(device).backbone(image)
        found = head.model.backbone(trunk(image)[head.feature])
        if found.shape == expected.shape:
            far = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
            if far <= _TOLERANCE:
                return
        raise UserError(
            f"{self.model.architecture.options.get('name')} makes something else of the trunk's "
            f"{head.feature} than the shared trunk's weights say; it cannot stand on it"
        )


class ClassifierHead(nn.Module):
    """What stands above a trunk's features in a classifier.

    Args:
        classifier: is left as it is
        task: whose classifier answers
        feature: name of the features that it takes
        stride: of the features, in pixels

    Raises:
        UserError: the classifier's network has no such features
    """

    def __init__(self, classifier: ImageClassifier, task: str, feature: str, stride: int):
        super().__init__()
        kept = copy.copy(classifier)
        kept._modules = {**classifier._modules, "backbone": _above(classifier.backbone, stride)}
        self.model, self.task, self.feature, self.stride = kept, task, feature, stride

    def forward(self, features: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """{"logits": (classes,)} of each image.

        Of the features (N, C, H, W) counts what the image covers, not its padding.
        """
        features, sizes = features[self.feature], features.images.image_sizes
        cells = [tuple(math.ceil(side / self.stride) for side in size) for size in sizes]
        if len(set(cells)) == 1:
            parts = [features[..., : cells[0][0], : cells[0][1]]]
        else:
            parts = [features[n : n + 1, :, :h, :w] for n, (h, w) in enumerate(cells)]
        return [{"logits": row} for part in parts for row in self._logits(part)]

    def _logits(self, features: Tensor) -> Tensor:
        activations = Activations(self.model, {IMAGE: features})
        return self.model.logits(activations, self.task)


def _above(trunk: TimmTrunk, stride: int) -> TimmTrunk:
    """A copy that takes the features of `stride` in place of images: what made them is left out."""
    levels: Sequence[Mapping[str, Any]] = trunk.net.feature_info
    ends = [level["module"] for level in levels if level["reduction"] == stride]
    if not ends:
        raise UserError(f"{trunk.timm_name} has no features of stride {stride}")
    below = []
    for name, _ in units(trunk.net, "", [level["module"] for level in levels]):
        below.append(name)
        if name == ends[-1]:
            break
    through = {id(trunk.net.get_submodule(name)): nn.Identity() for name in below}
    return copy.deepcopy(trunk, through)
