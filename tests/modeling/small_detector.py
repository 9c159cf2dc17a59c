"""Small whole detectors from configs, and a made-up batch for them."""

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_transfer.config import load_config, validate
from det_transfer.data.synthetic import synthetic_batch

SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_reuse_backbone",
    "MODEL.TRUNK.NAME": "build_timm_backbone",
    "MODEL.TIMM.NAME": "resnet10t",
    "MODEL.TIMM.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.NASFPN.CHANNELS": 16,
    "MODEL.NASFPN.REPEATS": 1,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[24], [48], [96], [192]],
    "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6"],
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NAME": "TransferCascadeROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 3,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 4,
}


def config(**options):
    """With ``__`` for the dots of a key."""
    named = {key.replace("__", "."): value for key, value in options.items()}
    words = [str(word) for pair in {**SMALL, **named}.items() for word in pair]
    cfg = load_config(None, words).cfg
    validate(cfg)
    return cfg


def build(seed=0, **options):
    torch.manual_seed(seed)
    return build_model(config(**options))


def batch(images=2, size=96, **options):
    return synthetic_batch(config(**options), images, size)


def losses(model, samples, seed=0):
    """Of one step, with the sampling of anchors and proposals seeded."""
    model.train()
    torch.manual_seed(seed)
    with EventStorage():
        return model(samples)


def gradients(model, samples, seed=0):
    model.zero_grad()
    sum(losses(model, samples, seed).values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
