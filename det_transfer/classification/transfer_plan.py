"""From a plan's section ``transferability`` to its runs, and what is written down of them.

::

    transferability:
      title: Tiny ImageNet, 32 px
      train: [images, tinyimagenet.tar, train]      # reader, path, split of DATASETS.CLASSIFICATION
      test: [images, tinyimagenet.tar, val]
      splits:
        random0: {kind: random, seed: 0}
        kinds: {kind: dissimilar, file: man_made_natural.tsv, A: man-made, B: natural}
      layers: [1, 3, 5, 7]                          # the n; without: each but the last
      treatments: [BnB, BnB+, AnB, AnB+, random]    # without: all; a split may have its own
      seeds: [0, 1]
      directions: [A, B]                            # the targets; without: both
      extra: [0]                                    # layers more that are copied and trained
      shots: [null]                                 # examples a class of the target; null: all
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import load_config, validate
from ..errors import UserError, nearest, raise_all
from ..run_folder import write_json
from .building import layer_names
from .class_splits import HALVES, ClassSplit, Halves, file_of, halves_of, keep_halves, read_split
from .data import ImageSet, read_images
from .transfer import TREATMENTS, Treatment

__all__ = ["DESCRIPTION", "SECTION", "Experiment", "TransferRun", "expand", "read_experiment"]

SECTION = "transferability"  # of a plan
DESCRIPTION = "transferability.json"  # in the plan's folder
SPLITS, VIEWS = "splits", "views"  # folders there

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # of a split: names of runs begin with it

_PROGRAM = "tools/train_classifier.py"
# Keys of a config that the section gives each run -> what says it there.
_GIVEN = {
    "DATASETS.CLASSIFICATION": "train and test",
    "DATASETS.TRAIN": "train",
    "DATASETS.TEST": "test",
    "DATASETS.TRAIN_SHOTS": "shots",
    "DATASETS.TRAIN_FRACTION": "shots",
    "DATASETS.SUBSET_SEED": "seeds",
    "MODEL.CLASSIFIER.TASK": "directions",
    "MODEL.TRANSFER.UP_TO": "layers",
    "MODEL.TRANSFER.FROZEN": "treatments",
    "MODEL.TRANSFER.EXTRA": "extra",
    "MODEL.REUSE.DROPOUT": "treatments (what is frozen keeps its dropout)",
    "MODEL.WEIGHTS": "treatments",
    "SEED": "seeds",
}
_REQUIRED = ("train", "test", "splits")
_LISTS = ("layers", "treatments", "seeds", "directions", "extra", "shots")
_KEYS = ("title", *_REQUIRED, *_LISTS)


@dataclass(frozen=True)
class TransferRun:
    """One network: on which half of which split it is trained, and what it begins with.

    Attributes:
        target: "A" or "B"
        n: layers that are copied; of a base 0
        extra: layers more that are copied, and trained
        shots: examples a class; None: all
    """

    split: str
    seed: int
    treatment: Treatment
    target: str
    n: int = 0
    extra: int = 0
    shots: int | None = None

    @property
    def source(self) -> str | None:
        """The half whose base gives the layers."""
        other = HALVES[1 - HALVES.index(self.target)]
        return {"own": self.target, "other": other}.get(self.treatment.source)

    @property
    def label(self) -> str:
        return self.treatment.label(self.target, self.n)

    @property
    def name(self) -> str:
        parts = [self.split, self.label, f"s{self.seed}"]
        parts += [f"extra{self.extra}"] if self.extra else []
        parts += [f"shots{self.shots}"] if self.shots else []
        return "_".join(parts)

    @property
    def base(self) -> "TransferRun | None":
        """The run that gives the layers: the target's own, or the other half's with all images."""
        if self.source is None:
            return None
        shots = self.shots if self.source == self.target else None
        return TransferRun(self.split, self.seed, TREATMENTS["base"], self.source, shots=shots)

    def options(self, folder: Path, train: Sequence[str], test: Sequence[str]) -> dict[str, Any]:
        """Config keys and values, for the plan's folder and the datasets' [reader, path, split]."""
        halved = f"@{file_of(folder / SPLITS, self.split)}={self.target}"
        sets = {f"{self.target}_train": train, f"{self.target}_test": test}
        names = list(sets)
        options: dict[str, Any] = {
            "DATASETS.CLASSIFICATION": [
                [name, reader, path, f"{part}{halved}"]
                for name, (reader, path, part) in sets.items()
            ],
            "DATASETS.TRAIN": names[:1],
            "DATASETS.TEST": names[1:],
            "MODEL.CLASSIFIER.TASK": self.target,
            "MODEL.TRANSFER.UP_TO": self.n,
            "MODEL.TRANSFER.FROZEN": self.treatment.frozen,
            "MODEL.TRANSFER.EXTRA": self.extra,
            "SEED": 2 * self.seed + (self.target == "B"),  # A's and B's bases begin apart
        }
        if self.shots:
            options |= {"DATASETS.TRAIN_SHOTS": self.shots, "DATASETS.SUBSET_SEED": self.seed}
        if self.treatment.frozen:
            options["MODEL.REUSE.DROPOUT"] = "kept"  # as the paper's networks had it
        if self.base:
            options["MODEL.WEIGHTS"] = f"{{{self.base.name}}}/model_final.pth"
        return options

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "split": self.split,
            "seed": self.seed,
            "treatment": self.treatment.name,
            "source": self.source,
            "target": self.target,
            "n": self.n,
            "extra": self.extra,
            "shots": self.shots,
            "label": self.label,
        }


@dataclass(frozen=True)
class Experiment:
    """Attributes:
    title: for the page
    train, test: reader, path and split of all classes' images
    splits: of the classes
    layers: names of all layers of the network, the classifier last
    runs: bases before what takes layers from them
    cached: whether runs keep the views of their images, which those of one half and seed share
    """

    title: str
    train: tuple[str, str, str]
    test: tuple[str, str, str]
    splits: tuple[ClassSplit, ...]
    layers: tuple[str, ...]
    runs: tuple[TransferRun, ...]
    cached: bool = False

    def templates(self, folder: Path) -> dict[str, Any]:
        """The runs as a plan's ``runs`` has them.

        Raises:
            UserError: the folder's name cannot stand in DATASETS.CLASSIFICATION
        """
        if "=" in str(folder):  # there it ends the name of a split's file
            raise UserError(f"the plan's output, {folder}, has a = in its name; take another")
        common = {"MODEL.CLASSIFIER.CACHE_FOLDER": str(folder / VIEWS)} if self.cached else {}
        return {
            run.name: {
                "program": _PROGRAM,
                "options": {**common, **run.options(folder, self.train, self.test)},
                "seeds": [],
                "grid": {},
                "needs": [run.base.name] if run.base else [],
            }
            for run in self.runs
        }

    def _check(self) -> tuple[dict[str, Halves], ImageSet]:
        """Read the data and the splits.

        Returns:
            the halves of each split, and the training images
        Raises:
            UserError: what is wrong with them, all at once
        """
        sets = {"train": self.train, "test": self.test}
        images = {name: read_images(name, *entry) for name, entry in sets.items()}
        halves, problems = {}, []
        for split in self.splits:
            try:
                found = halves_of(split, images["train"].classes, self.train[1])
            except UserError as error:
                problems += str(error).splitlines()
                continue
            halves[split.name] = found
            problems += _empty(split.name, found, images)
            problems += _fewer(split.name, self.runs, found, images["train"])
        raise_all(problems)
        return halves, images["train"]

    def write(self, folder: Path) -> None:
        """Write the splits' files and ``transferability.json`` into the plan's folder.

        Raises:
            UserError: what is wrong with the splits or the data, all at once
        """
        halves, images = self._check()
        described = {
            split.name: {
                "kind": split.kind,
                **_sizes(halves[split.name], images),
                "checksum": keep_halves(folder / SPLITS, split.name, halves[split.name]),
            }
            for split in self.splits
        }
        content = {"version": 1, "title": self.title, "layers": list(self.layers)}
        content |= {"splits": described, "runs": [run.as_dict() for run in self.runs]}
        write_json(folder / DESCRIPTION, content)


def _empty(split: str, halves: Halves, images: Mapping[str, ImageSet]) -> Iterator[str]:
    """Classes without images, which are so in any network's training or test."""
    for part, found in images.items():
        count = dict(zip(found.classes, found.counts().tolist(), strict=True))
        for half, names in halves.items():
            empty = [name for name in names if not count.get(name)]
            if empty:
                yield (
                    f"split {split}: {len(empty)} of the {len(names)} classes of {half} have no "
                    f"image in the {part} set, e.g. {', '.join(empty[:3])}"
                )


def _fewer(
    split: str, runs: Sequence[TransferRun], halves: Halves, images: ImageSet
) -> Iterator[str]:
    """Classes that have images, but not as many as each is to be trained on."""
    count = dict(zip(images.classes, images.counts().tolist(), strict=True))
    for half, names in halves.items():
        shots = max((r.shots or 0 for r in runs if (r.split, r.target) == (split, half)), default=0)
        found = {name: count[name] for name in names if count.get(name)}
        few = [name for name, images in found.items() if images < shots]
        if few:
            yield (
                f"split {split}: shots has {shots}, and {len(few)} classes of {half} have fewer "
                f"images, e.g. {few[0]} ({found[few[0]]}); take at most {min(found.values())}"
            )


def _sizes(halves: Halves, images: ImageSet) -> dict[str, dict[str, int]]:
    counts = images.counts()
    return {
        half: {
            "classes": len(names),
            "images": int(counts[np.isin(images.classes, names)].sum()),
        }
        for half, names in halves.items()
    }


# Reading -----------------------------------------------------------------------------------------


def read_experiment(section: Any, plan: Mapping[str, Any], stem: str = "") -> Experiment:
    """The experiment that a plan's section describes; no data are read.

    Args:
        section: as above
        plan: the plan's other keys, whose config and options give the network
        stem: title where the section has none

    Raises:
        UserError: all that is wrong with it
    """
    raise_all([*_problems(section), *_beside_problems(plan)])
    section = {**section, "splits": {str(k): split for k, split in section["splits"].items()}}
    splits = tuple(
        read_split(name, {k: v for k, v in content.items() if k != "treatments"})
        for name, content in section["splits"].items()
    )
    words = [word for pair in (plan.get("options") or {}).items() for word in pair]
    config = load_config(plan.get("config"), words)
    validate(config.cfg, config.explicit)
    cfg = config.cfg
    if cfg.DATASETS.TRAIN_FRACTION != 1 or cfg.DATASETS.TRAIN_SHOTS:
        raise UserError(
            f"config {plan.get('config')} takes a part of the images (DATASETS.TRAIN_FRACTION "
            f"{cfg.DATASETS.TRAIN_FRACTION}, TRAIN_SHOTS {cfg.DATASETS.TRAIN_SHOTS}); here that is "
            "said by the section's shots"
        )
    layers = tuple(layer_names(cfg))
    depths = section.get("layers") or list(range(1, len(layers)))
    raise_all(_depth_problems(depths, layers))
    section["layers"] = depths
    runs = tuple(dict.fromkeys(_runs(section, len(layers))))
    raise_all(_idle(section, runs, len(layers)))
    return Experiment(
        str(section.get("title") or stem),
        tuple(map(str, section["train"])),
        tuple(map(str, section["test"])),
        splits,
        layers,
        runs,
        cfg.MODEL.CLASSIFIER.CACHE,
    )


def expand(section: Any, plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The section's runs, for :func:`det_transfer.engine.plan.read_plan`."""
    return read_experiment(section, plan).templates(folder)


def _depth_problems(depths: Sequence[int], layers: Sequence[str]) -> Iterator[str]:
    for n in depths:
        if not 1 <= n <= len(layers):
            named = ", ".join(f"{k} {name}" for k, name in enumerate(layers, start=1))
            yield f"layers has n = {n}, but the network has {len(layers)} layers: {named}"


def _runs(section: Mapping[str, Any], depth: int) -> Iterator[TransferRun]:
    """Each after the bases that it needs; with those of its own half, which it is compared with.

    n = depth is for BnB alone, where nothing is left to train: a check that it is the base. Further
    layers are for what is copied and frozen; other treatments are the same with any number of them.
    """
    targets = section.get("directions") or HALVES
    axes = (section.get("seeds") or [0], section["splits"].items(), section.get("shots") or [None])
    for seed, (split, content), shots in itertools.product(*axes):
        names = content.get("treatments") or section.get("treatments") or list(TREATMENTS)
        for target in targets:
            yield TransferRun(split, seed, TREATMENTS["base"], target, shots=shots)
        for name, n, target in itertools.product(names, section["layers"], targets):
            treatment = TREATMENTS[name]
            copied_and_frozen = treatment.frozen and treatment.source != "random"
            if treatment.source is None or (n == depth and name != "BnB"):
                continue
            for extra in (section.get("extra") or [0]) if copied_and_frozen else [0]:
                if extra and n + extra >= depth:
                    continue
                run = TransferRun(split, seed, treatment, target, n, extra, shots)
                if run.base:
                    yield run.base
                yield run


def _idle(section: Mapping[str, Any], runs: Sequence[TransferRun], depth: int) -> Iterator[str]:
    """What is asked for and gives no run at all."""
    made = {
        "layers": {run.n for run in runs},
        "extra": {run.extra for run in runs},
        "treatments": {run.treatment.name for run in runs},
    }
    reasons = {
        "layers": f"with all {depth} layers copied there is BnB alone",
        "extra": f"n and the further layers together must be less than the {depth} of the network, "
        "and only BnB and AnB have some",
        "treatments": f"n must be less than the {depth} layers of the network for it",
    }
    for key, found in made.items():
        for value in section.get(key) or ():
            # A lesser n is left out for the sake of what another line names.
            if value not in found and (key != "layers" or value == depth):
                yield f"{key} has {value}, which gives no run: {reasons[key]}"


def _is_list(value: Any) -> bool:
    return isinstance(value, list | None)


def _beside_problems(plan: Mapping[str, Any]) -> Iterator[str]:
    """What other plans have beside their runs, and this one has in its section."""
    for key in ("exclude", "grid", "needs", "seeds"):
        if plan.get(key) and not plan.get("runs"):
            words = "write them into it" if key == "seeds" else "it has splits, layers, ..."
            yield f"the plan's {key} beside this section say nothing of its runs; {words}"
    if plan.get("runs"):
        return
    program = plan.get("program") or _PROGRAM
    if program != _PROGRAM:
        yield f"the plan's program is {program}, and this section's runs are of {_PROGRAM}"
    for key in plan.get("options") or ():
        if key in _GIVEN:
            yield f"the plan's options have {key}; the section says it: {_GIVEN[key]}"


def _problems(section: Any) -> Iterator[str]:
    """What is wrong with the section by itself."""
    if not isinstance(section, dict):
        yield f"it is not a mapping but {section!r}"
        return
    for key in section:
        if key not in _KEYS:
            near = nearest(str(key), _KEYS) or _KEYS
            yield f"there is no key {key}; there is {', '.join(near)}"
    for key in _REQUIRED:
        if not section.get(key):
            yield f"{key} is missing"
    for key in ("train", "test"):
        if key in section and (not isinstance(section[key], list) or len(section[key]) != 3):
            yield f"{key} is {section[key]!r}; it is [reader, path, split], as for train_classifier"
        elif key in section and "@" in str(section[key][2]):
            yield (
                f"{key} chooses classes by itself, {section[key][2]}; here the splits do: those "
                "that a split of kind file does not name are left out"
            )
    for key in _LISTS:
        if not _is_list(section.get(key)):
            yield f"{key} is {section[key]!r}; it is a list"
            return
    splits = section.get("splits") or {}
    if not isinstance(splits, dict) or not all(isinstance(s, dict) for s in splits.values()):
        yield f"splits is {splits!r}; it is a mapping from names to what each is"
        return
    for name in splits:
        if not _NAME.fullmatch(str(name)):
            yield f"split {name}: a name has letters, digits, and _ . + - after the first"
    odd = {k: s["treatments"] for k, s in splits.items() if not _is_list(s.get("treatments"))}
    empty = [f"split {name}: " for name, split in splits.items() if split.get("treatments") == []]
    empty += [""] if section.get("treatments") == [] else []
    yield from (f"{where}treatments is empty; leave it out for all of them" for where in empty)
    if odd:
        yield from (f"split {k}: treatments is {value!r}; it is a list" for k, value in odd.items())
        return
    lists = [section, *splits.values()]
    for name in dict.fromkeys(str(t) for c in lists for t in c.get("treatments") or ()):
        if name not in TREATMENTS:
            yield f"there is no treatment {name!r}; there is {', '.join(TREATMENTS)}"
    for half in section.get("directions") or ():
        if half not in HALVES:
            yield f"directions has {half!r}; it can have A and B, the halves that are trained on"
    for key, least in (("layers", 1), ("seeds", 0), ("extra", 0), ("shots", 1)):
        for value in section.get(key) or ():
            allowed = value is None and key == "shots"
            if not allowed and (type(value) is not int or value < least):
                yield f"{key} has {value!r}; each is a whole number >= {least}"
