"""What the programs have in common that detect in a user's files."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from detectron2.structures import Instances
from PIL import Image

from ..errors import UserError
from .found import ONE, Named, writing
from .sources import Frame, Reader, Source

__all__ = ["Predictor", "Summary", "detect", "predict"]


class Predictor(Protocol):
    """A detector, or several on one trunk."""

    def each(
        self, images: Iterable[Image.Image], *, batch: int = 1
    ) -> Iterator[Instances | Mapping[str, Instances]]: ...


@dataclass(frozen=True)
class Summary:
    """How much was done.

    Attributes:
        counted: task -> in words: "12 detections"
        images: how many, each frame of a video counted
        skipped: files that could not be read
    """

    counted: Mapping[str, str]
    images: int
    skipped: int


def detect(
    frames: Iterable[Frame], predictor: Predictor, batch: int
) -> Iterator[tuple[Frame, Mapping[str, Instances]]]:
    """Each frame with what is in it; no more than a batch of frames is held at a time."""
    waiting: deque[Frame] = deque()

    def pictures() -> Iterator[Image.Image]:
        for frame in frames:
            waiting.append(frame)
            yield frame.picture

    for found in predictor.each(pictures(), batch=batch):
        yield waiting.popleft(), {ONE: found} if isinstance(found, Instances) else found


def predict(
    predictor: Predictor,
    tasks: Mapping[str, Named],
    sources: Sequence[Source],
    output: str | Path,
    *,
    batch: int = 1,
    say: Callable[[str], None],
    watch: Callable[..., Iterable[Any]],
    **options: Any,
) -> Summary:
    """Look into files and write what is found into `output`.

    Args:
        batch: images of one size that are looked at together
        say: is told a line for each file that is left out
        watch: :func:`det_transfer.engine.progress.watched`, or another that passes on
        options: of :func:`~.found.writing`

    Raises:
        UserError: no file could be read
    """
    reader = Reader(sources, say=say)
    with writing(output, tasks, **options) as found:
        pairs = detect(reader, predictor, batch)
        for frame, answers in watch(pairs, total=reader.total(), unit="image"):
            found.add(frame, answers)
        if not found.images:
            raise UserError(f"none of {len(sources)} files could be read")
    return Summary(found.counted(), len(found.images), reader.skipped)
