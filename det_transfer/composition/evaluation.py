"""Every task of a composition on its own test sets, each image through the trunk once."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..engine.evaluation import Evaluation
from ..errors import UserError, raise_all
from .composed import ComposedDetector

__all__ = ["evaluate"]

Watch = Callable[[Iterable[list[dict]], str, int], Iterable[list[dict]]]


def evaluate(
    composed: ComposedDetector,
    output: str | os.PathLike,
    *,
    watch: Watch = lambda batches, dataset, count: batches,
) -> dict[str, dict[str, Any]]:
    """Evaluate all tasks as their runs alone are evaluated, into ``output/<task>/eval/<dataset>``.

    Tasks with the same test images share the pass through the trunk.

    Args:
        watch: is given the batches of a test set, its name and their number, and passes them on

    Returns:
        task -> dataset -> metrics

    Raises:
        UserError: test sets are missing, with a line for each task, before anything is run
    """
    groups: dict[Any, list[tuple[str, Evaluation]]] = {}
    problems: list[str] = []
    for name, task in composed.tasks.items():
        try:
            for evaluation in task.evaluations(Path(output) / name):
                groups.setdefault(evaluation.source, []).append((name, evaluation))
        except UserError as error:
            problems += [f"task {name}: {line}" for line in str(error).splitlines()]
    raise_all(problems)
    results: dict[str, dict[str, Any]] = {name: {} for name in composed.tasks}
    for group in groups.values():
        for name, dataset, found in _together(composed, group, watch):
            results[name][dataset] = found
    return results


def _together(
    composed: ComposedDetector, group: list[tuple[str, Evaluation]], watch: Watch
) -> Iterable[tuple[str, str, Any]]:
    """Task, dataset and metrics of those that look at the same images."""
    evaluators = [(name, evaluation.evaluator()) for name, evaluation in group]
    for _, evaluator in evaluators:
        evaluator.reset()
    asked = list(dict.fromkeys(name for name, _ in group))
    first = group[0][1]
    loader = first.loader()
    for samples in watch(loader, first.dataset, len(loader)):
        if samples:
            answers = composed.model(samples, asked)
            for name, evaluator in evaluators:
                evaluator.process(samples, answers[name])
    for (name, evaluation), (_, evaluator) in zip(group, evaluators, strict=True):
        yield name, evaluation.dataset, evaluator.evaluate()
