"""The run folder: what a run leaves behind, the same for detection and classification.

::

    config.yaml       the complete config
    metrics.json      Detectron2's log, one json object a line
    run.json          status, versions, seed, command, reuse table, times, peak memory
    eval/<dataset>/   results.json, per_category.csv, curves.npz, predictions/part-<rank>.npz
    train_subset.json the images trained on, where they are a choice
    train_classes.csv images and objects of each class in the training data
    report.html       the page made of all this
    model_*.pth       checkpoints

This file knows names and formats, so that a page can be made from a run folder on a machine that
has neither torch nor Detectron2. Whatever is written goes to a temporary name first and is renamed:
a file that is there is whole.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .documents import read_json
from .run_lengths import RunLengths

__all__ = [
    "CONFIG",
    "EVAL",
    "FEATURES",
    "METRICS",
    "REPORT",
    "RUN",
    "TRAIN_CLASSES",
    "PredictionWriter",
    "eval_folder",
    "filters_file",
    "flat_metrics",
    "is_classifier",
    "prediction_parts",
    "read_json",
    "read_metrics",
    "read_predictions",
    "read_train_classes",
    "remove_leftovers",
    "replacing",
    "sha256",
    "subset_file",
    "write_json",
    "write_train_classes",
]

CONFIG = "config.yaml"
METRICS = "metrics.json"
RUN = "run.json"
EVAL = "eval"
FEATURES = "features.json"  # of tools/compare_features.py
REPORT = "report.html"
TRAIN_CLASSES = "train_classes.csv"

# Some network drives cannot be told to write a folder's names; they do so by themselves.
_NOT_SYNCED = {errno.EINVAL, errno.ENOTSUP}


def eval_folder(run: str | os.PathLike, dataset: str) -> Path:
    """The folder of one dataset's evaluation inside the run folder `run`."""
    return Path(run) / EVAL / dataset


def is_classifier(run: str | os.PathLike) -> bool:
    """Whether it is a run of tools/train_classifier.py, by its run.json."""
    record = Path(run) / RUN
    return record.is_file() and "tasks" in read_json(record)


def subset_file(run: str | os.PathLike) -> Path:
    """What says which images the run is trained on; only where they are a choice."""
    return Path(run) / "train_subset.json"


def filters_file(run: str | os.PathLike) -> Path:
    """The first layer's filters of a base of a transferability experiment.

    ``initial`` and ``trained``, (N, 3, h, w) float32 in RGB.
    """
    return Path(run) / "filters.npz"


def write_train_classes(
    run: str | os.PathLike, names: Sequence[str], images: Sequence[int], objects: Sequence[int]
) -> None:
    """Write how many training images and objects each class has, in the order of the classes."""
    path = Path(run) / TRAIN_CLASSES
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "images", "objects"])
        rows.writerows(zip(names, images, objects, strict=True))


def read_train_classes(run: str | os.PathLike) -> list[tuple[str, int, int]]:
    """Name, images and objects of each class; empty where the run did not write them."""
    path = Path(run) / TRAIN_CLASSES
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return [(row["name"], int(row["images"]), int(row["objects"])) for row in rows]


def sha256(path: str | os.PathLike) -> str:
    """The checksum of a file's content."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, lasting: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well.

    Args:
        lasting: it survives a power cut too: the block ends when the disk has it, which takes
            some 20 ms more
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if lasting:  # before its name is given: else it may be there, and empty
            _to_the_disk(temporary)
        os.replace(temporary, path)
        if lasting:
            _to_the_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_the_disk(path: Path) -> None:
    """Write what the system keeps in memory of a file, or of a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike) -> list[Path]:
    """Delete what processes that were killed have left half written; returns what there was.

    A temporary file is such a one where no process on this machine has its number, or this very
    process, which must not have begun to write.
    """
    found = []
    for path in sorted(Path(folder).rglob(".*.tmp")):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if match and path.is_file() and not _is_another(int(match[1])):
            path.unlink(missing_ok=True)
            found.append(path)
    return found


def _is_another(pid: int) -> bool:
    """Whether there is another process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        return True
    return pid != os.getpid()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented json, whole or not at all. NaN becomes null."""
    text = json.dumps(_without_nan(value), indent=1, allow_nan=False)
    with replacing(path, lasting=True) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_metrics(run: str | os.PathLike) -> list[dict[str, float]]:
    """The rows of ``metrics.json`` in the order of iterations, the last word on each.

    A resumed run writes an iteration again; a killed one may leave half a line, which is skipped.
    So is what is no number.
    """
    rows: dict[int, dict[str, float]] = {}
    path = Path(run) / METRICS
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            row = _numbers(line)
            if "iteration" in row:
                rows.setdefault(int(row["iteration"]), {}).update(row)
    return [rows[i] for i in sorted(rows)]


def _numbers(line: str) -> dict[str, float]:
    """What a line of ``metrics.json`` says in numbers; NaN is one, a loss may become it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    numbers = {k: v for k, v in row.items() if _is_number(v)} if isinstance(row, dict) else {}
    if not math.isfinite(numbers.get("iteration", 0)):
        return {}
    return numbers


def _is_number(value: Any) -> bool:
    # A larger integer does not become a float.
    return isinstance(value, float) or (type(value) is int and abs(value) < 1e300)


def flat_metrics(results: Any, prefix: str = "") -> dict[str, float]:
    """``{"bbox": {"AP": 1.0}}`` as ``{"bbox/AP": 1.0}``, without the AP of single classes."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        if isinstance(value, dict):
            flat |= flat_metrics(value, f"{prefix}{key}/")
        elif not key.startswith("AP-"):
            flat[f"{prefix}{key}"] = value
    return flat


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


# Predictions -------------------------------------------------------------------------------------
# One .npz a rank, written while the evaluation runs: a zip whose members are "<field>.<chunk>.npy".
_CHUNK = 65536  # detections; 4 MB of boxes and scores


class PredictionWriter:
    """Streams detections into one ``part-<rank>.npz``; memory does not grow with the dataset.

    A detection has an image id, a category id **of the dataset's json**, a score and a box
    ``(x, y, width, height)`` in pixels of the image as it is on disk (float32), and optionally a
    mask as COCO's compressed run-length code.

    Use as a context manager: the file gets its name when the block ends well.
    """

    def __init__(self, path: str | os.PathLike):
        self._replacing = replacing(path)
        self._chunk = 0
        self._clear()

    def __enter__(self) -> "PredictionWriter":
        self._zip = zipfile.ZipFile(self._replacing.__enter__(), "w", zipfile.ZIP_STORED)
        return self

    def __exit__(self, *exc: Any) -> None:
        if exc[0] is None:
            self._flush()
        self._zip.close()
        self._replacing.__exit__(*exc)

    def add(
        self,
        image_id: int,
        category_ids: np.ndarray,
        scores: np.ndarray,
        boxes: np.ndarray,
        rles: Iterable[dict] | None = None,
    ) -> None:
        """Add one image's detections (N may be 0: the image still counts as looked at).

        Args:
            category_ids: (N,) int
            scores: (N,) float
            boxes: (N, 4) float, x, y, width, height
            rles: N dicts ``{"size": [h, w], "counts": bytes or str}``, or None without masks
        """
        n = len(scores)
        self._images.append(image_id)
        self._rows["image_id"].append(np.full(n, image_id, np.int64))
        self._rows["category_id"].append(np.asarray(category_ids, np.int64))
        self._rows["score"].append(np.asarray(scores, np.float32))
        self._rows["box"].append(np.asarray(boxes, np.float32).reshape(n, 4))
        self._rles.extend(rles if rles is not None else ())
        self._n += n
        if self._n >= _CHUNK:
            self._flush()

    def _clear(self) -> None:
        self._n = 0
        self._images: list[int] = []
        # An empty array first, so that a chunk without detections has its fields too.
        self._rows = {
            "image_id": [np.empty(0, np.int64)],
            "category_id": [np.empty(0, np.int64)],
            "score": [np.empty(0, np.float32)],
            "box": [np.empty((0, 4), np.float32)],
        }
        self._rles: list[dict] = []

    def _flush(self) -> None:
        fields = {"images": np.asarray(self._images, np.int64)}
        fields |= {name: np.concatenate(arrays) for name, arrays in self._rows.items()}
        if self._rles:
            packed = RunLengths.of(self._rles)
            fields["rle_counts"], fields["rle_ends"] = packed.counts, packed.ends
            fields["rle_size"] = packed.sizes
        for name, array in fields.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            self._zip.writestr(f"{name}.{self._chunk:06d}.npy", buffer.getvalue())
        self._chunk += 1
        self._clear()


def prediction_parts(folder: str | os.PathLike) -> list[Path]:
    """The parts written by all ranks into ``<eval folder>/predictions``, in order of rank."""
    parts = Path(folder).glob("part-*.npz")
    return sorted(parts, key=lambda part: int(part.stem.split("-")[1]))


def read_predictions(part: str | os.PathLike) -> Iterator[dict[str, np.ndarray]]:
    """The chunks of one part.

    Yields:
        ``images`` (I,) int64: every image looked at; ``image_id`` and ``category_id`` (N,) int64,
        ``score`` (N,) float32, ``box`` (N, 4) float32 x, y, width, height; and where there are
        masks ``rles``, N :class:`RunLengths`.
    """
    with np.load(part, allow_pickle=False) as members:
        chunks: dict[str, list[str]] = {}
        for member in members.files:
            chunks.setdefault(member.rsplit(".", 1)[1], []).append(member)
        for chunk in sorted(chunks):
            fields = {name.rsplit(".", 1)[0]: members[name] for name in chunks[chunk]}
            if "rle_ends" in fields:
                names = ("rle_counts", "rle_ends", "rle_size")
                fields["rles"] = RunLengths(*(fields.pop(name) for name in names))
            yield fields
