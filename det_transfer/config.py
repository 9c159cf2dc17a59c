"""Every config key that det_transfer adds to Detectron2's, and how a config is read and checked.

Reading goes in this order: Detectron2's defaults, ours (:func:`add_det_transfer_config`), the YAML
with its ``_BASE_``, the command line; then what follows from the data and the batch
(:func:`scale_learning_rate`; the class count in ``data.catalog``); then :func:`validate`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from .errors import UserError, nearest, raise_all

__all__ = [
    "Config",
    "add_det_transfer_config",
    "differences",
    "leaves",
    "load_config",
    "scale_learning_rate",
    "validate",
]


def add_det_transfer_config(cfg: CfgNode) -> None:
    """Add our keys to Detectron2's `cfg`, with defaults under which Detectron2 is unchanged."""
    # -- The trunk (the pretrained network) and the decoder on it, for
    #    MODEL.BACKBONE.NAME: build_reuse_backbone. Detectron2's own builders ignore these.
    cfg.MODEL.TRUNK = CfgNode()
    # str: a name in Detectron2's BACKBONE_REGISTRY; ours for timm is build_timm_backbone.
    cfg.MODEL.TRUNK.NAME = "build_resnet_backbone"
    cfg.MODEL.DECODER = CfgNode()
    # str: what stands between trunk and heads, or "" for the trunk's features as they are.
    cfg.MODEL.DECODER.NAME = "fpn"
    # str: the coarser levels above the FPN: "maxpool" (P6, Faster R-CNN), "p6p7" (RetinaNet), "".
    cfg.MODEL.FPN.TOP_BLOCK = "maxpool"

    # -- timm trunks (build_timm_backbone)
    cfg.MODEL.TIMM = CfgNode()
    # str: a timm model with features_only support, e.g. "tf_efficientnet_lite0".
    cfg.MODEL.TIMM.NAME = ""
    # list[str]: features by stride: res2 = 4 px, res3 = 8, res4 = 16, res5 = 32.
    cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # float: stochastic depth of a trunk that is trained; a frozen trunk has none.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0

    # -- How the pretrained trunk is reused
    cfg.MODEL.REUSE = CfgNode()
    # str: "" leaves Detectron2's behaviour (MODEL.BACKBONE.FREEZE_AT); any other mode decides
    # alone about the trunk, see det_transfer.reuse.modes.
    cfg.MODEL.REUSE.MODE = ""
    # int: for "partial", the first so many stages stay frozen. Stage k ends where features have
    # stride 2**k, as with Detectron2's FREEZE_AT: 1 is the stem, 2 is up to res2.
    cfg.MODEL.REUSE.STAGES = 0
    # list[str]: for "partial", regular expressions that match whole names of modules of the trunk,
    # e.g. "net\\.blocks\\.[0-2]"; these stay frozen too.
    cfg.MODEL.REUSE.PATTERNS = []
    # str: the batch norms of what is trained ("finetune", "scratch", "partial"): "BN", "SyncBN"
    # (over all processes, needs CUDA) or "GN" (for small batches; pretrained statistics are lost).
    cfg.MODEL.REUSE.NORM = "BN"
    # str: dropout and drop-path inside a frozen trunk: "off", or "kept" (active in training, the
    # protocol of Yosinski et al. 2014).
    cfg.MODEL.REUSE.DROPOUT = "off"

    # bool: for "frozen", compute the trunk as an inference network: norms folded into convolutions,
    # channels last, weights in the run's precision. Saved weights are as without; features differ
    # by rounding (1e-5 of the largest in fp32).
    cfg.MODEL.REUSE.FAST = False
    # bool: with FAST, by torch.compile too (needs a C++ compiler on the CPU, Triton on a GPU).
    cfg.MODEL.REUSE.COMPILE = False
    # list of [part, factor]: learning rates of parts are BASE_LR times the factor. A part is
    # "trunk", "adapters", "decoder", "heads", or a regular expression on whole names of parameters.
    # The last one that fits counts.
    cfg.MODEL.REUSE.LR_MULT = []
    # list of [part, value]: weight decay of parts in place of SOLVER.WEIGHT_DECAY*, named alike.
    cfg.MODEL.REUSE.WEIGHT_DECAY = []

    # -- Residual adapters, for the modes "adapters" and "finetune_adapters"
    cfg.MODEL.ADAPTERS = CfgNode()
    # str: "parallel" (beside the layer, Rebuffi et al. 2018) or "series" (behind it, 2017).
    cfg.MODEL.ADAPTERS.KIND = "parallel"
    # str: "none"; "own": a norm inside the branch; "task": the norm behind the layer copied and
    # trained (Rebuffi's; outputs in training are then other ones from the first step). Their form
    # is MODEL.REUSE.NORM.
    cfg.MODEL.ADAPTERS.NORM = "none"
    # str: which layers: "spatial" (3x3 and larger, as in the papers), "pointwise" (1x1), "all".
    cfg.MODEL.ADAPTERS.LAYERS = "spatial"
    # str: the adapter of a grouped or depthwise convolution sits on the "pointwise" layer after it,
    # or on itself, grouped "alike".
    cfg.MODEL.ADAPTERS.GROUPED = "pointwise"
    # list[int]: stages as for REUSE.STAGES; []: all after the stem.
    cfg.MODEL.ADAPTERS.STAGES = []
    # list[str]: regular expressions on whole names of layers of the trunk, which then decide alone.
    cfg.MODEL.ADAPTERS.PATTERNS = []

    # -- Large-scale jitter: resize by a factor from [MIN_SCALE, MAX_SCALE] of SIZE, then a random
    #    crop to SIZE x SIZE pixels, padded. Replaces MIN_SIZE_TRAIN and INPUT.CROP.
    cfg.INPUT.LSJ = CfgNode()
    cfg.INPUT.LSJ.ENABLED = False
    # int: side of the square crop in pixels. Source: Ghiasi et al. 2021, section 3 (1024, 1280).
    cfg.INPUT.LSJ.SIZE = 1024
    # float: Source: Ghiasi et al. 2021, section 3, "large scale jittering", 0.1 to 2.0.
    cfg.INPUT.LSJ.MIN_SCALE = 0.1
    cfg.INPUT.LSJ.MAX_SCALE = 2.0

    # list of [name, json, image folder]: your own data, COCO or LVIS format (recognised). Use the
    # names in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.CUSTOM = []
    # float: training skips images and annotations that it cannot use, and counts them; where more
    # than this share would be skipped it stops. At 1 % a result still speaks for the dataset.
    cfg.DATASETS.MAX_SKIPPED = 0.01

    # int: the batch (images over all processes) for which BASE_LR was chosen. With another
    # IMS_PER_BATCH the learning rate follows linearly (Goyal et al. 2017). 0: it does not.
    cfg.SOLVER.REFERENCE_BATCH = 0
    # str: "SGD" (Detectron2's) or "AdamW", on the same parameter groups.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # str: precision under SOLVER.AMP.ENABLED: "fp16" (Detectron2's, needs CUDA), "bf16" (CUDA and
    # CPU), "auto" (times bf16 against fp32 for a few steps and takes the faster).
    cfg.SOLVER.AMP.DTYPE = "fp16"

    # bool: a checkpoint's model is what was trained, and its frozen part lies once beside it, as
    # frozen-<fingerprint>.pth. False (or train_net's --full): whole ones, which stock Detectron2
    # loads too.
    cfg.SOLVER.SLIM_CHECKPOINTS = True

    # int: a batch is cut into so many parts, whose gradients are added up before the optimizer's
    # step. IMS_PER_BATCH remains the batch that the step sees; memory is that of a part.
    cfg.SOLVER.ACCUMULATE = 1
    # A running mean of the weights; it is what is evaluated. DECAY: float in [0, 1), a step.
    # Source of 0.9998: EfficientDet's published recipe, for some 100,000 steps; a warm-up makes it
    # shorter at first.
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.9998

    # -- The best weights, by evaluations each TEST.EVAL_PERIOD
    cfg.TEST.BEST = CfgNode()
    # str: a key of the results, e.g. "bbox/AP", "segm/APr", "validation/total_loss"; with several
    # test sets "<dataset>/bbox/AP". Writes model_best.pth. "": off.
    cfg.TEST.BEST.METRIC = ""
    # str: "max" or "min": which values are better.
    cfg.TEST.BEST.MODE = "max"
    # int: stop after so many evaluations without a better one. 0: never.
    cfg.TEST.BEST.PATIENCE = 0
    # float: by how much a better value must be better, in the metric's units (AP: 0-100).
    cfg.TEST.BEST.MIN_DELTA = 0.0
    # bool: at each evaluation the training loss on the test sets too, as "validation/...".
    cfg.TEST.VALIDATION_LOSS = False

    # bool: only operations that give the same result every time (torch's deterministic algorithms;
    # slower on a GPU, without effect on the CPU, where a run repeats itself anyway).
    cfg.DETERMINISTIC = False

    # bool: also write the predictions as COCO-format json beside the compact files.
    cfg.TEST.WRITE_JSON = False


@dataclass(frozen=True)
class Config:
    """A config as read, and where its values come from."""

    cfg: CfgNode
    from_file: CfgNode  # the same before the command line and before what follows from the data
    explicit: frozenset[str]  # keys that the file, its bases or the command line name
    on_command_line: frozenset[str]


def load_config(config_file: str | None, opts: Sequence[str] = ()) -> Config:
    """Read a YAML with its bases and then the ``KEY VALUE`` pairs of a command line.

    Raises:
        UserError: the file is missing or no YAML, a key does not exist (all of them at once, with
            the nearest right ones), or a value has the wrong type.
    """
    cfg = get_cfg()
    add_det_transfer_config(cfg)
    known = dict(leaves(cfg))
    in_file: dict[str, Any] = {}
    if config_file:
        in_file = _read_yaml(config_file)
        _check_keys(in_file, known, f"config file {config_file}")
        _merge(cfg, f"config file {config_file}", lambda: cfg.merge_from_file(config_file))
    from_file = cfg.clone()
    flags = [word for word in opts if str(word).startswith("--")]
    if flags:
        raise UserError(f"{' '.join(flags)}: flags come before the KEY VALUE pairs")
    if len(opts) % 2:
        raise UserError(f"the options come in pairs KEY VALUE, but there are {len(opts)}: {opts}")
    on_command_line = dict(zip(opts[::2], opts[1::2], strict=True))
    _check_keys(on_command_line, known, "command line")
    _merge(cfg, "command line", lambda: cfg.merge_from_list(list(opts)))
    return Config(
        cfg=cfg,
        from_file=from_file,
        explicit=frozenset(in_file) | frozenset(on_command_line),
        on_command_line=frozenset(on_command_line),
    )


def _read_yaml(config_file: str) -> dict[str, Any]:
    if not Path(config_file).is_file():
        raise UserError(f"config file {config_file} does not exist")
    try:
        loaded = CfgNode.load_yaml_with_base(config_file)
    except (yaml.YAMLError, OSError, AssertionError, TypeError) as error:
        raise UserError(f"config file {config_file} cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"config file {config_file} cannot be read: it holds no keys")
    # Old Detectron2 files are renamed on merging, so only current ones can be checked by key.
    return dict(leaves(loaded)) if loaded.get("VERSION", 2) == 2 else {}


def _merge(cfg: CfgNode, source: str, merge) -> None:
    try:
        merge()
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{source}: {error}") from error


def _check_keys(found: dict[str, Any], known: dict[str, Any], source: str) -> None:
    problems = []
    for key in found:
        is_group = any(name.startswith(key + ".") for name in known)
        if key in known or is_group:
            continue
        near = nearest(key, known) or [k for k in known if k.endswith("." + key.split(".")[-1])]
        hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
        problems.append(f"{source}: there is no config key {key}{hint}")
    raise_all(problems)


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("MODEL.REUSE.MODE", value)`` of every key that is no group."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differences(cfg: CfgNode, base: CfgNode) -> list[tuple[str, Any, Any]]:
    """``(key, base's value, cfg's value)`` of every key on which the two differ."""
    before = dict(leaves(base))
    return [(k, before.get(k), v) for k, v in leaves(cfg) if before.get(k) != v]


def scale_learning_rate(config: Config) -> str | None:
    """Let BASE_LR follow the batch from the recipe's reference batch; say so in one line.

    Linear scaling (Goyal et al. 2017, section 2.1). A BASE_LR given on the command line is taken
    at its word. REFERENCE_BATCH becomes the batch, so that a saved config is not scaled again.
    """
    solver = config.cfg.SOLVER
    batch, reference = solver.IMS_PER_BATCH, solver.REFERENCE_BATCH
    if not reference or batch == reference:
        return None
    solver.REFERENCE_BATCH = batch
    if "SOLVER.BASE_LR" in config.on_command_line:
        return f"SOLVER.BASE_LR {solver.BASE_LR:g} as given, batch {batch} (recipe: {reference})"
    before = solver.BASE_LR
    solver.BASE_LR = before * batch / reference
    solver.BASE_LR_END *= batch / reference  # of the cosine schedule
    return (
        f"SOLVER.BASE_LR {before:g} for batch {reference} becomes {solver.BASE_LR:g} for batch "
        f"{batch}; MAX_ITER stays {solver.MAX_ITER}"
    )


_CHOICES = {
    "MODEL.REUSE.DROPOUT": ("off", "kept"),
    "MODEL.REUSE.NORM": ("BN", "SyncBN", "GN"),
    "MODEL.ADAPTERS.KIND": ("parallel", "series"),
    "MODEL.ADAPTERS.NORM": ("none", "own", "task"),
    "MODEL.ADAPTERS.LAYERS": ("spatial", "pointwise", "all"),
    "MODEL.ADAPTERS.GROUPED": ("pointwise", "alike"),
    "MODEL.FPN.TOP_BLOCK": ("maxpool", "p6p7", ""),
    "TEST.BEST.MODE": ("max", "min"),
    "SOLVER.AMP.DTYPE": ("fp16", "bf16", "auto"),
    "INPUT.FORMAT": ("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    # Of Detectron2's train loader.
    "DATALOADER.SAMPLER_TRAIN": (
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
    ),
}
_POSITIVE = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.MAX_ITER",
    "SOLVER.BASE_LR",
    "SOLVER.ACCUMULATE",
    "SOLVER.CHECKPOINT_PERIOD",
    "INPUT.LSJ.SIZE",
)


def validate(cfg: CfgNode, explicit: frozenset[str] = frozenset()) -> None:
    """Check what can be known from the config alone; all errors at once.

    Args:
        explicit: keys that the user named, see :class:`Config`

    Raises:
        UserError: one line for each key that is wrong or contradicts another
    """
    values = dict(leaves(cfg))
    raise_all(
        [
            *(
                f"{key} is {values[key]!r}; it can be {' or '.join(map(repr, choices))}"
                for key, choices in _CHOICES.items()
                if values[key] not in choices
            ),
            *(f"{key} is {values[key]}; it must be > 0" for key in _POSITIVE if values[key] <= 0),
            *_reuse_problems(cfg, explicit),
            *_input_problems(cfg),
            *_norm_problems(cfg),
            *_solver_problems(cfg),
            *_test_problems(cfg),
        ]
    )


def _reuse_problems(cfg: CfgNode, explicit: frozenset[str]) -> Iterator[str]:
    reuse = cfg.MODEL.REUSE
    mode = reuse.MODE
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    all_frozen = mode == "frozen" and freeze_at >= 5
    if mode and "MODEL.BACKBONE.FREEZE_AT" in explicit and not all_frozen:
        yield (
            f"MODEL.BACKBONE.FREEZE_AT {freeze_at} contradicts MODEL.REUSE.MODE {mode!r}, which "
            "decides alone what is frozen; leave one of them out (mode 'partial' freezes "
            "MODEL.REUSE.STAGES)"
        )
    if "adapters" not in mode:
        adapters = sorted(key for key in explicit if key.startswith("MODEL.ADAPTERS."))
        if adapters and mode:
            yield f"{adapters[0]} is for modes with adapters; MODEL.REUSE.MODE is {mode!r}"
    if mode == "partial" and not (reuse.STAGES or reuse.PATTERNS):
        yield "MODEL.REUSE.MODE 'partial' needs MODEL.REUSE.STAGES or MODEL.REUSE.PATTERNS"
    for key in ("STAGES", "PATTERNS"):
        if reuse[key] and mode != "partial":
            yield f"MODEL.REUSE.{key} is for MODEL.REUSE.MODE 'partial'; the mode is {mode!r}"
    if reuse.FAST and (mode != "frozen" or reuse.DROPOUT != "off"):
        yield (
            f"MODEL.REUSE.FAST is for MODEL.REUSE.MODE 'frozen' with DROPOUT 'off'; here it is "
            f"{mode!r} with {reuse.DROPOUT!r}"
        )
    if reuse.COMPILE and not reuse.FAST:
        yield "MODEL.REUSE.COMPILE needs MODEL.REUSE.FAST True"
    for key in ("LR_MULT", "WEIGHT_DECAY"):
        for entry in reuse[key]:
            if not _is_part_and_number(entry):
                yield (
                    f"MODEL.REUSE.{key} has {entry!r}; each entry is [part, number >= 0], e.g. "
                    "['trunk', 0.1]"
                )
    if cfg.MODEL.TRUNK.NAME == "build_timm_backbone" and not cfg.MODEL.TIMM.NAME:
        yield "MODEL.TIMM.NAME is empty; name a timm model, e.g. tf_efficientnet_lite0"


def _is_part_and_number(entry: Any) -> bool:
    sound = isinstance(entry, list | tuple) and len(entry) == 2
    return (
        sound and isinstance(entry[0], str) and isinstance(entry[1], int | float) and entry[1] >= 0
    )


def _input_problems(cfg: CfgNode) -> Iterator[str]:
    low, high = cfg.INPUT.LSJ.MIN_SCALE, cfg.INPUT.LSJ.MAX_SCALE
    if not 0 < low <= high:
        yield f"INPUT.LSJ.MIN_SCALE {low} and MAX_SCALE {high} must be 0 < MIN_SCALE <= MAX_SCALE"
    if cfg.INPUT.LSJ.ENABLED and cfg.INPUT.CROP.ENABLED:
        yield "INPUT.LSJ.ENABLED and INPUT.CROP.ENABLED are both on; large-scale jitter crops alone"
    for entry in cfg.DATASETS.CUSTOM:
        sound = isinstance(entry, list | tuple) and len(entry) == 3
        if not sound or not all(isinstance(part, str) for part in entry):
            yield f"DATASETS.CUSTOM has {entry!r}; each entry is [name, json file, image folder]"


def _solver_problems(cfg: CfgNode) -> Iterator[str]:
    solver = cfg.SOLVER
    steps = list(solver.STEPS)
    if steps != sorted(set(steps)):
        yield f"SOLVER.STEPS {tuple(steps)} must increase"
    if solver.MAX_ITER in steps:  # later ones Detectron2 leaves out with a warning
        yield f"SOLVER.STEPS {tuple(steps)} must end before SOLVER.MAX_ITER {solver.MAX_ITER}"
    amp = solver.AMP
    if amp.ENABLED and amp.DTYPE == "fp16" and not cfg.MODEL.DEVICE.startswith("cuda"):
        yield (
            f"SOLVER.AMP.DTYPE 'fp16' needs CUDA but MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; "
            "set SOLVER.AMP.DTYPE to 'bf16' or 'auto'"
        )
    if solver.IMS_PER_BATCH % max(solver.ACCUMULATE, 1):
        yield (
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} cannot be cut into SOLVER.ACCUMULATE "
            f"{solver.ACCUMULATE} equal parts"
        )
    if not 0 <= solver.EMA.DECAY < 1:
        yield f"SOLVER.EMA.DECAY is {solver.EMA.DECAY}; it must be 0 <= DECAY < 1"
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        yield f"SOLVER.BASE_LR_END {solver.BASE_LR_END} is above SOLVER.BASE_LR {solver.BASE_LR}"
    if solver.LR_SCHEDULER_NAME not in _SCHEDULES:
        near = nearest(solver.LR_SCHEDULER_NAME, _SCHEDULES) or _SCHEDULES
        yield (
            f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}; "
            f"it can be {' or '.join(near)}"
        )


# Of Detectron2's build_lr_scheduler.
_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


def _norm_problems(cfg: CfgNode) -> Iterator[str]:
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return
    for key, value in leaves(cfg.MODEL, "MODEL."):
        if key.endswith(".NORM") and value == "SyncBN":
            others = "'BN' or 'GN'" if key == "MODEL.REUSE.NORM" else "'naiveSyncBN_N' or 'GN'"
            yield f"{key} 'SyncBN' is torch's, which needs CUDA; on the CPU take {others}"


def _test_problems(cfg: CfgNode) -> Iterator[str]:
    best = cfg.TEST.BEST
    if best.METRIC and not cfg.TEST.EVAL_PERIOD:
        yield (
            f"TEST.BEST.METRIC {best.METRIC!r} needs evaluations while training: set "
            "TEST.EVAL_PERIOD"
        )
    if best.PATIENCE and not best.METRIC:
        yield "TEST.BEST.PATIENCE needs TEST.BEST.METRIC, e.g. bbox/AP"
    if best.METRIC.startswith("validation/"):
        if not cfg.TEST.VALIDATION_LOSS:
            yield f"TEST.BEST.METRIC {best.METRIC!r} needs TEST.VALIDATION_LOSS True"
        if best.MODE == "max":
            yield f"TEST.BEST.METRIC {best.METRIC!r} is a loss: set TEST.BEST.MODE min"
    if cfg.TEST.AUG.ENABLED:
        yield "TEST.AUG.ENABLED: test-time augmentation is not done here; set it to False"
    if cfg.DETERMINISTIC and cfg.CUDNN_BENCHMARK:
        yield "DETERMINISTIC and CUDNN_BENCHMARK are both on; the latter chooses by time"
