"""Parts of a trained detector as files that run without Detectron2 and without this toolkit.

exported = export_part(det_transfer.load("output/cells"), "trunk", (320, 480))
exported.save("trunk.pt2")
features = torch.export.load("trunk.pt2").module()(images)
"""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from .api import Detector
from .errors import UserError
from .modeling.fixed_sizes import fixed_sizes, whole_strides
from .reuse import trunk_of

__all__ = [
    "FORMATS",
    "PARTS",
    "TOLERANCE",
    "Exported",
    "OneImage",
    "export_part",
    "largest_difference",
]

Outputs = Mapping[str, Tensor]

# Of the largest value of an output: fp32 in another order of operations.
TOLERANCE = 1e-4
# Where other sizes can be taken, H and W are so many times their unit.
_LEAST, _MOST = 2, 1024


@dataclass(frozen=True)
class Exported:
    """A part of a detector as a graph.

    Attributes:
        program: what torch.export gives
        part: "trunk", "backbone" or "detector"
        original: the part as it was, for one image tensor
        size: height and width of the image that it was made with, in pixels
        multiple: H and W may be any multiples of it, from twice on; 0: they are `size`
        made_from: what a user must know to feed it
    """

    program: ExportedProgram
    part: str
    original: Callable[[Tensor], Outputs]
    size: tuple[int, int]
    multiple: int
    made_from: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike, format: str = "torch") -> Callable[[Tensor], Outputs]:
        """Write the file, under another name until it is whole, and load it again.

        Args:
            format: of :data:`FORMATS`

        Raises:
            UserError: torch's exporter for this format lacks a package, or cannot do it
        """
        write, read = FORMATS[format]
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Exporters tell the format from the ending.
        temporary = path.with_name(f".unfinished.{path.name}")
        try:
            write(self, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return read(path)

    def inputs(self, count: int = 3) -> Iterator[Tensor]:
        """Random images as it takes them, the first of `size`, others of others where it can."""
        generator = torch.Generator().manual_seed(0)
        height, width = self.size
        device = next(iter(self.program.state_dict.values())).device
        for number in range(count):
            if self.part == "detector":
                image = 255 * torch.rand(3, height, width, generator=generator)
            else:
                shape = height + number * self.multiple, width + 2 * number * self.multiple
                image = torch.randn(1, 3, *shape, generator=generator)
            yield image.to(device)


def export_part(detector: Detector, part: str, size: tuple[int, int]) -> Exported:
    """A graph of a part of the detector, on the device on which it is.

    Args:
        part: "trunk" and "backbone" (trunk and decoder) take normalised images (1, 3, H, W) and
            give features by name. "detector" takes one image (3, H, W) in the grey levels and
            channel order of the run, and gives ``boxes`` (N, 4), XYXY in pixels, ``scores`` (N,),
            ``classes`` (N,), and ``masks`` (N, 1, M, M) where it has them: probabilities in the box
        size: H and W of the image. That of a detector is fixed, others may be taken by the rest

    Raises:
        UserError: no such part, a size that does not suit it, or something that cannot be exported
    """
    if part not in PARTS:
        raise UserError(f"part {part!r}: there is {', '.join(PARTS)}")
    if min(size) < 1:
        raise UserError(f"--size {size[0]} {size[1]}: sides of an image in pixels, from 1 on")
    if detector.cfg.MODEL.REUSE.FAST:
        raise UserError(
            "the fast twin of a trunk cannot be exported: load the run with "
            "options={'MODEL.REUSE.FAST': False}, which computes the same"
        )
    return PARTS[part](detector, size)


def _trunk(detector: Detector, size: tuple[int, int]) -> Exported:
    return _features(detector, "trunk", trunk_of(detector.model), size)


def _backbone(detector: Detector, size: tuple[int, int]) -> Exported:
    return _features(detector, "backbone", detector.model.backbone, size)


def _features(detector: Detector, part: str, module: nn.Module, size: tuple[int, int]) -> Exported:
    trunk, shapes = trunk_of(detector.model), module.output_shape()
    # A decoder says what it needs, and its trunk may need more.
    unit = max(1, trunk.size_divisibility, module.size_divisibility)
    if wrong := [side for side in size if side % unit]:
        raise UserError(
            f"--size {size[0]} {size[1]}: the {part} takes multiples of {unit} px, to which images "
            f"are padded, and {wrong[0]} is none"
        )
    if square := module.padding_constraints.get("square_size"):
        raise UserError(
            f"the {part} takes squares of {square} pixels alone: export the detector, which pads"
        )
    image = torch.randn(1, 3, *size, device=detector.model.device)
    # A feature of one cell would be a constant of the graph.
    multiple = max(unit, *(shape.stride for shape in shapes.values()))
    if any(side % multiple or side < _LEAST * multiple for side in size):
        multiple = 0
    try:
        with whole_strides() if multiple else nullcontext():
            program = _graph(module, image, multiple)
    except UserError:
        if not multiple:
            raise
        program, multiple = _graph(module, image, 0), 0  # something in it depends on the size
    made_from = {
        "input": "one normalised image (1, 3, H, W), float32",
        "outputs": {n: {"channels": s.channels, "stride": s.stride} for n, s in shapes.items()},
    }
    return Exported(program, part, _in_evaluation(module), size, multiple, made_from)


def _detector(detector: Detector, size: tuple[int, int]) -> Exported:
    heads = getattr(detector.model, "roi_heads", None)
    if getattr(heads, "keypoint_on", False) or hasattr(detector.model, "sem_seg_head"):
        raise UserError("keypoints and segmentation of the whole image cannot be exported")
    module = OneImage(detector.model, size)
    image = 255 * torch.rand(3, *size, device=detector.model.device)
    with fixed_sizes():
        program = _graph(module, image, 0)
    masks = ", masks (N, 1, M, M) in the box" * detector.cfg.MODEL.MASK_ON
    made_from = {
        "input": f"one image (3, {size[0]}, {size[1]}), float32, 0 to 255",
        "outputs": f"boxes (N, 4) XYXY in pixels, scores (N,), classes (N,){masks}",
        "classes": detector.classes,
    }
    return Exported(program, "detector", _in_evaluation(module), size, 0, made_from)


# A new part is a new entry.
PARTS: dict[str, Callable[[Detector, tuple[int, int]], Exported]] = {
    "trunk": _trunk,
    "backbone": _backbone,
    "detector": _detector,
}


class OneImage(nn.Module):
    """A detector for one image of one size: (3, H, W) to tensors."""

    def __init__(self, detector: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.detector, self.size = detector, size
        backbone = detector.backbone
        padded = ImageList.from_tensors(  # which a graph cannot hold: its sizes are constants here
            [torch.zeros(1, *size)],
            backbone.size_divisibility,
            padding_constraints=backbone.padding_constraints,
        )
        height, width = padded.tensor.shape[2:]
        self.padding = (0, width - size[1], 0, height - size[0])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        image = (image - self.detector.pixel_mean) / self.detector.pixel_std
        found = self._detect(ImageList(F.pad(image, self.padding)[None], [self.size]))
        boxes = found.pred_boxes
        boxes.clip(self.size)
        real = (found.scores > -torch.inf) & boxes.nonempty()
        tensors = {"boxes": boxes.tensor, "scores": found.scores, "classes": found.pred_classes}
        if found.has("pred_masks"):
            tensors["masks"] = found.pred_masks
        return {name: tensor[real] for name, tensor in tensors.items()}

    def _detect(self, images: ImageList) -> Instances:
        model = self.detector
        features = model.backbone(images.tensor)
        if hasattr(model, "roi_heads"):
            proposals, _ = model.proposal_generator(images, features, None)
            return model.roi_heads(images, features, proposals, None)[0][0]
        features = [features[name] for name in model.head_in_features]
        return model.forward_inference(images, features, model.head(features))[0]


@torch.no_grad()
def _graph(module: nn.Module, image: Tensor, multiple: int) -> ExportedProgram:
    """For images of any multiple of so many pixels; 0: of the size of `image`."""
    names = {2: "rows", 3: "columns"} if multiple else {}
    sides = {d: multiple * Dim(name, min=_LEAST, max=_MOST) for d, name in names.items()}
    try:
        return torch.export.export(module.eval(), (image,), dynamic_shapes=(sides,))
    except (RuntimeError, ValueError) as error:  # torch's own for what it cannot do
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"torch.export cannot take this {type(module).__name__}: {reason}"
        ) from error


def _in_evaluation(module: nn.Module) -> Callable[[Tensor], Outputs]:
    @torch.no_grad()
    def run(image: Tensor) -> Outputs:
        return module.eval()(image)

    return run


# Comparing ---------------------------------------------------------------------------------------


def largest_difference(found: Outputs, expected: Outputs) -> float:
    """Of any output, as a share of the largest value of that output; inf where shapes differ, or
    where there are numbers that are none.

    Detections are compared with the nearest of their class, whatever their order: of two that
    score alike rounding says which comes first.
    """
    if any(found[name].shape != tensor.shape for name, tensor in expected.items()):
        return float("inf")
    expected = {name: tensor.cpu().float() for name, tensor in expected.items()}
    found = {name: found[name].cpu().float() for name in expected}
    if "boxes" in expected and len(expected["boxes"]):
        nearest = _nearest(found, expected)
        found = {name: tensor[nearest] for name, tensor in found.items()}
    return max((_relative(found[name], tensor) for name, tensor in expected.items()), default=0.0)


def _nearest(found: Outputs, expected: Outputs) -> Tensor:
    corners, classes, scores = (
        (expected[name][:, None] - found[name][None]).abs()
        for name in ("boxes", "classes", "scores")
    )
    size = expected["boxes"].abs().max().clamp(min=1)
    far = corners.amax(dim=2) / size + scores + (classes > 0) * 10.0
    return far.argmin(dim=1)


def _relative(found: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    share = ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    return share if math.isfinite(share) else math.inf  # of which `max` takes notice, not of NaN


# Formats -----------------------------------------------------------------------------------------


def _write_torch(exported: Exported, path: Path) -> None:
    torch.export.save(exported.program, path)


def _read_torch(path: Path) -> Callable[[Tensor], Outputs]:
    return torch.no_grad()(torch.export.load(path).module())


def _write_onnx(exported: Exported, path: Path) -> None:
    lacking = [p for p in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(p)]
    if lacking:
        raise UserError(
            f"--format onnx needs {', '.join(lacking)}: pip install {' '.join(lacking)}"
        )
    names = list(exported.original(next(exported.inputs())))
    try:
        program = torch.onnx.export(
            exported.program, dynamo=True, verbose=False, output_names=names
        )
    except torch.onnx.errors.OnnxExporterError as error:
        cause: BaseException = error  # the first says which step failed, the last what it met
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().splitlines()[0]
        raise UserError(f"torch's ONNX exporter cannot take this part: {reason}") from error
    program.save(path)


def _read_onnx(path: Path) -> Callable[[Tensor], Outputs]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(image: Tensor) -> Outputs:
        given = {session.get_inputs()[0].name: image.cpu().numpy()}
        found = map(torch.from_numpy, session.run(None, given))
        return dict(zip(names, found, strict=True))

    return run


# Format -> how a graph is written, and how the file is run. A new format is a new entry.
FORMATS: dict[str, tuple[Callable[[Exported, Path], None], Callable[[Path], Any]]] = {
    "torch": (_write_torch, _read_torch),
    "onnx": (_write_onnx, _read_onnx),
}
