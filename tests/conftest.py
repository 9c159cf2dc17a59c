"""What all tests share: one thread, no CUDA surprises, no network, a tiny dataset made once."""

import os
import runpy
import tempfile
from pathlib import Path

# Before torch starts its threads: two test runs on two cores must not fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# Here, and in every Python that a test starts.
NO_NETWORK = Path(__file__).parent / "no_network"
ROOT = Path(__file__).parents[1]
BARRED = tempfile.NamedTemporaryFile("r", prefix="barred_network_")  # noqa: SIM115
os.environ["BARRED_NETWORK"] = BARRED.name
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(NO_NETWORK), str(ROOT), os.environ.get("PYTHONPATH")])
)
runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))

torch.set_num_threads(1)

# The same cases each time, on however busy a machine; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def no_network():
    """Fails a test under which anything reached for the network, caught or not."""
    yield BARRED
    if reached := BARRED.read():
        pytest.fail(reached.strip(), pytrace=False)


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
