"""The machines that a run is reckoned for: assumed, each number with its source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError, nearest, raise_all
from ...run_folder import read_json

__all__ = ["ASSUMPTIONS", "Assumption", "Machine", "option", "read_machine"]


@dataclass(frozen=True)
class Assumption:
    """A number that was not measured.

    Attributes:
        name: of the attribute of :class:`Machine`
        value: by default
        text: what it is, with its unit
        source: where the default comes from
        whole: whether it is a count
    """

    name: str
    value: float
    text: str
    source: str
    whole: bool = False


ASSUMPTIONS = (
    Assumption(
        "gpus_per_machine", 8, "GPUs in a machine", "NVIDIA DGX A100, data sheet", whole=True
    ),
    Assumption(
        "peak_tflops",
        312.0,
        "TFLOP/s of a GPU at its peak, bf16, dense",
        "NVIDIA A100 80 GB SXM, data sheet",
    ),
    Assumption(
        "reached",
        0.15,
        "share of the peak that a step reaches",
        "NVIDIA's Mask R-CNN R-50 FPN on a V100 in fp16: 13.82 images/s (its "
        "DeepLearningExamples, one GPU, batch 16), our count of operations, 125 TFLOP/s of data "
        "sheet peak",
    ),
    Assumption("gpu_gb", 80.0, "GB of memory of a GPU", "NVIDIA A100 80 GB SXM, data sheet"),
    Assumption(
        "reserve_gb",
        2.0,
        "GB of it for CUDA, workspaces and fragments",
        "twice what Detectron2's published memory is above what is reckoned (the last table)",
    ),
    Assumption(
        "gpu_link",
        300.0,
        "GB/s between the GPUs of a machine, each way",
        "NVLink of the A100, data sheet (600 both ways)",
    ),
    Assumption(
        "machine_link",
        25.0,
        "GB/s between machines, each way",
        "one adapter of 200 Gb/s a machine; a DGX A100 has eight",
    ),
    Assumption("link_reached", 0.8, "share of a link's bandwidth that is reached", "a guess"),
    Assumption(
        "cores",
        128,
        "CPU cores of a machine, each as fast as the one measured",
        "NVIDIA DGX A100, data sheet: two CPUs of 64 cores",
        whole=True,
    ),
    Assumption(
        "disk",
        1000.0,
        "MB/s of the file system that all processes share",
        "a guess: one NVMe disk writes faster, a busy shared file system slower",
    ),
)


def option(name: str) -> str:
    """How it is called on the command line."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Machine:
    """See :data:`ASSUMPTIONS` for what each is, its unit and the source of its default."""

    gpus_per_machine: int = 8
    peak_tflops: float = 312.0
    reached: float = 0.15
    gpu_gb: float = 80.0
    reserve_gb: float = 2.0
    gpu_link: float = 300.0
    machine_link: float = 25.0
    link_reached: float = 0.8
    cores: int = 128
    disk: float = 1000.0

    @property
    def rate(self) -> float:
        """Operations a second that a GPU does in a step."""
        return self.peak_tflops * 1e12 * self.reached

    def machines(self, gpus: int) -> int:
        return -(-gpus // self.gpus_per_machine)

    def workers(self, gpus: int) -> int:
        """Cores that load for `gpus` GPUs; each process that trains keeps one for itself."""
        return max(1, self.machines(gpus) * self.cores - gpus)

    def link(self, gpus: int) -> float:
        """Bytes a second of the slowest link that a ring of `gpus` GPUs goes over."""
        inside = self.machines(gpus) == 1
        slowest = self.gpu_link if inside else min(self.gpu_link, self.machine_link)
        return slowest * 1e9 * self.link_reached


def read_machine(path: str | Path | None, given: dict[str, float]) -> Machine:
    """The assumed machine, with what a json and `given` put in place of it.

    Raises:
        UserError: the json has other keys, or a value is no positive number
    """
    found: Any = read_json(path, "machine") if path else {}
    if not isinstance(found, dict):
        raise UserError(f"machine {path} is no json object")
    values = {**found, **given}
    known = {assumption.name: assumption for assumption in ASSUMPTIONS}
    raise_all(_problems(values, known))
    whole = {name for name, assumption in known.items() if assumption.whole}
    return Machine(**{k: int(v) if k in whole else float(v) for k, v in values.items()})


def _problems(values: dict[str, Any], known: dict[str, Assumption]):
    for name, value in values.items():
        if name not in known:
            near = nearest(name, known)
            hint = (
                f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"
            )
            yield f"machine: {name!r} is not known{hint}"
        elif isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            yield f"machine: {name} is {value!r}; it is a number above 0 ({known[name].text})"
        elif known[name].whole and value != int(value):
            yield f"machine: {name} is {value!r}; it is a whole number ({known[name].text})"
    for name in ("reached", "link_reached"):
        value = values.get(name)
        if isinstance(value, int | float) and value > 1:
            yield f"machine: {name} is {value!r}; it is a share, from 0 to 1"
