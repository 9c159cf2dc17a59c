"""Small runs with real evaluations, for pages and comparisons."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))  # its random little datasets


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """Two seeds of a good side and two of a bad one, on 24 images with 4 classes, LVIS format."""
    from made_up_runs import make_evaluated_run

    from det_transfer.testing import make_tiny_dataset

    folder = tmp_path_factory.mktemp("evaluated")
    data = make_tiny_dataset(folder / "data", images=24, classes=4, style="lvis")
    for mode, shift in (("frozen", 2.0), ("finetune", 10.0)):
        for seed in (1, 2):
            make_evaluated_run(folder / f"{mode}_s{seed}", data, mode, seed, shift)
    return folder
