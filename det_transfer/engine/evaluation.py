"""One evaluation that a trained model can be asked for, of detection or classification."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from detectron2.evaluation import DatasetEvaluator
from torch.utils.data import DataLoader

__all__ = ["Evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """A test set, and how a model is measured on it.

    Attributes:
        dataset: its name
        source: what its samples are made from; of two that are equal the samples are too
        loader: makes the loader of batches, lists of samples as the model takes them
        evaluator: makes what takes in samples and answers, and measures
    """

    dataset: str
    source: Hashable
    loader: Callable[[], DataLoader]
    evaluator: Callable[[], DatasetEvaluator]
