"""Many masks as COCO's compressed run-length codes, packed into three arrays.

A Python dict for each of the six million masks of an LVIS evaluation takes some 2 GB; packed, they
take what their codes do.
"""

from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunLengths"]


class RunLengths(Sequence):
    """N masks; one of them, as iteration gives it, is ``{"size": [h, w], "counts": bytes}``.

    Attributes:
        counts: (B,) uint8, the codes one after the other
        ends: (N,) int64, where in `counts` each ends
        sizes: (N, 2) int32, height and width in pixels

    Raises:
        ValueError: the arrays do not fit together
    """

    def __init__(self, counts: NDArray, ends: NDArray, sizes: NDArray):
        whole = all(np.issubdtype(a.dtype, np.integer) for a in (ends, sizes))
        shapes = counts.ndim == ends.ndim == 1 and sizes.shape == (len(ends), 2)
        if not whole or not shapes or counts.dtype != np.uint8:
            raise ValueError(
                f"no masks: {counts.shape} codes, {ends.shape} ends, {sizes.shape} sizes"
            )
        limits = np.concatenate([[0], ends, [len(counts)]])
        if (np.diff(limits) < 0).any():
            raise ValueError("no masks: their codes end in no order")
        self.counts, self.ends, self.sizes = counts, ends, sizes

    @classmethod
    def of(cls, rles: Iterable[dict[str, Any]]) -> "RunLengths":
        """Pack dicts, whose ``counts`` are bytes or str."""
        rles = list(rles)
        codes = [c.encode() if isinstance(c, str) else c for c in (r["counts"] for r in rles)]
        return cls(
            np.frombuffer(b"".join(codes), np.uint8),
            np.cumsum([len(c) for c in codes], dtype=np.int64),
            np.asarray([r["size"] for r in rles], np.int32).reshape(-1, 2),
        )

    @classmethod
    def joined(cls, parts: Sequence["RunLengths"]) -> "RunLengths":
        """The masks of all `parts`, in their order."""
        if not parts:
            return cls.of([])
        before = np.cumsum([0, *(len(p.counts) for p in parts[:-1])])
        return cls(
            np.concatenate([p.counts for p in parts]),
            np.concatenate([p.ends + b for p, b in zip(parts, before, strict=True)]),
            np.concatenate([p.sizes for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, rows: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, rows: slice | NDArray) -> list[dict[str, Any]]: ...

    def __getitem__(self, rows):
        """One mask, or a list of those that a slice or an array (numbers, or N bools) selects."""
        if isinstance(rows, int | np.integer):
            rows = range(len(self))[rows]
            start = self.ends[rows - 1] if rows else 0
            codes = self.counts[start : self.ends[rows]].tobytes()
            return {"size": self.sizes[rows].tolist(), "counts": codes}
        return self._dicts(np.arange(len(self))[rows])

    def _dicts(self, rows: NDArray) -> list[dict[str, Any]]:
        starts = np.where(rows > 0, self.ends[rows - 1], 0).tolist() if len(rows) else []
        ends, sizes = self.ends[rows].tolist(), self.sizes[rows].tolist()
        codes = memoryview(self.counts)
        return [
            {"size": size, "counts": bytes(codes[start:end])}
            for size, start, end in zip(sizes, starts, ends, strict=True)
        ]
