"""A stock Detectron2 YAML through our trainer is stock Detectron2: losses, groups, weights."""

import argparse

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.engine import DefaultTrainer
from detectron2.model_zoo import get_config_file
from detectron2.utils.events import EventStorage

from det_transfer.data.catalog import register
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.setup import setup

STOCK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "DATASETS.TRAIN": ("tiny",),
    "DATASETS.TEST": (),
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MAX_SIZE_TRAIN": 96,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 3,
    "SEED": 7,
}


@pytest.fixture(scope="module")
def both(tiny_coco, tmp_path_factory):
    """(ours, stock): the trainers of one YAML, weights drawn from the same seed."""
    register("tiny", *tiny_coco)
    folder = str(tmp_path_factory.mktemp("stock"))
    pairs = {**SMALL, "OUTPUT_DIR": folder}
    opts = [str(word) for pair in pairs.items() for word in pair]
    args = argparse.Namespace(
        config_file=get_config_file(STOCK),
        opts=[*opts, "DATASETS.CUSTOM", repr([["tiny", *map(str, tiny_coco)]])],
        resume=False,
        eval_only=False,
    )
    ours = setup(args, prepare)
    stock = get_cfg()
    stock.merge_from_file(get_config_file(STOCK))
    stock.merge_from_list([*opts, "MODEL.ROI_HEADS.NUM_CLASSES", "3"])
    trainers = []
    for cls, cfg in ((DetectionTrainer, ours), (DefaultTrainer, stock)):
        torch.manual_seed(5)
        trainers.append(cls(cfg))
    return trainers


def test_models_are_equal(both):
    ours, stock = (trainer.model for trainer in both)
    assert repr(ours) == repr(stock)
    theirs = stock.state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())


def test_optimizer_groups_are_equal(both):
    ours, stock = (trainer.optimizer for trainer in both)
    assert type(ours).__mro__[1] is type(stock).__mro__[1] or type(ours) is type(stock)

    def groups(optimizer):
        return [
            ({k: v for k, v in g.items() if k != "params"}, [p.shape for p in g["params"]])
            for g in optimizer.param_groups
        ]

    assert groups(ours) == groups(stock)


def test_losses_and_steps_are_equal(both):
    mapper = DatasetMapper(both[1].cfg, is_train=True)
    batch = [mapper(record) for record in DatasetCatalog.get("tiny")[:2]]
    losses = []
    for trainer in both:
        trainer._trainer._data_loader_iter_obj = iter([batch] * 3)
        trainer.iter = trainer._trainer.iter = 0
        with EventStorage() as storage:
            for step in range(3):
                torch.manual_seed(step)  # the proposals that are sampled
                trainer._trainer.run_step()
                storage.step()
            histories = storage.histories()
            losses.append({k: h.values() for k, h in histories.items() if "loss" in k})
    assert losses[0] == losses[1]
    assert len(losses[0]["total_loss"]) == 3
    theirs = both[1].model.state_dict()
    assert all(torch.equal(value, theirs[k]) for k, value in both[0].model.state_dict().items())


def test_hooks_hold_all_of_detectron2s(both):
    ours, stock = ([type(hook).__name__ for hook in trainer._hooks] for trainer in both)
    assert [name for name in ours if name in stock] == stock
