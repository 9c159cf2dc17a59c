"""What is known of a recipe and of the datasets that recipes name."""

from dataclasses import dataclass

__all__ = ["DATASETS", "Dataset", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Counted, nothing is measured. Operations and bytes are of one image.

    Attributes:
        name: path of the config
        mode: MODEL.REUSE.MODE
        dataset: the first of DATASETS.TRAIN
        iterations, batch, checkpoint_period: of SOLVER
        size: side of the images in pixels
        masks: whether objects have masks
        copy_paste: INPUT.COPY_PASTE.SOURCE, "" without
        detections: of an image at most
        parameters, trained: numbers
        forward, step: operations of forward, and of forward and backward
        inference: operations of finding the objects of one image
        kept: bytes in bf16 that forward keeps for backward
    """

    name: str
    mode: str
    dataset: str
    iterations: int
    batch: int
    checkpoint_period: int
    size: int
    masks: bool
    copy_paste: str
    detections: int
    parameters: int
    trained: int
    forward: float
    step: float
    inference: float
    kept: float


@dataclass(frozen=True)
class Dataset:
    """Attributes:
    gigabytes: of its images, training and test
    train_images: for epochs
    test_images: that are evaluated
    protocol: of the evaluation
    """

    gigabytes: float
    train_images: int
    test_images: int
    protocol: str


# Images and sizes of the downloads. Source: cocodataset.org (train 118K/18GB, val 5K/1GB), whose
# images LVIS v1 takes too; counts of LVIS: lvisdataset.org.
DATASETS = {
    "coco_2017_train": Dataset(19.0, 118_287, 5_000, "coco"),
    "lvis_v1_train": Dataset(19.0, 100_170, 19_809, "lvis"),
}
