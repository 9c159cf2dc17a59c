"""Dataset dicts as one block of bytes that all processes share, kept on disk for the next start.

A list of dicts would be copied into every loading process page by page, as reference counts are
written; and the json of a large dataset takes longer to read than the first hundred iterations.
"""

import contextlib
import hashlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import tempfile
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from iopath.common.file_io import file_lock
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ..errors import UserError
from ..garbage import not_looked_for

__all__ = ["Content", "Records", "content_of_file", "outline_of"]

logger = logging.getLogger(__name__)

Dicts = list[dict[str, Any]]
Read = Callable[[], tuple[Dicts, Any]]

# Bytes of a json. A smaller one is read in about a second and is not kept.
KEPT_FROM = 20_000_000

_OUTLINED = ("file_name", "image_id", "height", "width")

# What is kept may lie in a folder of many users: of pickles there, classes of data alone are made.
_KEPT_CLASSES = {
    ("detectron2.structures.boxes", "BoxMode"),
    ("det_transfer.data.checks.annotations", "AnnotationCheck"),
    ("det_transfer.data.checks.findings", "Finding"),
}
# What a damaged or foreign entry raises when it is loaded.
_BROKEN = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class Records(Dataset):
    """Dataset dicts, pickled one by one into one block.

    Args:
        block: (bytes,) uint8; may be mapped from a file
        ends: (N,) int64, where each dict ends in `block`
    """

    def __init__(self, block: NDArray[np.uint8], ends: NDArray[np.int64]):
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, dicts: Dicts) -> "Records":
        pickled = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in dicts]
        ends = np.cumsum([len(data) for data in pickled], dtype=np.int64)
        return cls(np.frombuffer(b"".join(pickled), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The dict, made anew. Raises: IndexError, by which iteration ends"""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self.ends[index - 1] if index else 0
        return self._unpickled(index, memoryview(self.block[start : self.ends[index]]))

    def _unpickled(self, index: int, data: memoryview) -> dict[str, Any]:
        return pickle.loads(data)


class _KeptRecords(Records):
    """Records of an entry of the cache, each held to its checksum when it is asked for.

    Args:
        sums: (N,) uint32, the crc32 of each dict's bytes
        entry: the folder, for an error
    """

    def __init__(
        self,
        block: NDArray[np.uint8],
        ends: NDArray[np.int64],
        sums: NDArray[np.uint32],
        entry: Path,
    ):
        super().__init__(block, ends)
        self._sums, self._entry = sums, entry

    def _unpickled(self, index: int, data: memoryview) -> dict[str, Any]:
        """Raises: UserError: it is not what was written"""
        if zlib.crc32(data) != self._sums[index]:
            raise _damaged(self._entry, f"image {index} is not what was written")
        return _plain_of(self._entry, data)

    @staticmethod
    def sums_of(records: Records) -> NDArray[np.uint32]:
        ends = records.ends.tolist()
        starts = [0, *ends[:-1]] if ends else []
        parts = (records.block[a:b] for a, b in zip(starts, ends, strict=True))
        return np.array([zlib.crc32(part) for part in parts], dtype=np.uint32)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KEPT_CLASSES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _plain(data: bytes | memoryview) -> Any:
    """What was pickled, of plain values and `_KEPT_CLASSES`. Raises: pickle.UnpicklingError"""
    return _PlainUnpickler(io.BytesIO(data)).load()


def _plain_of(entry: Path, data: memoryview) -> Any:
    """As `_plain`, when the run goes on already. Raises: UserError"""
    try:
        return _plain(data)
    except _BROKEN as error:
        raise _damaged(entry, str(error)) from error


def _damaged(entry: Path, how: str) -> UserError:
    return UserError(
        f"{entry} is damaged: {how}; delete the folder, and the next start makes it anew "
        "(DATASETS.CACHE_DIR)"
    )


def outline_of(dicts: Sequence[dict[str, Any]]) -> Dicts:
    """The dicts with what is asked of all of them at once, a fraction of their size.

    An annotation has its "category_id" and "iscrowd" alone; those that are equal are one object.
    """
    shared: dict[tuple[int, int], dict[str, int]] = {}

    def annotation(whole: dict[str, Any]) -> dict[str, int]:
        label, crowd = whole["category_id"], whole.get("iscrowd", 0)
        return shared.setdefault((label, crowd), {"category_id": label, "iscrowd": crowd})

    def outline(record: dict[str, Any]) -> dict[str, Any]:
        kept = {key: record[key] for key in _OUTLINED if key in record}
        if "annotations" in record:
            kept["annotations"] = [annotation(whole) for whole in record["annotations"]]
        return kept

    return [outline(record) for record in dicts]


@dataclass(frozen=True)
class Content:
    """What a dataset's files hold.

    Attributes:
        records: the dataset dicts
        facts: what else the reader tells; can be pickled
    """

    records: Records
    facts: Any
    _outline: NDArray[np.uint8]
    _unpickled: Callable[[memoryview], Any] = pickle.loads

    @classmethod
    def of(cls, dicts: Dicts, facts: Any = None) -> "Content":
        outline = pickle.dumps(outline_of(dicts), protocol=pickle.HIGHEST_PROTOCOL)
        return cls(Records.of(dicts), facts, np.frombuffer(outline, dtype=np.uint8))

    @property
    def outline(self) -> Dicts:
        """See :func:`outline_of`; made anew."""
        return self._unpickled(memoryview(self._outline))

    def save(self, folder: Path) -> dict[str, list[int]]:
        """Write it into a folder; returns what :meth:`load` holds the files to."""
        np.save(folder / "records.npy", self.records.block)
        np.save(folder / "ends.npy", self.records.ends)
        np.save(folder / "sums.npy", _KeptRecords.sums_of(self.records))
        np.save(folder / "outline.npy", self._outline)
        np.save(folder / "facts.npy", np.frombuffer(pickle.dumps(self.facts), dtype=np.uint8))
        return {path.name: _sum_of(path) for path in sorted(folder.iterdir())}

    @classmethod
    def load(cls, folder: Path, written: dict[str, list[int]]) -> "Content":
        """Map it into memory, read-only.

        The records, most of it, are held to their sums one by one when they are asked for.

        Args:
            written: what :meth:`save` gave
        Raises:
            one of `_BROKEN`: the files are not those that were written, or are no data alone
        """
        for name, expected in written.items():
            if _sum_of(folder / name) != expected:
                raise ValueError(f"{name} is not what was written")
        block, ends, sums, outline, facts = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
            for name in ("records", "ends", "sums", "outline", "facts")
        )
        records = _KeptRecords(block, ends, sums, folder)
        return cls(records, _plain(memoryview(facts)), outline, partial(_plain_of, folder))


def _sum_of(path: Path) -> list[int]:
    """Size in bytes and crc32 of a file of an entry; of the records, as large as they are, of none
    of their bytes."""
    content = b"" if path.name == "records.npy" else path.read_bytes()
    return [path.stat().st_size, zlib.crc32(content)]


def content_of_file(
    json_file: str, read: Read, *, cache_dir: str = "", key: Sequence[str] = ()
) -> Content:
    """What `read` makes of a json: from the cache, or by reading it in a process of its own.

    That process takes the memory that reading needs with it. What was kept is good as long as the
    json, the folders of the images and the code that read them are unchanged; what is damaged is
    made anew. Where nothing can be written, nothing is kept.

    Args:
        read: gives dataset dicts, and facts that can be pickled
        cache_dir: "" keeps nothing; nor are small files kept
        key: what else `read` depends on
    Raises:
        UserError: of `read`
    """
    path = os.path.abspath(json_file)
    if not cache_dir or not os.path.isfile(path) or os.path.getsize(path) < KEPT_FROM:
        return Content.of(*read())
    name = hashlib.sha256(json.dumps([path, *key]).encode()).hexdigest()[:16]
    entry = Path(cache_dir).expanduser() / f"{Path(path).stem}-{name}"
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(entry)):  # of all processes on all machines that see the folder
            if content := _kept(entry, path):
                return content
            logger.info("reading %s; the next start will be faster by %s", path, entry)
            _in_a_process_of_its_own(lambda: _keep(entry, path, read))
            if content := _kept(entry, path):
                return content
            raise OSError(f"{entry} cannot be read")
    except OSError as error:
        logger.warning("%s is read anew at each start: %s (DATASETS.CACHE_DIR)", path, error)
        return Content.of(*read())


def _keep(entry: Path, json_file: str, read: Read) -> None:
    before = _state([json_file])
    dicts, facts = read()
    folders = sorted({os.path.dirname(record["file_name"]) for record in dicts})
    with tempfile.TemporaryDirectory(dir=entry.parent, ignore_cleanup_errors=True) as made:
        written = Content.of(dicts, facts).save(Path(made))
        state = {"code": _code(), "files": {**before, **_state(folders)}, "written": written}
        (Path(made) / "state.json").write_text(json.dumps(state))
        shutil.rmtree(entry, ignore_errors=True)
        os.rename(made, entry)


def _kept(entry: Path, json_file: str) -> Content | None:
    """What an entry holds; None where there is none, it is of before a change, or is damaged."""
    path = entry / "state.json"
    try:
        state = json.loads(path.read_text()) if path.exists() else {"code": ""}
        if state["code"] != _code() or not _is_current(state["files"]):
            return None
        return Content.load(entry, state["written"])
    except _BROKEN as error:
        logger.warning("%s, kept of %s, is damaged: %s", entry, json_file, error)
        return None


def _is_current(files: dict[str, list[int]]) -> bool:
    with contextlib.suppress(OSError):  # of those that are gone
        return files == _state(files)
    return False


def _state(paths: Sequence[str]) -> dict[str, list[int]]:
    """Size and time of change in ns of each. A folder's time is that of its list of files."""
    stats = {path: os.stat(path) for path in paths}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}


@cache
def _code() -> str:
    """A hash of what makes dataset dicts: the files of this package, and Detectron2's version."""
    found = hashlib.sha256(version("detectron2").encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _in_a_process_of_its_own(work: Callable[[], None]) -> None:
    """Raises what `work` raises."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_error, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        error, where = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process that reads annotations ended with {process.exitcode} (-9: out of memory)"
        ) from None
    process.join()
    if isinstance(error, UserError | OSError):
        raise error
    if error is not None:
        raise RuntimeError(f"while reading annotations:\n{where}")


def _send_error(work: Callable[[], None], pipe: Connection) -> None:
    try:
        with not_looked_for():
            work()
        pipe.send((None, ""))
    except Exception as error:
        known = isinstance(error, UserError | OSError)
        pipe.send((error if known else str(error), traceback.format_exc()))
