"""Reading and checking configs: every mistake is one clear line, all of them at once."""

import pytest

from det_transfer.config import (
    add_det_transfer_config,
    differences,
    load_config,
    scale_learning_rate,
    validate,
)
from det_transfer.errors import UserError, nearest


def write(tmp_path, text, name="config.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_stock_values_are_untouched():
    from detectron2.config import get_cfg

    ours = get_cfg()
    add_det_transfer_config(ours)
    stock = get_cfg()
    changed = {key for key, before, _ in differences(ours, stock) if before is not None}
    assert changed == set()


def test_misspelt_keys_are_all_named_with_the_nearest(tmp_path):
    path = write(tmp_path, "MODEL:\n  WEIGHT: x\nSOLVER:\n  BASELR: 0.1\n  MAX_ITER: 5\n")
    with pytest.raises(UserError) as error:
        load_config(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "MODEL.WEIGHT;" in lines[0]
    assert "MODEL.WEIGHTS" in lines[0]
    assert "SOLVER.BASE_LR" in lines[1]
    assert path in lines[0]


def test_misspelt_key_on_the_command_line():
    with pytest.raises(UserError, match=r"command line: .*SOLVER\.MAX_ITR.*SOLVER\.MAX_ITER"):
        load_config(None, ["SOLVER.MAX_ITR", "5"])


def test_a_value_of_the_wrong_type():
    line = r"^command line: SOLVER.STEPS abc is of type str; it must be of type tuple, as '\(\d+,"
    with pytest.raises(UserError, match=line):
        load_config(None, ["SOLVER.STEPS", "abc"])


def test_misspelt_key_in_a_base_file(tmp_path):
    write(tmp_path, "MODEL:\n  TIMM:\n    NAM: resnet18\n", "base.yaml")
    path = write(tmp_path, "_BASE_: base.yaml\n")
    with pytest.raises(UserError, match=r"MODEL\.TIMM\.NAM;.*MODEL\.TIMM\.NAME"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SOLVER:\n  MAX_ITER: many\n", "MAX_ITER"),
        ("a: [\n", "cannot be read"),
        ("just words\n", "cannot be read"),
        ("_BASE_: nowhere.yaml\n", r"its base \S*nowhere.yaml does not exist"),
    ],
)
def test_broken_files(tmp_path, text, expected):
    with pytest.raises(UserError, match=expected):
        load_config(write(tmp_path, text))


def test_missing_file_and_odd_options():
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_config("nowhere.yaml")
    with pytest.raises(UserError, match="pairs"):
        load_config(None, ["SOLVER.MAX_ITER"])


def test_explicit_keys_come_from_file_base_and_command_line(tmp_path):
    write(tmp_path, "SOLVER:\n  MAX_ITER: 7\n", "base.yaml")
    path = write(tmp_path, "_BASE_: base.yaml\nSEED: 3\n")
    config = load_config(path, ["MODEL.WEIGHTS", "x"])
    assert config.explicit == {"SOLVER.MAX_ITER", "SEED", "MODEL.WEIGHTS"}
    assert config.on_command_line == {"MODEL.WEIGHTS"}
    assert differences(config.cfg, config.from_file) == [("MODEL.WEIGHTS", "", "x")]


def test_the_config_of_a_run_names_what_somebody_chose(tmp_path):
    """It holds every key, and can be given again, with --eval-only for one."""
    first = load_config("configs/quickstart.yaml", ["MODEL.REUSE.MODE", "frozen", "SEED", "7"])
    path = tmp_path / "config.yaml"
    path.write_text(first.cfg.dump())
    again = load_config(str(path), ["MODEL.DEVICE", "cpu"])
    validate(again.cfg, again.explicit)
    assert {"SEED", "MODEL.REUSE.MODE", "MODEL.WEIGHTS", "MODEL.DEVICE"} <= again.explicit
    assert not {"MODEL.BACKBONE.FREEZE_AT", "TEST.EVAL_PERIOD"} & again.explicit
    worse = load_config(str(path), ["MODEL.BACKBONE.FREEZE_AT", "3"])
    with pytest.raises(UserError, match="FREEZE_AT 3 contradicts"):
        validate(worse.cfg, worse.explicit)


@pytest.mark.parametrize(
    ("opts", "rate", "says"),
    [
        (["SOLVER.IMS_PER_BATCH", "4"], 0.02, "0.08 for batch 16 becomes 0.02"),
        (["SOLVER.IMS_PER_BATCH", "16"], 0.08, None),
        (["SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.5"], 0.5, "as given"),
    ],
)
def test_learning_rate_follows_the_batch(tmp_path, opts, rate, says):
    path = write(tmp_path, "SOLVER:\n  BASE_LR: 0.08\n  REFERENCE_BATCH: 16\n")
    config = load_config(path, opts)
    line = scale_learning_rate(config)
    assert pytest.approx(rate) == config.cfg.SOLVER.BASE_LR
    assert (says in line) if says else line is None
    # A config saved after scaling is not scaled again.
    assert scale_learning_rate(config) is None
    assert pytest.approx(rate) == config.cfg.SOLVER.BASE_LR


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (["SOLVER.AMP.DTYPE", "fp8"], r"SOLVER\.AMP\.DTYPE is 'fp8'"),
        (["SOLVER.IMS_PER_BATCH", "0"], r"SOLVER\.IMS_PER_BATCH is 0"),
        (["SOLVER.STEPS", "(5, 3)"], r"SOLVER\.STEPS"),
        (["SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu"], "needs CUDA"),
        (
            ["MODEL.REUSE.MODE", "frozen", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", "2"],
            "contradicts",
        ),
        (["INPUT.LSJ.ENABLED", "True", "INPUT.CROP.ENABLED", "True"], "both on"),
        (["INPUT.LSJ.MIN_SCALE", "3.0"], "MIN_SCALE"),
        (["DATASETS.CUSTOM", "[['a', 'b']]"], r"\[name, json file, image folder\]"),
        (
            ["MODEL.REUSE.MODE", "finetune", "MODEL.BACKBONE.FREEZE_AT", "0"],
            r"FREEZE_AT 0 contradicts MODEL\.REUSE\.MODE 'finetune'",
        ),
        (["MODEL.REUSE.MODE", "partial", "MODEL.WEIGHTS", ""], r"needs MODEL\.REUSE\.STAGES or"),
        (["SOLVER.CHECKPOINT_PERIOD", "0"], r"SOLVER\.CHECKPOINT_PERIOD is 0; it must be > 0"),
        (["DATALOADER.SAMPLER_TRAIN", "Foo"], r"SAMPLER_TRAIN is 'Foo'; it can be 'Training"),
        (["DATASETS.CUSTOM", "[5]"], r"\[name, json file, image folder\]"),
        (["TEST.AUG.ENABLED", "True"], r"test-time augmentation is not done here"),
        (["MODEL.REUSE.STAGES", "2"], r"is for MODEL\.REUSE\.MODE 'partial'; the mode is ''"),
        (["MODEL.REUSE.NORM", "LN"], r"MODEL\.REUSE\.NORM is 'LN'"),
        (["MODEL.REUSE.LOAD_STAGES", "-2"], r"LOAD_STAGES is -2; it can be -1 \(all\), 0"),
        (
            ["MODEL.REUSE.LOAD_STAGES", "2", "MODEL.WEIGHTS", ""],
            r"LOAD_STAGES 2 loads stages of MODEL\.WEIGHTS, which is empty",
        ),
        (
            ["MODEL.REUSE.LOAD_STAGES", "2", "MODEL.WEIGHTS", "x", "MODEL.REUSE.MODE", "scratch"],
            r"LOAD_STAGES 2 loads weights, but MODEL",
        ),
        (
            [
                *("MODEL.REUSE.LOAD_STAGES", "2", "MODEL.WEIGHTS", "x"),
                *("MODEL.REUSE.MODE", "partial", "MODEL.REUSE.STAGES", "3"),
            ],
            r"LOAD_STAGES 2 leaves at random what MODEL\.REUSE\.STAGES 3 freezes",
        ),
        (
            [
                *("MODEL.REUSE.LOAD_STAGES", "2", "MODEL.WEIGHTS", "x"),
                *("MODEL.REUSE.TRAIN_ONLY", "['.*cls_score']"),
            ],
            r"LOAD_STAGES 2 takes a trunk out of MODEL\.WEIGHTS, and",
        ),
        (["MODEL.TRUNK.NAME", "build_timm_backbone"], r"MODEL\.TIMM\.NAME is empty"),
        (["MODEL.FPN.NORM", "bn"], r"MODEL\.FPN\.NORM is 'bn'; it can be"),
        (["MODEL.ROI_BOX_HEAD.FC_NORM", "BM"], r"FC_NORM is 'BM'; it can be 'BN'"),
        (["MODEL.NASFPN.DROP_CONNECT", "1.5"], r"DROP_CONNECT is 1\.5; it must be 0 <= rate < 1"),
        (
            [
                *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
                *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
                *("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "(0.5, 0.7, 1.5)"),
            ],
            r"IOUS \(0\.5, 0\.7, 1\.5\) must lie between 0 and 1",
        ),
        (["MODEL.FPN.FUSE_TYPE", "mean"], r"FUSE_TYPE is 'mean'; it can be 'sum' or 'avg'"),
        (["MODEL.RPN.CONV_DIMS", "[0]"], r"CONV_DIMS is \[0\]; it must hold the channels"),
        (["MODEL.ROI_BOX_HEAD.NUM_FC", "-1"], r"NUM_FC is -1; it must be >= 0"),
        (
            ["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"],
            r"NUM_CONV and NUM_FC are both 0: a box head has at least one layer",
        ),
        (
            ["MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.5, 0.6]"],
            r"\[0\.5, 0\.6\] cut IoU into 3 parts; MODEL\.ROI_HEADS\.IOU_LABELS \[0, 1\] must say",
        ),
        (["MODEL.RPN.BBOX_REG_LOSS_TYPE", "l2"], r"BBOX_REG_LOSS_TYPE is 'l2'; it can be 'smooth"),
        (
            ["MODEL.RPN.BBOX_REG_WEIGHTS", "(1.0,)"],
            r"RPN\.BBOX_REG_WEIGHTS \(1\.0,\) must hold four",
        ),
        (["MODEL.ROI_HEADS.POSITIVE_FRACTION", "2.0"], "FRACTION is 2.0; it must be from 0 to 1"),
        (["MODEL.ANCHOR_GENERATOR.OFFSET", "1.0"], "OFFSET is 1.0; it must be 0 <= OFFSET < 1"),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", ""], "POOLER_TYPE is ''; it can be 'ROIAlignV2'"),
        (["MODEL.PIXEL_MEAN", "[]", "MODEL.PIXEL_STD", "[]"], "must hold a number per channel"),
        (["MODEL.FPN.OUT_CHANNELS", "0"], r"FPN\.OUT_CHANNELS is 0; it must be >= 1"),
        (["MODEL.PIXEL_STD", "[1.0, 1.0]"], r"PIXEL_STD \[1\.0, 1\.0\] must hold a number per"),
        (["MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]"], r"is divided by; none may be 0"),
        (
            [
                *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
                *("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "()"),
            ],
            r"IOUS \(\) must hold the threshold of each stage",
        ),
        (
            [
                *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
                *("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", "(1, 2, 3)"),
            ],
            r"BBOX_REG_WEIGHTS\[0\] 1 must hold four numbers",
        ),
        (["MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]"], r"RPN\.IOU_THRESHOLDS .* and not fall"),
        (
            [
                *("INPUT.COPY_PASTE.ENABLED", "True", "INPUT.LSJ.ENABLED", "True"),
                *("INPUT.LSJ.SIZE", "96", "INPUT.COPY_PASTE.BLEND", "40.0"),
            ],
            r"BLEND 40\.0 blurs further than INPUT\.LSJ\.SIZE 96",
        ),
        (
            [
                *("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
                *("MODEL.ROI_BOX_HEAD.CLASS_BALANCE_BETA", "0.9"),
            ],
            "is for the box heads of R-CNN",
        ),
    ],
)
def test_contradictions(opts, expected):
    config = load_config(None, opts)
    with pytest.raises(UserError, match=expected):
        validate(config.cfg, config.explicit)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "('a', 'b')", "holds 'a', no number; its default is"),
        ("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", "((1, 'x'),)", "holds 'x', no number"),
        ("MODEL.RPN.IN_FEATURES", "['p2', 3]", "holds 3, no text"),
        ("INPUT.MIN_SIZE_TRAIN", "(800, None)", "holds None, no number"),
        ("MODEL.RPN.IOU_THRESHOLDS", "[[0.3], 0.7]", r"holds \[0.3\], no number"),
        ("MODEL.RPN.IOU_LABELS", "[[0], 1, 1]", r"holds \[0\], no number"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[1, 0, 0, 0]", "holds 1, no truth value"),
    ],
)
def test_what_is_in_a_list_is_of_the_kind_of_its_default(key, value, says):
    with pytest.raises(UserError, match=f"config key {key} {says}"):
        load_config(None, [key, value])


def test_what_detectron2_takes_is_taken():
    taken = {
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "",  # as PointRend's
        "MODEL.RPN.CONV_DIMS": "[]",
        "MODEL.ANCHOR_GENERATOR.SIZES": "[[32.5, 64], [128]]",
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": "[1.0, 2]",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": "(10, 10, 5, 5, 1)",  # of rotated boxes
        "MODEL.PIXEL_MEAN": "[128]",
        "MODEL.PIXEL_STD": "[1.0]",
    }
    config = load_config(None, [word for pair in taken.items() for word in pair])
    validate(config.cfg, config.explicit)


def test_all_problems_at_once():
    config = load_config(None, ["SOLVER.AMP.DTYPE", "fp8", "SOLVER.MAX_ITER", "-1"])
    with pytest.raises(UserError) as error:
        validate(config.cfg, config.explicit)
    assert len(str(error.value).splitlines()) == 2


def test_a_random_frozen_trunk_can_be_asked_for():
    config = load_config(None, ["MODEL.REUSE.MODE", "frozen", "MODEL.WEIGHTS", ""])
    validate(config.cfg, config.explicit)


def test_nearest_is_empty_where_nothing_is_near():
    assert nearest("SOLVER.MAX_ITR", ["SOLVER.MAX_ITER", "SEED"]) == ["SOLVER.MAX_ITER"]
    assert nearest("zebra", ["SOLVER.MAX_ITER"]) == []


def test_a_flag_among_the_options_is_told_where_it_goes():
    with pytest.raises(UserError, match="--resume: flags come before the KEY VALUE pairs"):
        load_config(None, ["OUTPUT_DIR", "x", "--resume"])
