"""At how many GPUs something else begins to limit: solved for, not tried."""

from .costs import evaluation
from .inputs import Rates
from .machine import Machine
from .recipe import Recipe

__all__ = ["allreduce_limit", "cores_a_gpu", "evaluator_limit", "loader_limit"]

_FP32 = 4  # bytes


def loader_limit(recipe: Recipe, rates: Rates, machine: Machine) -> float:
    """GPUs in a machine above which its cores load too slowly.

    n GPUs take n v images a second (v = rate / operations of an image) and leave C - n cores,
    which load r each: n = C r / (r + v).
    """
    taken, loaded = machine.rate / recipe.step, rates.loader(recipe)
    return machine.cores * loaded / (loaded + taken)


def cores_a_gpu(recipe: Recipe, rates: Rates, machine: Machine) -> float:
    """Cores that a GPU needs beside it: its own process's, and those that load."""
    return 1 + machine.rate / recipe.step / rates.loader(recipe)


def allreduce_limit(recipe: Recipe, machine: Machine) -> float:
    """GPUs above which the all-reduce between machines is longer than backward, at a fixed batch.

    Backward of batch / n images takes b / n seconds (b = batch x operations / rate), and
    2 (n - 1) / n x S bytes go over a link of B bytes a second: n = 1 + b B / (2 S). Where that is
    less than one machine has, it is from the second machine on.
    """
    backward = recipe.batch * (recipe.step - recipe.forward) / machine.rate
    link = min(machine.gpu_link, machine.machine_link) * 1e9 * machine.link_reached
    across = 1 + backward * link / (2 * _FP32 * recipe.trained)
    return max(machine.gpus_per_machine, across)


def evaluator_limit(recipe: Recipe, rates: Rates, machine: Machine) -> float:
    """GPUs above which gathering and the one evaluator take longer than inference on all."""
    one = evaluation(recipe, rates, machine, 1)
    return one.inference / (one.gather + one.evaluator)
