"""What one recipe costs on so many GPUs: a step, memory, disk, evaluation, the whole run."""

from dataclasses import dataclass

from .inputs import Rates
from .machine import Machine
from .recipe import DATASETS, Recipe

__all__ = [
    "Evaluation",
    "Memory",
    "Recipe",
    "Step",
    "disk",
    "evaluation",
    "memory",
    "run_hours",
    "step",
]

_FP32 = 4  # bytes
_BF16 = 2


@dataclass(frozen=True)
class Step:
    """Seconds of one step's parts, in the order in which they come.

    The loader works beside everything else. Gradients are summed while backward goes on, so that
    of the all-reduce only what is longer than backward is waited for.

    Attributes:
        compute: forward and backward on a GPU's images
        backward: the part of it in which gradients come
        loader: until all cores together have loaded a batch
        allreduce: until the gradients of what is trained are summed over the GPUs
        sent: bytes that a GPU sends for that
    """

    compute: float
    backward: float
    loader: float
    allreduce: float
    sent: float

    @property
    def waited(self) -> float:
        return max(0.0, self.allreduce - self.backward)

    @property
    def seconds(self) -> float:
        return max(self.loader, self.compute + self.waited)

    @property
    def limit(self) -> str:
        """What makes the step as long as it is."""
        if self.loader > self.compute + self.waited:
            return "loader"
        return "all-reduce" if self.waited else "compute"


def step(recipe: Recipe, rates: Rates, machine: Machine, gpus: int) -> Step:
    """Of the recipe's batch, shared out evenly."""
    compute = recipe.batch / gpus * recipe.step / machine.rate
    sent = 2 * (gpus - 1) / gpus * _FP32 * recipe.trained
    return Step(
        compute=compute,
        backward=compute * (1 - recipe.forward / recipe.step),
        loader=recipe.batch / (machine.workers(gpus) * rates.loader(recipe)),
        allreduce=sent / machine.link(gpus),
        sent=sent,
    )


def run_hours(recipe: Recipe, rates: Rates, machine: Machine, gpus: int) -> float:
    """Of training and one evaluation at its end."""
    training = recipe.iterations * step(recipe, rates, machine, gpus).seconds
    return (training + evaluation(recipe, rates, machine, gpus).seconds) / 3600


@dataclass(frozen=True)
class Memory:
    """Bytes on a GPU at the end of forward.

    Attributes:
        weights: fp32, and the bf16 copies of those that are trained
        gradients: with the buckets that they are sent in
        momentum: SGD's
        activations: what forward keeps for backward, of the images that go through at a time
        reserve: assumed
        images: of a GPU in a step
        at_a_time: as many of them as fit; fewer than `images` is SOLVER.ACCUMULATE
    """

    weights: float
    gradients: float
    momentum: float
    activations: float
    reserve: float
    images: float
    at_a_time: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.momentum + self.activations + self.reserve


def memory(recipe: Recipe, machine: Machine, gpus: int) -> Memory:
    """With as many images at a time as fit; one where none does."""
    buckets = 2 if gpus > 1 else 1
    fixed = {
        "weights": _FP32 * recipe.parameters + _BF16 * recipe.trained,
        "gradients": buckets * _FP32 * recipe.trained,
        "momentum": _FP32 * recipe.trained,
        "reserve": machine.reserve_gb * 1e9,
    }
    images = max(1, recipe.batch // gpus)
    room = machine.gpu_gb * 1e9 - sum(fixed.values())
    fitting = [n for n in range(1, images + 1) if images % n == 0 and n * recipe.kept <= room]
    at_a_time = max(fitting, default=1)
    return Memory(**fixed, activations=at_a_time * recipe.kept, images=images, at_a_time=at_a_time)


def disk(recipe: Recipe) -> dict[str, float]:
    """Bytes of a run: "dataset", "checkpoints" as they are by default, "full", and their "count".

    A slim checkpoint has what is trained with its momentum, and what is frozen lies once beside.
    """
    count = recipe.iterations // recipe.checkpoint_period + 1
    trained = 2 * _FP32 * recipe.trained
    frozen = _FP32 * (recipe.parameters - recipe.trained)
    return {
        "dataset": DATASETS[recipe.dataset].gigabytes * 1e9,
        "checkpoints": count * trained + frozen,
        "full": count * (trained + frozen),
        "count": count,
    }


@dataclass(frozen=True)
class Evaluation:
    """Seconds of one evaluation.

    Attributes:
        inference: on all GPUs
        gathered: bytes of predictions that processes write and the first reads
        gather: seconds of that
        evaluator: of the first process, while the others wait
    """

    inference: float
    gathered: float
    gather: float
    evaluator: float

    @property
    def seconds(self) -> float:
        return self.inference + self.gather + self.evaluator


def evaluation(recipe: Recipe, rates: Rates, machine: Machine, gpus: int) -> Evaluation:
    """With as many detections on each image as the recipe lets through."""
    images = DATASETS[recipe.dataset].test_images
    gathered = images * recipe.detections * rates.detection_bytes[recipe.masks]
    compute = images * recipe.inference / (gpus * machine.rate)
    loading = images / (machine.workers(gpus) * rates.loader(recipe))
    tasks = ("bbox", "segm") if recipe.masks else ("bbox",)
    protocol = DATASETS[recipe.dataset].protocol
    seconds = sum(rates.evaluator[protocol, task] for task in tasks)
    return Evaluation(
        inference=max(compute, loading),
        gathered=gathered,
        gather=2 * gathered / (machine.disk * 1e6),
        evaluator=images * seconds,
    )
