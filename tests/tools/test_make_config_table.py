"""The table of recipes is that of the recipes."""

import pytest
import torch

from det_transfer.config import load_config
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.run_folder import read_json
from tools import make_config_table as table


def test_the_page_is_made_from_the_numbers():
    assert table.PAGE.read_text() == table.page(read_json(table.NUMBERS))


def test_every_recipe_is_in_it():
    names = [str(path.relative_to(table.ROOT)) for path in table.recipes()]
    assert list(read_json(table.NUMBERS)) == names


@pytest.mark.parametrize(
    "name",
    [
        "configs/coco/rcnn_resnetrs101_nasfpn_cascade_adapters_600ep.yaml",
        "configs/coco/retinanet_resnetrs101_fpn_frozen_72ep.yaml",
        "configs/lvis/mask_rcnn_efficientnetb7_nasfpn_frozen.yaml",
    ],
)
def test_parameters(name):
    cfg = table.read(table.ROOT / name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = DetectionTrainer.build_model(cfg)
    entry = read_json(table.NUMBERS)[name]
    assert entry["parameters"] == sum(p.numel() for p in model.parameters())
    assert entry["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", table.PAPERS_MILLIONS)
def test_counts_against_the_papers_are_of_the_papers_classes(name):
    entry = read_json(table.NUMBERS)[f"configs/{name}.yaml"]
    # Ten classes more are as many rows, over features of 1,024: of three stages for the classes,
    # or of one and four coordinates for each class; and over 256 for masks.
    more = 10 * (1024 + 1) * (3 if "cascade" in name else 5)
    more += 10 * (256 + 1) if "mask" in name else 0
    for what in ("parameters", "trained"):
        assert entry["with_papers_classes"][what] == entry[what] + more


def test_operations_go_with_the_area(monkeypatch):
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "5"]
    cfg = load_config(str(table.CONFIGS / "quickstart.yaml"), opts).cfg
    monkeypatch.setattr(table, "SIZES", (128, 192))
    small, large, real = (table.cost(cfg, size) for size in (128, 192, 320))
    assert table.operations(small, large, 320) == pytest.approx(real.step, rel=1e-3)


@pytest.mark.parametrize(
    ("header", "ap"),
    [
        ("# A.\n#\n# Reproduces: table 1: 51.8 box AP. Not trained by us.\nMODEL:", "51.8"),
        ("# Reproduces: tables 5 and 6, first stage: 39.7 box AP, 36.5 mask AP.\n", "39.7"),
        ("# Reproduces: figure 3: 40.8 box AP, read off.\n", "40.8"),
        ("# Reproduces: no row of the paper, 1 box AP.\n", "-"),
    ],
)
def test_the_papers_ap_is_read_from_the_header(header, ap):
    assert table.papers_ap(header) == ap
