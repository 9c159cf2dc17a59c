"""AP of sides against what they cost, and which of them no other beats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .charts import Point, dots
from .comparison import Comparison
from .html import Figure, Section, Table, number
from .runs import Run
from .sides import Side

__all__ = ["costs_section"]


@dataclass(frozen=True)
class _Cost:
    title: str
    unit: str

    def of(self, run: Run) -> float | None:
        if self.unit == "M":
            return run.trained / 1e6 if run.parts else None
        if self.unit == "min":
            return run.seconds / 60 if run.seconds else None
        if self.unit == "GB":
            return run.memory / 1e9 if run.memory else None
        operations = run.record.get("step_operations")
        return operations / 1e9 if operations else None


_COSTS = (
    _Cost("trained parameters", "M"),
    _Cost("training time", "min"),
    _Cost("peak memory", "GB"),
    _Cost("operations of a step", "GFLOP"),
)


def costs_section(result: Comparison) -> Section:
    parts = []
    for cost in _COSTS:
        points = []
        for side in result.sides:
            spent = [x for run in side.runs if (x := cost.of(run)) is not None]
            values = result.values(side, "AP")
            if spent and values:
                points.append(_point(side, spent, values))
        if len(points) < 2 or len({point.x for point in points}) < 2:
            continue
        front = [k for k, p in enumerate(points) if not any(_beats(q, p) for q in points)]
        title = f"AP against {cost.title}"
        x = f"{cost.title}, {cost.unit}"
        rows = [
            [p.name, number(p.x, 2), number(p.y), "yes" if k in front else ""]
            for k, p in enumerate(points)
        ]
        table = Table(["", x, "AP", "not beaten"], rows, words=(3,))
        parts.append(Figure(title, dots(points, title, x=x, y="AP", front=front), table))
    devices = {run.record.get("device") for side in result.sides for run in side.runs}
    lead = "Means over seeds, with their range. The dashed line joins sides that no other beats."
    if len(devices) > 1:
        lead += " Not all runs had the same device: times and memory do not compare."
    return Section("What it costs", parts, lead)


def _point(side: Side, spent: Sequence[float], values: Sequence[float]) -> Point:
    x, y = float(np.mean(spent)), float(np.mean(values))
    ranges = (min(spent), max(spent)), (min(values), max(values))
    return Point(side.name, x, y, side.colour, *ranges)


def _beats(a: Point, b: Point) -> bool:
    return a.x <= b.x and a.y >= b.y and (a.x, a.y) != (b.x, b.y)
