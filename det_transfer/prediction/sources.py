"""Images and videos that a user names, read one after the other."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from ..data.mapper import BROKEN
from ..errors import UserError, raise_all

try:
    import cv2
except ImportError:  # images do without
    cv2 = None

__all__ = ["Frame", "Reader", "Source", "find_sources"]

_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
_FPS = 25.0  # of a video that does not say


@dataclass(frozen=True)
class Source:
    """A file to look into.

    Attributes:
        name: its path below the folder that was given; its file name where it was given itself
        drawn: where it is drawn, below the folder of pictures; no two have the same
    """

    path: Path
    name: str
    drawn: str

    @property
    def is_video(self) -> bool:
        return _is_video(self.path)


@dataclass(frozen=True)
class Frame:
    """An upright RGB picture; of a video its number, from 0, and how many there are a second."""

    source: Source
    picture: Image.Image
    number: int = 0
    fps: float = 0.0


def find_sources(inputs: Sequence[str | Path], output: str | Path) -> list[Source]:
    """All images and videos, by their endings; folders are searched to the bottom.

    Args:
        inputs: files, whatever their ending, and folders
        output: what lies in here is left out: it is what an earlier call has drawn

    Raises:
        UserError: one does not exist, or there is nothing in them
    """
    raise_all(f"{path} does not exist" for path in inputs if not Path(path).exists())
    endings = {*Image.registered_extensions(), *_VIDEOS}
    ours = Path(output).resolve()
    found: list[tuple[Path, str]] = []
    for path in map(Path, inputs):
        if path.is_file():
            found.append((path, path.name))
            continue
        inside = (p for p in sorted(path.rglob("*")) if p.suffix.lower() in endings and p.is_file())
        found += [(p, str(p.relative_to(path))) for p in inside if ours not in p.resolve().parents]
    if not found:
        raise UserError(f"{', '.join(map(str, inputs))}: no image and no video is there")
    drawn = _different(_drawn(Path(name)) for _, name in found)
    return [Source(path, name, d) for (path, name), d in zip(found, drawn, strict=True)]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in _VIDEOS


def _drawn(path: Path) -> str:
    return str(path.with_suffix(".mp4" if _is_video(path) else ".jpg"))


def _different(names: Iterable[str]) -> list[str]:
    """a.jpg, a.jpg, a.jpg as a.jpg, a_2.jpg, a_3.jpg."""
    counts: Counter[str] = Counter()
    taken: dict[str, None] = {}
    for name in names:
        path, new = Path(name), name
        counts[name] += 1
        while new in taken:
            new = str(path.with_name(f"{path.stem}_{counts[name]}{path.suffix}"))
            counts[name] += new in taken
        taken[new] = None
    return list(taken)


class Reader:
    """Reads sources one after the other; what cannot be read is said and left out.

    Args:
        say: is told a line for each that is left out

    Attributes:
        skipped (int): how many were left out so far
    """

    def __init__(self, sources: Sequence[Source], say: Callable[[str], None] = lambda _: None):
        self._sources = sources
        self._say = say
        self.skipped = 0

    def total(self) -> int:
        """Frames to come, as far as videos say."""
        return sum(_length(s.path) if s.is_video else 1 for s in self._sources)

    def __iter__(self) -> Iterator[Frame]:
        for source in self._sources:
            try:
                yield from _video(source) if source.is_video else [_image(source)]
            except BROKEN as error:
                self.skipped += 1
                self._say(f"skipped: {source.path}: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # would say the path again
        return "no image of a known format"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _image(source: Source) -> Frame:
    with Image.open(source.path) as image:
        if image.format == "PNG":
            image.verify()  # as in training: a damaged one would be black behind the damage
    with Image.open(source.path) as image:
        return Frame(source, ImageOps.exif_transpose(image).convert("RGB"))


def _video(source: Source) -> Iterator[Frame]:
    if cv2 is None:
        raise OSError("a video needs OpenCV: pip install opencv-python-headless")
    number = 0
    with _capture(source.path) as video:
        fps = video.get(cv2.CAP_PROP_FPS) or _FPS
        while (read := video.read())[0]:
            yield Frame(source, Image.fromarray(read[1][:, :, ::-1]), number, fps)
            number += 1
    if not number:
        raise OSError("OpenCV finds no frame in it")


def _length(path: Path) -> int:
    if cv2 is None:
        return 0
    with _capture(path) as video:
        return max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)


@contextlib.contextmanager
def _capture(path: Path) -> Iterator[Any]:
    video = cv2.VideoCapture(str(path))
    try:
        yield video
    finally:
        video.release()
