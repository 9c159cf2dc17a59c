"""Copy-Paste for Detectron2: where pasted objects come from, and what a mapper makes of them.

``INPUT.COPY_PASTE.SOURCE`` says where from:

- ``stream``: :class:`CopyPasteMapper` reads and jitters another image for each, as Ghiasi et al.
  2021 did: twice the work;
- ``pool``: :class:`PastePool` takes the jittered samples that were made just before as sources, so
  that nothing is read twice.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.structures import BitMasks, Boxes, Instances
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from .copy_paste import Scene, box_masks, choose, paste
from .mapper import BROKEN

__all__ = ["CopyPasteMapper", "PastePool", "Paster", "source_weights"]

Sample = dict[str, Any]

# So often a source is drawn again that gives nothing to paste; then the image goes unpasted.
_TRIES = 20


@dataclass(frozen=True)
class Paster:
    """Pastes objects of one sample onto another.

    Attributes:
        probability: share of the images that are pasted on
        max_objects: pasted onto an image at most; None: no limit
        blend: see :func:`~det_transfer.data.copy_paste.paste`
        boxes: paste the whole boxes, for data without masks
        masks: samples keep their masks; False: they served the pasting alone
    """

    probability: float = 1.0
    max_objects: int | None = None
    blend: float = 0.0
    boxes: bool = False
    masks: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Paster":
        options = cfg.INPUT.COPY_PASTE
        return cls(
            probability=options.PROBABILITY,
            max_objects=options.MAX_OBJECTS or None,
            blend=options.BLEND,
            boxes=options.BOXES,
            masks=cfg.MODEL.MASK_ON,
        )

    def __call__(
        self, target: Sample, draw: Callable[[np.random.Generator, float], Sample | None], seed: int
    ) -> Sample:
        """A sample with objects pasted onto it.

        Args:
            target: a sample as Detectron2's mapper makes it, with bitmasks unless `boxes`. It is
                not changed. Its "resized" is the factor of its resizing, 1 where it has none
            draw: (generator, share in [0, 1)) -> a sample of the same size that may serve as a
                source, or None. The share will say how many of its objects are pasted: an image
                of n need not be made where ``int(share * (n + 1))`` is 0
            seed: of all choices

        Returns:
            the sample, its objects those of the target and then the pasted ones, whose number is
            under "pasted"
        """
        rng = np.random.default_rng(seed)
        scene = self._scene(target)
        source = self._source(draw, rng) if rng.random() < self.probability else None
        if source is None:
            return self._sample(target, scene, 0)
        scale = target.get("resized", 1.0)
        pasted = paste(scene, source, scale=scale, blend=self.blend, boxes=self.boxes)
        return self._sample(target, pasted, len(source))

    def _source(self, draw: Callable, rng: np.random.Generator) -> Scene | None:
        """Objects to paste. Sources that give none are drawn again, as the authors do."""
        for _ in range(_TRIES):
            share = rng.random()
            sample = draw(rng, share)
            if sample is None:
                continue
            chosen = choose(len(sample["instances"]), share, rng, at_most=self.max_objects)
            if len(chosen):
                return self._scene({**sample, "instances": sample["instances"][chosen]})
        return None

    def _scene(self, sample: Sample) -> Scene:
        instances = sample["instances"]
        boxes = instances.gt_boxes.tensor.numpy()
        if self.boxes:
            masks = box_masks(boxes, *instances.image_size)
        elif len(instances):
            masks = instances.gt_masks.tensor.numpy()
        else:  # Detectron2's mapper leaves the field out
            masks = np.zeros((0, *instances.image_size), dtype=bool)
        image = sample["image"].numpy().transpose(1, 2, 0)
        return Scene(image, masks, boxes, instances.gt_classes.numpy())

    def _sample(self, target: Sample, scene: Scene, pasted: int) -> Sample:
        instances = Instances(target["instances"].image_size)
        instances.gt_boxes = Boxes(torch.from_numpy(scene.boxes))
        instances.gt_classes = torch.from_numpy(scene.classes)
        if self.masks and not self.boxes:
            instances.gt_masks = BitMasks(torch.from_numpy(scene.masks))
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        return {**target, "image": image, "instances": instances, "pasted": pasted}


class CopyPasteMapper:
    """Maps a dataset dict to a sample with objects of another image of the dataset pasted on.

    It serves Detectron2's own loaders too: ``build_detection_train_loader(cfg, mapper=...)``.

    Args:
        mapper: of single images, which makes all of one size and leaves bitmasks; what it draws
            comes from NumPy's global generator
        sources: dataset dicts; a :class:`~detectron2.data.DatasetFromList` is shared by all workers
        paster: how
        weights: (N,) >= 0, of the sources; None: all alike
    """

    def __init__(
        self,
        mapper: Callable[[dict], Sample],
        sources: Sequence[dict],
        paster: Paster,
        weights: NDArray | None = None,
    ):
        self.mapper, self.sources, self.paster = mapper, sources, paster
        self._until = np.cumsum(np.ones(len(sources)) if weights is None else weights)

    def __call__(self, dataset_dict: dict[str, Any]) -> Sample | None:
        target = self.mapper(dataset_dict)
        if target is None:  # the mapper found nothing usable
            return None
        return self.paster(target, self._draw, np.random.randint(2**31))

    def _draw(self, rng: np.random.Generator, share: float) -> Sample | None:
        record = self.sources[_drawn(self._until, rng)]
        objects = sum(not a.get("iscrowd", 0) for a in record.get("annotations", ()))
        if int(share * (objects + 1)) == 0:
            return None  # nor would fewer, after the crop
        try:
            return self.mapper(record)
        except UserError:  # is a ValueError, and of the config or the data
            raise
        except BROKEN:
            return None  # the stream meets it as a target too, and counts it there


class PastePool:
    """Pastes from the last jittered samples of a stream onto those that come after.

    It stands behind the loader, in the training process, which sees all samples in their order:
    what comes out is the same for any number of workers.

    Args:
        size: samples kept; each holds its image and a byte a pixel for each mask
        paster: how
        seed: of all choices, with a sample's "position" in the stream; its "index" is its image's
        weights: (N,) of the images of the stream as sources; None: all alike
    """

    def __init__(self, size: int, paster: Paster, seed: int, weights: NDArray | None = None):
        self.size, self.paster, self.seed, self.weights = size, paster, seed, weights

    def refill(self, start: int, batch_size: int) -> int:
        """How many batches before the `start`-th fill the pool as it was then."""
        return min(start, -(-self.size // batch_size))

    def __call__(self, batches: Iterable[list[Sample]], refill: int = 0) -> Iterator[list[Sample]]:
        """The batches with objects pasted on; the first `refill` only fill the pool."""
        kept: deque[Sample] = deque(maxlen=self.size)
        batches = iter(batches)
        for batch in itertools.islice(batches, refill):
            kept.extend(map(_own, batch))
        for batch in batches:
            pasted = []
            for sample in batch:
                pasted.append(self._paste(sample, kept))
                kept.append(_own(sample))
            yield pasted

    def _paste(self, sample: Sample, kept: Sequence[Sample]) -> Sample:
        key = np.random.SeedSequence((self.seed, sample["position"]))
        if self.weights is None:
            weights = np.ones(len(kept))
        else:
            weights = self.weights[[source["index"] for source in kept]]
        until = np.cumsum(weights)

        def draw(rng: np.random.Generator, share: float) -> Sample | None:
            return kept[_drawn(until, rng)] if len(kept) else None

        return self.paster(sample, draw, int(key.generate_state(1)[0]))


def _own(sample: Sample) -> Sample:
    """What a source needs of a sample, none of it in memory shared with a loading process.

    That has a file descriptor a tensor, and room in /dev/shm, as long as the tensor is kept.
    """
    instances = sample["instances"]
    own = Instances(instances.image_size)
    own.gt_boxes = Boxes(_unshared(instances.gt_boxes.tensor))
    own.gt_classes = _unshared(instances.gt_classes)
    if instances.has("gt_masks") and isinstance(instances.gt_masks, BitMasks):
        own.gt_masks = BitMasks(_unshared(instances.gt_masks.tensor))
    return {"image": _unshared(sample["image"]), "instances": own, "index": sample["index"]}


def _unshared(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_shared() else tensor


def _drawn(until: NDArray, rng: np.random.Generator) -> int:
    """An index, drawn by the weights whose running sum is `until`."""
    return int(np.searchsorted(until, rng.random() * until[-1], side="right"))


def source_weights(
    cfg: CfgNode, dicts: Sequence[dict], *, drawn_by: str = "TrainingSampler"
) -> NDArray | None:
    """Weights (N,) of images as sources, by ``INPUT.COPY_PASTE.SAMPLER``; None: all alike.

    Args:
        drawn_by: sampler of the stream that images come from already
    """
    wanted = cfg.INPUT.COPY_PASTE.SAMPLER == "repeat_factor"
    already = drawn_by == "RepeatFactorTrainingSampler"
    if wanted == already:
        return None
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dicts, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    ).numpy()
    return factors if wanted else 1 / factors
