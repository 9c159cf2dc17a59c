"""Config keys of classification, and what can be wrong with them."""

from collections.abc import Iterator

from detectron2.config import CfgNode

__all__ = ["GROWTH_SIZES", "add_classification_config", "classification_problems"]


def add_classification_config(cfg: CfgNode) -> None:
    """Add what ``tools/train_classifier.py`` reads; detection ignores all of it."""
    # list of [name, reader, path, split]: sets of labelled images; readers and what split means to
    # each are in det_transfer.classification.data.readers. Use the names in DATASETS.TRAIN and
    # DATASETS.TEST.
    cfg.DATASETS.CLASSIFICATION = []

    # float: this share of the labels of each training set is exchanged for another of its classes,
    # drawn uniformly by (SUBSET_SEED, image); 10 % lie inside 20 %. Test sets keep theirs. Source
    # of 20 % as a usual value: Sun et al. 2017, section 3, of the labels of JFT-300M.
    cfg.DATASETS.LABEL_NOISE = 0.0

    # -- What the network sees of an image
    cfg.INPUT.VIEW = CfgNode()
    # int: pixels of the short side (with WARP: of both sides) before the crop. 0: as it is.
    # Source: Growing a Brain, section 4: images resized to 256x256, random crop and flip.
    cfg.INPUT.VIEW.RESIZE = 256
    cfg.INPUT.VIEW.WARP = False
    # int: pixels of the square crop; random in training, central in testing. 0: all of the image.
    cfg.INPUT.VIEW.CROP = 224
    # str: "fixed" (CROP px anywhere), or "scaled" (8 % to 100 % of the area, 3:4 to 4:3, resized
    # to CROP px). Source: Szegedy et al. 2015, section 6.
    cfg.INPUT.VIEW.CROP_KIND = "fixed"
    # int: black pixels around the image before the crop, as is usual on CIFAR (4).
    cfg.INPUT.VIEW.PAD = 0
    # float: brightness, contrast and saturation by factors from [1 - JITTER, 1 + JITTER].
    cfg.INPUT.VIEW.JITTER = 0.0
    # int: an image has so many views, drawn once; its n-th showing is view n modulo so many. 0: a
    # new one at every showing.
    cfg.INPUT.VIEW.FIXED = 0

    # -- The network: a trunk to pool5, fully connected layers FC6, FC7, and a classifier a task
    cfg.MODEL.CLASSIFIER = CfgNode()
    # str: "alexnet" or "vgg16" (torchvision's), "caffenet" (Caffe's AlexNet, with groups and local
    # response norms, for 227 px), "compact_alexnet" (for 32 to 64 px), "timm" (MODEL.TIMM.NAME,
    # through its head: features after pooling are pool5), or "resnet" (Detectron2's, of
    # MODEL.RESNETS.{DEPTH,NORM,STRIDE_IN_1X1}).
    cfg.MODEL.CLASSIFIER.NETWORK = "alexnet"
    # list[int]: units of FC6, FC7, ... [-1]: the network's own (4096, 4096 of AlexNet, CaffeNet and
    # VGG16; 512, 512 of the compact one; none of the others).
    cfg.MODEL.CLASSIFIER.FC = [-1]
    # int: channels of the compact network's first convolution; the others follow. int: its stride.
    cfg.MODEL.CLASSIFIER.COMPACT_WIDTH = 32
    cfg.MODEL.CLASSIFIER.COMPACT_STRIDE = 2
    # bool: a batch norm behind each of its convolutions.
    cfg.MODEL.CLASSIFIER.COMPACT_NORM = False
    # bool: lay the weights of convolutions out channels last, in which a CPU is faster. In float32
    # the last bits differ from those of a detector on the same trunk.
    cfg.MODEL.CLASSIFIER.CHANNELS_LAST = False
    # int: pool5 is averaged to so many cells a side. 0: the network's own (6 of AlexNet, 7 of
    # VGG16, 4 of the compact one). On small images fewer say as much: AlexNet has one cell at
    # 64 px, and six a side would be 36 copies of it. Not for timm.
    cfg.MODEL.CLASSIFIER.POOL_SIDE = 0
    # float, list[str]: rate of dropout, and the activations that it acts on wherever they are read.
    # Source: Caffe's AlexNet has it behind FC6 and FC7; torchvision's on pool5 and FC6.
    cfg.MODEL.CLASSIFIER.DROPOUT = 0.5
    cfg.MODEL.CLASSIFIER.DROPPED = ["FC6", "FC7"]
    # float: standard deviation of a new classifier's weights; its biases are 0. Source: FC8 in
    # Caffe's bvlc_reference_caffenet.
    cfg.MODEL.CLASSIFIER.INIT_STD = 0.01
    # str: the task, that is the classifier, that DATASETS.TRAIN and DATASETS.TEST belong to ...
    cfg.MODEL.CLASSIFIER.TASK = "target"
    # list of [task, dataset, ...]: ... but for these. A checkpoint's classifier is kept if its task
    # is named here or above, else left out.
    cfg.MODEL.CLASSIFIER.TASKS = []
    # str: the task whose classifier MODEL.WEIGHTS brings along where it is no checkpoint of ours,
    # e.g. "imagenet" for torchvision's. "": that classifier is left out.
    cfg.MODEL.CLASSIFIER.WEIGHTS_TASK = ""
    # str: what is trained: "Classifier" (the tasks' classifiers alone), "New" (what this run adds),
    # "Grown" (all layers that ever were added), "<layer>-New" (that layer and all above, e.g.
    # "FC7-New"), "All". The rest is frozen, with or without dropout as MODEL.REUSE.DROPOUT says.
    cfg.MODEL.CLASSIFIER.SCOPE = "All"
    # float: factor on the rate of what this run adds. Source: Growing a Brain, section 4: 10.
    cfg.MODEL.CLASSIFIER.NEW_LR = 10.0
    # int: images in a batch of an evaluation.
    cfg.MODEL.CLASSIFIER.TEST_BATCH = 50
    # bool: evaluate each layer that a classifier reads alone too, the others counting as 0, as
    # "accuracy/top1_FC7+". With TEST.EVAL_PERIOD these are the curves of figure 6.
    cfg.MODEL.CLASSIFIER.TEST_BLOCKS = False
    # bool: compute what lies below the first trained layer and the first active dropout once for
    # INPUT.VIEW.FIXED views of each image, and train on that. Where all is trained the views
    # themselves are kept.
    cfg.MODEL.CLASSIFIER.CACHE = False
    # str: folder where CACHE keeps the views for other runs with the same images, INPUT and SEED,
    # which then need not read and draw them again; the images must stay as they are. "": none.
    cfg.MODEL.CLASSIFIER.CACHE_FOLDER = ""
    # int: every so many iterations metrics.json gets the norm of each layer's activation and the
    # size of its update, see det_transfer.classification.pace. 0: never.
    cfg.MODEL.CLASSIFIER.PACE_PERIOD = 0
    # Learning without forgetting (Li and Hoiem 2016): classifiers of tasks that are not trained on
    # keep their answers on the images that are. float: weight of that loss; 0: off. Source of
    # 1 and temperature 2: their section 3 and 4.
    cfg.MODEL.CLASSIFIER.DISTILL_WEIGHT = 0.0
    cfg.MODEL.CLASSIFIER.DISTILL_TEMPERATURE = 2.0

    # -- The first n layers of another network, see det_transfer.classification.transfer and
    # docs/transferability.md. Source: Yosinski et al. 2014.
    cfg.MODEL.TRANSFER = CfgNode()
    # int: so many layers are copied from MODEL.WEIGHTS (without weights: stay random), what is
    # above is drawn anew. 0: a base, which keeps its first layer's filters. -1: no such experiment.
    cfg.MODEL.TRANSFER.UP_TO = -1
    # bool: the copied layers are frozen, with dropout as MODEL.REUSE.DROPOUT says ("kept" in the
    # paper); else they are trained at the same rate as the others.
    cfg.MODEL.TRANSFER.FROZEN = False
    # int: so many layers more are copied and trained, above those that are frozen. Source:
    # yosinski/convnet_transfer, an experiment that the paper does not have.
    cfg.MODEL.TRANSFER.EXTRA = 0
    # list[str]: names of the layers that are counted, in their order, e.g. ["conv2", "conv5",
    # "FC7"]: the first then is conv1 and conv2. Empty: all of the network, the classifier last.
    cfg.MODEL.TRANSFER.LAYERS = []

    # -- Growing it. Source of sizes and wiring: Growing a Brain, figure 2 and table 2.
    cfg.MODEL.GROWTH = CfgNode()
    # str: "" (not), "deepen" (DA-CNN: FCa on top), "widen" (WA-CNN: FC7+ beside FC7), "both"
    # (DWA-CNN), "recursive" (WWA-CNN: FC6+ and FC7+), "channels" (that carried on to the
    # convolutions: pool5+ beside the last stage, and on it a layer beside each that there is).
    cfg.MODEL.GROWTH.KIND = ""
    # list[int]: units of the new layers, from below: [FCa], [FC7+], [FC7+, FCa], [FC6+, FC7+],
    # [channels of pool5+, FC6+, FC7+].
    cfg.MODEL.GROWTH.SIZES = []
    # int: iteration before which the network is grown; 0: before training.
    cfg.MODEL.GROWTH.AT = 0
    # str: new units "random", or as a "copy" of units beside them (of FCa: passing on those below)
    # with noise of NOISE times the standard deviation of the copied weights.
    cfg.MODEL.GROWTH.INIT = "random"
    cfg.MODEL.GROWTH.NOISE = 0.1
    # float: standard deviation of random weights. 0: sqrt(2 / inputs), which suits any width; Caffe
    # has 0.005 for FC6 and FC7. The paper does not say.
    cfg.MODEL.GROWTH.INIT_STD = 0.0
    # bool: where old and new units are read side by side, each layer is brought to L2 norm 1 and
    # scaled by a factor a channel, which is learned.
    cfg.MODEL.GROWTH.NORMALIZE = True
    # float: first value of the scales; the paper says "e.g. 10 or 20", not which in which table.
    cfg.MODEL.GROWTH.SCALE_INIT = 20.0
    # str: dropout on a layer that is normalised: "before" the norm (as when Caffe's FC7 with its
    # dropout goes on to a norm), "after" the scale, or "none" (CNN-DM has none there).
    cfg.MODEL.GROWTH.DROPOUT = "before"
    # bool: weight decay on the scales, as Caffe has on every parameter that does not say otherwise.
    cfg.MODEL.GROWTH.SCALE_DECAY = True
    # bool: NEW_LR on the scales, which are new.
    cfg.MODEL.GROWTH.SCALE_NEW_LR = True
    # bool: normalise what FC7+ reads of FC6 and FC6+ too. CNN-DM does so above FC7 alone.
    cfg.MODEL.GROWTH.NORMALIZE_FC6 = False
    # str: what DA-CNN normalises: "output" (FCa, as all others do what the classifier reads),
    # "input" (FC7) or "both".
    cfg.MODEL.GROWTH.NORMALIZE_DEEP = "output"


# MODEL.GROWTH.KIND -> what its SIZES are.
GROWTH_SIZES = {
    "deepen": ("FCa",),
    "widen": ("FC7+",),
    "both": ("FC7+", "FCa"),
    "recursive": ("FC6+", "FC7+"),
    "channels": ("pool5+", "FC6+ and all above"),  # as many as the network has
}

CHOICES = {
    "INPUT.VIEW.CROP_KIND": ("fixed", "scaled"),
    "MODEL.CLASSIFIER.NETWORK": (
        "alexnet",
        "vgg16",
        "caffenet",
        "compact_alexnet",
        "timm",
        "resnet",
    ),
    "MODEL.GROWTH.KIND": ("", *GROWTH_SIZES),
    "MODEL.GROWTH.INIT": ("random", "copy"),
    "MODEL.GROWTH.DROPOUT": ("before", "after", "none"),
    "MODEL.GROWTH.NORMALIZE_DEEP": ("output", "input", "both"),
}


def classification_problems(cfg: CfgNode) -> Iterator[str]:
    """What is wrong with these keys, a line for each."""
    for entry in cfg.DATASETS.CLASSIFICATION:
        sound = isinstance(entry, list | tuple) and len(entry) == 4
        if not sound or not all(isinstance(part, str) for part in entry):
            yield (
                f"DATASETS.CLASSIFICATION has {entry!r}; each entry is [name, reader, path, split]"
            )
    for entry in cfg.MODEL.CLASSIFIER.TASKS:
        sound = isinstance(entry, list | tuple) and len(entry) > 1
        if not sound or not all(isinstance(part, str) for part in entry):
            yield f"MODEL.CLASSIFIER.TASKS has {entry!r}; each entry is [task, dataset, ...]"
    if not 0 <= cfg.DATASETS.LABEL_NOISE <= 1:
        yield (
            f"DATASETS.LABEL_NOISE is {cfg.DATASETS.LABEL_NOISE}; it is a share, from 0 to 1, e.g. "
            "0.2"
        )
    view, classifier = cfg.INPUT.VIEW, cfg.MODEL.CLASSIFIER
    for key in ("RESIZE", "CROP", "PAD", "JITTER", "FIXED"):
        if view[key] < 0:
            yield f"INPUT.VIEW.{key} is {view[key]}; it must be >= 0"
    if view.CROP_KIND == "scaled" and not view.CROP:
        yield "INPUT.VIEW.CROP_KIND 'scaled' needs INPUT.VIEW.CROP, the size that it resizes to"
    if view.RESIZE and view.RESIZE + 2 * view.PAD < view.CROP:
        yield f"INPUT.VIEW.RESIZE {view.RESIZE} is less than INPUT.VIEW.CROP {view.CROP}"
    if not 0 <= classifier.DROPOUT < 1:
        yield f"MODEL.CLASSIFIER.DROPOUT is {classifier.DROPOUT}; it must be 0 <= DROPOUT < 1"
    for key in ("COMPACT_WIDTH", "COMPACT_STRIDE", "TEST_BATCH", "NEW_LR"):
        if classifier[key] <= 0:
            yield f"MODEL.CLASSIFIER.{key} is {classifier[key]}; it must be > 0"
    if classifier.POOL_SIDE < 0:
        yield f"MODEL.CLASSIFIER.POOL_SIDE is {classifier.POOL_SIDE}; it must be >= 0"
    if classifier.POOL_SIDE and classifier.NETWORK == "timm":
        yield "MODEL.CLASSIFIER.POOL_SIDE is for AlexNet and VGG16; timm's networks pool themselves"
    if list(classifier.FC) != [-1] and any(units <= 0 for units in classifier.FC):
        yield f"MODEL.CLASSIFIER.FC is {classifier.FC}; units must be > 0"
    if not classifier.TASK or "." in classifier.TASK:
        yield f"MODEL.CLASSIFIER.TASK is {classifier.TASK!r}; it must be a name without a dot"
    if classifier.NETWORK == "timm" and not cfg.MODEL.TIMM.NAME:
        yield "MODEL.TIMM.NAME is empty; MODEL.CLASSIFIER.NETWORK 'timm' needs it, e.g. resnet18"
    if classifier.CACHE and not view.FIXED:
        yield "MODEL.CLASSIFIER.CACHE needs INPUT.VIEW.FIXED, the number of views of an image"
    if classifier.CACHE_FOLDER and not classifier.CACHE:
        yield "MODEL.CLASSIFIER.CACHE_FOLDER needs MODEL.CLASSIFIER.CACHE True"
    if classifier.PACE_PERIOD < 0:
        yield f"MODEL.CLASSIFIER.PACE_PERIOD is {classifier.PACE_PERIOD}; it must be >= 0"
    if classifier.DISTILL_WEIGHT < 0 or classifier.DISTILL_TEMPERATURE <= 0:
        yield "MODEL.CLASSIFIER.DISTILL_WEIGHT must be >= 0 and DISTILL_TEMPERATURE > 0"
    if classifier.DISTILL_WEIGHT and not cfg.MODEL.WEIGHTS:
        yield (
            "MODEL.CLASSIFIER.DISTILL_WEIGHT needs MODEL.WEIGHTS, the checkpoint of the classifier "
            "whose tasks are kept"
        )
    yield from _growth_problems(cfg)
    yield from _transfer_problems(cfg)


def _transfer_problems(cfg: CfgNode) -> Iterator[str]:
    transfer = cfg.MODEL.TRANSFER
    if transfer.UP_TO < -1 or transfer.EXTRA < 0:
        yield "MODEL.TRANSFER.UP_TO must be >= -1 and MODEL.TRANSFER.EXTRA >= 0"
    if transfer.UP_TO < 0:
        return
    if transfer.EXTRA and not transfer.FROZEN:
        yield (
            f"MODEL.TRANSFER.EXTRA {transfer.EXTRA} is for FROZEN True: where all is trained, "
            "UP_TO says how many layers are copied"
        )
    weights = cfg.MODEL.WEIGHTS
    if weights and not transfer.UP_TO:
        yield f"MODEL.TRANSFER.UP_TO 0 copies nothing, but MODEL.WEIGHTS names {weights}"
    if not weights and transfer.UP_TO and (transfer.EXTRA or not transfer.FROZEN):
        yield (
            f"MODEL.TRANSFER.UP_TO {transfer.UP_TO} needs MODEL.WEIGHTS, the network whose layers "
            "are copied; without, layers can only be FROZEN True at random, with EXTRA 0"
        )
    classifier = cfg.MODEL.CLASSIFIER
    for key, value, default in (
        ("MODEL.GROWTH.KIND", cfg.MODEL.GROWTH.KIND, ""),
        ("MODEL.CLASSIFIER.SCOPE", classifier.SCOPE, "All"),
        ("MODEL.CLASSIFIER.TASKS", list(classifier.TASKS), []),
        ("MODEL.CLASSIFIER.DISTILL_WEIGHT", classifier.DISTILL_WEIGHT, 0.0),
    ):
        if value != default:
            yield f"{key} {value!r} does not go with MODEL.TRANSFER.UP_TO {transfer.UP_TO}"


def _growth_problems(cfg: CfgNode) -> Iterator[str]:
    growth = cfg.MODEL.GROWTH
    if growth.KIND not in GROWTH_SIZES:
        if growth.SIZES and not growth.KIND:
            yield f"MODEL.GROWTH.SIZES {growth.SIZES} needs MODEL.GROWTH.KIND, e.g. 'widen'"
        return
    wanted = GROWTH_SIZES[growth.KIND]
    if growth.KIND == "channels" and not growth.SIZES:
        yield "MODEL.GROWTH.SIZES is empty; 'channels' takes channels, then units of FC6+, ..."
    elif growth.KIND != "channels" and len(growth.SIZES) != len(wanted):
        yield (
            f"MODEL.GROWTH.SIZES is {list(growth.SIZES)}; {growth.KIND!r} takes "
            f"{len(wanted)}: units of {', '.join(wanted)}"
        )
    if any(not isinstance(size, int) or size <= 0 for size in growth.SIZES):
        yield f"MODEL.GROWTH.SIZES is {list(growth.SIZES)}; a layer has at least one unit"
    if growth.SCALE_INIT <= 0:
        yield f"MODEL.GROWTH.SCALE_INIT is {growth.SCALE_INIT}; it must be > 0"
    if growth.NOISE < 0 or growth.INIT_STD < 0:
        yield "MODEL.GROWTH.NOISE and MODEL.GROWTH.INIT_STD must be >= 0"
    if not 0 <= growth.AT < max(cfg.SOLVER.MAX_ITER, 1):
        yield (
            f"MODEL.GROWTH.AT is {growth.AT}; it must be from 0 to before SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}"
        )
    if growth.AT and cfg.MODEL.CLASSIFIER.CACHE:
        yield "MODEL.GROWTH.AT and MODEL.CLASSIFIER.CACHE: what is cached would change; take one"
