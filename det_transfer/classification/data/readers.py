"""Readers of labelled images: DATASETS.CLASSIFICATION has [name, reader, path, split] for each.

============================  ==========================  ======================================
reader                        path                        split
============================  ==========================  ======================================
``images``                    a folder, or a ``.tar``     a folder inside, whose folders are the
                                                          classes; or a list inside or elsewhere,
                                                          ``train.txt``: "path, class" a line;
                                                          ``train.txt:2`` takes the third column
``cifar10``, ``cifar100``,    the folder that torchvision "train" or "test"
``fashion_mnist``             unpacks them into
``digits``                    "" (scikit-learn has it)    "train" or "test" (each fourth image)
``sun397``                    see datasets/README.md      "train_01" ... "test_10"
``mit67``, ``cub200``,                                    "train" or "test"
``stanford40``
``flowers102``                                            "train", "val" or "test"
============================  ==========================  ======================================

ImageNet and Places are ``images`` with the splits "train" and "val".

Behind a split, ``@file`` takes the classes that the file names, one a line, and ``@file=word``
those whose second column is that word; the file lies inside the folder or archive, or is a path.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...errors import UserError, nearest
from .archives import Archive
from .image_set import ImageSet

__all__ = ["READERS", "chosen_classes", "read_images"]

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")


def read_images(name: str, reader: str, path: str, split: str) -> ImageSet:
    """Read one entry of DATASETS.CLASSIFICATION.

    Raises:
        UserError: there is no such reader, or what it wants is not there
    """
    if reader not in READERS:
        near = nearest(reader, READERS) or sorted(READERS)
        raise UserError(
            f"DATASETS.CLASSIFICATION {name}: there is no reader {reader!r}; there is "
            f"{', '.join(near)}"
        )
    split, _, choice = split.partition("@")
    found = READERS[reader](name, path, split)
    if choice:
        found = found.of_classes(chosen_classes(name, path, choice))
    if not len(found):
        raise UserError(f"dataset {name}: {path} {split} has no images")
    return found


def chosen_classes(name: str, path: str, choice: str) -> list[str]:
    """The classes that ``file`` or ``file=word`` names, see above.

    Args:
        name, path: of the dataset

    Raises:
        UserError: the file is not there, or names none
    """
    file, _, word = choice.partition("=")
    place = _place(name, path) if path else None
    rows = [_words(line) for line in _text(name, place, file).splitlines() if line.strip()]
    if word:
        rows = [row for row in rows if len(row) > 1 and row[1] == word]
    if not rows:
        raise UserError(f"dataset {name}: {file} names no classes{f' of {word}' * bool(word)}")
    return [row[0] for row in rows]


# Files -------------------------------------------------------------------------------------------


class _Folder:
    """Files of a folder, as :class:`Archive` has those of a tar."""

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self):
        return iter(
            sorted(f"{inside}{file}" for inside, _, files in self._walk() for file in files)
        )

    def leaves(self) -> set[str]:
        """Folders without folders inside."""
        return {inside.rstrip("/") for inside, folders, _ in self._walk() if not folders}

    def _walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        for root, folders, files in os.walk(self.path, followlinks=True):
            inside = Path(root).relative_to(self.path).as_posix()
            yield "" if inside == "." else f"{inside}/", folders, files

    def __contains__(self, name: object) -> bool:
        return (self.path / str(name)).is_file()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class _Files:
    """Opens the images of a folder or archive by number."""

    def __init__(self, place: "_Folder | Archive", files: Sequence[str]):
        self.place, self.files = place, files

    def __call__(self, index: int) -> bytes:
        return self.place.read(self.files[index])


def _place(name: str, path: str) -> "_Folder | Archive":
    if Path(path).is_dir():
        return _Folder(Path(path))
    if not Path(path).is_file():
        raise UserError(f"dataset {name}: {path} does not exist; datasets/README.md says what is")
    return Archive(path)


def _set(name: str, place: "_Folder | Archive", pairs: Iterable[tuple[str, str]], classes=()):
    """An image set of (file, class name) pairs; without `classes` they are those that occur."""
    pairs = list(pairs)
    classes = tuple(classes) or tuple(sorted({c for _, c in pairs}, key=_natural))
    number = {c: k for k, c in enumerate(classes)}
    files = [file for file, _ in pairs]
    labels = np.array([number[c] for _, c in pairs], np.int64)
    shown = [f"{place.path}/{file}" for file in files]
    return ImageSet(name, shown, labels, classes, _Files(place, files))


def _natural(text: str) -> list:
    """Sorts 2 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _images(name: str, path: str, split: str) -> ImageSet:
    place = _place(name, path)
    split, _, column = split.partition(":")
    if split.endswith((".txt", ".csv", ".tsv")):
        return _listed(name, place, split, int(column or 1))
    prefix = f"{split.strip('/')}/" if split else ""
    pairs = [
        (file, str(Path(file.removeprefix(prefix)).parent))
        for file in place
        if file.startswith(prefix) and file.lower().endswith(_IMAGES)
    ]
    if not pairs:
        raise UserError(f"dataset {name}: there are no images in {path}/{prefix}<class>/")
    if any(class_name == "." for _, class_name in pairs):
        raise UserError(
            f"dataset {name}: images lie in {path}/{prefix} itself; each class needs a folder, or "
            "name a list of images as split, e.g. train.txt"
        )
    empty = {folder.removeprefix(prefix) for folder in place.leaves() if folder.startswith(prefix)}
    empty = {folder for folder in empty if not folder.startswith((".", "__"))}  # not of the data
    classes = sorted({c for _, c in pairs} | empty, key=_natural)
    return _set(name, place, pairs, classes)


def _listed(name: str, place: "_Folder | Archive", split: str, column: int) -> ImageSet:
    """Lines of "path, class[, class of another kind]"; also with spaces or tabs between."""
    pairs = []
    for number, line in enumerate(_text(name, place, split).splitlines(), start=1):
        if not line.strip():
            continue
        words = _words(line)
        if len(words) <= column:
            raise UserError(
                f"dataset {name}: {split}, line {number} has no column {column}: {line!r}"
            )
        pairs.append((words[0], words[column]))
    missing = [file for file, _ in pairs if file not in place]
    if missing:
        raise UserError(
            f"dataset {name}: {len(missing)} of {len(pairs)} images of {split} are not in "
            f"{place.path}, e.g. {missing[0]}"
        )
    return _set(name, place, pairs)


def _text(name: str, place: "_Folder | Archive | None", file: str) -> str:
    """Of a file inside a folder or archive, or elsewhere."""
    try:
        if place is not None and file in place:
            return place.read(file).decode("utf-8")
        if Path(file).is_file():
            return Path(file).read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"dataset {name}: the list {file} cannot be read: {error}") from error
    where = f"neither in {place.path} nor a file" if place is not None else "no file"
    raise UserError(f"dataset {name}: the list {file} is {where}")


def _words(line: str) -> list[str]:
    between = r"[,\t]" if re.search(r"[,\t]", line) else r" +"
    return [word.strip() for word in re.split(between, line)]


def _lines(name: str, path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"dataset {name}: {path} is missing; datasets/README.md has the tree")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


# Sets with official splits -----------------------------------------------------------------------


def _sun397(name: str, path: str, split: str) -> ImageSet:
    kind, _, number = split.partition("_")
    words = {"train": "Training", "test": "Testing"}
    if kind not in words or not re.fullmatch(r"0[1-9]|10", number):
        raise _no_split(name, split, ["train_01", "test_01", "...", "test_10"])
    root = Path(path)
    files = _lines(name, root / "Partitions" / f"{words[kind]}_{number}.txt")
    classes = [c.strip("/") for c in _lines(name, root / "Partitions" / "ClassName.txt")]
    pairs = [(file.strip("/"), str(Path(file.strip("/")).parent)) for file in files]
    return _set(name, _Folder(root), pairs, classes)


def _mit67(name: str, path: str, split: str) -> ImageSet:
    lists = {"train": "TrainImages.txt", "test": "TestImages.txt"}
    if split not in lists:
        raise _no_split(name, split, lists)
    files = _lines(name, Path(path) / lists[split])
    return _set(name, _Folder(Path(path)), [(f"Images/{f}", f.split("/")[0]) for f in files])


def _cub200(name: str, path: str, split: str) -> ImageSet:
    root = Path(path)
    wanted = {"train": "1", "test": "0"}
    if split not in wanted:
        raise _no_split(name, split, wanted)
    files = ("images", "image_class_labels", "train_test_split", "classes")
    images, labels, trained, classes = (_table(name, root / f"{file}.txt") for file in files)
    for file, table in (("image_class_labels", labels), ("train_test_split", trained)):
        if table.keys() != images.keys():
            raise UserError(f"dataset {name}: {root / file}.txt is not of the images of images.txt")
    if unknown := set(labels.values()) - classes.keys():
        raise UserError(
            f"dataset {name}: image_class_labels.txt has a class {min(unknown)}, which "
            f"{root / 'classes.txt'} lacks"
        )
    chosen = [number for number in images if trained[number] == wanted[split]]
    pairs = [(f"images/{images[number]}", classes[labels[number]]) for number in chosen]
    return _set(name, _Folder(root), pairs, list(classes.values()))


def _table(name: str, path: Path) -> dict[str, str]:
    """Lines of two words."""
    rows = [line.split() for line in _lines(name, path)]
    for row in rows:
        if len(row) != 2:
            raise UserError(f"dataset {name}: {path}: {' '.join(row)!r} is not two words")
    return dict(rows)


def _stanford40(name: str, path: str, split: str) -> ImageSet:
    if split not in ("train", "test"):
        raise _no_split(name, split, ["train", "test"])
    folder = Path(path) / "ImageSplits"
    actions = [line.split()[0] for line in _lines(name, folder / "actions.txt")[1:]]
    pairs = [
        (f"JPEGImages/{file}", action)
        for action in actions
        for file in _lines(name, folder / f"{action}_{split}.txt")
    ]
    return _set(name, _Folder(Path(path)), pairs, actions)


def _flowers102(name: str, path: str, split: str) -> ImageSet:
    from scipy.io import loadmat  # brought by scikit-learn

    keys = {"train": "trnid", "val": "valid", "test": "tstid"}
    if split not in keys:
        raise _no_split(name, split, keys)
    root = Path(path)
    read = []
    for file, key in (("imagelabels.mat", "labels"), ("setid.mat", keys[split])):
        if not (root / file).is_file():
            raise UserError(f"dataset {name}: {root / file} is missing; see datasets/README.md")
        try:
            read.append(loadmat(root / file)[key].ravel().tolist())
        except Exception as error:  # whatever scipy makes of a file that is something else
            raise UserError(
                f"dataset {name}: {root / file} cannot be read as Matlab's, with {key!r} in it: "
                f"{error}"
            ) from error
    labels, numbers = read
    if beyond := [n for n in numbers if not 0 < n <= len(labels)]:
        raise UserError(
            f"dataset {name}: setid.mat has an image {beyond[0]}; imagelabels.mat has {len(labels)}"
        )
    pairs = [(f"jpg/image_{n:05d}.jpg", str(labels[n - 1])) for n in numbers]
    return _set(name, _Folder(root), pairs, [str(k) for k in range(1, 103)])


# Arrays ------------------------------------------------------------------------------------------


class _Array:
    def __init__(self, images: np.ndarray):
        self.images = images

    def __call__(self, index: int) -> np.ndarray:
        return self.images[index]


def _torchvision(kind: str) -> Callable[[str, str, str], ImageSet]:
    def read(name: str, path: str, split: str) -> ImageSet:
        import torchvision.datasets

        if split not in ("train", "test"):
            raise _no_split(name, split, ["train", "test"])
        try:
            found = getattr(torchvision.datasets, kind)(path, train=split == "train")
        except RuntimeError as error:
            raise UserError(f"dataset {name}: {path} does not hold torchvision's {kind}") from error
        return _arrays(name, np.asarray(found.data), np.asarray(found.targets), found.classes)

    return read


def _digits(name: str, path: str, split: str) -> ImageSet:
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise _no_split(name, split, ["train", "test"])
    found = load_digits()
    chosen = (np.arange(len(found.target)) % 4 == 3) == (split == "test")
    images = (found.images[chosen] * (255 / 16)).astype(np.uint8)  # grey levels 0 to 16
    return _arrays(name, images, found.target[chosen], [str(k) for k in range(10)])


def _arrays(name: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> ImageSet:
    files = [f"{name}[{k}]" for k in range(len(labels))]
    return ImageSet(name, files, labels.astype(np.int64), tuple(classes), _Array(images))


def _no_split(name: str, split: str, known: Iterable[str]) -> UserError:
    return UserError(f"dataset {name}: there is no split {split!r}; there is {', '.join(known)}")


# DATASETS.CLASSIFICATION's reader -> function(name, path, split). A new dataset is a new entry.
READERS: dict[str, Callable[[str, str, str], ImageSet]] = {
    "images": _images,
    "cifar10": _torchvision("CIFAR10"),
    "cifar100": _torchvision("CIFAR100"),
    "fashion_mnist": _torchvision("FashionMNIST"),
    "digits": _digits,
    "sun397": _sun397,
    "mit67": _mit67,
    "flowers102": _flowers102,
    "cub200": _cub200,
    "stanford40": _stanford40,
}
