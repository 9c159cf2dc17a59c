"""Training the tiny classifier of tiny_classifier.yaml in this process."""

import argparse
from pathlib import Path

import pytest

TINY = str(Path(__file__).parent / "tiny_classifier.yaml")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A folder with train/<class>/*.png and test/...: 4 classes of coloured shapes, 40 px."""
    from det_transfer.testing import make_tiny_images

    return make_tiny_images(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def arguments(shapes, tmp_path):
    """A function from further ``KEY VALUE`` pairs to train_classifier's parsed arguments."""

    def make(*opts, output="run", config_file=TINY, data=shapes, **flags):
        sets = [["train", "images", str(data), "train"], ["test", "images", str(data), "test"]]
        own = ["DATASETS.CLASSIFICATION", repr(sets), "OUTPUT_DIR", str(tmp_path / output)]
        return argparse.Namespace(
            config_file=config_file,
            opts=[*own, *map(str, opts)],
            **{"resume": False, "eval_only": False, "dry_run": False, **flags},
            num_gpus=1,
            num_machines=1,
            machine_rank=0,
            dist_url="",
        )

    return make


@pytest.fixture
def build(arguments):
    """A trainer with its weights, not trained yet."""
    from det_transfer.classification import ClassificationTrainer, prepare
    from det_transfer.engine.setup import setup

    def make(*opts, **flags):
        args = arguments(*opts, **flags)
        trainer = ClassificationTrainer(setup(args, prepare))
        trainer.resume_or_load(resume=args.resume)
        return trainer

    return make


@pytest.fixture
def train(build):
    """Run train_classifier's main in this process; gives the trainer."""

    def run(*opts, **flags):
        trainer = build(*opts, **flags)
        trainer.train()
        return trainer

    return run
