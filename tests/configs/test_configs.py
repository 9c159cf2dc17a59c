"""Every YAML is read, checked and built; its mechanism trains for two iterations."""

import argparse
import re
from pathlib import Path

import pytest
import torch
import yaml

from det_transfer.classification.transfer_plan import SECTION, expand
from det_transfer.config import load_config, validate
from det_transfer.data import register_datasets, take_class_count
from det_transfer.data.catalog import register
from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.plan import read_plan
from det_transfer.engine.setup import setup

CONFIGS = Path(__file__).parent.parent.parent / "configs"
PLANS = sorted((CONFIGS / "plans").glob("*.yaml"))
CLASSIFIERS = sorted((CONFIGS / "classification").glob("*.yaml"))
BASES = sorted((CONFIGS / "base").glob("*.yaml"))
ALL = sorted(path for path in CONFIGS.rglob("*.yaml") if path not in [*PLANS, *BASES])
FILES = [path for path in ALL if path not in CLASSIFIERS]  # of detectors
IDS = [str(path.relative_to(CONFIGS)) for path in FILES]
ALL_IDS = [str(path.relative_to(CONFIGS)) for path in ALL]

# What makes any recipe small enough for two iterations on one core; whole it is built on "meta".
SMALL = {
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.NASFPN.CHANNELS": 32,
    "MODEL.NASFPN.REPEATS": 2,
    "MODEL.CONV_DECODER.CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.NUM_CLASSES": 0,
    "MODEL.RETINANET.NUM_CLASSES": 0,
    "MODEL.REUSE.NORM": "BN",  # SyncBN is torch's, which needs CUDA
    "INPUT.MIN_SIZE_TRAIN": (96,),
    "INPUT.MAX_SIZE_TRAIN": 128,
    "INPUT.MIN_SIZE_TEST": 96,
    "INPUT.MAX_SIZE_TEST": 128,
    "INPUT.LSJ.SIZE": 128,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": ("tiny",),
    "DATASETS.TEST": ("tiny",),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": (),
    "SOLVER.AMP.ENABLED": False,
    "TEST.WRITE_REPORT": False,
    "SEED": 1,
}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_is_valid_and_builds(path, tiny_lvis):
    register("tiny", *tiny_lvis)
    config = load_config(str(path), ["DATASETS.TRAIN", "('tiny',)", "DATASETS.TEST", "()"])
    cfg = config.cfg
    cfg.MODEL.DEVICE = "meta"  # no memory, no time
    cfg.MODEL.REUSE.NORM = "BN"  # SyncBN is torch's, which needs CUDA
    if "MODEL.ROI_HEADS.NUM_CLASSES" in config.explicit and not cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        take_class_count(config)
    validate(cfg, config.explicit)
    with torch.device("meta"):
        model = DetectionTrainer.build_model(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


@pytest.mark.parametrize("path", ALL, ids=ALL_IDS)
def test_header_says_what_it_is(path):
    """What it reproduces and the arithmetic of its schedule, before the first key."""
    lines = path.read_text().splitlines()
    header = "\n".join(line for line in lines[: lines.index(first_key(lines))])
    assert "Reproduces:" in header
    assert "Schedule:" in header
    assert "epochs" in header


def first_key(lines):
    return next(line for line in lines if line and not line.startswith("#"))


PAPERS = [path for path in FILES if path.parent.name in ("coco", "lvis")]
MODES = {"frozen": "frozen", "finetuned": "finetune", "scratch": "scratch", "adapters": "adapters"}
# First part of a name that fits -> batch and rate, and side of the images. Source: the files that
# the headers of the bases name.
RATES = {"rcnn": (64, 0.16), "retinanet": (256, 0.32), "mask_rcnn": (64, 0.08)}
SIDES = {"retinanet": 640, "efficientnetb7": 1280, "_cascade": 1280, "": 1024}
IMAGES = {"coco": 118_287, "lvis": 100_170}


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_header_and_name_say_what_the_keys_are(path):
    header = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line[0] == "#")
    schedule = r"Schedule: +([\d,]+) iterations x (\d+) images / ([\d,]+) = (\d+) epochs"
    numbers = (int(n.replace(",", "")) for n in re.search(schedule, header).groups())
    iterations, batch, images, epochs = numbers
    assert iterations * batch / images == pytest.approx(epochs, abs=0.6)
    length = re.search(r"_(\d+)ep$", path.stem)
    assert length is None or int(length[1]) == epochs
    words = path.stem.split("_")
    (mode,) = {MODES[word] for word in words if word in MODES}
    rate = next(rate for name, rate in RATES.items() if path.stem.startswith(name))
    side = next(side for part, side in SIDES.items() if part in path.stem)
    trained_b7 = "efficientnetb7" in words and mode == "finetune"
    cfg = load_config(str(path)).cfg
    solver, inputs = cfg.SOLVER, cfg.INPUT
    half = 0.6 * images / batch  # of an epoch: headers round
    assert list(solver.STEPS) == pytest.approx(drops(header, iterations, images / batch), abs=half)
    found = {
        "set": IMAGES[path.parent.name],
        "iterations": solver.MAX_ITER,
        "batch": solver.IMS_PER_BATCH,
        "rate": (solver.REFERENCE_BATCH, solver.BASE_LR),
        "side": (inputs.LSJ.ENABLED, inputs.LSJ.SIZE, inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST),
        "copy-paste": inputs.COPY_PASTE.ENABLED,
        "mode": cfg.MODEL.REUSE.MODE,
        "drop-path": cfg.MODEL.TIMM.DROP_PATH_RATE,
        "folder": Path(cfg.OUTPUT_DIR).name,
    }
    assert found == {
        "set": images,
        "iterations": iterations,
        "batch": batch,
        "rate": (batch, 0.02) if "stage2" in words else rate,
        "side": (True, side, side, side),
        "copy-paste": "copypaste" in words,
        "mode": mode,
        "drop-path": 0.2 if trained_b7 else 0.0,
        "folder": path.stem,
    }


def drops(header, iterations, epoch):
    """Iterations at which the header says that the rate drops."""
    if after := re.search(r"drops after (\d+) and (\d+)", header):
        return [int(number) * epoch for number in after.groups()]
    if "drops at 90, 95 and 97.5 %" in header:
        return [share * iterations for share in (0.9, 0.95, 0.975)]
    assert "drops at 2/3 and 8/9" in header
    return [share * iterations for share in (2 / 3, 8 / 9)]


def bases_of(path):
    """Whose keys it takes, the last one's first."""
    bases = yaml.safe_load(path.read_text()).get("_BASE_", [])
    return [
        (path.parent / base).resolve() for base in ([bases] if isinstance(bases, str) else bases)
    ]


def depth(path):
    return max((1 + depth(base) for base in bases_of(path)), default=0)


@pytest.mark.parametrize("path", ALL, ids=ALL_IDS)
def test_base_chains_are_short(path):
    assert depth(path) <= 3 + bool(stage_one(path))  # a second stage stands on its first


def test_no_base_is_left_over():
    assert set(BASES) <= {base for path in [*ALL, *BASES] for base in bases_of(path)}


def test_of_two_bases_the_last_one_counts():
    """A trunk of Detectron2's in place of timm's."""
    cfg = load_config(str(CONFIGS / "coco" / "rcnn_r101_nasfpn_frozen_72ep.yaml")).cfg
    assert cfg.MODEL.TRUNK.NAME == "build_resnet_backbone"
    assert cfg.MODEL.RESNETS.DEPTH == 101
    assert cfg.MODEL.WEIGHTS.endswith("R-101.pkl")
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD) == ("BGR", [1.0, 1.0, 1.0])
    assert cfg.MODEL.DECODER.NAME == "nasfpn"


# One for each mechanism.
MECHANISMS = [
    "quickstart.yaml",
    "frozen_cascade_lvis.yaml",
    pytest.param("frozen_cascade_lvis_stage2.yaml", marks=pytest.mark.slow),
    "coco/rcnn_resnetrs50_nasfpn_cascade_frozen_600ep.yaml",
    "coco/rcnn_r50_fpn_frozen_72ep.yaml",
    "coco/rcnn_resnetrs101_2conv_frozen_72ep.yaml",
    "coco/retinanet_resnetrs101_nasfpn_frozen_72ep.yaml",
]


@pytest.mark.parametrize("name", MECHANISMS)
def test_two_iterations(name, tiny_lvis, tmp_path):
    two_iterations(CONFIGS / name, tiny_lvis, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_two_iterations_of_all(path, tiny_lvis, tmp_path):
    two_iterations(path, tiny_lvis, tmp_path)


def stage_one(path):
    """The config whose result a second stage takes on; None for others."""
    own = yaml.safe_load(path.read_text())
    second = own.get("MODEL", {}).get("REUSE", {}).get("TRAIN_ONLY")
    return bases_of(path)[0] if second else None


def two_iterations(path, data, folder):
    first, weights = stage_one(path), ""
    if first:
        trained(first, data, folder / "first", "")
        weights = folder / "first" / "model_final.pth"
    trainer, moved = trained(path, data, folder, weights)
    parts = {name.split(".")[0] for name in moved}
    retina = "RetinaNet" in trainer.cfg.MODEL.META_ARCHITECTURE
    if first:
        assert moved
        assert all(".cls_score." in name for name in moved)
    else:
        assert {"backbone", *({"head"} if retina else {"proposal_generator", "roi_heads"})} <= parts
    trunk = [k for k in trainer.model.state_dict() if k.startswith("backbone.bottom_up")]
    assert trunk
    assert not moved & set(trunk)


def trained(path, data, folder, weights):
    """The trainer after two iterations, and the names of the tensors that have changed."""
    pairs = {**SMALL, "OUTPUT_DIR": folder, "DATASETS.CUSTOM": [["tiny", *map(str, data)]]}
    pairs["MODEL.WEIGHTS"] = weights
    opts = [str(word) for pair in pairs.items() for word in pair]
    args = argparse.Namespace(config_file=str(path), opts=opts, resume=False, eval_only=False)
    trainer = DetectionTrainer(setup(args, prepare))
    trainer.resume_or_load(resume=False)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    results = trainer.train()
    assert results["bbox"].keys() >= {"AP", "APr", "APc", "APf"}
    after = trainer.model.state_dict()
    return trainer, {name for name in after if not torch.equal(after[name], before[name])}


def parameters(name, *opts):
    """Millions: all, trained, and by part."""
    config = load_config(str(CONFIGS / name), ["MODEL.DEVICE", "meta", *opts])
    with torch.device("meta"):
        model = DetectionTrainer.build_model(config.cfg)
    count = {
        "decoder": [n for n, _ in model.backbone.named_children() if n != "bottom_up"],
        "trunk": ["bottom_up"],
    }
    sizes = {
        part: sum(p.numel() for n in names for p in model.backbone.get_submodule(n).parameters())
        for part, names in count.items()
    }
    sizes |= {
        "rpn": sum(p.numel() for p in model.proposal_generator.parameters()),
        "mask": sum(
            p.numel() for p in getattr(model.roi_heads, "mask_head", torch.nn.Module()).parameters()
        ),
        "all": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    sizes["box"] = sum(p.numel() for p in model.roi_heads.parameters()) - sizes["mask"]
    return {part: size / 1e6 for part, size in sizes.items()}


CLASSES = ("MODEL.ROI_HEADS.NUM_CLASSES", "90")  # 91 logits, as the authors have


def test_parameters_of_the_papers_cascade():
    """71.3 M trained of 132.9 M in table 3."""
    found = parameters("coco/rcnn_resnetrs101_nasfpn_cascade_frozen_72ep.yaml", *CLASSES)
    assert found["trained"] == pytest.approx(71.27, abs=0.05)
    assert found["all"] == pytest.approx(132.9, abs=0.1)
    seven = parameters(
        "coco/rcnn_resnetrs101_nasfpn_cascade_frozen_72ep.yaml",
        *CLASSES,
        "MODEL.NASFPN.REPEATS",
        "7",
    )
    assert seven["trained"] == pytest.approx(79.5, abs=0.1)  # so the paper's repeats are 5


@pytest.mark.parametrize(
    ("decoder", "ours", "papers"), [("fpn", 21.26, 21.9), ("nasfpn", 38.9, 40.9)]
)
def test_parameters_without_a_cascade_fall_short_of_the_papers(decoder, ours, papers):
    found = parameters(f"coco/rcnn_resnetrs101_{decoder}_frozen_72ep.yaml", *CLASSES)
    assert found["trained"] == pytest.approx(ours, abs=0.1)
    assert papers - 2.1 < found["trained"] < papers


def test_parameters_of_efficientnet_b7():
    """185 M in the README of Copy-Paste.

    186.7 M would be with EfficientNet's last 1x1 (640 to 2,560), which no feature comes from.
    """
    found = parameters("coco/mask_rcnn_efficientnetb7_nasfpn_cascade_frozen.yaml", *CLASSES)
    assert found["decoder"] == pytest.approx(61.17, abs=0.05)
    assert found["box"] == pytest.approx(54.39, abs=0.05)
    assert found["mask"] == pytest.approx(4.42, abs=0.05)
    assert found["rpn"] == pytest.approx(2.97, abs=0.05)
    assert found["all"] == pytest.approx(185.0, abs=0.1)
    last = (640 * 2560 + 2 * 2560) / 1e6
    assert found["all"] + last == pytest.approx(186.7, abs=0.1)


def test_a_missing_lvis_says_what_and_where(tmp_path, monkeypatch):
    from detectron2.data import MetadataCatalog

    from det_transfer.errors import UserError

    config = load_config(str(CONFIGS / "frozen_cascade_lvis.yaml"))
    missing = Path(MetadataCatalog.get("lvis_v1_train").json_file)
    if missing.exists():
        pytest.skip("LVIS is here")
    with pytest.raises(UserError, match=r"dataset lvis_v1_train: .*json is missing; get it from"):
        register_datasets(config.cfg)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_a_plan_is_sound(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)  # as its comments say that it is started
    plan = read_plan(path, sections={SECTION: expand})
    assert len(plan.runs) > 1
    assert all(Path(run.config).is_file() for run in plan.runs)
