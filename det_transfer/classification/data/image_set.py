"""Labelled images, wherever they lie: files, an archive, one array."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...errors import UserError

__all__ = ["ImageSet"]


@dataclass(frozen=True)
class ImageSet:
    """Attributes:
    name: for logs and errors
    files: what to call each image
    labels: (N,) int64, indices into `classes`
    classes: names
    open: image's number -> its bytes as a file, or an array (H, W) or (H, W, 3) uint8 RGB
    """

    name: str
    files: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    open: Callable[[int], bytes | NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB.

        Raises:
            OSError, SyntaxError, ValueError: it does not decode
        """
        content = self.open(index)
        if isinstance(content, np.ndarray):
            image = content if content.ndim == 3 else np.repeat(content[..., None], 3, axis=2)
            return np.ascontiguousarray(image)
        try:
            with Image.open(io.BytesIO(content)) as picture:
                return np.asarray(picture.convert("RGB"))
        except UnidentifiedImageError as error:  # its words are of bytes without a name
            raise UnidentifiedImageError("in no format that Pillow knows") from error

    def record(self, index: int) -> dict[str, Any]:
        return {
            "file_name": self.files[index],
            "image_id": index,
            "label": int(self.labels[index]),
        }

    def only(self, indices: Sequence[int] | NDArray[np.integer]) -> "ImageSet":
        """Some of the images, in the order of `indices`; the classes stay."""
        indices = np.asarray(indices, np.int64)
        files, inner = [self.files[i] for i in indices.tolist()], self.open
        return replace(self, files=files, labels=self.labels[indices], open=_Picked(inner, indices))

    def as_classes(self, classes: Sequence[str]) -> "ImageSet":
        """The same with the labels of another list of classes, by name.

        Raises:
            UserError: a class that has images is not in the list
        """
        if tuple(classes) == self.classes:
            return self
        number = {name: k for k, name in enumerate(classes)}
        used = Counter(self.labels.tolist())
        strangers = [self.classes[k] for k in used if self.classes[k] not in number]
        if strangers:
            raise UserError(
                f"dataset {self.name}: {len(strangers)} of its classes are not among the "
                f"{len(classes)} that are trained, e.g. {', '.join(strangers[:3])}"
            )
        table = np.array([number.get(name, -1) for name in self.classes], np.int64)
        return replace(self, labels=table[self.labels], classes=tuple(classes))

    def of_classes(self, classes: Sequence[str]) -> "ImageSet":
        """The images of some classes alone, which are then all that there are.

        Raises:
            UserError: one of `classes` is unknown, or named twice
        """
        strangers = sorted(set(classes) - set(self.classes))
        if strangers:
            raise UserError(
                f"dataset {self.name} has no class {', '.join(strangers[:3])}; it has "
                f"{', '.join(self.classes[:3])}, ..."
            )
        if len(set(classes)) < len(classes):
            raise UserError(f"dataset {self.name}: a class is named twice in its list of classes")
        wanted = [self.classes.index(name) for name in classes]
        chosen = self.only(np.flatnonzero(np.isin(self.labels, wanted)))
        return chosen.as_classes(classes)

    def counts(self) -> NDArray[np.int64]:
        """(classes,) images of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))


class _Picked:
    """An opener of some images; a class, so that loading processes can be given it."""

    def __init__(self, inner: Callable[[int], Any], indices: NDArray[np.int64]):
        self.inner, self.indices = inner, indices

    def __call__(self, index: int) -> Any:
        return self.inner(int(self.indices[index]))
