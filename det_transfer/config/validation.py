"""What can be wrong with a config, known from the config alone."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from ..errors import choice_problems, nearest, raise_all
from .classification import CHOICES, classification_problems
from .heads import head_problems
from .norms import norm_problems
from .reading import leaves
from .reuse import reuse_problems

__all__ = ["validate"]

_CHOICES = {
    **CHOICES,
    "MODEL.REUSE.DROPOUT": ("off", "kept"),
    "MODEL.REUSE.NORM": ("BN", "SyncBN", "GN"),
    "MODEL.ADAPTERS.KIND": ("parallel", "series"),
    "MODEL.ADAPTERS.NORM": ("none", "own", "task"),
    "MODEL.ADAPTERS.LAYERS": ("spatial", "pointwise", "all"),
    "MODEL.ADAPTERS.GROUPED": ("pointwise", "alike"),
    "MODEL.FPN.TOP_BLOCK": ("maxpool", "p6", "p6p7", "p6p7_of_p5", ""),
    "MODEL.CONV_DECODER.TOP_BLOCK": ("maxpool", "p6", "p6p7", "p6p7_of_p5", ""),
    "MODEL.NASFPN.ACTIVATION": ("relu", "swish"),
    "MODEL.NASFPN.BLOCK": ("plain", "bottleneck"),
    "MODEL.PLAIN.NAME": ("alexnet", "caffenet", "vgg16", "compact_alexnet"),
    "MODEL.RPN.ACTIVATION": ("relu", "swish"),
    "MODEL.ROI_BOX_HEAD.ACTIVATION": ("relu", "swish"),
    "MODEL.ROI_MASK_HEAD.ACTIVATION": ("relu", "swish"),
    "MODEL.ROI_BOX_CASCADE_HEAD.LOSS": ("sum", "mean"),
    "MODEL.ROI_BOX_CASCADE_HEAD.ENSEMBLE": ("probabilities", "logits"),
    "MODEL.ROI_BOX_CASCADE_HEAD.MASK_PROPOSALS": ("first", "last"),
    "TEST.BEST.MODE": ("max", "min"),
    "SOLVER.AMP.DTYPE": ("fp16", "bf16", "auto"),
    "INPUT.FORMAT": ("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.COPY_PASTE.SOURCE": ("stream", "pool"),
    "INPUT.COPY_PASTE.SAMPLER": ("uniform", "repeat_factor"),
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
    "INPUT.COPY_PASTE.POOL_SIZE",
    "MODEL.NASFPN.CHANNELS",
    "MODEL.NASFPN.REPEATS",
    "MODEL.CONV_DECODER.CHANNELS",
    "MODEL.CONV_DECODER.NUM_CONV",
    "MODEL.PLAIN.COMPACT_WIDTH",
    "MODEL.PLAIN.COMPACT_STRIDE",
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
                line
                for key, choices in _CHOICES.items()
                for line in choice_problems(key, values[key], choices)
            ),
            *(f"{key} is {values[key]}; it must be > 0" for key in _POSITIVE if values[key] <= 0),
            *reuse_problems(cfg, explicit),
            *head_problems(cfg, values),
            *_input_problems(cfg),
            *_copy_paste_problems(cfg),
            *_long_tail_problems(cfg),
            *norm_problems(cfg),
            *_solver_problems(cfg),
            *_test_problems(cfg),
            *_tracking_problems(cfg),
            *classification_problems(cfg),
        ]
    )


def _input_problems(cfg: CfgNode) -> Iterator[str]:
    low, high = cfg.INPUT.LSJ.MIN_SCALE, cfg.INPUT.LSJ.MAX_SCALE
    if not 0 < low <= high:
        yield f"INPUT.LSJ.MIN_SCALE {low} and MAX_SCALE {high} must be 0 < MIN_SCALE <= MAX_SCALE"
    if cfg.INPUT.LSJ.ENABLED and cfg.INPUT.CROP.ENABLED:
        yield "INPUT.LSJ.ENABLED and INPUT.CROP.ENABLED are both on; large-scale jitter crops alone"
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if not mean or len(mean) != len(std):
        yield f"MODEL.PIXEL_MEAN {mean} and MODEL.PIXEL_STD {std} must hold a number per channel"
    if not all(std):
        yield f"MODEL.PIXEL_STD {std} is divided by; none may be 0"
    for entry in cfg.DATASETS.CUSTOM:
        sound = isinstance(entry, list | tuple) and len(entry) == 3
        if not sound or not all(isinstance(part, str) for part in entry):
            yield f"DATASETS.CUSTOM has {entry!r}; each entry is [name, json file, image folder]"


_WITHOUT_BOX_HEADS = ("RetinaNet", "TransferRetinaNet", "FCOS", "ProposalNetwork")


def _long_tail_problems(cfg: CfgNode) -> Iterator[str]:
    head = cfg.MODEL.ROI_BOX_HEAD
    beta = head.CLASS_BALANCE_BETA
    if not 0 <= beta < 1:
        yield f"MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA is {beta}; it must be 0 <= beta < 1"
    if beta and cfg.MODEL.META_ARCHITECTURE in _WITHOUT_BOX_HEADS:
        yield (
            f"MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA {beta} is for the box heads of R-CNN, and "
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; set it to 0"
        )
    background = head.CLASS_BALANCE_BACKGROUND
    if background < 0:
        yield f"MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BACKGROUND is {background}; it must be >= 0"
    if background > 0 and not beta:
        yield (
            f"MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BACKGROUND {background} is a weight of the "
            "class-balanced loss; set MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA, or this to 0"
        )
    if head.USE_FED_LOSS and not head.USE_SIGMOID_CE:
        yield "MODEL.ROI_BOX_HEAD.USE_FED_LOSS needs MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE True"
    fraction, shots = cfg.DATASETS.TRAIN_FRACTION, cfg.DATASETS.TRAIN_SHOTS
    if not 0 < fraction <= 1:
        yield f"DATASETS.TRAIN_FRACTION is {fraction}; it must be 0 < fraction <= 1"
    if shots < 0:
        yield f"DATASETS.TRAIN_SHOTS is {shots}; it must be >= 0"
    if fraction < 1 and shots:
        yield "DATASETS.TRAIN_FRACTION and DATASETS.TRAIN_SHOTS both choose images; take one"


def _copy_paste_problems(cfg: CfgNode) -> Iterator[str]:
    paste = cfg.INPUT.COPY_PASTE
    if not 0 <= paste.PROBABILITY <= 1:
        yield f"INPUT.COPY_PASTE.PROBABILITY is {paste.PROBABILITY}; it must be from 0 to 1"
    for key in ("MAX_OBJECTS", "BLEND"):
        if paste[key] < 0:
            yield f"INPUT.COPY_PASTE.{key} is {paste[key]}; it must be >= 0"
    if not paste.ENABLED:
        return
    if 3 * paste.BLEND >= cfg.INPUT.LSJ.SIZE:
        yield (
            f"INPUT.COPY_PASTE.BLEND {paste.BLEND} blurs further than INPUT.LSJ.SIZE "
            f"{cfg.INPUT.LSJ.SIZE}; a few pixels are meant"
        )
    if not cfg.INPUT.LSJ.ENABLED:
        yield (
            "INPUT.COPY_PASTE.ENABLED needs images of one size: set INPUT.LSJ.ENABLED True "
            "(INPUT.LSJ.MIN_SCALE and MAX_SCALE 1.0 for no jitter)"
        )
    if cfg.MODEL.MASK_ON and paste.BOXES:
        yield (
            "INPUT.COPY_PASTE.BOXES is for data without masks, and MODEL.MASK_ON is True; set one "
            "of them to False"
        )
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT != "bitmask":
        yield (
            f"INPUT.MASK_FORMAT {cfg.INPUT.MASK_FORMAT!r} cannot hold an object that is partly "
            "covered by a pasted one; set it to 'bitmask' for INPUT.COPY_PASTE.ENABLED"
        )
    for key in ("MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"):
        if cfg.MODEL[key.removeprefix("MODEL.")]:
            yield f"{key} and INPUT.COPY_PASTE.ENABLED: what was not pasted along would be wrong"


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


_SERVICES = ("wandb", "mlflow")


def _tracking_problems(cfg: CfgNode) -> Iterator[str]:
    for service in cfg.TRACKING.SERVICES:
        if service not in _SERVICES:
            near = nearest(str(service), _SERVICES) or _SERVICES
            yield f"TRACKING.SERVICES has {service!r}; it can hold {' and '.join(near)}"
    if cfg.TRACKING.SERVICES and not cfg.TRACKING.PROJECT:
        yield "TRACKING.PROJECT is empty; name what the runs are to be filed under"
