"""Any pretrained network as a source of features: one string names network and weights.

==========================================  ====================================================
``resnet18``, ``resnet18.a1_in1k``          timm's, else torchvision's network of that name with
                                            its published weights
``timm://...``, ``torchvision://...``,      weights that say whose they are, see
``package://...``, ``file.pkl``             :mod:`det_transfer.reuse.weights`
``alexnet@weights.pth``                     the named network with weights that do not say it
``random:resnet18``                         the network as it is initialised, by seed 0
``output/mine``                             a run folder of tools/train_classifier.py
==========================================  ====================================================

Networks are timm's and torchvision's classifiers, and Detectron2's ``R-50``, ``R-101``.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from ..errors import UserError, nearest
from ..reuse import Preprocessing, Weights, load_trunk, read_weights
from ..reuse.preprocessing import MSRA, TORCHVISION
from .checkpoint import load_run
from .classifier import IMAGE, Activations, ImageClassifier

__all__ = ["Backbone", "Reading", "open_backbone"]

logger = logging.getLogger(__name__)

# Of the first weights, those of a classifier that the file lacks too: features are kept under a
# checksum of all weights, and another call must find them.
_SEED = 0
_FILES = (".pth", ".pt", ".bin", ".safetensors", ".pkl")
_RESNETS = {"R-50": 50, "R-101": 101}  # Detectron2's
_SAME = 1e-4  # an average is the features up to rounding, relative to their largest


class Reading(NamedTuple):
    """What a backbone says of N images.

    Attributes:
        features: (N, D) float32, what its classifier reads
        probabilities: (N, Z) float32 of its own classes; None where it has no classifier
        grid: (N, D, h, w), the map whose mean the features are; None where they are of another kind
    """

    features: Tensor
    probabilities: Tensor | None
    grid: Tensor | None


@dataclass(frozen=True)
class Backbone:
    """Attributes:
    net: a module: (N, 3, H, W), normalised -> :class:`Reading`; in evaluation mode
    preprocessing: what its images go through
    origin: where the weights come from
    no_head: why there are no probabilities; "" where there are
    """

    net: nn.Module
    preprocessing: Preprocessing
    origin: str
    no_head: str = ""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Reading:
        """Of images (N, 3, H, W) in grey levels, channels in the order of its preprocessing."""
        mean, std = (
            images.new_tensor(values).view(-1, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        return self.net((images - mean) / std)


def open_backbone(source: str) -> Backbone:
    """Build a network and fill it; the table above says what `source` can be.

    Raises:
        UserError: there is no such network or source, or they do not fit
    """
    if Path(source).is_dir():
        return _of_run(Path(source))
    kind, _, rest = source.partition(":")
    if kind == "random" and rest:
        return _random(rest)
    network, _, weights = source.partition("@")
    if not weights or Path(source).is_file():
        network, weights = "", source
    if "://" not in weights and not weights.endswith(_FILES):
        network, weights = _published(weights)
    if weights.startswith("timm://"):
        network = weights.removeprefix("timm://")
    return _filled(network, read_weights(weights, fetch=PathManager.get_local_path))


# Networks ----------------------------------------------------------------------------------------


def _torchvision_models() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _published(name: str) -> tuple[str, str]:
    """Network and weights of a network's name alone."""
    base = name.partition(".")[0]
    if timm.is_model(base):
        return name, f"timm://{name}"
    if base in _torchvision_models():
        return base, f"torchvision://{name}"
    raise _unknown(name)


def _unknown(name: str) -> UserError:
    known = [*_RESNETS, *timm.list_models(), *_torchvision_models()]
    near = nearest(name, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
    return UserError(f"backbone {name!r} is neither a network nor a file nor a run folder; {hint}")


def _build(network: str, weights: Weights | None = None, prefer: str = "timm") -> nn.Module:
    """A classifier, randomly initialised, always alike.

    Args:
        weights: that it is built for; of a ResNet they say where the strides are
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return _drawn(network, weights, prefer)


def _drawn(network: str, weights: Weights | None, prefer: str) -> nn.Module:
    if network in _RESNETS:
        first = weights is None or weights.stride_in_1x1 is not False
        stages = ResNet.make_default_stages(_RESNETS[network], stride_in_1x1=first, norm="FrozenBN")
        return ResNet(BasicStem(norm="FrozenBN"), stages, num_classes=1000)
    if prefer == "timm" and timm.is_model(network.partition(".")[0]):
        return timm.create_model(network, pretrained=False)
    if network in _torchvision_models():
        options = {"init_weights": True} if network in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(network, weights=None, **options)
    raise _unknown(network)


def _own_preprocessing(net: nn.Module) -> Preprocessing:
    """What a network's kind is usually given, for weights that do not say."""
    if isinstance(net, ResNet):
        return MSRA
    known = getattr(net, "pretrained_cfg", None)
    return Preprocessing.from_unit_range(known["mean"], known["std"]) if known else TORCHVISION


# With weights ------------------------------------------------------------------------------------


def _random(network: str) -> Backbone:
    net = _build(network)
    classifier = _classifier(net, network)
    why = "its classifier is random"
    return Backbone(_Tapped(net, classifier), _own_preprocessing(net), f"random:{network}", why)


def _filled(network: str, weights: Weights) -> Backbone:
    network = network or weights.architecture or weights.torchvision or _resnet_of(weights)
    if not network:
        raise UserError(
            f"{weights.origin} does not say whose weights it holds; write NETWORK@FILE, e.g. "
            "resnet50@weights.pth"
        )
    published = weights.torchvision == network  # by torchvision: as it builds it, not as timm does
    net = _build(network, weights, prefer="torchvision" if published else "timm")
    net.timm_name = "" if published or isinstance(net, ResNet) else network
    report = load_trunk(net, weights, strict=False)
    lacking = {*report.missing, *(line.partition(" ")[0] for line in report.shape_mismatch)}
    classifier = _classifier(net, network)
    no_head = "" if classifier else "it has no classifier"
    if lacking:
        classifier = _first_without(net, lacking, classifier)
        no_head = "its weights hold no classifier"
        if classifier is None:
            raise UserError(f"{weights.origin} does not fill {network}: {report}")
    if not weights.preprocessing:
        logger.warning("%s: images are preprocessed as for %s", weights.origin, network)
    preprocessing = weights.preprocessing or _own_preprocessing(net)
    return Backbone(_Tapped(net, classifier, not no_head), preprocessing, weights.origin, no_head)


def _resnet_of(weights: Weights) -> str:
    """Detectron2's name of a ResNet with bottlenecks, by what its tensors are called.

    As Detectron2 calls them (res4.0.conv1.weight) or Caffe2 (res4_0_branch2a_w).
    """
    blocks = {found[1] for name in weights.state if (found := re.match(r"res4[._](\d+)[._]", name))}
    depths = {6: "R-50", 23: "R-101"}
    has_bottlenecks = {"res5.2.conv3.weight", "res5_2_branch2c_w"} & set(weights.state)
    return depths.get(len(blocks), "") if has_bottlenecks else ""


def _classifier(net: nn.Module, network: str) -> nn.Linear | None:
    """The last layer; None where the network ends in its features."""
    if hasattr(net, "get_classifier"):  # timm's
        found = net.get_classifier()
        if isinstance(found, nn.Identity):
            return None
    else:
        found = ([m for m in net.modules() if isinstance(m, nn.Linear)] or [None])[-1]
    if not isinstance(found, nn.Linear):
        raise UserError(f"backbone {network} cannot serve: it ends in no fully connected layer")
    return found


def _first_without(
    net: nn.Module, lacking: set[str], classifier: nn.Linear | None
) -> nn.Linear | None:
    """The first of the last fully connected layers, which are all that lacks weights, or None.

    So that of a file of convolutions alone the features are what FC6 would have read.
    """
    found = None
    for name, module in reversed(list(net.named_modules())):
        if not isinstance(module, nn.Linear) or classifier is None:
            continue
        own = {f"{name}.{kind}" for kind, _ in module.named_parameters()}
        if not own <= lacking:
            break
        found, lacking = module, lacking - own
    return None if lacking else found


def _of_run(folder: Path) -> Backbone:
    cfg, model = load_run(folder)
    tasks = list(model.classifiers)
    return Backbone(
        _Grown(model),
        Preprocessing(cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)),
        str(folder),
        "" if len(tasks) == 1 else f"it has {len(tasks)} classifiers",
    )


# Reading -----------------------------------------------------------------------------------------


class _Tapped(nn.Module):
    """A classifier of others with what its last layer reads.

    Args:
        net: in whatever mode; it is evaluated
        classifier: the layer whose input the features are; None: the output of `net` is
        speaks: the classifier has its weights
    """

    def __init__(self, net: nn.Module, classifier: nn.Linear | None, speaks: bool = False):
        super().__init__()
        self.net, self.speaks = net, speaks
        self._classifier = (classifier,)  # in a tuple: it is a child of the network alone
        self.eval()

    def forward(self, images: Tensor) -> Reading:
        seen: dict[str, Tensor] = {}
        (classifier,) = self._classifier
        taps = [m.register_forward_hook(_keep_map(seen)) for m in self.net.modules()]
        if classifier is not None:
            taps.append(classifier.register_forward_hook(_keep_ends(seen)))
        try:
            output = self.net(images)
        finally:
            for tap in taps:
                tap.remove()
        features = seen.get("features", output)
        if features.ndim != 2:
            raise UserError(
                f"{type(self.net).__name__} cannot serve: its features have shape "
                f"{tuple(features.shape)}, not (images, units)"
            )
        probabilities = seen["logits"].float().softmax(dim=1) if self.speaks else None
        return Reading(features.float(), probabilities, _averaged(seen.get("map"), features))


def _keep_map(seen: dict[str, Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            seen["map"] = output

    return keep


def _keep_ends(seen: dict[str, Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen["features"], seen["logits"] = inputs[0], output

    return keep


def _averaged(grid: Tensor | None, features: Tensor) -> Tensor | None:
    """`grid` as (N, D, h, w) if its mean is the features, which proves what it is; else None."""
    if grid is None:
        return None
    largest = float(features.abs().max())
    for order in ((0, 1, 2, 3), (0, 3, 1, 2)):  # timm's transformers have channels last
        turned = grid.permute(order)
        if turned.shape[1] == features.shape[1]:
            mean = turned.float().mean(dim=(2, 3))
            if float((mean - features).abs().max()) <= _SAME * largest:
                return turned.float()
    return None


class _Grown(nn.Module):
    """A classifier of ours; its features are all that its first classifier reads."""

    def __init__(self, model: ImageClassifier):
        super().__init__()
        self.model = model.eval()

    def forward(self, images: Tensor) -> Reading:
        activations = Activations(self.model, {IMAGE: images})
        tasks = list(self.model.classifiers)
        read = [activations[name] for name in self.model.classifiers[tasks[0]].inputs]
        alone = len(tasks) == 1
        logits = self.model.logits(activations, tasks[0]) if alone else None
        probabilities = logits.softmax(dim=1) if logits is not None else None
        return Reading(torch.cat(read, dim=1), probabilities, None)
