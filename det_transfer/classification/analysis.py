"""What grew: measures of layers and units on a test set, and between two checkpoints."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from detectron2.evaluation import inference_context
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from .classifier import ImageClassifier

__all__ = [
    "block_accuracies",
    "diversity",
    "features",
    "movement",
    "separation",
    "top_images",
]

Matrix = NDArray[np.floating]


@torch.no_grad()
def features(
    model: ImageClassifier, loader: Iterable[list[dict]], names: Sequence[str]
) -> tuple[dict[str, Matrix], NDArray[np.int64], NDArray[np.int64]]:
    """Activations of layers on all images of a loader, as they are before norm and scale.

    Returns:
        name -> (N, units) float32, the labels (N,), and the images' numbers (N,) in the set: those
        that do not decode are left out
    """
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    samples: list[dict] = []
    with inference_context(model):
        for batch in filter(None, loader):
            activations = model.activations(batch)
            for name in names:
                found[name].append(activations[name].cpu())
            samples += batch
    arrays = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    labels, numbers = (np.array([s[k] for s in samples], np.int64) for k in ("label", "image_id"))
    return arrays, labels, numbers


@torch.no_grad()
def block_accuracies(
    model: ImageClassifier, loader: Iterable[list[dict]], task: str
) -> dict[str, float]:
    """Top-1 in percent of a task's classifier with all that it reads, and with each layer alone.

    Source: Growing a Brain, figure 6; alone means that the others count as 0 (gyeongmoon/CNN-DM).

    Returns:
        "all", and the name of each layer that the classifier reads
    """
    blocks = model.classifiers[task].inputs
    right = dict.fromkeys(("all", *blocks), 0)
    count = 0
    with inference_context(model):
        for batch in filter(None, loader):
            activations = model.activations(batch)
            labels = torch.tensor([sample["label"] for sample in batch], device=model.device)
            for name in right:
                logits = model.logits(activations, task, () if name == "all" else (name,))
                right[name] += int((logits.argmax(dim=1) == labels).sum())
            count += len(batch)
    return {name: 100.0 * hits / count for name, hits in right.items()}


def diversity(old: Matrix, new: Matrix) -> dict[str, float]:
    """Mean absolute correlation of pairs of units: among old ones, among new ones, across.

    Args:
        old, new: (N, units) activations on the same images; units that never change are left out

    Returns:
        "old", "new" and "across", from 0 to 1; NaN where there is no pair
    """
    old, new = (_standardised(block) for block in (old, new))
    return {
        "old": _mean_apart_from_itself(old),
        "new": _mean_apart_from_itself(new),
        "across": float(np.abs(old.T @ new).mean()) if old.size and new.size else np.nan,
    }


def _standardised(block: Matrix) -> Matrix:
    block = block.astype(np.float64) - block.mean(axis=0, dtype=np.float64)
    norm = np.linalg.norm(block, axis=0)
    alive = norm > 1e-9 * max(norm.max(initial=0.0), 1e-30)
    return block[:, alive] / norm[alive]


def _mean_apart_from_itself(block: Matrix) -> float:
    units = block.shape[1]
    if units < 2:
        return np.nan
    return float((np.abs(block.T @ block).sum() - units) / (units * (units - 1)))


@torch.no_grad()
def movement(model: ImageClassifier, before: Mapping[str, Tensor]) -> dict[str, float]:
    """How far the parameters of each layer have moved: ||after - before|| / ||before||.

    Args:
        before: a state of the network that the model began as; what is new is left out

    Returns:
        from below, the trunk's layers, those above and the classifiers by task
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    layers = {**model.named_layers(), **{t: (m,) for t, m in model.classifiers.items()}}
    found = {}
    for layer, modules in layers.items():
        both = [
            (before[names[p]].float().cpu().flatten(), p.float().cpu().flatten())
            for module in modules
            for p in module.parameters()
            if names[p] in before and before[names[p]].shape == p.shape
        ]
        if both:
            old, new = (torch.cat(side) for side in zip(*both, strict=True))
            found[layer] = float((new - old).norm() / old.norm().clamp(1e-12))
    return found


def separation(points: Matrix, labels: NDArray[np.int64], neighbours: int = 5) -> dict[str, float]:
    """How well classes lie apart: what a picture of t-SNE shows, as numbers.

    Args:
        points: (N, channels)

    Returns:
        "knn": percent of the points whose `neighbours` nearest others vote for their class
        (leave-one-out, cosine); "silhouette": scikit-learn's mean, cosine, from -1 to 1

    Raises:
        UserError: there are too few points, or all are of one class
    """
    classes = len(np.unique(labels))
    if len(points) <= neighbours or classes < 2:
        raise UserError(
            f"{len(points)} images of {classes} classes are too few to tell how they lie apart: it "
            f"takes more than {neighbours}, of two classes"
        )
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=neighbours + 1, metric="cosine").fit(points)
    found = nearest.kneighbors(points, return_distance=False)
    votes = [labels[[j for j in row if j != i][:neighbours]] for i, row in enumerate(found)]
    winners = np.array([np.bincount(vote).argmax() for vote in votes])
    return {
        "knn": 100.0 * float((winners == labels).mean()),
        "silhouette": float(silhouette_score(points, labels, metric="cosine")),
    }


def top_images(activations: Matrix, units: Sequence[int], count: int = 5) -> NDArray[np.int64]:
    """(len(units), count) numbers of the images that activate each unit most, best first."""
    chosen = activations[:, list(units)]
    return np.argsort(-chosen, axis=0, kind="stable")[:count].T
