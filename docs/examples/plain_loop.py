#!/usr/bin/env python3
"""A loop of your own, as in Detectron2's plain_train_net.py, on a backbone of det_transfer.

    python plain_loop.py train.json images output/plain SOLVER.MAX_ITER 1000

`train.json` is in COCO format. The run folder holds a config and a checkpoint, which
``det_transfer.load("output/plain")`` opens.
"""

import argparse
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import default_setup
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import CommonMetricPrinter, EventStorage, JSONWriter

from det_transfer import add_det_transfer_config
from det_transfer.engine.checkpoint import TransferCheckpointer
from det_transfer.reuse import digests, fingerprint, frozen_tensors, trainable_line

STOCK = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
DATASET = "plain_loop_train"


def make_config(args: argparse.Namespace) -> CfgNode:
    register_coco_instances(DATASET, {}, args.json, args.images)
    DatasetCatalog.get(DATASET)  # reads the classes
    cfg = get_cfg()
    add_det_transfer_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(STOCK))
    cfg.merge_from_file(str(Path(__file__).with_name("backbone.yaml")))
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(MetadataCatalog.get(DATASET).thing_classes)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (DATASET,), ()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 4, 0.005
    cfg.OUTPUT_DIR = args.output
    cfg.merge_from_list(args.opts)
    return cfg


def train(cfg: CfgNode) -> None:
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)  # what is frozen is not in it
    scheduler = build_lr_scheduler(cfg, optimizer)
    # Detectron2's checkpointer, which also knows timm's, torchvision's and packages' weights.
    checkpointer = TransferCheckpointer(model, cfg.OUTPUT_DIR, cfg=cfg)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    print(trainable_line(model))
    before = fingerprint(digests(frozen_tensors(model)))
    writers = [
        CommonMetricPrinter(cfg.SOLVER.MAX_ITER),
        JSONWriter(str(Path(cfg.OUTPUT_DIR) / "metrics.json")),
    ]
    batches = iter(build_detection_train_loader(cfg))
    with EventStorage() as storage:
        for iteration in range(cfg.SOLVER.MAX_ITER):
            losses = model(next(batches))
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            storage.put_scalars(total_loss=loss.item(), lr=optimizer.param_groups[0]["lr"])
            scheduler.step()
            if (iteration + 1) % 20 == 0 or iteration + 1 == cfg.SOLVER.MAX_ITER:
                for writer in writers:
                    writer.write()
            storage.step()
    checkpointer.save("model_final")
    same = fingerprint(digests(frozen_tensors(model))) == before
    print("frozen tensors:", "unchanged" if same else "CHANGED")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json")
    parser.add_argument("images")
    parser.add_argument("output")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args()
    cfg = make_config(args)
    default_setup(cfg, args)
    train(cfg)


if __name__ == "__main__":
    main()
