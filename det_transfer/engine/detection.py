"""The detection trainer: our data, our evaluators, Detectron2's models."""

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from .. import run_folder
from ..config import Config, advice
from ..data import (
    build_test_loader,
    build_train_loader,
    build_validation_loader,
    check_datasets,
    describe,
    register_datasets,
    take_class_count,
)
from ..errors import UserError
from ..evaluation import build_evaluator
from ..modeling.levels import check_levels
from ..reuse import channels_last, format_table, reuse, reuse_table, trainable_line, trunk_of
from .trainer import TransferTrainer

__all__ = ["DetectionTrainer", "prepare"]

logger = logging.getLogger(__name__)


def prepare(config: Config) -> list[str | None]:
    """Register the datasets of the config, take the class count from them, and check them."""
    if not config.cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name a dataset; the classes come from it")
    check_levels(config.cfg)
    register_datasets(config.cfg)
    lines = [
        take_class_count(config),
        *check_datasets(config.cfg),
        *advice(config.cfg, comm.get_world_size()),
    ]
    for name in config.cfg.DATASETS.TEST:  # says now what it would say after the training
        DetectionTrainer.build_evaluator(config.cfg, name)
    return lines


class DetectionTrainer(TransferTrainer):
    """Trains and evaluates a Detectron2 detector under MODEL.REUSE."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.record.add(classes=describe(cfg.DATASETS.TRAIN[0]))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model with its trunk in the mode that MODEL.REUSE asks for, before any optimizer."""
        try:
            model = build_model(cfg)
        except KeyError as error:
            if "No object named" not in str(error):
                raise
            raise UserError(f"config: {error.args[0]}") from error  # Detectron2 names both
        reuse(trunk_of(model), cfg.MODEL)
        if cfg.MODEL.REUSE.FAST:
            channels_last(model)
        logger.info("Model:\n%s", format_table(reuse_table(model)))
        logger.info(trainable_line(model))
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_validation_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_validation_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        # COCO's protocol has its own limit, 100; only with that does an AP compare with others'.
        lvis = MetadataCatalog.get(dataset_name).get("evaluator_type") == "lvis"
        return build_evaluator(
            dataset_name,
            tasks=("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",),
            output_dir=run_folder.eval_folder(cfg.OUTPUT_DIR, dataset_name),
            max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE if lvis else None,
            write_json=cfg.TEST.WRITE_JSON,
        )

    @classmethod
    def evaluate(cls, cfg: CfgNode, resume: bool = False) -> dict:
        """Evaluate a trained detector: MODEL.WEIGHTS, or the last checkpoint with `resume`."""
        model = cls.build_model(cfg)
        checkpointer = cls.build_checkpointer(cfg, model)
        last = checkpointer.get_checkpoint_file() if resume else ""
        checkpointer.load_detector(last or cfg.MODEL.WEIGHTS)
        return cls.test(cfg, model)
