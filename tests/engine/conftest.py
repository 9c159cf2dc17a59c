"""Training the tiny detector of tiny.yaml in this process."""

import argparse
from pathlib import Path

import pytest

TINY = str(Path(__file__).parent / "tiny.yaml")


@pytest.fixture
def arguments(tiny_coco, tmp_path):
    """A function from further ``KEY VALUE`` pairs to train_net's parsed arguments."""

    def make(*opts, output="run", config_file=TINY, data=tiny_coco, **flags):
        own = [
            "DATASETS.CUSTOM",
            repr([["tiny", *map(str, data)]]),
            "OUTPUT_DIR",
            str(tmp_path / output),
        ]
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
def train(arguments):
    """Run train_net's main in this process; gives the trainer."""
    from det_transfer.engine.detection import DetectionTrainer, prepare
    from det_transfer.engine.setup import setup

    def run(*opts, **flags):
        args = arguments(*opts, **flags)
        trainer = DetectionTrainer(setup(args, prepare))
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        return trainer

    return run
