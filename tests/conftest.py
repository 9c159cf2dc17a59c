"""What all tests share: one thread, no CUDA surprises, a tiny dataset made once."""

import os

# Before torch starts its threads: two test runs on two cores must not fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# The same cases each time, on however busy a machine; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


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
