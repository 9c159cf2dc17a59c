"""The 163 networks of "How transferable are features in deep neural networks?", a GPU each."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .inputs import Rates
from .machine import Machine

__all__ = ["NETWORKS", "Networks", "makespan", "network_costs"]

_ALL = 0  # nothing is frozen


@dataclass(frozen=True)
class Networks:
    """Runs that cost alike.

    Attributes:
        what: they are
        count: how many
        iterations: of each
        frozen: layers that are
        first: whether others wait for them
    """

    what: str
    count: int
    iterations: int
    frozen: int
    first: bool = False


BATCH = 256
# Source: yosinski/convnet_transfer, results/ (10 half, 140 transfer, 1 netbase, 12 reduced). Of the
# transfers a layer has 14 frozen (BnB of 4 splits, AnB of 8 directions, man-made and natural of 2)
# and 6 trained on (BnB+ 2, AnB+ 4). Iterations: its solvers.
NETWORKS = (
    Networks("bases of the halves", 10, 450_000, _ALL, first=True),
    *(Networks(f"BnB, AnB, n = {n}", 14, 450_000, n) for n in range(1, 8)),
    Networks("BnB+, AnB+", 42, 450_000, _ALL),
    Networks("base of 1,000 classes", 1, 450_000, _ALL),
    Networks("bases of less data", 12, 200_000, _ALL),
)


def network_costs(
    counted: Sequence[dict[str, Any]], rates: Rates, machine: Machine, gpus: int
) -> dict[str, float]:
    """Seconds and operations of all runs, a GPU each, bases first.

    Args:
        counted: of CaffeNet with 0, 1, ... layers frozen

    Returns:
        "seconds" until the last is done, "busy" of all GPUs together, "compute" without a loader's
        limit, "tuned" if nothing were frozen, "operations", and "spared" of them by freezing
    """
    loading = (
        BATCH
        * min(gpus, machine.gpus_per_machine)
        / (machine.workers(gpus) / machine.machines(gpus))
    )
    loader = loading / rates.view
    first, rest, operations, full = [], [], 0.0, 0.0
    compute = tuned = 0.0
    whole = BATCH * counted[_ALL]["step"]
    for group in NETWORKS:
        step = BATCH * counted[group.frozen]["step"]
        seconds = group.iterations * max(step / machine.rate, loader)
        (first if group.first else rest).extend([seconds] * group.count)
        runs = group.count * group.iterations
        operations += runs * step
        full += runs * whole
        tuned += runs * max(whole / machine.rate, loader)
        compute += runs * step / machine.rate
    return {
        "seconds": makespan(first, gpus) + makespan(rest, gpus),
        "busy": sum(first) + sum(rest),
        "compute": compute,
        "tuned": tuned,
        "operations": operations,
        "spared": full - operations,
        "loader": loader,
    }


def makespan(seconds: Iterable[float], machines: int) -> float:
    """Until the last of these is done, where the longest that waits goes to whoever is free."""
    free = [0.0] * machines
    for duration in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)
