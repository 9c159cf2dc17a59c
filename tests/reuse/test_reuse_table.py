"""The table of what is trained: parts, numbers, norms."""

import json

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, GroupNormAct, LayerNorm2d
from torch import nn

from det_transfer.config import load_config
from det_transfer.reuse import format_table, freeze, reuse_table, trainable_line, trunk_of


def detector():
    opts = {
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.BACKBONE.NAME": "build_reuse_backbone",
        "MODEL.TRUNK.NAME": "build_timm_backbone",
        "MODEL.TIMM.NAME": "mobilenetv3_small_050",
        "MODEL.FPN.IN_FEATURES": "['res3', 'res4', 'res5']",
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.FPN.NORM": "GN",
        "MODEL.RPN.IN_FEATURES": "['p3', 'p4', 'p5', 'p6']",
        "MODEL.ANCHOR_GENERATOR.SIZES": "[[32], [64], [128], [256]]",
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": "['p3', 'p4', 'p5']",
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    }
    return build_model(load_config(None, [str(x) for pair in opts.items() for x in pair]).cfg)


def test_parts_of_a_detector():
    model = detector()
    freeze(trunk_of(model))
    rows = reuse_table(model)
    by_module = {row["module"]: row for row in rows}
    assert list(by_module) == [
        "backbone.bottom_up.net.conv_stem",
        "backbone.bottom_up.net.bn1",
        "backbone.bottom_up.net.blocks",
        "backbone (decoder)",
        "proposal_generator.rpn_head",
        "roi_heads.box_head",
        "roi_heads.box_predictor",
    ]
    assert by_module["backbone.bottom_up.net.blocks"]["norm"] == "BN frozen"
    assert by_module["backbone.bottom_up.net.blocks"]["trainable"] == 0
    assert by_module["backbone (decoder)"]["norm"] == "GN"
    assert by_module["roi_heads.box_head"]["norm"] == "-"
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(row["trainable"] for row in rows) == trainable
    assert json.loads(json.dumps(rows)) == rows


def test_total_does_not_depend_on_how_norms_are_kept_still():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    converted = FrozenBatchNorm2d.convert_frozen_batchnorm(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    )
    freeze(plain)
    converted.requires_grad_(False)
    assert trainable_line(plain) == trainable_line(converted)
    assert [row["norm"] for row in reuse_table(nn.ModuleDict({"backbone": converted}))] == [
        "-",
        "FrozenBN",
    ]


def test_norms_by_name():
    layers = {
        "BN": BatchNormAct2d(4),
        "FrozenBN": FrozenBatchNormAct2d(4),
        "GN": GroupNormAct(4, num_groups=2),
        "LN": LayerNorm2d(4),
        "IN": nn.InstanceNorm2d(4, affine=True),
    }
    model = nn.Module()
    model.backbone = nn.ModuleDict(layers)
    assert {row["module"]: row["norm"] for row in reuse_table(model)} == {
        f"backbone.{kind}": kind for kind in layers
    }


def test_partly_frozen_and_unusual_models():
    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(3))
    model.head = nn.Linear(2, 2)
    model.body = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    freeze(model.body[0])
    assert {row["module"]: (row["parameters"], row["trainable"]) for row in reuse_table(model)} == {
        "head": (6, 6),
        "body.0": (20, 0),
        "body.1": (20, 20),
        "(rest)": (3, 3),
    }
    model.tied = model.head  # a shared layer counts once
    assert sum(row["parameters"] for row in reuse_table(model)) == 49
    assert reuse_table(nn.ReLU()) == []
    assert trainable_line(nn.ReLU()) == "trainable 0.0 M of 0.0 M (0.0 %)"


@pytest.mark.parametrize("frozen", [True, False])
def test_line(frozen):
    model = nn.ModuleDict({"a": nn.Linear(999, 1000), "b": nn.Linear(999, 3000)})
    if frozen:
        freeze(model["b"])
    expected = "1.0 M of 4.0 M (25.0 %)" if frozen else "4.0 M of 4.0 M (100.0 %)"
    assert trainable_line(model) == f"trainable {expected}"


def test_text():
    rows = [
        {"module": "a", "parameters": 1234567, "trainable": 0, "norm": "BN frozen"},
        {"module": "longer", "parameters": 5, "trainable": 5, "norm": "-"},
    ]
    assert format_table(rows).splitlines() == [
        "module  parameters  trainable  norm",
        "a        1,234,567          0  BN frozen",
        "longer           5          5  -",
    ]
