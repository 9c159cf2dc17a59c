"""One frozen trunk, many detectors: its features are computed once and serve every task.

    tasks = {"cells": cells_detector, "rooms": rooms_detector}   # on the same frozen trunk
    model = SharedBackboneDetector(tasks)
    model([{"image": image}])["rooms"][0]["instances"]

It is for inference: tasks are trained apart, each in a run of its own.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ...errors import UserError, raise_all
from ...reuse import adapters_of, changed, digests, fingerprint, mix_in, trunk_of
from ...reuse.adapters import base_state

__all__ = ["DetectionTask", "SharedBackboneDetector", "Task", "TrunkFeatures", "trunk_digests"]


class TrunkFeatures(dict[str, Tensor]):
    """Name -> features (N, C, H, W) of the shared trunk, and what they were computed from.

    Attributes:
        images (ImageList): normalised and padded
        inputs (list[dict]): Detectron2's samples, as they came
    """

    def __init__(self, features: Mapping[str, Tensor], images: ImageList, inputs: list[dict]):
        super().__init__(features)
        self.images, self.inputs = images, inputs


class Task(Protocol):
    """What stands on the shared trunk: any module whose forward takes its features."""

    def __call__(self, features: TrunkFeatures) -> Any: ...


class SharedBackboneDetector(nn.Module):
    """Detectors on one trunk, which is computed once for all of them.

    A detector whose trunk has adapters is served too, by a pass of its own through the trunk,
    whose weights it shares; all others lose their trunk when they come in.

    Args:
        tasks: name -> a Detectron2 detector (with ``backbone`` and ``preprocess_image``), or any
            other :class:`Task`. At least one is a detector without adapters: its trunk is the
            shared one, of several the one that gives most features

    Attributes:
        trunk: the shared network
        tasks (nn.ModuleDict): name -> task
        fingerprint (str): sha256 of the trunk's weights

    Raises:
        UserError: a detector has another trunk, preprocessing or padding; both sides are shown
    """

    def __init__(self, tasks: Mapping[str, nn.Module]):
        super().__init__()
        plain = {name: t for name, t in tasks.items() if _is_detector(t) and not _adapted(t)}
        if not plain:
            raise UserError(
                f"tasks {', '.join(tasks) or '(none)'}: one at least must be a detector on the "
                "trunk as it was pretrained, whose trunk all others share"
            )
        name = max(plain, key=lambda name: len(trunk_of(plain[name]).output_shape()))
        first = plain[name]
        self.trunk: Backbone = trunk_of(first)
        self._digests = trunk_digests(self.trunk)
        self.fingerprint = fingerprint(self._digests)
        self.register_buffer("pixel_mean", first.pixel_mean.clone(), persistent=False)
        self.register_buffer("pixel_std", first.pixel_std.clone(), persistent=False)
        self.input_format = getattr(first, "input_format", None)
        self.tasks = nn.ModuleDict()
        for task in tasks:
            self.add(task, tasks[task])
        self.eval()

    def add(self, name: str, task: nn.Module) -> None:
        """Put a task on the trunk, at any time.

        Raises:
            UserError: there is one of this name, or it does not belong on this trunk
        """
        if name in self.tasks:
            raise UserError(f"task {name} is there already: remove it first, or choose a name")
        if _is_detector(task):
            raise_all(self._misfits(name, task))
            own = trunk_of(task)
            if _adapted(task):
                _share_weights(own, self.trunk)
            task = DetectionTask(task, shared=not _adapted(task))
        self.tasks[name] = task.eval()

    def remove(self, name: str) -> None:
        """Take a task off.

        Raises:
            UserError: there is none of this name
        """
        if name not in self.tasks:
            raise UserError(f"there is no task {name}; there is {', '.join(self.tasks)}")
        del self.tasks[name]

    @torch.no_grad()
    def forward(self, inputs: list[dict], tasks: Iterable[str] | None = None) -> dict[str, Any]:
        """What each task makes of the images.

        Args:
            inputs: Detectron2's samples, each with "image" (C, H, W) and, if it is to be answered
                in another size, "height" and "width"
            tasks: names of those that are asked; default: all

        Returns:
            name -> the task's answer; of a detector, Detectron2's list of a dict an image
        """
        if self.training:
            raise ValueError("SharedBackboneDetector is for inference: call eval()")
        asked = list(self.tasks if tasks is None else tasks)
        images = self._images(inputs)
        serves = any(not getattr(self.tasks[name], "own_pass", False) for name in asked)
        features = TrunkFeatures(self.trunk(images.tensor) if serves else {}, images, inputs)
        return {name: self.tasks[name](features) for name in asked}

    def _images(self, inputs: list[dict]) -> ImageList:
        """Normalised, and padded so that it suits every task."""
        device = self.pixel_mean.device
        images = [
            (sample["image"].to(device) - self.pixel_mean) / self.pixel_std for sample in inputs
        ]
        detectors = [task for task in self.tasks.values() if isinstance(task, DetectionTask)]
        divisibility = math.lcm(*(task.size_divisibility or 1 for task in detectors))
        constraints = {k: v for task in detectors for k, v in task.padding_constraints.items()}
        return ImageList.from_tensors(images, divisibility, padding_constraints=constraints)

    def _misfits(self, name: str, detector: nn.Module) -> Iterable[str]:
        """Why a detector cannot stand on this trunk."""
        found = trunk_digests(trunk_of(detector))
        if other := changed(self._digests, found):
            yield (
                f"task {name}: its trunk is another one, fingerprint {fingerprint(found)[:12]}, "
                f"not {self.fingerprint[:12]}; {len(other)} tensors differ, e.g. {other[0]}. Tasks "
                "share a trunk that was frozen, with the same pretrained weights"
            )
        shapes, wanted = self.trunk.output_shape(), trunk_of(detector).output_shape()
        if lacking := [key for key in wanted if key not in shapes]:
            yield (
                f"task {name} takes {', '.join(lacking)}, which the shared trunk does not give: "
                f"it gives {', '.join(shapes)}"
            )
        for key in wanted:  # the same tensors serve a trunk with dilation, too
            if key in shapes and wanted[key].stride != shapes[key].stride:
                yield (
                    f"task {name} takes {key} at a stride of {wanted[key].stride} px, the shared "
                    f"trunk gives it at {shapes[key].stride}"
                )
        for key in ("pixel_mean", "pixel_std"):
            ours, theirs = (getattr(m, key).flatten().tolist() for m in (self, detector))
            if ours != theirs:
                yield f"task {name}: its {key} is {theirs}, the trunk is fed with {ours}"
        channels = getattr(detector, "input_format", None)
        if self.input_format and channels and channels != self.input_format:
            yield f"task {name} takes {channels} images, the trunk is fed with {self.input_format}"
        constraints = detector.backbone.padding_constraints
        for task in self.tasks.values():
            theirs = getattr(task, "padding_constraints", {})
            for key in constraints.keys() & theirs.keys():
                if constraints[key] != theirs[key]:
                    yield f"task {name} pads to {key} {constraints[key]}, another to {theirs[key]}"


class DetectionTask(nn.Module):
    """A detector that is given its trunk's features.

    Args:
        detector: loses its trunk if `shared`
        shared: take the shared features; else the detector's own trunk makes them from the images

    Attributes:
        own_pass (bool): the opposite
    """

    def __init__(self, detector: nn.Module, *, shared: bool = True):
        super().__init__()
        self.own_pass = not shared
        self.size_divisibility = detector.backbone.size_divisibility
        self.padding_constraints = detector.backbone.padding_constraints
        self.detector = mix_in(detector, _GivenImages, _images=None)
        if shared:
            given = _Given(trunk_of(detector))
            if hasattr(detector.backbone, "bottom_up"):
                detector.backbone.bottom_up = given
            else:
                detector.backbone = given

    def forward(self, features: TrunkFeatures) -> list[dict[str, Any]]:
        trunk = trunk_of(self.detector)
        self.detector._images = features.images
        if not self.own_pass:
            trunk.features = features
        try:
            return self.detector(features.inputs)
        finally:
            self.detector._images = None
            if not self.own_pass:
                trunk.features = {}


class _GivenImages:
    """What :class:`DetectionTask` mixes into a detector: images are normalised and padded."""

    _images: ImageList

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        return self._images


class _Given(Backbone):
    """In place of a trunk: gives the features that were computed elsewhere."""

    def __init__(self, trunk: Backbone):
        super().__init__()
        self._shapes = trunk.output_shape()
        self._divisibility = trunk.size_divisibility
        self._constraints = trunk.padding_constraints
        self.features: Mapping[str, Tensor] = {}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: self.features[name] for name in self._shapes}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        return self._divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self._constraints


def trunk_digests(trunk: nn.Module) -> dict[str, str]:
    """What the trunk's weights are, adapters apart; see :func:`det_transfer.reuse.digests`."""
    return digests(base_state(trunk))


def _is_detector(task: nn.Module) -> bool:
    return hasattr(task, "backbone") and hasattr(task, "preprocess_image")


def _adapted(detector: nn.Module) -> bool:
    return bool(adapters_of(trunk_of(detector)))


def _share_weights(trunk: nn.Module, shared: nn.Module) -> None:
    """Let an adapted trunk use the memory of the shared one, for all but its adapters."""
    theirs = shared.state_dict(keep_vars=True)
    for name, tensor in trunk.state_dict(keep_vars=True).items():
        if name in theirs:
            tensor.data = theirs[name].data
