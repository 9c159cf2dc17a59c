"""Masks as polygons that decode to the very mask they came from.

LVIS v1 has polygons, and Detectron2's LVIS reader and its default mask format take nothing else;
polygons through the centres of the outer pixels, or simplified ones, would lose pixels and holes.
"""

import numpy as np

__all__ = ["box", "polygons"]

Point = tuple[int, int]


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of the true pixels; zeros where there are none."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def polygons(mask: np.ndarray) -> list[list[int]]:
    """The polygons of a mask: one for each 4-connected part, ``[x0, y0, x1, y1, ...]``.

    Corners are corners of pixels: ``pycocotools.mask.frPyObjects`` gives the same mask back. A
    hole is joined to the outline around it by a line there and back; COCO's decoder fills by the
    even-odd rule, so that it stays empty.

    Args:
        mask: (H, W) bool
    """
    left, top, right, bottom = box(mask)
    loops = [_corners(loop) for loop in _loops(mask[top:bottom, left:right])]
    outlines = [loop for loop in loops if _signed_area(loop) > 0]
    for hole in (loop for loop in loops if _signed_area(loop) < 0):
        around = [k for k, outline in enumerate(outlines) if _inside(hole, outline)]
        k = min(around, key=lambda k: _signed_area(outlines[k]))
        outlines[k] = _joined(outlines[k], hole)
    return [[c for x, y in outline for c in (x + left, y + top)] for outline in outlines]


def _loops(mask: np.ndarray) -> list[list[Point]]:
    """Closed walks along pixel edges with the mask on the right hand (y points down)."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[Point, list[Point]] = {}
    # The four edges of a pixel (x, y) as start and end, and the neighbour across each of them.
    for neighbour, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    ):
        ys, xs = np.nonzero(inside & ~neighbour)
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            steps.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while steps:
        first = next(iter(steps))
        loop, before, here = [first], None, first
        while before is None or here != first:
            ends = steps[here]
            choice = 0
            if len(ends) == 2 and before is not None:
                # Two parts touch at a corner: turn right, which keeps them apart.
                right = (here[0] - (here[1] - before[1]), here[1] + (here[0] - before[0]))
                choice = ends.index(right)
            before, here = here, ends.pop(choice)
            if not ends:
                del steps[before]
            loop.append(here)
        loops.append(loop[:-1])
    return loops


def _corners(loop: list[Point]) -> list[Point]:
    """Leave out the points on straight lines."""
    return [
        point
        for before, point, after in zip(
            loop[-1:] + loop[:-1], loop, loop[1:] + loop[:1], strict=True
        )
        if (point[0] - before[0]) * (after[1] - point[1])
        != (point[1] - before[1]) * (after[0] - point[0])
    ]


def _signed_area(loop: list[Point]) -> float:
    return (
        sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(loop, loop[1:] + loop[:1], strict=True)) / 2
    )


def _inside(hole: list[Point], outline: list[Point]) -> bool:
    """Whether the first pixel of the hole's topmost row is inside the outline (even-odd rule)."""
    x, y = min(hole, key=lambda point: (point[1], point[0]))
    crossings = (
        a[0] == b[0] and a[0] > x and min(a[1], b[1]) <= y < max(a[1], b[1])
        for a, b in zip(outline, outline[1:] + outline[:1], strict=True)
    )
    return sum(crossings) % 2 == 1


def _joined(outline: list[Point], hole: list[Point]) -> list[Point]:
    """One closed walk: outline, over to the hole, around it, and back over."""
    distances = np.abs(np.array(outline)[:, None] - np.array(hole)).sum(2)
    i, j = divmod(int(distances.argmin()), len(hole))
    return outline[: i + 1] + hole[j:] + hole[: j + 1] + outline[i:]
