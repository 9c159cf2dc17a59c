"""The detection trainer: our data, our evaluators, Detectron2's models."""

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from torch import nn

from .. import run_folder
from ..config import Config
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
from ..reuse import format_table, reuse, reuse_table, trainable_line, trunk_of
from .trainer import TransferTrainer

__all__ = ["DetectionTrainer", "prepare"]

logger = logging.getLogger(__name__)


def prepare(config: Config) -> list[str | None]:
    """Register the datasets of the config, take the class count from them, and check them."""
    register_datasets(config.cfg)
    return [take_class_count(config), *check_datasets(config.cfg)]


class DetectionTrainer(TransferTrainer):
    """Trains and evaluates a Detectron2 detector under MODEL.REUSE."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.record.add(classes=describe(cfg.DATASETS.TRAIN[0]))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model with its trunk in the mode that MODEL.REUSE asks for, before any optimizer."""
        model = build_model(cfg)
        reuse(trunk_of(model), cfg.MODEL.REUSE)
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
        return build_evaluator(
            dataset_name,
            tasks=("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",),
            output_dir=run_folder.eval_folder(cfg.OUTPUT_DIR, dataset_name),
            max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            write_json=cfg.TEST.WRITE_JSON,
        )

    @classmethod
    def evaluate(cls, cfg: CfgNode, resume: bool = False) -> dict:
        """Evaluate a trained detector: MODEL.WEIGHTS, or the last checkpoint with `resume`."""
        model = cls.build_model(cfg)
        checkpointer = cls.build_checkpointer(cfg, model)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        if not checkpointer.whole_model:
            raise UserError(
                f"--eval-only needs a trained detector, but {checkpointer.origin} has no weights "
                "for its heads; name one with MODEL.WEIGHTS <run>/model_final.pth, or take "
                "OUTPUT_DIR's last checkpoint with --resume"
            )
        return cls.test(cfg, model)
