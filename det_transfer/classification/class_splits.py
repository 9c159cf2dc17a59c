"""The classes of a dataset cut into two halves, A and B: drawn, from files, or by their kind.

A split is written down as a file, "class, tab, half" a line, which a dataset's entry names behind
``@`` (see :mod:`.data.readers`), with a ``SHA256SUMS`` beside it that every later use checks.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, nearest, raise_all
from ..run_folder import replacing, sha256
from .data import chosen_classes

__all__ = ["HALVES", "ClassSplit", "Halves", "file_of", "halves_of", "keep_halves", "read_split"]

HALVES = ("A", "B")
SEEDS = 2**32  # that NumPy's legacy generator tells apart
SUMS = "SHA256SUMS"  # as sha256sum writes and checks it

Halves = dict[str, tuple[str, ...]]  # "A", "B" -> names of classes


@dataclass(frozen=True)
class ClassSplit:
    """How the classes of a dataset are cut in two.

    Attributes:
        name: of the split
        kind: "random", "file" or "dissimilar"
        seed: of a random one
        choices: of the others: half -> "file" or "file=word", as behind a dataset's split
    """

    name: str
    kind: str
    seed: int = 0
    choices: Mapping[str, str] | None = None


# Kind -> the keys that a split of it has in a plan.
_KEYS = {
    "random": ("kind", "seed"),
    "file": ("kind", *HALVES),
    "dissimilar": ("kind", "file", *HALVES),
}


def read_split(name: str, content: Any) -> ClassSplit:
    """One entry of a plan's ``splits``.

    E.g. ``{kind: random, seed: 0}``, ``{kind: file, A: a.txt, B: b.txt}`` or ``{kind: dissimilar,
    file: kinds.tsv, A: man-made, B: natural}``.

    Raises:
        UserError: another kind, a key too much or too few
    """
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise UserError(f"split {name}: kind is {kind!r}; it can be {', '.join(_KEYS)}")
    keys = _KEYS[kind]
    stray = [str(key) for key in content if key not in keys]
    lacking = [key for key in keys if key not in content]
    if stray or lacking:
        words = f"has no {', '.join(lacking)}" if lacking else f"has a key {', '.join(stray)}"
        raise UserError(f"split {name}: a {kind} split has {', '.join(keys)}; this one {words}")
    if kind == "random":
        seed = content["seed"]
        if type(seed) is not int or not 0 <= seed < SEEDS:
            raise UserError(
                f"split {name}: seed is {seed!r}; it is a whole number from 0 to {SEEDS - 1}"
            )
        return ClassSplit(name, kind, content["seed"])
    files = {half: str(content[half]) for half in HALVES}
    if kind == "dissimilar":
        files = {half: f"{content['file']}={word}" for half, word in files.items()}
    return ClassSplit(name, kind, choices=files)


def halves_of(split: ClassSplit, classes: tuple[str, ...], path: str = "") -> Halves:
    """The classes of A and of B, each in the order of `classes`.

    A random A is drawn as the paper's authors drew it, so that a seed gives their halves of
    ImageNet. Source: yosinski/convnet_transfer, ilsvrc12/make_reduced_dataset.py, which seeds NumPy
    with a list of one number; the number itself would be another stream.

    Args:
        classes: of the dataset
        path: of the dataset, where the split's files may lie too

    Raises:
        UserError: A and B share classes, one of them has fewer than two, or a class is unknown
    """
    if split.kind == "random":
        order = np.random.RandomState([split.seed])
        drawn = set(order.choice(len(classes), len(classes) // 2, replace=False).tolist())
        halves = {
            "A": tuple(name for k, name in enumerate(classes) if k in drawn),
            "B": tuple(name for k, name in enumerate(classes) if k not in drawn),
        }
    else:
        named = {
            half: set(chosen_classes(f"of split {split.name}, {half}", path, choice))
            for half, choice in split.choices.items()
        }
        raise_all(_unknown(split, named, classes))
        halves = {h: tuple(name for name in classes if name in named[h]) for h in HALVES}
    raise_all(_problems(split, halves))
    return halves


def _unknown(
    split: ClassSplit, named: Mapping[str, set[str]], classes: tuple[str, ...]
) -> Iterator[str]:
    for half, names in named.items():
        strangers = sorted(names - set(classes))
        if strangers:
            near = nearest(strangers[0], classes) or list(classes[:3])
            yield (
                f"split {split.name}: {half} names {len(strangers)} classes that the dataset has "
                f"not, e.g. {strangers[0]}; it has {', '.join(near)}"
            )


def _problems(split: ClassSplit, halves: Halves) -> Iterator[str]:
    both = sorted(set(halves["A"]) & set(halves["B"]))
    if both:
        yield (
            f"split {split.name}: A and B overlap in {len(both)} classes, e.g. "
            f"{', '.join(both[:3])}; each class belongs to one of them, or to none"
        )
    for half, names in halves.items():
        if len(names) < 2:
            words = f"the class {names[0]} alone" if names else "no class"
            yield f"split {split.name}: {half} has {words}: there is nothing to tell apart"


# On disk -----------------------------------------------------------------------------------------


def file_of(folder: str | Path, split: str) -> Path:
    """Where a split is written down; ``@<file>=A`` behind a dataset's split takes its A."""
    return Path(folder) / f"{split}.tsv"


def keep_halves(folder: str | Path, split: str, halves: Halves) -> str:
    """Write the file of a split, or see that the one that is there says the same.

    Returns:
        its SHA-256 in hexadecimal

    Raises:
        UserError: it was changed since it was written, or was written for another split; or a
            class has a name that such a file cannot hold
    """
    path, sums = file_of(folder, split), Path(folder) / SUMS
    rows = [(name, half) for half in HALVES for name in halves[half]]
    raise_all(
        f"split {split}: class {name!r} has a comma, a tab or a line's end in its name"
        for name, _ in rows
        if re.search(r"[,\t\r\n]", name)
    )
    content = "".join(f"{name}\t{half}\n" for name, half in rows)
    known = _read_sums(sums)
    if path.is_file():
        _check(path, content, known.get(path.name))
    else:
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    found = sha256(path)
    if known.get(path.name) != found:
        lines = sorted({**known, path.name: found}.items())
        with replacing(sums) as temporary:
            text = "".join(f"{value}  {name}\n" for name, value in lines)
            temporary.write_text(text, encoding="utf-8")
    return found


def _check(path: Path, content: str, expected: str | None) -> None:
    if expected and sha256(path) != expected:
        raise UserError(
            f"{path} is not as it was written ({SUMS} beside it has another checksum), and runs "
            "were trained on what it said: put it back, or give the plan another output"
        )
    if path.read_text(encoding="utf-8") != content:
        raise UserError(
            f"{path} names other classes than the plan's split does now (the split or the dataset "
            "has changed): set the plan back, or give it another output"
        )


def _read_sums(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {name: value for value, name in (line.split(maxsplit=1) for line in lines)}
    except ValueError as error:
        raise UserError(
            f"{path} is not as it was written, a checksum and a name a line: put it back, or give "
            "the plan another output"
        ) from error
