"""From config and checkpoint to a classifier: as it was, or with what this run adds."""

import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from torch import nn

from ..engine.checkpoint import last_checkpoint, offering_the_one_before
from ..errors import UserError
from ..reuse import channels_last, freeze, read_checkpoint
from ..stream import seeded
from .architecture import Architecture
from .classifier import ImageClassifier
from .data import Tasks
from .growth import Growth, check_memory, fill_new
from .scopes import apply_scope
from .transfer import CLASSIFIER, Transfer, check_complete, check_layers, cut
from .trunks import FIRST_WEIGHTS, WIDTHS, sketch_trunk

__all__ = [
    "DESCRIPTION",
    "build_classifier",
    "build_described",
    "build_source",
    "check_classes",
    "describe",
    "grow_model",
    "layer_names",
    "source_of_transfer",
]

logger = logging.getLogger(__name__)

DESCRIPTION = "classifier"  # in a checkpoint: {"architecture", "new", "classes"}


def describe(source: str) -> dict[str, Any] | None:
    """What a checkpoint of ours says of its classifier; None for any other source of weights."""
    if not source or not source.partition("?")[0].endswith(".pth"):
        return None
    _, separator, _ = source.partition("://")
    path = PathManager.get_local_path(source) if separator else source
    if not Path(path).is_file():
        raise UserError(f"MODEL.WEIGHTS {source} does not exist")
    found = read_checkpoint(path, source=source).get(DESCRIPTION)
    return found if isinstance(found, dict) and "architecture" in found else None


def build_classifier(cfg: CfgNode) -> ImageClassifier:
    """The classifier of a training run: resumed as it was, or MODEL.WEIGHTS' with what is new.

    Raises:
        UserError: the checkpoint is of another network, or what is asked for does not fit
    """
    tasks = Tasks(cfg)
    last = last_checkpoint(cfg.OUTPUT_DIR)
    if last:
        with offering_the_one_before(last):
            model = build_described(cfg, str(last))
        _check_resumed(model.architecture, cfg, str(last))
        return _scoped(model, cfg, tasks)
    if Transfer.from_config(cfg):
        return _scoped(_new_model(cfg, _only_task(cfg, tasks)), cfg, tasks)
    base = _base(cfg, tasks)
    model = _new_model(cfg, base)
    growth = Growth.from_config(cfg)
    target = base
    if growth and not cfg.MODEL.GROWTH.AT:
        target = growth.of(base)
        logger.info("Grown: %s -> %s", base, target)
    for task, classes in tasks.sizes().items():
        known, learns = task in base.classifiers, task in tasks.trained
        if not known and not learns:
            origin = cfg.MODEL.WEIGHTS or "a random network"
            raise UserError(
                f"task {task} is to be evaluated, but nothing trains it and {origin} has no "
                "classifier for it; see MODEL.CLASSIFIER.TASK and TASKS"
            )
        if learns and (not known or target is not base):
            target = target.with_task(task, classes)
    names = _rewire(model, target, cfg)
    if cfg.MODEL.WEIGHTS:
        model.new = set(names)
    return _scoped(model, cfg, tasks)


def build_described(cfg: CfgNode, source: str) -> ImageClassifier:
    """The classifier of a checkpoint, as it was saved, still without its weights.

    Raises:
        UserError: `source` is no checkpoint of a classifier
    """
    found = describe(source)
    if found is None:
        raise UserError(
            f"{source or 'MODEL.WEIGHTS'} is no checkpoint of tools/train_classifier.py; name one "
            "with MODEL.WEIGHTS <run>/model_final.pth, or take OUTPUT_DIR's last with --resume"
        )
    model = _new_model(cfg, Architecture.from_dict(found["architecture"]))
    model.new, model.classes = set(found["new"]), dict(found["classes"])
    return model


def build_source(cfg: CfgNode) -> ImageClassifier:
    """The classifier of MODEL.WEIGHTS as it was, still without its weights.

    Raises:
        UserError: they are others' weights, and MODEL.CLASSIFIER.WEIGHTS_TASK does not say of which
            task their classifier is
    """
    if describe(cfg.MODEL.WEIGHTS):
        return build_described(cfg, cfg.MODEL.WEIGHTS)
    net = _base(cfg, Tasks(cfg))
    if not net.classifiers:
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} has a classifier of no task that is in TASKS; "
            "say of which it is with MODEL.CLASSIFIER.WEIGHTS_TASK"
        )
    return _new_model(cfg, net)


def source_of_transfer(cfg: CfgNode) -> ImageClassifier:
    """The classifier that MODEL.TRANSFER copies layers from, still without its weights.

    What is copied of it is frozen, and its whole trunk: none of that may lack weights.
    """
    source, transfer = cfg.MODEL.WEIGHTS, Transfer.from_config(cfg)
    found = describe(source)
    if found is None:
        model = _new_model(cfg, _plain(cfg))
    else:
        model = build_described(cfg, source)
        model.new = set()
    layers = cut(model, transfer.layers)
    copied = list(layers)[: transfer.up_to + transfer.extra]
    if found and CLASSIFIER in copied:
        check_classes(found, Tasks(cfg), source)
    for module in (model.backbone, *(m for name in copied for m in layers[name])):
        freeze(module)
    return model


def layer_names(cfg: CfgNode) -> list[str]:
    """The layers that MODEL.TRANSFER counts, from below.

    Raises:
        UserError: LAYERS names one that the network lacks, or it has weights in no layer
    """
    net = _plain(cfg)
    trunk = sketch_trunk(net.network, dict(net.options))
    known = trunk.named_layers()
    check_complete(trunk, known)
    return check_layers(cfg.MODEL.TRANSFER.LAYERS, [*known, *net.layers, CLASSIFIER])


def check_classes(found: dict[str, Any], tasks: Tasks, source: str) -> None:
    """Refuse a checkpoint whose classifier of a task has other classes than the data.

    Args:
        found: as :func:`describe` gives it

    Raises:
        UserError: it does; with a task of the same name that would go unseen
    """
    for task, names in tasks.classes.items():
        known = tuple(found["classes"].get(task, names))
        if known != tuple(names):
            stray = sorted({*known} ^ {*names})
            example = f", e.g. {stray[0]} is in one alone" if stray else ", in another order"
            raise UserError(
                f"{source} knows a task {task} of {len(known)} classes, which are not the "
                f"{len(names)} of the data{example}; give the new one another name with "
                "MODEL.CLASSIFIER.TASK"
            )


def grow_model(model: ImageClassifier, cfg: CfgNode) -> None:
    """MODEL.GROWTH on a model that has its weights already, with what scope and new then mean."""
    target = Growth.from_config(cfg).of(model.architecture)
    logger.info("Grown: %s -> %s", model.architecture, target)
    for task in model.labelled_tasks:
        target = target.with_task(task, target.classifiers[task].width)
    names = _rewire(model, target, cfg)
    model.new = (model.new & {name for name, _ in model.named_parameters()}) | set(names)
    apply_scope(model, cfg.MODEL.CLASSIFIER.SCOPE, dropout=cfg.MODEL.REUSE.DROPOUT)


def _scoped(model: ImageClassifier, cfg: CfgNode, tasks: Tasks) -> ImageClassifier:
    model.classes = {task: list(names) for task, names in tasks.classes.items()}
    model.labelled_tasks = model.training_tasks = tasks.trained
    if cfg.MODEL.CLASSIFIER.DISTILL_WEIGHT:  # old classifiers follow the layers below them
        model.training_tasks = tuple(model.classifiers)
    model.to(torch.device(cfg.MODEL.DEVICE))
    transfer, dropout = Transfer.from_config(cfg), cfg.MODEL.REUSE.DROPOUT
    if transfer:
        transfer.apply(model, dropout=dropout)
    else:
        apply_scope(model, cfg.MODEL.CLASSIFIER.SCOPE, dropout=dropout)
    return model


def _check_resumed(net: Architecture, cfg: CfgNode, source: str) -> None:
    """Refuse to resume a run with another growth than it has been begun with."""
    growth = Growth.from_config(cfg)
    if growth and cfg.MODEL.GROWTH.AT:
        return  # it may have come already, or not
    wanted, done = growth.words if growth else "", net.growths[-1] if net.growths else ""
    # Without a growth of its own, a run has those of the checkpoint that it began with.
    if wanted != done and (growth or not cfg.MODEL.WEIGHTS):
        raise UserError(
            f"{source} was grown by {done or 'nothing'!r}, and MODEL.GROWTH says "
            f"{wanted or 'nothing'!r}; resume with the same, or take another OUTPUT_DIR"
        )


def _rewire(model: ImageClassifier, target: Architecture, cfg: CfgNode) -> list[str]:
    check_memory(target, cfg.MODEL.DEVICE)
    names = model.rewire(target)
    seed = max(cfg.SEED, 0) + 1000 * len(target.growths)  # a second growth draws anew
    fill_new(
        model,
        names,
        seed,
        std=cfg.MODEL.GROWTH.INIT_STD,
        classifier_std=cfg.MODEL.CLASSIFIER.INIT_STD,
    )
    _lay_out(model, cfg)
    return names


def _lay_out(model: ImageClassifier, cfg: CfgNode) -> None:
    if cfg.MODEL.CLASSIFIER.CHANNELS_LAST:
        channels_last(model)


def _new_model(cfg: CfgNode, net: Architecture) -> ImageClassifier:
    seed, transfer = max(cfg.SEED, 0), Transfer.from_config(cfg)
    drawing: contextlib.AbstractContextManager = contextlib.nullcontext()
    if transfer:
        seed = transfer.first_seed(seed)
        drawing = seeded(seed)  # of the trunk, which draws from torch's global generator
    with drawing:
        model = ImageClassifier(net, pixel_mean=cfg.MODEL.PIXEL_MEAN, pixel_std=cfg.MODEL.PIXEL_STD)
    model.test_blocks = cfg.MODEL.CLASSIFIER.TEST_BLOCKS
    names = [name for name, _ in model.named_parameters()]
    std, bias = FIRST_WEIGHTS.get(net.network, (0.0, 0.0))
    fill_new(model, names, seed, std=std, classifier_std=cfg.MODEL.CLASSIFIER.INIT_STD)
    for layer in model.layers.values():
        nn.init.constant_(layer.bias, bias)
    _lay_out(model, cfg)
    return model


def _only_task(cfg: CfgNode, tasks: Tasks) -> Architecture:
    """The plain network with a classifier of what is trained."""
    net = _plain(cfg)
    for task, classes in tasks.sizes().items():
        net = net.with_task(task, classes)
    return net


def _base(cfg: CfgNode, tasks: Tasks) -> Architecture:
    """The network that a run begins with: its checkpoint's, or the plain one of the config."""
    options = cfg.MODEL.CLASSIFIER
    found = describe(cfg.MODEL.WEIGHTS)
    dropout = _dropout(cfg)
    if found is None:
        net = _plain(cfg)
        task = options.WEIGHTS_TASK
        return net.with_task(task, tasks.sizes()[task]) if task in tasks.sizes() else net
    net = Architecture.from_dict(found["architecture"])
    if (net.network, dict(net.options)) != (options.NETWORK, _options(cfg)):
        here = f"{options.NETWORK} {_options(cfg) or ''}".strip()
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is a {net.network} {dict(net.options) or ''}, but "
            f"the config has {here}; set MODEL.CLASSIFIER.NETWORK and what belongs to it alike"
        )
    check_classes(found, tasks, cfg.MODEL.WEIGHTS)
    grown = tuple(name for name in net.dropped if name not in dropout["dropped"])
    return replace(
        net.only_tasks(tuple(tasks.sizes())),
        dropout=options.DROPOUT,
        dropped=(
            *dropout["dropped"],
            *(n for n in grown if net.layers.get(n) and net.layers[n].growth),
        ),
    )


def _plain(cfg: CfgNode) -> Architecture:
    options = cfg.MODEL.CLASSIFIER
    dropout = _dropout(cfg)
    width = sketch_trunk(options.NETWORK, _options(cfg)).width
    widths = options.FC if list(options.FC) != [-1] else WIDTHS[options.NETWORK]
    return Architecture.plain(options.NETWORK, _options(cfg), width, widths, **dropout)


def _dropout(cfg: CfgNode) -> dict[str, Any]:
    options = cfg.MODEL.CLASSIFIER
    return {"dropout": options.DROPOUT, "dropped": tuple(options.DROPPED)}


def _options(cfg: CfgNode) -> dict[str, Any]:
    """What the builder of the trunk takes."""
    options = cfg.MODEL.CLASSIFIER
    if options.NETWORK == "timm":
        return {"name": cfg.MODEL.TIMM.NAME}
    if options.NETWORK == "resnet":
        resnet = cfg.MODEL.RESNETS
        return {
            "depth": resnet.DEPTH,
            "stride_in_1x1": resnet.STRIDE_IN_1X1,
            "norm": resnet.NORM,
        }
    found = {"side": options.POOL_SIDE} if options.POOL_SIDE else {}
    if options.NETWORK == "compact_alexnet":
        found |= {"width": options.COMPACT_WIDTH, "stride": options.COMPACT_STRIDE}
        found |= {"norm": True} if options.COMPACT_NORM else {}  # older checkpoints do not name it
    return found
