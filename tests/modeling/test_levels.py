"""What heads ask for and the backbone has not is said before any data is read."""

import contextlib

import pytest
from detectron2.modeling import BACKBONE_REGISTRY
from small_detector import batch, build, config, gradients, losses

from det_transfer.config import advice
from det_transfer.errors import UserError
from det_transfer.modeling.levels import check_levels
from det_transfer.modeling.names import check_names


def test_a_sound_config_passes():
    check_levels(config())
    check_levels(config(MODEL__ANCHOR_GENERATOR__SIZES=[[32]]))


OF_DETECTRON2 = {
    "MODEL__BACKBONE__NAME": "build_resnet_fpn_backbone",
    "MODEL__FPN__IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL__RESNETS__OUT_FEATURES": ["res2", "res3", "res4", "res5"],
}


def test_detectron2s_own_builders_are_asked_too():
    check_levels(config(**OF_DETECTRON2))
    with pytest.raises(UserError, match=r"\['p7'\]: build_resnet_fpn_backbone gives \['p2'"):
        check_levels(config(**OF_DETECTRON2, MODEL__RPN__IN_FEATURES=["p7"]))


@pytest.mark.parametrize(
    "options",
    [
        {"ROI_HEADS__NAME": "Res5ROIHeads", "ROI_BOX_HEAD__NAME": ""},
        {"PROPOSAL_GENERATOR__NAME": "PrecomputedProposals", "RPN__HEAD_NAME": "x"},
        {"META_ARCHITECTURE": "ProposalNetwork", "ROI_HEADS__NAME": "x"},
        {"META_ARCHITECTURE": "RetinaNet", "ROI_HEADS__NAME": "x", "RPN__HEAD_NAME": "x"},
    ],
)
def test_what_is_not_built_may_have_any_name(options):
    check_names(config(**{f"MODEL__{key}": value for key, value in options.items()}))


def test_without_an_rpn_nobody_asks_for_its_levels():
    precomputed = {"MODEL__PROPOSAL_GENERATOR__NAME": "PrecomputedProposals"}
    check_levels(config(**precomputed, MODEL__RPN__IN_FEATURES=["res4"]))
    check_levels(config(**precomputed, MODEL__ANCHOR_GENERATOR__SIZES=[[32], [64]]))
    with pytest.raises(UserError, match=r"ROI_HEADS\.IN_FEATURES"):
        check_levels(config(**precomputed, MODEL__ROI_HEADS__IN_FEATURES=["p7"]))


def test_a_users_own_builder_is_left_alone():
    @BACKBONE_REGISTRY.register()
    def build_of_a_user(cfg, input_shape):
        raise AssertionError("it may read files that are not there yet")

    try:
        check_levels(config(MODEL__BACKBONE__NAME="build_of_a_user"))
    finally:
        BACKBONE_REGISTRY._obj_map.pop("build_of_a_user")


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("META_ARCHITECTURE", "GeneralisedRCNN", "there is GeneralizedRCNN"),
        ("BACKBONE__NAME", "build_reuse_bakbone", "there is build_reuse_backbone"),
        ("ROI_HEADS__NAME", "StandrdROIHeads", "there is StandardROIHeads"),
        ("ROI_MASK_HEAD__NAME", "TransferMask", "there is TransferMaskHead"),
        ("RPN__HEAD_NAME", "x", "there is .*TransferRPNHead"),
        ("PROPOSAL_GENERATOR__NAME", "PrecomputedProposals", ""),
        ("ROI_KEYPOINT_HEAD__NAME", "x", ""),  # not built, as the next
        ("SEM_SEG_HEAD__NAME", "x", ""),
        ("META_ARCHITECTURE", "", "there is "),
        ("ROI_HEADS__NAME", "", "there is "),
    ],
)
def test_names_that_nobody_registered(key, name, said):
    cfg = config(**{"MODEL__MASK_ON": True, f"MODEL__{key}": name})
    line = rf"MODEL\.{key.replace('__', '.')} '{name}' is not registered; .*{said}"
    with pytest.raises(UserError, match=line) if said else contextlib.nullcontext():
        check_names(cfg)


@pytest.mark.parametrize(
    "options",
    [
        {  # one level, as of a C4
            "MODEL__DECODER__NAME": "conv",
            "MODEL__RPN__IN_FEATURES": ["p4"],
            "MODEL__ROI_HEADS__IN_FEATURES": ["p4"],
            "MODEL__ANCHOR_GENERATOR__SIZES": [[24, 48, 96, 192]],
        },
        {  # the anchors of a level know nothing of the others
            "MODEL__RPN__IN_FEATURES": ["p3", "p5"],
            "MODEL__ANCHOR_GENERATOR__SIZES": [[24], [96]],
        },
        {
            "MODEL__RPN__IN_FEATURES": ["p6", "p5", "p4", "p3"],
            "MODEL__ANCHOR_GENERATOR__SIZES": [[192], [96], [48], [24]],
        },
        {"MODEL__ANCHOR_GENERATOR__SIZES": [24, 48, 96]},
        {"MODEL__ROI_HEADS__IN_FEATURES": ["p5"]},
        {
            "MODEL__RPN__NORM": "GN",
            "MODEL__RPN__HEAD_NAME": "TransferRPNHead",
            "MODEL__RPN__CONV_DIMS": [32, -1],
        },
    ],
)
def test_what_detectron2_takes_is_not_refused(options):
    check_levels(config(**options))
    assert losses(build(**options), batch(**options))


NASFPN = {"MODEL__DECODER__NAME": "nasfpn"}
FINE = {
    "MODEL__RPN__IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL__ANCHOR_GENERATOR__SIZES": [[24], [48], [96]],
}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {**NASFPN, **FINE},
            r"take \['p3', 'p4', 'p5'\], .* 6 trained .* take more of \['p6', 'p7'\]",
        ),
        (NASFPN, ""),  # p6 is made of p7
        ({**NASFPN, "MODEL__REUSE__MODE": "frozen", "MODEL__REUSE__FAST": True}, ""),
        (
            {**NASFPN, **FINE, "MODEL__REUSE__TRAIN_ONLY": [".*cls_score"], "MODEL__WEIGHTS": "x"},
            "",
        ),
        (FINE, ""),  # the FPN's p6 is pooled
        ({**FINE, "MODEL__FPN__TOP_BLOCK": "p6"}, r"top_block\.convs\.0\.weight and on"),
        ({"MODEL__TIMM__OUT_FEATURES": ["res2", "res3", "res4", "res5"]}, ""),
        (
            {
                **FINE,
                "MODEL__DECODER__NAME": "conv",
                "MODEL__RPN__IN_FEATURES": ["p4"],
                "MODEL__ROI_HEADS__IN_FEATURES": ["p4"],
                "MODEL__ANCHOR_GENERATOR__SIZES": [[24]],
            },
            r"bottom_up\.net\..* and on",  # the trunk's res5
        ),
    ],
)
def test_several_processes_would_wait_for_what_no_head_needs(options, said):
    check_levels(config(**options))
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        check_levels(config(**options), processes=2)


def test_what_is_said_to_be_needed_gets_gradients():
    model = build(**NASFPN)
    found = gradients(model, batch(**NASFPN))
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"MODEL__RPN__IN_FEATURES": ["p2", "p3", "p4", "p5"]},
            r"RPN.IN_FEATURES \['p2', .*\]: the decoder \(fpn\) on .* \['p3', 'p4', 'p5', 'p6'\]",
        ),
        ({"MODEL__DECODER__NAME": "conv"}, r"\(conv\) .* gives \['p4'\]"),
        ({"MODEL__DECODER__NAME": ""}, r"\(none\) .* gives \['res3', 'res4', 'res5'\]"),
        ({"MODEL__ROI_HEADS__IN_FEATURES": []}, "MODEL.ROI_HEADS.IN_FEATURES"),
        (
            {"MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16], [32]]},
            "SIZES has 3 lists for the 4 levels of MODEL.RPN.IN_FEATURES",
        ),
        (
            {"MODEL__META_ARCHITECTURE": "RetinaNet", "MODEL__RETINANET__IN_FEATURES": ["p7"]},
            "RETINANET.IN_FEATURES",
        ),
        ({"MODEL__NASFPN__NORM": "GN", "MODEL__DECODER__NAME": "nasfpn"}, "multiple of 32"),
        (
            {"MODEL__ROI_HEADS__IN_FEATURES": ["p3", "p5"]},
            r"ROI_HEADS.IN_FEATURES \['p3', 'p5'\] have strides \[8, 32\]; each must be twice",
        ),
        ({"MODEL__ROI_HEADS__IN_FEATURES": ["p5", "p4", "p3"]}, "fine to coarse"),
        (
            {"MODEL__RPN__IN_FEATURES": ["p6", "p5", "p4", "p3"]},
            "coarser levels have smaller anchors; list both fine to coarse",
        ),
        (
            {"MODEL__ANCHOR_GENERATOR__SIZES": [[24], [48, 50], [96], [192]]},
            r"make \[3, 6, 3, 3\] anchors",
        ),
        (
            {"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[1.0], [1.0, 2.0], [1.0], [1.0]]},
            r"make \[1, 2, 1, 1\] anchors",
        ),
        ({"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": []}, "ASPECT_RATIOS has 0 lists"),
        (
            {"MODEL__RPN__NORM": "GN", "MODEL__RPN__HEAD_NAME": "TransferRPNHead"},
            "channels of MODEL.RPN.IN_FEATURES is 16; under MODEL.RPN.NORM 'GN'",
        ),
        (
            {
                "MODEL__META_ARCHITECTURE": "RetinaNet",
                "MODEL__RETINANET__IN_FEATURES": ["p3", "p4", "p5", "p6"],
                "MODEL__RETINANET__NORM": "GN",
            },
            "channels of MODEL.RETINANET.IN_FEATURES is 16",
        ),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        check_levels(config(**options))


@pytest.mark.parametrize(
    ("norm", "batch", "processes", "said"),
    [
        ("BN", 4, 1, True),
        ("BN", 16, 1, False),
        ("BN", 16, 4, True),
        ("naiveSyncBN", 16, 4, False),
        ("naiveSyncBN_N", 4, 4, True),
        ("GN", 1, 1, False),
        ("FrozenBN", 1, 1, False),
        ("", 1, 1, False),
    ],
)
def test_batches_too_small_for_batch_norm(norm, batch, processes, said):
    cfg = config(MODEL__FPN__NORM=norm, SOLVER__IMS_PER_BATCH=batch)
    lines = advice(cfg, processes)
    assert bool(lines) == said
    assert not said or ("MODEL.FPN.NORM" in lines[0] and "'GN'" in lines[0])


OUR_HEADS = {
    "MODEL__ROI_BOX_HEAD__NAME": "TransferBoxHead",
    "MODEL__ROI_MASK_HEAD__NAME": "TransferMaskHead",
}


def test_only_of_parts_in_use_and_by_parts_of_the_batch():
    unused = {"MODEL__NASFPN__NORM": "BN", "MODEL__ROI_MASK_HEAD__NORM": "BN"}
    assert advice(config(**unused, SOLVER__IMS_PER_BATCH=2), 1) == []
    assert len(advice(config(**unused, SOLVER__IMS_PER_BATCH=2, MODEL__MASK_ON=True), 1)) == 1
    masks = {"MODEL__MASK_ON": True, "SOLVER__IMS_PER_BATCH": 2, **OUR_HEADS}
    vectors = config(MODEL__ROI_BOX_HEAD__FC_NORM="BN", **masks)
    assert "MODEL.ROI_BOX_HEAD.FC_NORM 'BN'" in advice(vectors, 1)[0]
    deconvolution = config(MODEL__ROI_MASK_HEAD__DECONV_NORM="BN", **masks)
    assert "MODEL.ROI_MASK_HEAD.DECONV_NORM 'BN'" in advice(deconvolution, 1)[0]
    without_convolutions = config(MODEL__ROI_BOX_HEAD__NORM="BN", **masks)
    assert advice(without_convolutions, 1) == []
    accumulated = config(
        MODEL__RPN__NORM="BN",
        MODEL__RPN__HEAD_NAME="TransferRPNHead",
        SOLVER__IMS_PER_BATCH=16,
        SOLVER__ACCUMULATE=4,
    )
    assert "over 4 images" in advice(accumulated, 1)[0]
