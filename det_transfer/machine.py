"""What a number was measured on, with what, and when."""

import contextlib
import datetime
import platform
import sys
from importlib import metadata
from pathlib import Path

__all__ = ["cpu_name", "now", "versions"]

_PACKAGES = ("det_transfer", "detectron2", "torch", "torchvision", "timm", "numpy", "hotcoco")


def cpu_name() -> str:
    """The processor's model where Linux tells it, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on, where they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            module = sys.modules.get(name)
            if module is not None:
                found[name] = getattr(module, "__version__", "unknown")
    return found


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
