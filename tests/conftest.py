"""What all tests share: one thread, no CUDA surprises, a tiny dataset made once."""

import os

# Before torch starts its threads: two test runs on two cores must not fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory):
    """(json, image folder) of a tiny COCO-format dataset: 8 images, 3 classes, masks."""
    from det_transfer.testing import make_tiny_dataset

    return make_tiny_dataset(tmp_path_factory.mktemp("tiny_coco"), style="coco")


@pytest.fixture(scope="session")
def tiny_lvis(tmp_path_factory):
    """(json, image folder) of a tiny LVIS-format dataset: 8 images, 3 classes, masks."""
    from det_transfer.testing import make_tiny_dataset

    return make_tiny_dataset(tmp_path_factory.mktemp("tiny_lvis"), style="lvis")
