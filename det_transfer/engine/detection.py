"""The detection trainer: our data, our evaluators, Detectron2's models."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
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
    counted,
    describe,
    hold_to_subset,
    register_datasets,
    set_image_counts,
    take_class_count,
)
from ..errors import UserError
from ..evaluation import build_evaluator
from ..modeling import float32_statistics
from ..modeling.levels import check_levels
from ..modeling.names import check_names
from ..modeling.roi_heads import balance_classes
from ..reuse import (
    REDRAWN,
    channels_last,
    format_table,
    reuse,
    reuse_table,
    train_only,
    trainable_line,
    trunk_of,
)
from ..stream import seeded
from .analysis import CountOperations
from .evaluation import Evaluation
from .setup import Advice
from .trainer import TransferTrainer

__all__ = ["DetectionTrainer", "evaluations", "prepare"]

logger = logging.getLogger(__name__)


def prepare(config: Config) -> list[str | None]:
    """Check the model, register the datasets, take the class count from them, and check them.

    What is known of the model is said before any data is read.
    """
    if not config.cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name a dataset; the classes come from it")
    if config.cfg.DATASETS.LABEL_NOISE:
        raise UserError(
            f"DATASETS.LABEL_NOISE {config.cfg.DATASETS.LABEL_NOISE} is for classifiers "
            "(tools/train_classifier.py); objects keep their classes: set it to 0"
        )
    processes = comm.get_world_size()
    check_names(config.cfg)
    check_levels(config.cfg, processes)
    advised = [Advice(line) for line in advice(config.cfg, processes)]
    if comm.is_main_process():
        for line in advised:
            logger.warning(line)
    register_datasets(config.cfg)
    lines = [*advised, take_class_count(config), *check_datasets(config.cfg)]
    _check_federated(config.cfg)
    for name in config.cfg.DATASETS.TEST:  # says now what it would say after the training
        DetectionTrainer.build_evaluator(config.cfg, name)
    return lines


def _drawing(cfg: CfgNode) -> contextlib.AbstractContextManager:
    """Of the first weights: with a cut, be it at 0, another draw than without."""
    if cfg.MODEL.REUSE.LOAD_STAGES >= 0 and cfg.SEED >= 0:
        return seeded(cfg.SEED + REDRAWN)
    return contextlib.nullcontext()


def evaluations(
    cfg: CfgNode, classes: Sequence[str], output: str | os.PathLike
) -> Iterator[Evaluation]:
    """DATASETS.TEST of a trained run, each evaluated into ``output/eval/<dataset>``.

    Datasets of other runs may have the same names: each is registered when it is needed.

    Args:
        classes: of the run

    Raises:
        UserError: there is none; its files are missing or wrong; it has other classes
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = (), str(output)  # training data may be elsewhere
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST of its config is empty: there is nothing to evaluate on")
    register_datasets(cfg)
    check_datasets(cfg)
    for name in cfg.DATASETS.TEST:
        names, metadata = describe(name), MetadataCatalog.get(name)
        if classes and names and list(classes) != names:
            raise UserError(f"dataset {name} has other classes now than the run was trained on")
        files = [os.path.realpath(metadata.get(key) or name) for key in ("json_file", "image_root")]
        yield Evaluation(
            name,
            ("detection", *files),
            partial(_registered, build_test_loader, cfg, name),
            partial(_registered, DetectionTrainer.build_evaluator, cfg, name),
        )


def _registered(build: Callable[[CfgNode, str], Any], cfg: CfgNode, name: str) -> Any:
    register_datasets(cfg)
    describe(name)
    return build(cfg, name)


def _check_federated(cfg: CfgNode) -> None:
    """Count the images that the federated loss draws classes by, and see that it has enough."""
    head, classes = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if not head.USE_FED_LOSS:
        return
    counts = set_image_counts(cfg)
    if len(counts) != classes:
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.USE_FED_LOSS: DATASETS.TRAIN {', '.join(cfg.DATASETS.TRAIN)} has "
            f"images counted for {len(counts)} classes and MODEL.ROI_HEADS.NUM_CLASSES is "
            f"{classes}; set that to the classes of the data, and name them all in its metadata's "
            "thing_classes"
        )
    # With power 0 all are drawn alike, whether they have images or not.
    drawn = sum(count > 0 for count in counts) if head.FED_LOSS_FREQ_WEIGHT_POWER else classes
    if drawn < head.FED_LOSS_NUM_CLASSES:
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES is {head.FED_LOSS_NUM_CLASSES} but {drawn} "
            f"of {classes} classes have images to draw them by; set it to {drawn} or less"
        )


class DetectionTrainer(TransferTrainer):
    """Trains and evaluates a Detectron2 detector under MODEL.REUSE."""

    def __init__(self, cfg: CfgNode):
        _check_federated(cfg)  # for whoever has not called prepare()
        super().__init__(cfg)
        self._record_classes()
        head = cfg.MODEL.ROI_BOX_HEAD
        if head.CLASS_BALANCE_BETA:
            balance_classes(
                self.checkpointer.model,
                self.data_loader.objects,
                head.CLASS_BALANCE_BETA,
                head.CLASS_BALANCE_BACKGROUND,
            )
        self._record_subset()

    def _record_classes(self) -> None:
        names, loader = describe(self.cfg.DATASETS.TRAIN[0]), self.data_loader
        self.record.add(classes=names, train_objects=int(loader.objects.sum()))
        if names and comm.is_main_process():
            counts = loader.images.tolist(), loader.objects.tolist()
            run_folder.write_train_classes(self.cfg.OUTPUT_DIR, names, *counts)

    def _record_subset(self) -> None:
        subset = self.data_loader.subset
        if comm.is_main_process():
            hold_to_subset(self.cfg.OUTPUT_DIR, subset)
        if subset is not None:
            self.record.add(train_subset={**subset, "images": len(subset["images"])})

    def build_hooks(self) -> list[HookBase]:
        # A compiled trunk would count as nothing.
        counted = [] if self.cfg.MODEL.REUSE.COMPILE else [CountOperations(self.record)]
        return counted + super().build_hooks()

    def train(self) -> dict | None:
        """Train, evaluate, and make the report of the run folder."""
        results = super().train()
        if self.cfg.TEST.WRITE_REPORT and comm.is_main_process():
            _make_report(self.cfg.OUTPUT_DIR)
        return results

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model with its trunk in the mode that MODEL.REUSE asks for, before any optimizer."""
        try:
            with counted(cfg) as complete, _drawing(cfg):
                model = float32_statistics(build_model(complete))
        except KeyError as error:  # of a part that check_names does not know
            if "No object named" not in str(error):
                raise
            raise UserError(f"config: {error.args[0]}") from error  # Detectron2 names both
        reuse(trunk_of(model), cfg.MODEL)
        if cfg.MODEL.REUSE.TRAIN_ONLY:
            train_only(model, cfg.MODEL.REUSE.TRAIN_ONLY)
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


def _make_report(folder: str) -> None:
    """Make the run's report; whatever goes wrong is no reason for a finished run to fail."""
    try:
        from ..report.run_page import make_report  # draws: not needed before

        logger.info("Report: %s", make_report(folder))
    except Exception as error:
        logger.warning(
            "the report could not be made (%s: %s); the run is whole, and tools/make_report.py %s "
            "tries again",
            *(type(error).__name__, error, folder),
        )
