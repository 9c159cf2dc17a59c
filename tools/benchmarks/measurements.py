"""The json of a benchmark: its numbers, and the command, machine and versions that made them."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from det_transfer.machine import cpu_name
from det_transfer.run_folder import write_json

__all__ = ["machine", "write_measurements"]


def write_measurements(
    path: Path | None,
    title: str,
    results: Any,
    *,
    packages: Iterable[str] = ("torch",),
    device: str = "cpu",
    **more: Any,
) -> None:
    """Write what docs/results and the page of benchmarks are made from.

    Args:
        path: None writes nothing
        results: {what: {side: number}}, or rows of words and numbers; a number may be a dict with
            ``median``, ``min`` and ``max``
        packages: whose versions matter, beside Python's
        device: cpu or cuda
        more: ``note`` in words, ``data`` that was measured on, and what else others are to read
    """
    if not path:
        return
    script = f"tools/benchmarks/{Path(sys.argv[0]).name}"
    write_json(
        path,
        {
            "title": f"Benchmark: {title}",
            "command": shlex.join(["python", script, *sys.argv[1:]]),
            "machine": machine(device),
            "versions": {"python": platform.python_version(), **{n: version(n) for n in packages}},
            "results": results,
            **more,
        },
    )


def machine(device: str = "cpu") -> dict[str, Any]:
    """What was measured on; without importing torch, for scripts whose memory is measured."""
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": round(os.getloadavg()[2], 1),  # of 15 minutes; above cores, others ran too
        "system": platform.platform(),
    }
    if torch := sys.modules.get("torch"):
        found["threads"] = torch.get_num_threads()
        if device == "cuda":
            found["gpu"] = torch.cuda.get_device_name()
    return found
