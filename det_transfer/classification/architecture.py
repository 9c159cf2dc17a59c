"""A classifier as data: its layers above pool5, who reads whom, and how it grows.

The trunk gives ``pool5``. Above it stand fully connected layers in levels (FC6, FC7, ...) and on
top the classifiers (FC8), one a task. Growing makes another :class:`Architecture`; modules are made
of it in :mod:`.classifier`, and it lies in every checkpoint as plain values.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import UserError, raise_all
from ..formats import ARCHITECTURE, check

__all__ = [
    "POOL5",
    "Architecture",
    "Channels",
    "Layer",
    "Reading",
    "deepen",
    "grow",
    "growth_words",
    "widen",
]

POOL5 = "pool5"


@dataclass(frozen=True)
class Reading:
    """How a layer reads those below it.

    Attributes:
        normalize: each layer that is read is brought to L2 norm 1 and scaled by a factor a channel
        scale: first value of these factors
        dropout: where it acts on what is normalised: "before" the norm, "after" the scale, "none"
    """

    normalize: bool = False
    scale: float = 20.0
    dropout: str = "before"


@dataclass(frozen=True)
class Layer:
    """A fully connected layer, or a classifier, over the concatenation of others' activations.

    Attributes:
        name: e.g. "FC7", "FC7+", "FCa"; of a classifier its task
        width: units, or classes
        inputs: names of the layers that it reads; "pool5" is the trunk's output
        reading: how
        growth: with which growth of the network it came, counted from 1; 0: it always was there
    """

    name: str
    width: int
    inputs: tuple[str, ...]
    reading: Reading = Reading()
    growth: int = 0


@dataclass(frozen=True)
class Channels:
    """Channels that came beside the last convolutional stage.

    Attributes:
        name: e.g. "pool5+", of what they give
        channels: how many
        width: of what they give, channels x cells
        parameters: of their convolution and its norm
        growth: as of a :class:`Layer`
    """

    name: str
    channels: int
    width: int
    parameters: int
    growth: int


@dataclass(frozen=True)
class Architecture:
    """Attributes:
    network: of MODEL.CLASSIFIER.NETWORK, with `options` that its builder takes
    pool5: width of the trunk's output
    levels: names of the layers of each level, from below; the classifiers read the last
    layers, classifiers: by name
    dropout: rate on the activations of `dropped`, wherever they are read
    top_reading: how new classifiers read the last level
    growths: what was done, in words for logs and errors, e.g. "widen 2048"
    columns: channels that came beside the trunk's last stage, by name
    """

    network: str
    options: Mapping[str, Any]
    pool5: int
    levels: tuple[tuple[str, ...], ...]
    layers: Mapping[str, Layer]
    classifiers: Mapping[str, Layer]
    dropout: float = 0.5
    dropped: tuple[str, ...] = ("FC6", "FC7")
    top_reading: Reading = Reading()
    growths: tuple[str, ...] = ()
    columns: Mapping[str, Channels] = field(default_factory=dict)

    @classmethod
    def plain(
        cls,
        network: str,
        options: Mapping[str, Any],
        pool5: int,
        widths: Sequence[int],
        **more: Any,
    ) -> "Architecture":
        """Without growth: FC6, FC7, ... of these widths, each reading the one below."""
        layers, below = {}, POOL5
        for number, width in enumerate(widths, start=6):
            layers[f"FC{number}"] = Layer(f"FC{number}", width, (below,))
            below = f"FC{number}"
        levels = tuple((name,) for name in layers)
        return cls(network, dict(options), pool5, levels, layers, {}, **more)

    @property
    def top(self) -> tuple[str, ...]:
        """The layers that a classifier reads."""
        return self.levels[-1] if self.levels else self.base

    @property
    def base(self) -> tuple[str, ...]:
        """pool5, and what was grown beside it."""
        return (POOL5, *self.columns)

    def width(self, name: str) -> int:
        return self.pool5 if name == POOL5 else {**self.columns, **self.layers}[name].width

    def with_task(self, task: str, classes: int) -> "Architecture":
        """With a classifier that reads the top; one of that task is replaced."""
        layer = Layer(task, classes, self.top, self.top_reading, len(self.growths))
        return replace(self, classifiers={**self.classifiers, task: layer})

    def only_tasks(self, tasks: Sequence[str]) -> "Architecture":
        kept = {name: layer for name, layer in self.classifiers.items() if name in tasks}
        return replace(self, classifiers=kept)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Architecture":
        """What :meth:`as_dict` gave.

        Raises:
            UserError: all in which it is not such a description
        """
        check(values, ARCHITECTURE, "the description of a classifier")

        def layers(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Layer]:
            return {
                name: Layer(
                    layer["name"],
                    layer["width"],
                    tuple(layer["inputs"]),
                    Reading(**layer["reading"]),
                    layer["growth"],
                )
                for name, layer in found.items()
            }

        net = cls(
            values["network"],
            dict(values["options"]),
            values["pool5"],
            tuple(tuple(level) for level in values["levels"]),
            layers(values["layers"]),
            layers(values["classifiers"]),
            values["dropout"],
            tuple(values["dropped"]),
            Reading(**values["top_reading"]),
            tuple(values["growths"]),
            # None in checkpoints of before there were any.
            {name: Channels(**found) for name, found in values.get("columns", {}).items()},
        )
        raise_all(f"the description of a classifier: {said}" for said in net._contradictions())
        return net

    def _contradictions(self) -> Iterator[str]:
        """In what this cannot be a network: names that fit nowhere, and layers that read above."""
        for table in (self.layers, self.classifiers, self.columns):
            yield from (f"{k} is called {v.name}" for k, v in table.items() if k != v.name)
        placed = [name for level in self.levels for name in level]
        if sorted(placed) != sorted(self.layers):
            yield f"its levels hold {', '.join(placed)}; its layers are {', '.join(self.layers)}"
            return
        below = list(self.base)
        readers = [[self.layers[name] for name in level] for level in self.levels]
        for level in (*readers, self.classifiers.values()):
            for layer in level:
                strange = [name for name in layer.inputs if name not in below]
                if strange or not layer.inputs:
                    words = f"{', '.join(strange)}, which is not below it" if strange else "nothing"
                    yield f"{layer.name} reads {words}"
            below += [layer.name for layer in level]

    def __str__(self) -> str:
        """E.g. "alexnet: FC6 4096; FC7 4096, FC7+ 2048"."""
        shown = (self.base, *self.levels) if self.columns or not self.levels else self.levels
        levels = (", ".join(f"{n} {self.width(n)}" for n in level) for level in shown)
        return f"{self.network}: {'; '.join(levels)}"


def deepen(
    net: Architecture, size: int, reading: Reading = Reading(), *, name: str = "FCa"
) -> Architecture:
    """A new layer FCa on all of the top; the classifiers to come read it alone."""
    layer = Layer(_free(net, name), size, net.top, reading, _number(net))
    return replace(
        net,
        levels=(*net.levels, (layer.name,)),
        layers={**net.layers, layer.name: layer},
        dropped=_dropped_alike(net, layer.name),
    )


def widen(net: Architecture, sizes: Sequence[int], below: Reading = Reading()) -> Architecture:
    """New layers beside those of the last levels: FC7+, or with two sizes FC6+ and FC7+, ...

    A new layer reads all layers of the level below it, new ones too; no old layer reads a new one.

    Args:
        sizes: units of the new layers, from below
        below: how a new layer reads a level that has new layers

    Raises:
        UserError: the network has not so many levels
    """
    if len(sizes) > len(net.levels):
        raise UserError(
            f"MODEL.GROWTH: {len(sizes)} levels are to be widened, but {net.network} has "
            f"{', '.join(net.layers) or 'none above pool5'}; give it some with MODEL.CLASSIFIER.FC"
        )
    levels, layers, dropped = list(net.levels), dict(net.layers), net.dropped
    for place, size in enumerate(sizes, start=len(levels) - len(sizes)):
        inputs = levels[place - 1] if place else net.base
        beside = levels[place][0]
        name = _free(replace(net, layers=layers), f"{_stem(beside)}+")
        grown = {**net.columns, **layers}
        grown_below = any(grown[n].growth == _number(net) for n in inputs if n in grown)
        reading = below if grown_below else Reading()
        layers[name] = Layer(name, size, inputs, reading, _number(net))
        levels[place] = (*levels[place], name)
        if beside in dropped:
            dropped = (*dropped, name)
    return replace(net, levels=tuple(levels), layers=layers, dropped=dropped)


def widen_trunk(
    net: Architecture, made: Channels, sizes: Sequence[int], below: Reading = Reading()
) -> Architecture:
    """New channels beside the last stage, and on them a new layer beside those of every level.

    Args:
        made: the channels; their name and growth are given here
        sizes: units of FC6+, FC7+, ..., one for each level that the network has

    Raises:
        UserError: there are other levels
    """
    if len(sizes) != len(net.levels):
        levels = ", ".join(("pool5+", *(f"{_stem(level[0])}+" for level in net.levels)))
        raise UserError(
            f"MODEL.GROWTH.SIZES has {1 + len(sizes)} numbers; 'channels' of this {net.network} "
            f"takes {1 + len(net.levels)}: {levels}"
        )
    made = replace(made, name=_free(net, f"{POOL5}+"), growth=_number(net))
    return widen(replace(net, columns={**net.columns, made.name: made}), sizes, below)


def grow(
    net: Architecture,
    kind: str,
    sizes: Sequence[int],
    *,
    joined: Reading = Reading(),
    below: Reading = Reading(),
    deep: str = "output",
    made: Channels | None = None,
) -> Architecture:
    """Grow once, as MODEL.GROWTH says.

    Source of the wiring: Growing a Brain, figure 2; "channels" carries it on to the convolutions.

    Args:
        kind: "deepen", "widen", "both", "recursive" or "channels"
        joined: how old and new units are read where they are read side by side
        below: how FC7+ reads FC6 and FC6+
        deep: what "deepen" normalises as `joined` says: "output", "input" or "both"
        made: the channels of "channels", as the trunk has them

    Returns:
        the grown network; classifiers that it has are as they were
    """
    plain = Reading()
    if kind in ("widen", "recursive"):
        grown, top = widen(net, sizes, below), joined
    elif kind == "deepen":
        grown = deepen(net, sizes[0], joined if deep in ("input", "both") else plain)
        top = joined if deep in ("output", "both") else plain
    elif kind == "both":
        grown, top = deepen(widen(net, sizes[:1]), sizes[1], joined), plain
    elif kind == "channels":
        grown, top = widen_trunk(net, made, sizes[1:], below), joined
    else:
        raise ValueError(f"kind is {kind!r}; it can be deepen, widen, both, recursive or channels")
    return replace(grown, growths=(*net.growths, growth_words(kind, sizes)), top_reading=top)


def growth_words(kind: str, sizes: Sequence[int]) -> str:
    """E.g. "widen 2048"."""
    return f"{kind} {'-'.join(map(str, sizes))}"


def _number(net: Architecture) -> int:
    return len(net.growths) + 1


def _stem(name: str) -> str:
    return re.sub(r"\+\d*$", "", name)


def _free(net: Architecture, name: str) -> str:
    """`name`, or with the first number behind it that no layer has: FC7+, FC7+2, ..."""
    number, candidate = 1, name
    while candidate in {**net.columns, **net.layers}:
        number += 1
        candidate = f"{name}{number}"
    return candidate


def _dropped_alike(net: Architecture, name: str) -> tuple[str, ...]:
    """Dropout acts on FCa where it acts on the layers below it."""
    return (*net.dropped, name) if set(net.top) & set(net.dropped) else net.dropped
