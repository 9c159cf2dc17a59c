"""The json of a benchmark: its numbers, what the machine can do, and the command that made them."""

import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from det_transfer.machine import cpu_name
from det_transfer.run_folder import replacing, write_json

__all__ = [
    "PRODUCTS",
    "Spread",
    "file_rates",
    "machine",
    "machine_rates",
    "ratios",
    "spread",
    "spreads",
    "timed",
    "write_measurements",
]

Spread = dict[str, float]  # median, min, max

# Precision -> the rate of the machine that bounds it.
PRODUCTS = {"fp32": "GFLOP/s of float32 products", "bf16": "GFLOP/s of bfloat16 products"}

# Side of the matrices, by device: large enough for a product to take far longer than its call.
_SIZES = {"cpu": 2048, "cuda": 8192}
# Without instructions for bf16 a product takes a hundred times as long as in fp32.
_HOPELESS = 4


def spread(values: Iterable[float]) -> Spread:
    """Median and extremes of what was measured several times."""
    found = [float(value) for value in values]
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}


def spreads(rounds: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The same of each number of several rounds."""
    return {name: spread(one[name] for one in rounds) for name in rounds[0]}


def ratios(over: Iterable[float], under: Iterable[float]) -> Spread:
    """Round by round, as what disturbs a round disturbs both of its sides."""
    return spread(a / b for a, b in zip(over, under, strict=True))


def timed(step: Callable[[], object]) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def write_measurements(
    path: Path | None,
    title: str,
    results: Any,
    *,
    packages: Iterable[str] = ("torch",),
    device: str = "cpu",
    folder: str | Path | None = None,
    reached: Mapping[str, Mapping[str, Spread]] | None = None,
    **more: Any,
) -> None:
    """Write what docs/results and the page of benchmarks are made from.

    What the machine can do is measured with it, in some two seconds.

    Args:
        path: None writes nothing
        results: {what: {side: number}}, or rows of words and numbers; a number may be a dict with
            ``median``, ``min`` and ``max``
        packages: whose versions matter, beside Python's
        device: cpu or cuda
        folder: whose disk matters too
        reached: {rate of the machine: {side: what it reached of it, in the rate's unit}}; the
            percentages join `results`, which are tables of sides then. Rates that the machine
            does not have (bf16, on some) are left out
        more: ``note`` in words, ``data`` that was measured on, and what else others are to read
    """
    if not path:
        return
    script = f"tools/benchmarks/{Path(sys.argv[0]).name}"
    found = machine(device)
    rates = machine_rates(device) | (file_rates(folder) if folder else {})
    if reached:
        results = results | _percentages(reached, rates)
    write_json(
        path,
        {
            "title": f"Benchmark: {title}",
            "command": shlex.join(["python", script, *sys.argv[1:]]),
            "machine": {**found, "rates": rates},
            "versions": {"python": platform.python_version(), **{n: version(n) for n in packages}},
            "results": results,
            **more,
        },
    )


def _percentages(
    reached: Mapping[str, Mapping[str, Spread]], rates: Mapping[str, Spread]
) -> dict[str, dict[str, Spread]]:
    return {
        f"percent of the machine's {rate}:": {
            side: {name: 100 * value / rates[rate]["median"] for name, value in values.items()}
            for side, values in sides.items()
        }
        for rate, sides in reached.items()
        if rate in rates
    }


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


def machine_rates(
    device: str = "cpu", size: int | None = None, repeats: int = 5
) -> dict[str, Spread]:
    """What bounds a step, with the threads that torch has in this process.

    Args:
        device: cpu or cuda
        size: side of the matrices
        repeats: that count; one before them warms up

    Returns:
        GFLOP/s of matrix products, in float32 with TF32 where convolutions have it, in bf16 where
        the machine has it; GB/s (1e9 bytes) of copies, what is read and what is written
    """
    import torch

    def rate(amount: float, compute: Callable[[], object]) -> Spread:
        def step() -> None:
            compute()
            if device == "cuda":
                torch.cuda.synchronize()

        return _rate(amount, step, repeats)

    def products(dtype: torch.dtype, size: int) -> Spread:
        matrix = torch.randn(size, size, device=device).to(dtype)
        return rate(2e-9 * size**3, partial(torch.mm, matrix, matrix))

    size = size or _SIZES[device]
    tf32, torch.backends.cuda.matmul.allow_tf32 = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )
    rates = {PRODUCTS["fp32"]: products(torch.float32, size)}
    torch.backends.cuda.matmul.allow_tf32 = tf32
    tried = products(torch.bfloat16, size // 4)["max"]
    if tried > rates[PRODUCTS["fp32"]]["median"] / _HOPELESS:
        rates[PRODUCTS["bf16"]] = products(torch.bfloat16, size)
    source = torch.ones(16, size, size, device=device)  # larger than any cache
    target = torch.empty_like(source)
    rates["GB/s of copies"] = rate(2e-9 * source.nbytes, partial(target.copy_, source))
    return rates


def file_rates(folder: str | Path, megabytes: int = 64, repeats: int = 5) -> dict[str, Spread]:
    """GB/s (1e9 bytes) of a file: written until the disk has it, read while the system has it in
    memory; both as checkpoints are."""
    content = os.urandom(1_000_000) * megabytes
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "file"

        def write() -> None:
            with replacing(path, lasting=True) as temporary:
                temporary.write_bytes(content)

        return {
            "GB/s of writing files": _rate(len(content) / 1e9, write, repeats),
            "GB/s of reading files": _rate(len(content) / 1e9, path.read_bytes, repeats),
        }


def _rate(amount: float, step: Callable[[], object], repeats: int) -> Spread:
    step()
    return spread(amount / timed(step) for _ in range(repeats))
