#!/usr/bin/env python3
"""PointRend, from Detectron2's own package, and its DefaultTrainer on a backbone of det_transfer.

    python point_rend.py train.json images output/point_rend SOLVER.MAX_ITER 1000

`train.json` is in COCO format, with masks. Any project that builds its backbone by
MODEL.BACKBONE.NAME takes ours in this way.
"""

import argparse
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.projects.point_rend import add_pointrend_config

from det_transfer import add_det_transfer_config
from det_transfer.engine.checkpoint import TransferCheckpointer
from det_transfer.reuse import digests, fingerprint, frozen_tensors, trainable_line

STOCK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
DATASET = "point_rend_train"


class Trainer(DefaultTrainer):
    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """With the pretrained trunk, whose source Detectron2 need not know."""
        model = super().build_model(cfg)
        TransferCheckpointer(model, cfg=cfg).load(cfg.MODEL.WEIGHTS)
        return model


def make_config(args: argparse.Namespace) -> CfgNode:
    register_coco_instances(DATASET, {}, args.json, args.images)
    DatasetCatalog.get(DATASET)  # reads the classes
    classes = len(MetadataCatalog.get(DATASET).thing_classes)
    cfg = get_cfg()
    add_pointrend_config(cfg)
    add_det_transfer_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(STOCK))
    cfg.merge_from_file(str(Path(__file__).with_name("backbone.yaml")))
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.POINT_HEAD.NUM_CLASSES = classes
    cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = True
    # The heads of PointRend's own YAMLs, on p3: NAS-FPN has no p2.
    mask = cfg.MODEL.ROI_MASK_HEAD
    mask.NAME, mask.POOLER_TYPE, mask.POINT_HEAD_ON = "PointRendMaskHead", "", True
    mask.IN_FEATURES = cfg.MODEL.POINT_HEAD.IN_FEATURES = ("p3",)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (DATASET,), ()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 4, 0.005
    cfg.OUTPUT_DIR = args.output
    cfg.merge_from_list(args.opts)
    return cfg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json")
    parser.add_argument("images")
    parser.add_argument("output")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args()
    cfg = make_config(args)
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    print(trainable_line(trainer.model))
    before = fingerprint(digests(frozen_tensors(trainer.model)))
    trainer.train()
    same = fingerprint(digests(frozen_tensors(trainer.model))) == before
    print("frozen tensors:", "unchanged" if same else "CHANGED")


if __name__ == "__main__":
    main()
