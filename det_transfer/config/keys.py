"""Every config key that det_transfer adds to Detectron2's: type, unit, default and its reason."""

from detectron2.config import CfgNode

from .classification import add_classification_config

__all__ = ["add_det_transfer_config"]


def add_det_transfer_config(cfg: CfgNode) -> None:
    """Add our keys to Detectron2's `cfg`, with defaults under which Detectron2 is unchanged.

    Those of classification are in :mod:`.classification`.
    """
    add_classification_config(cfg)
    # -- The trunk (the pretrained network) and the decoder on it, for
    #    MODEL.BACKBONE.NAME: build_reuse_backbone. Detectron2's own builders ignore these.
    cfg.MODEL.TRUNK = CfgNode()
    # str: a name in Detectron2's BACKBONE_REGISTRY; ours for timm is build_timm_backbone.
    cfg.MODEL.TRUNK.NAME = "build_resnet_backbone"
    cfg.MODEL.DECODER = CfgNode()
    # str: what stands between trunk and heads: "fpn" (MODEL.FPN), "nasfpn", "conv", or "" for the
    # trunk's features as they are.
    cfg.MODEL.DECODER.NAME = "fpn"
    # str: the coarser levels above the FPN: "maxpool" (P6, Faster R-CNN), "p6" (the same by a
    # convolution, as the authors'), "p6p7" (RetinaNet, from res5), "p6p7_of_p5" (convolutions on
    # P5, as the authors'), "".
    cfg.MODEL.FPN.TOP_BLOCK = "maxpool"

    # -- NAS-FPN, whose features are p3 to p7; see det_transfer.modeling.backbone.nasfpn
    cfg.MODEL.NASFPN = CfgNode()
    # list[str]: the trunk's features from stride 8 on; levels above them are pooled.
    cfg.MODEL.NASFPN.IN_FEATURES = ["res3", "res4", "res5"]
    # int: channels of its features, but for BLOCK "bottleneck", which makes four times as many.
    cfg.MODEL.NASFPN.CHANNELS = 256
    # int: Source: 5 in official/projects/backbone_reuse; 7 in the paper of NAS-FPN.
    cfg.MODEL.NASFPN.REPEATS = 5
    # str: as MODEL.FPN.NORM. Without one the sums of so many nodes grow too large to train.
    cfg.MODEL.NASFPN.NORM = "BN"
    # str: "relu" or "swish".
    cfg.MODEL.NASFPN.ACTIVATION = "relu"
    # str: "plain" (a 3x3 after each merge) or "bottleneck".
    cfg.MODEL.NASFPN.BLOCK = "plain"
    # bool: add where the searched cell has attention.
    cfg.MODEL.NASFPN.SUM_ONLY = False
    # float: rate at which a bottleneck's branch is dropped in training, per image; for BLOCK
    # "bottleneck".
    cfg.MODEL.NASFPN.DROP_CONNECT = 0.0

    # -- Convolutions in place of a pyramid; see det_transfer.modeling.backbone.conv_decoder
    cfg.MODEL.CONV_DECODER = CfgNode()
    # list[str]: the trunk's features; each gets its own convolutions and becomes p<level>.
    cfg.MODEL.CONV_DECODER.IN_FEATURES = ["res4"]
    cfg.MODEL.CONV_DECODER.CHANNELS = 256
    # int: 3x3 convolutions on each.
    cfg.MODEL.CONV_DECODER.NUM_CONV = 1
    cfg.MODEL.CONV_DECODER.NORM = ""
    # str: as MODEL.FPN.TOP_BLOCK.
    cfg.MODEL.CONV_DECODER.TOP_BLOCK = ""

    # -- timm trunks (build_timm_backbone)
    cfg.MODEL.TIMM = CfgNode()
    # str: a timm model with features_only support, e.g. "tf_efficientnet_lite0".
    cfg.MODEL.TIMM.NAME = ""
    # list[str]: features by stride: res2 = 4 px, res3 = 8, res4 = 16, res5 = 32.
    cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # float: stochastic depth of a trunk that is trained; a frozen trunk has none.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0

    # -- Plain trunks (build_plain_backbone), the networks of tools/train_classifier.py
    cfg.MODEL.PLAIN = CfgNode()
    # str: "alexnet" or "vgg16" (torchvision's), "caffenet" (Caffe's AlexNet), "compact_alexnet".
    cfg.MODEL.PLAIN.NAME = "alexnet"
    # list[str]: as MODEL.TIMM.OUT_FEATURES. The two AlexNets have res2 to res5, VGG16 res1 to res5,
    # the compact network as it stands res1 to res4; the coarsest is that of the last pooling.
    cfg.MODEL.PLAIN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # int, int, bool: of "compact_alexnet", channels and stride of the first convolution, as in
    # MODEL.CLASSIFIER, and whether a batch norm stands behind each.
    cfg.MODEL.PLAIN.COMPACT_WIDTH = 32
    cfg.MODEL.PLAIN.COMPACT_STRIDE = 2
    cfg.MODEL.PLAIN.COMPACT_NORM = False

    # -- Heads: norm and activation ("relu" or "swish") where Detectron2 has none to choose. They
    #    need RPN.HEAD_NAME TransferRPNHead, ROI_BOX_HEAD.NAME TransferBoxHead and
    #    ROI_MASK_HEAD.NAME TransferMaskHead.
    cfg.MODEL.RPN.NORM = ""  # of each level its own
    cfg.MODEL.RPN.ACTIVATION = "relu"
    cfg.MODEL.ROI_BOX_HEAD.ACTIVATION = "relu"
    cfg.MODEL.ROI_MASK_HEAD.ACTIVATION = "relu"
    # str: after the fully connected layers and after the deconvolution, as in the authors' heads.
    cfg.MODEL.ROI_BOX_HEAD.FC_NORM = ""
    cfg.MODEL.ROI_MASK_HEAD.DECONV_NORM = ""

    # float: beta of the class-balanced loss (Cui et al. 2019) on the box heads, by softmax or, with
    # USE_SIGMOID_CE, by sigmoid. About 1 / (1 - beta) objects count as many. 0: all classes alike.
    cfg.MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA = 0.0
    # float >= 0: weight of the background in that loss, where the mean of the classes is 1. 0: as a
    # class of very many objects, which is little where most classes are rare.
    cfg.MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BACKGROUND = 0.0

    # -- Cascade R-CNN (ROI_HEADS.NAME TransferCascadeROIHeads); defaults are Detectron2's ways, the
    #    others those of the authors' code, see det_transfer.modeling.roi_heads.cascade
    # str: losses of the stages: "sum" or "mean".
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.LOSS = "sum"
    # str: what is averaged over the stages at inference: "probabilities" or "logits".
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.ENSEMBLE = "probabilities"
    # str: masks are trained on proposals of the "first" or the "last" stage.
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.MASK_PROPOSALS = "first"

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
    # int: only the trunk's first so many stages are loaded from MODEL.WEIGHTS, as for STAGES;
    # the rest of the trunk, the decoder and the heads stay as initialised, also where these are the
    # weights of a whole detector; with a cut they are another draw than a detector of the same SEED
    # without one began with. 0: nothing. -1: no cut. What is resumed or evaluated is loaded whole.
    # Source: Yosinski et al. 2014, section 2, whose networks AnB and AnB+ are cut so.
    cfg.MODEL.REUSE.LOAD_STAGES = -1
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

    # list[str]: regular expressions that match whole names of modules; only these are trained, all
    # else stands still, whatever the mode. It begins from a trained detector. For a second stage,
    # e.g. [".*\\.cls_score"], the last layer of the classification (of each stage of a cascade).
    cfg.MODEL.REUSE.TRAIN_ONLY = []

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

    # -- Copy-Paste: objects of another image pasted onto each. It needs LSJ, by which all images
    #    are of one size.
    cfg.INPUT.COPY_PASTE = CfgNode()
    cfg.INPUT.COPY_PASTE.ENABLED = False
    # str: "stream": another image is read and jittered for each, as in the paper; "pool": the
    # samples that were made just before serve as sources, at little cost.
    cfg.INPUT.COPY_PASTE.SOURCE = "stream"
    # int: samples in the pool of a process. Each takes a byte a pixel for each of its masks and
    # three for the image: some 12 MB at 1024 px.
    cfg.INPUT.COPY_PASTE.POOL_SIZE = 16
    # str: images serve as sources "uniform"ly, or by "repeat_factor" (DATALOADER.REPEAT_THRESHOLD),
    # which brings more of the rare classes.
    cfg.INPUT.COPY_PASTE.SAMPLER = "uniform"
    # float: share of the images that are pasted on. Source: all, in the authors' code.
    cfg.INPUT.COPY_PASTE.PROBABILITY = 1.0
    # int: objects pasted onto an image at most; 0: no limit.
    cfg.INPUT.COPY_PASTE.MAX_OBJECTS = 0
    # float: standard deviation in pixels of the blur by which pasted edges fade into the image.
    # 0: a hard edge, as in the authors' code.
    cfg.INPUT.COPY_PASTE.BLEND = 0.0
    # bool: paste whole boxes, for data without masks.
    cfg.INPUT.COPY_PASTE.BOXES = False

    # list of [name, json, image folder]: your own data, COCO or LVIS format (recognised). Use the
    # names in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.CUSTOM = []
    # folder: what was read of large jsons (from 20 MB) is kept here for the next start. It may be
    # deleted at any time. "": nothing is kept.
    cfg.DATASETS.CACHE_DIR = "~/.cache/det_transfer"
    # float in (0, 1]: train on this share of the images, of each class alike. 10 % lie inside 25 %,
    # and these inside 50 %. The run folder's train_subset.json says which they are.
    cfg.DATASETS.TRAIN_FRACTION = 1.0
    # int: train on so many images that each class has at least so many objects, as far as there
    # are; all objects of an image stay. 5 lie inside 10. 0: all images.
    cfg.DATASETS.TRAIN_SHOTS = 0
    # int: of the choice of images, and of LABEL_NOISE, apart from SEED, so that runs of other
    # seeds share it.
    cfg.DATASETS.SUBSET_SEED = 0
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

    # bool: at the end of training make report.html of the run folder; it takes seconds.
    cfg.TEST.WRITE_REPORT = True

    # -- Services that are given the config, the scalars of metrics.json and the results too; see
    #    det_transfer.engine.tracking. TensorBoard's log is written wherever it is installed.
    cfg.TRACKING = CfgNode()
    # list[str]: "wandb" (Weights & Biases), "mlflow"; each must be installed.
    cfg.TRACKING.SERVICES = []
    # str: what runs are filed under: W&B's project, MLflow's experiment.
    cfg.TRACKING.PROJECT = "det_transfer"
    # str: of the run there; "": the name of OUTPUT_DIR.
    cfg.TRACKING.NAME = ""
