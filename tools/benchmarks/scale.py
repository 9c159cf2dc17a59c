#!/usr/bin/env python3
"""What docs/scale.md needs and nothing else has measured: recipes on the meta device, small rates.

Counted, without any computing: operations of training and inference, and the bytes that forward
keeps for backward, of each recipe at its own size in bf16; the same of detectors whose speed or
memory somebody has measured on GPUs, and of CaffeNet with its first n layers frozen. Measured:
bytes of predictions as they lie on the disk, and CPU seconds of loading a photo for a classifier,
which is mostly decoding: no rate of the machine bounds it.

    python tools/benchmarks/scale.py --photos output/data/minicoco/train2017 \\
        --annotations output/data/minicoco/annotations/instances_train2017.json \\
        --output docs/results/benchmark_scale.json
"""

import argparse
import contextlib
import io
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.model_zoo import get_config_file
from measurements import Spread, spread, write_measurements
from pycocotools.coco import COCO
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from det_transfer.classification.data.image_set import ImageSet
from det_transfer.classification.data.loader import ClassificationMapper
from det_transfer.classification.trunks import WIDTHS, build_trunk
from det_transfer.config import load_config
from det_transfer.engine.analysis import GROUPED
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.launch import quiet
from det_transfer.run_folder import PredictionWriter

ROOT = Path(__file__).resolve().parents[2]
RECIPES = (
    "configs/coco/rcnn_resnetrs101_nasfpn_cascade_frozen_72ep.yaml",
    "configs/coco/rcnn_resnetrs101_nasfpn_cascade_finetuned_72ep.yaml",
    "configs/coco/rcnn_resnetrs101_nasfpn_cascade_frozen_600ep.yaml",
    "configs/coco/rcnn_resnetrs101_nasfpn_cascade_finetuned_600ep.yaml",
    "configs/coco/rcnn_resnetrs101_nasfpn_cascade_adapters_600ep.yaml",
    "configs/coco/mask_rcnn_efficientnetb7_nasfpn_cascade_copypaste_frozen.yaml",
    "configs/coco/mask_rcnn_efficientnetb7_nasfpn_cascade_copypaste_finetuned.yaml",
    "configs/lvis/mask_rcnn_efficientnetb7_nasfpn_copypaste_frozen.yaml",
    "configs/lvis/mask_rcnn_efficientnetb7_nasfpn_copypaste_finetuned.yaml",
    "configs/frozen_cascade_lvis.yaml",
    "configs/frozen_cascade_lvis_stage2.yaml",
)
# In which the runs of docs/results/reuse_modes_bccd.json were trained: on 4:3 images with a shorter
# side of 320 px in the mean, padded to a multiple of 64.
QUICK = "configs/quickstart.yaml"
QUICK_SHAPE = (320, 448)
QUICK_MODES = ("frozen", "adapters", "finetune")
# Of Detectron2's model zoo; their images have a shorter side of 800 px and are mostly 4:3.
ZOO = ("COCO-Detection/faster_rcnn_R_50_FPN_1x", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x")
ZOO_SHAPE = (800, 1088)
META = {
    "MODEL.DEVICE": "meta",
    "MODEL.WEIGHTS": "",
    "MODEL.REUSE.NORM": "BN",  # the same operations as SyncBN, which needs CUDA
}


@dataclass(frozen=True)
class Shape:
    """What a step is taken on: images of height x width px, regions and masks of an image."""

    images: int
    height: int
    width: int
    regions: int
    masks: int


def read(config: str, **options: Any) -> CfgNode:
    words = [str(word) for pair in {**META, **options}.items() for word in pair]
    return load_config(str(config), words).cfg


def training_shape(cfg: CfgNode, images: int, height: int, width: int) -> Shape:
    """With as many regions as are sampled, and masks on all that may be foreground."""
    heads = cfg.MODEL.ROI_HEADS
    regions = heads.BATCH_SIZE_PER_IMAGE
    return Shape(images, height, width, regions, int(regions * heads.POSITIVE_FRACTION))


def run(model: nn.Module, cfg: CfgNode, shape: Shape, dtype: torch.dtype) -> list[Tensor]:
    """All layers that compute, in order; what lies between them needs values, and no products."""
    images = torch.empty(shape.images, 3, shape.height, shape.width, dtype=dtype, device="meta")
    features = model.backbone(images)
    proposals, heads = model.proposal_generator, model.roi_heads
    found = proposals.rpn_head([features[f] for f in proposals.in_features])
    outputs = list(itertools.chain(*found))

    def pooled(boxes: int, side: int) -> Tensor:
        feature = features[heads.box_in_features[0]]
        shape_ = (shape.images * boxes, feature.shape[1], side, side)
        made = torch.empty(shape_, dtype=dtype, device="meta")
        return made.requires_grad_(feature.requires_grad)

    cascade = isinstance(heads.box_head, nn.ModuleList)
    pairs = zip(heads.box_head, heads.box_predictor, strict=True) if cascade else None
    for box_head, predictor in pairs or [(heads.box_head, heads.box_predictor)]:
        region = pooled(shape.regions, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION)
        outputs += predictor(box_head(region))
    if cfg.MODEL.MASK_ON:
        region = pooled(shape.masks, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION)
        outputs.append(heads.mask_head.layers(region))
    return outputs


class Kept(saved_tensors_hooks):
    """Bytes that autograd keeps, each storage once, parameters not at all; tensors have no data."""

    def __init__(self, model: nn.Module):
        self.known = {p.untyped_storage()._cdata for p in model.parameters()}
        self.kept: list[Tensor] = []  # alive, so that no address is used twice
        super().__init__(self.keep, lambda tensor: tensor)

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in self.known:
            self.known.add(storage)
            self.kept.append(tensor.detach())
        return tensor

    @property
    def total(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept)


def counting() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=GROUPED)


def built(cfg: CfgNode, dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        return DetectionTrainer.build_model(cfg).to(dtype)


def training(cfg: CfgNode, shape: Shape, dtype: torch.dtype = torch.bfloat16) -> dict[str, int]:
    """Operations of forward and of the step, and bytes kept, of the shape's images together."""
    model = built(cfg, dtype).train()
    kept = Kept(model)
    with counting() as counter:
        with kept:
            outputs = run(model, cfg, shape, dtype)
        forward = counter.get_total_flops()
        sum(output.float().sum() for output in outputs if output.requires_grad).backward()
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "forward": forward,
        "step": counter.get_total_flops(),
        "kept": kept.total,
    }


def inference(cfg: CfgNode) -> int:
    """Operations of one image at the size of training, with as many objects as may be found."""
    side = cfg.INPUT.LSJ.SIZE
    found = cfg.TEST.DETECTIONS_PER_IMAGE
    shape = Shape(1, side, side, cfg.MODEL.RPN.POST_NMS_TOPK_TEST, found)
    model = built(cfg, torch.bfloat16).eval()
    with torch.no_grad(), counting() as counter:
        run(model, cfg, shape, torch.bfloat16)
    return counter.get_total_flops()


def recipe(path: str) -> dict[str, Any]:
    """What a run of it costs depends on this, of one image."""
    cfg = read(ROOT / path)
    side = cfg.INPUT.LSJ.SIZE
    paste = cfg.INPUT.COPY_PASTE
    return {
        "mode": cfg.MODEL.REUSE.MODE,
        "dataset": cfg.DATASETS.TRAIN[0],
        "iterations": cfg.SOLVER.MAX_ITER,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "checkpoint_period": cfg.SOLVER.CHECKPOINT_PERIOD,
        "size": side,
        "masks": cfg.MODEL.MASK_ON,
        "copy_paste": paste.SOURCE if paste.ENABLED else "",
        "detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        **training(cfg, training_shape(cfg, 1, side, side)),
        "inference": inference(cfg),
    }


def quick(mode: str) -> dict[str, Any]:
    """Of the runs of reuse_modes_bccd.json: one image, in bf16."""
    cfg = read(ROOT / QUICK, **{"MODEL.REUSE.MODE": mode, "MODEL.ROI_HEADS.NUM_CLASSES": 3})
    shape = training_shape(cfg, 1, *QUICK_SHAPE)
    return {"height": shape.height, "width": shape.width, **training(cfg, shape)}


def zoo(name: str) -> dict[str, Any]:
    """Of Detectron2's model zoo: one image, in fp32."""
    cfg = read(get_config_file(f"{name}.yaml"))
    shape = training_shape(cfg, 1, *ZOO_SHAPE)
    return {"height": shape.height, "width": shape.width, **training(cfg, shape, torch.float32)}


def caffenet(frozen: int) -> dict[str, int]:
    """With its first layers frozen, of one image of 227 px in fp32; 1,000 classes."""
    with torch.device("meta"):
        trunk = build_trunk("caffenet", {})
        widths = (9216, *WIDTHS["caffenet"], 1000)
        dense = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    layers = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)] + dense
    for layer in layers[:frozen]:
        layer.requires_grad_(False)
    model = nn.Sequential(trunk, *itertools.chain(*((layer, nn.ReLU()) for layer in dense)))
    images = torch.empty(1, 3, 227, 227, device="meta")
    kept = Kept(model)
    with counting() as counter:
        with kept:
            scores = model(images)
        forward = counter.get_total_flops()
        scores.sum().backward()
    parameters = [p for layer in layers for p in layer.parameters()]
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "forward": forward,
        "step": counter.get_total_flops(),
        "kept": kept.total,
    }


def view_rate(photos: Path, most: int, rounds: int) -> Spread:
    """Photos that a core loads in a second for CaffeNet's recipe: warped to 256 px, cropped."""
    torch.set_num_threads(1)
    files = sorted(photos.glob("*.jpg"))[:most]
    images = ImageSet(
        "photos",
        [file.name for file in files],
        np.zeros(len(files), np.int64),
        ("any",),
        lambda index: files[index].read_bytes(),
    )
    cfg = load_config(str(ROOT / "configs/classification/transferability_caffenet.yaml"), []).cfg
    mapper = ClassificationMapper(cfg, is_train=True)
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        for index in range(len(images)):
            mapper({**images.record(index), "images": images})
        taken.append(time.process_time() - start)
    return spread(len(images) / seconds for seconds in taken)


def prediction_bytes(annotations: Path) -> dict[str, float]:
    """Bytes of a detection on the disk, were all annotated objects detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
    images = [(i, [a for a in truth.imgToAnns[i] if not a["iscrowd"]]) for i in truth.imgs]
    objects = sum(len(found) for _, found in images)
    sizes = {}
    for kind in ("boxes", "boxes and masks"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part-0.npz"
            with PredictionWriter(path) as writer:
                for image, found in images:
                    writer.add(
                        image,
                        np.array([a["category_id"] for a in found]),
                        np.ones(len(found)),
                        np.array([a["bbox"] for a in found]),
                        [truth.annToRLE(a) for a in found] if "masks" in kind else None,
                    )
            sizes[kind] = path.stat().st_size / objects
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="a folder of .jpg files")
    parser.add_argument("--annotations", type=Path, required=True, help="a json in COCO's format")
    parser.add_argument("--most", type=int, default=300, help="photos to load")
    parser.add_argument("--rounds", type=int, default=5, help="of loading them")
    parser.add_argument("--output", type=Path, help="write the numbers as json")
    args = parser.parse_args()
    quiet()
    write_measurements(
        args.output,
        "what a run at the papers' scale is made of",
        {
            "photos a CPU second, 256 px": view_rate(args.photos, args.most, args.rounds),
            "bytes a detection:": prediction_bytes(args.annotations),
        },
        note="Loading of a core, in CPU seconds, for a classifier; predictions as they would be "
        "were the annotated objects detections. What is counted on the meta device stands in the "
        "json, and in docs/scale.md.",
        data={"photos": args.most, "rounds": args.rounds},
        recipes={path: recipe(path) for path in tqdm(RECIPES, unit="recipe")},
        runs={mode: quick(mode) for mode in QUICK_MODES},
        zoo={name: zoo(name) for name in ZOO},
        caffenet=[caffenet(frozen) for frozen in range(8)],
    )


if __name__ == "__main__":
    main()
