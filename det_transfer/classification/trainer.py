"""The classification trainer: our networks and data on the engine that detection uses."""

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from .. import run_folder
from ..config import Config
from ..engine.optimizer import build_optimizer
from ..engine.restructure import restructure
from ..engine.trainer import TransferTrainer
from ..errors import UserError
from ..reuse import format_table, reuse_table, trainable_line
from .building import build_classifier, build_described, check_classes, grow_model
from .cache import CachedLoader
from .checkpoint import ClassifierCheckpointer
from .classifier import ImageClassifier
from .data import Tasks, build_test_loader, build_train_loader, check_tasks, noise_of
from .distillation import Teacher
from .evaluator import ClassificationEvaluator
from .filters import FirstFilters
from .forgetting import Forgetting
from .growth import Growth, copy_units
from .pace import Pace
from .views import views_file

__all__ = ["ClassificationTrainer", "GrowNetwork", "prepare"]

logger = logging.getLogger(__name__)


def prepare(config: Config) -> list[str | None]:
    """Read and check the datasets of a config before anything is built; lines for the log."""
    cfg = config.cfg
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name a dataset of DATASETS.CLASSIFICATION")
    for key, unset in (("MODE", ""), ("TRAIN_ONLY", []), ("FAST", False), ("LOAD_STAGES", -1)):
        if cfg.MODEL.REUSE[key] != unset:
            raise UserError(
                f"MODEL.REUSE.{key} {cfg.MODEL.REUSE[key]!r} is for detectors; what of a "
                "classifier is trained says MODEL.CLASSIFIER.SCOPE"
            )
    if cfg.MODEL.CLASSIFIER.CACHE and comm.get_world_size() > 1:
        raise UserError("MODEL.CLASSIFIER.CACHE is for one process; start it with --num-gpus 1")
    return check_tasks(cfg)


class ClassificationTrainer(TransferTrainer):
    """Trains and evaluates an :class:`~.classifier.ImageClassifier`, and grows it on the way."""

    def __init__(self, cfg: CfgNode):
        self.restructures = cfg.MODEL.GROWTH.AT > 0
        super().__init__(cfg)
        self.record.add(tasks={t: list(names) for t, names in Tasks(cfg).classes.items()})
        if cfg.DATASETS.LABEL_NOISE:
            noise = noise_of(cfg)
            logger.info("Labels exchanged (DATASETS.LABEL_NOISE): %s", noise["sets"])
            self.record.add(label_noise=noise)
        self._note_network()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> ImageClassifier:
        """The classifier in its scope, before any optimizer."""
        model = build_classifier(cfg)
        logger.info("Network: %s", model.architecture)
        logger.info("Model:\n%s", format_table(reuse_table(model)))
        logger.info(trainable_line(model))
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: ImageClassifier) -> torch.optim.Optimizer:
        """New parameters at NEW_LR times the rate; the scales as MODEL.GROWTH says."""
        if not any(p.requires_grad for p in model.parameters()):
            return torch.optim.SGD([{"params": []}], lr=cfg.SOLVER.BASE_LR)
        factor, growth = cfg.MODEL.CLASSIFIER.NEW_LR, cfg.MODEL.GROWTH
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        parts = {part: trained & set(names) for part, names in model.parts().items()}
        lr_mult, decay = [], []
        if parts["new"]:
            lr_mult.append(("new", factor))
        if parts["new_scales"] and growth.SCALE_NEW_LR:
            lr_mult.append(("new_scales", factor))
        if parts["scales"] and not growth.SCALE_DECAY:
            decay.append(("scales", 0.0))
        return build_optimizer(cfg, model, lr_mult=lr_mult, weight_decay=decay)

    @classmethod
    def build_checkpointer(
        cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any
    ) -> ClassifierCheckpointer:
        return ClassifierCheckpointer(model, cfg.OUTPUT_DIR, cfg=cfg, **checkpointables)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_validation_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        folder = run_folder.eval_folder(cfg.OUTPUT_DIR, dataset_name)
        images = Tasks(cfg).images(dataset_name)
        return ClassificationEvaluator(images, folder, cfg.DATASETS.MAX_SKIPPED)

    def build_hooks(self) -> list[HookBase]:
        result = super().build_hooks()
        if self.restructures:
            # Before all others: what they look at before a step is the grown network.
            result.insert(0, GrowNetwork(self.cfg.MODEL.GROWTH.AT))
        period = self.cfg.MODEL.CLASSIFIER.PACE_PERIOD
        if period:
            result.insert(result.index(self.record), Pace(self.checkpointer.model, period))
        if self.cfg.MODEL.TRANSFER.UP_TO == 0 and comm.is_main_process():
            trunk, bgr = self.checkpointer.model.backbone, self.cfg.INPUT.FORMAT == "BGR"
            result.append(FirstFilters(trunk, self.cfg.OUTPUT_DIR, bgr=bgr))
        old = self._old_test_sets()
        if old:
            result.insert(result.index(self.record), Forgetting(self.record, old))
        return result

    def _old_test_sets(self) -> tuple[str, ...]:
        """Test sets of tasks that the network knew before this run."""
        model, tasks = self.checkpointer.model, Tasks(self.cfg)
        new = {name.split(".")[1] for name in model.new if name.startswith("classifiers.")}
        if not self.cfg.MODEL.WEIGHTS:
            return ()
        not_old = {*new, self.cfg.MODEL.CLASSIFIER.TASK}
        return tuple(name for name in self.cfg.DATASETS.TEST if tasks.of(name) not in not_old)

    def resume_or_load(self, resume: bool = True) -> None:
        super().resume_or_load(resume)
        growth = Growth.from_config(self.cfg)
        if growth and growth.init == "copy" and not self.start_iter and not self.restructures:
            # Only now are there weights to copy.
            copy_units(self.checkpointer.model, growth.noise, max(self.cfg.SEED, 0))
        options, model = self.cfg.MODEL.CLASSIFIER, self.checkpointer.model
        if not any(p.requires_grad for p in model.parameters()):
            logger.info("All is frozen: nothing is trained, and the network is evaluated as it is")
            self.start_iter = self.max_iter
            return
        if options.DISTILL_WEIGHT:
            model.teacher = Teacher(self.cfg)
        if options.CACHE:
            self._cache(model)

    def _cache(self, model: ImageClassifier) -> None:
        """Exchange the loader for one of activations, now that the weights are there."""
        teachers = [model.teacher.model] if model.teacher else []
        options = self.cfg.MODEL.CLASSIFIER
        folder, dataset = options.CACHE_FOLDER, self.data_loader.dataset
        views = views_file(folder, self.cfg, dataset) if folder else None
        batch = options.TEST_BATCH
        loader = CachedLoader(self.data_loader, model, *teachers, batch_size=batch, views=views)
        loader.start_at(self.start_iter)
        self._trainer.data_loader = loader

    def grow(self) -> None:
        """MODEL.GROWTH, now; optimizer and schedule go on."""
        growth = Growth.from_config(self.cfg)

        def change(model: nn.Module) -> None:
            grow_model(model, self.cfg)
            if growth.init == "copy":
                copy_units(model, growth.noise, max(self.cfg.SEED, 0))

        restructure(self, change)
        self._note_network()

    def _note_network(self) -> None:
        net = self.checkpointer.model.architecture
        self.record.add(network=str(net), growths=list(net.growths))

    @classmethod
    def evaluate(cls, cfg: CfgNode, resume: bool = False) -> dict:
        """Evaluate a trained classifier: MODEL.WEIGHTS, or the last checkpoint with `resume`.

        The network is the checkpoint's, whatever the config says of it.
        """
        source = cfg.MODEL.WEIGHTS
        if resume:
            folder = ClassifierCheckpointer(nn.Module(), cfg.OUTPUT_DIR, cfg=cfg)
            source = folder.get_checkpoint_file() or source
        model, tasks = build_described(cfg, source), Tasks(cfg)
        lacking = {tasks.of(name) for name in cfg.DATASETS.TEST} - set(model.classifiers)
        if lacking:
            raise UserError(
                f"{source} has no classifier for the task {min(lacking)}; it has "
                f"{', '.join(model.classifiers)}: name one of them with MODEL.CLASSIFIER.TASK"
            )
        check_classes({"classes": model.classes}, tasks, source)
        model.to(torch.device(cfg.MODEL.DEVICE))
        model.new = set()
        cls.build_checkpointer(cfg, model).load_detector(source)
        return cls.test(cfg, model)


class GrowNetwork(HookBase):
    """Grows the network before iteration `at`."""

    def __init__(self, at: int):
        self.at = at

    def before_step(self) -> None:
        if self.trainer.iter == self.at:
            self.trainer.grow()
