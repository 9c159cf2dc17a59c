"""Growing a classifier: from MODEL.GROWTH to new layers with their first weights."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..errors import UserError
from .architecture import Architecture, Channels, Reading, grow, growth_words
from .classifier import ImageClassifier
from .trunks import sketch_trunk

__all__ = ["Growth", "check_memory", "copy_units", "count_parameters", "fill_new", "free_memory"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Growth:
    """MODEL.GROWTH: what is added, and how it begins.

    Attributes: the config's keys, in lower case.
    """

    kind: str
    sizes: tuple[int, ...]
    init: str = "random"
    noise: float = 0.1
    init_std: float = 0.0
    normalize: bool = True
    scale_init: float = 20.0
    dropout: str = "before"
    normalize_fc6: bool = False
    normalize_deep: str = "output"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Growth | None":
        """None where nothing is to grow."""
        growth = cfg.MODEL.GROWTH
        if not growth.KIND:
            return None
        values = {key.lower(): value for key, value in growth.items()}
        values["sizes"] = tuple(values["sizes"])
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})

    @property
    def words(self) -> str:
        """As they stand in the description of a grown network."""
        return growth_words(self.kind, self.sizes)

    def of(self, net: Architecture) -> Architecture:
        """The grown network; its classifiers are as they were."""
        joined = Reading(self.normalize, self.scale_init, self.dropout)
        below = joined if self.normalize_fc6 else Reading()
        made = _channels(net, self.sizes[0]) if self.kind == "channels" else None
        return grow(
            net,
            self.kind,
            self.sizes,
            joined=joined,
            below=below,
            deep=self.normalize_deep,
            made=made,
        )


def _channels(net: Architecture, channels: int) -> Channels:
    """So many beside the last stage of this network's trunk."""
    column = sketch_trunk(net.network, dict(net.options)).column(channels)
    pool = next(m for m in reversed(column.after) if isinstance(m, nn.AdaptiveAvgPool2d))
    parameters = sum(p.numel() for p in column.parameters())
    return Channels("", channels, channels * pool.output_size**2, parameters, 0)


def count_parameters(net: Architecture) -> int:
    """Parameters above and beside pool5, biases and scales included."""
    total = sum(column.parameters for column in net.columns.values())
    for layer in (*net.layers.values(), *net.classifiers.values()):
        inputs = sum(net.width(name) for name in layer.inputs)
        total += layer.width * (inputs + 1) + inputs * layer.reading.normalize
    return total


def check_memory(net: Architecture, device: str) -> None:
    """Refuse a network whose layers above pool5 cannot be trained in the memory that is free.

    Raises:
        UserError: weights, gradients and momentum in fp32 need more
    """
    need, free = 12 * count_parameters(net), free_memory(device)
    if need > free:
        key = "GROWTH.SIZES" if net.growths else "CLASSIFIER.FC"
        raise UserError(
            f"{net} needs {need / 1e9:.1f} GB to train above pool5, and {free / 1e9:.1f} GB are "
            f"free on {device}; take smaller MODEL.{key}"
        )


def free_memory(device: str) -> int:
    """Bytes that are free on a device."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024  # kB
    return 2**63


# First weights -----------------------------------------------------------------------------------


def fill_new(
    model: ImageClassifier,
    names: Iterable[str],
    seed: int,
    *,
    std: float = 0.0,
    classifier_std: float = 0.01,
) -> None:
    """Draw the new weights among parameters of `names`, as :meth:`ImageClassifier.rewire` gives.

    Args:
        std: of layers; 0: sqrt(2 / inputs)
        classifier_std: of classifiers
    """
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        table, _, rest = name.partition(".")
        owner, _, parameter = rest.partition(".")
        if table == "columns" and parameter == "conv.weight":
            model.columns[owner].fill(std, generator)
        elif parameter.startswith("weights."):
            layer = getattr(model, table)[owner]
            deviation = classifier_std if table == "classifiers" else std
            layer.fill(parameter.removeprefix("weights."), deviation, generator)


@torch.no_grad()
def copy_units(model: ImageClassifier, noise: float, seed: int) -> None:
    """Let the new layers begin as copies of units beside them, with noise, in place.

    Unit i of FC7+ is a unit of FC7 drawn at random, with its weights to FC6; those to FC6+ stay as
    they are. Unit i of FCa passes on a unit below it: as f = ReLU, it has that unit's value.

    Args:
        noise: standard deviation, in those of the copied weights
    """
    generator = torch.Generator().manual_seed(seed)
    net = model.architecture
    for name in net.columns:
        if any(parameter.startswith(f"columns.{name}.") for parameter in model.new):
            _copy_filters(model, name, noise, generator)
    for place, level in enumerate(net.levels):
        for name in level:
            if not any(parameter.startswith(f"layers.{name}.") for parameter in model.new):
                continue
            old = [other for other in level if other != name and _is_old(model, other)]
            if old:
                _copy(model, name, old[0], noise, generator)
            else:
                below = net.levels[place - 1] if place else net.base
                _pass_on(model, name, below, noise, generator)


def _is_old(model: ImageClassifier, name: str) -> bool:
    return not any(parameter.startswith(f"layers.{name}.") for parameter in model.new)


def _copy_filters(
    model: ImageClassifier, name: str, noise: float, generator: torch.Generator
) -> None:
    old, new = model.backbone.last_conv(), model.columns[name].conv
    if old is None:
        raise UserError(
            f"MODEL.GROWTH.INIT copy: the last stage of this {model.architecture.network} is more "
            "than one convolution, and its channels have none to copy; take random"
        )
    units = _draw(old.out_channels, new.out_channels, generator).to(old.weight.device)
    copied = _ungrouped(old)[units]
    new.weight.copy_(copied + _noise(copied, noise, generator))
    if new.bias is not None:
        new.bias.copy_(old.bias[units])


def _ungrouped(conv: nn.Conv2d) -> Tensor:
    """The filters over all inputs: 0 where those of a group do not read."""
    full = conv.weight.new_zeros(conv.out_channels, conv.in_channels, *conv.kernel_size)
    rows, columns = (full.shape[k] // conv.groups for k in (0, 1))
    for k, part in enumerate(conv.weight.split(rows)):
        full[k * rows : (k + 1) * rows, k * columns : (k + 1) * columns] = part
    return full


def _copy(
    model: ImageClassifier, name: str, old: str, noise: float, generator: torch.Generator
) -> None:
    new, source = model.layers[name], model.layers[old]
    units = _draw(source.width, new.width, generator)
    for key in new.weights:
        if key in source.weights:
            copied = source.weights[key][units.to(source.bias.device)]
            new.weights[key].copy_(copied + _noise(copied, noise, generator))
    new.bias.copy_(source.bias[units.to(source.bias.device)])


def _pass_on(
    model: ImageClassifier,
    name: str,
    below: tuple[str, ...],
    noise: float,
    generator: torch.Generator,
) -> None:
    new = model.layers[name]
    widths = [new.weights[key].shape[1] for key in below]
    units = _draw(sum(widths), new.width, generator)
    identity = torch.zeros(new.width, sum(widths))
    identity[torch.arange(new.width), units] = 1.0
    spread = noise * sum(widths) ** -0.5  # so that all noise of a unit is as large as `noise`
    identity += spread * torch.randn(identity.shape, generator=generator)
    for key, part in zip(below, identity.split(widths, dim=1), strict=True):
        new.weights[key].copy_(part)
    new.bias.zero_()


def _draw(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """`wanted` of `count` units: each once before any comes twice."""
    rounds = -(-wanted // count)
    drawn = [torch.randperm(count, generator=generator) for _ in range(rounds)]
    return torch.cat(drawn)[:wanted]


def _noise(like: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator).to(like)
    return amount * like.std() * noise
