"""What heads ask for and the backbone has not is said before any data is read."""

import pytest
from small_detector import config

from det_transfer.config import advice
from det_transfer.errors import UserError
from det_transfer.modeling.levels import check_levels


def test_a_sound_config_passes():
    check_levels(config())
    check_levels(config(MODEL__ANCHOR_GENERATOR__SIZES=[[32]]))
    check_levels(config(MODEL__BACKBONE__NAME="build_resnet_backbone", MODEL__RPN__IN_FEATURES=[]))


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


def test_only_of_parts_in_use_and_by_parts_of_the_batch():
    unused = {"MODEL__NASFPN__NORM": "BN", "MODEL__ROI_MASK_HEAD__NORM": "BN"}
    assert advice(config(**unused, SOLVER__IMS_PER_BATCH=2), 1) == []
    assert len(advice(config(**unused, SOLVER__IMS_PER_BATCH=2, MODEL__MASK_ON=True), 1)) == 1
    accumulated = config(
        MODEL__RPN__NORM="BN",
        MODEL__RPN__HEAD_NAME="TransferRPNHead",
        SOLVER__IMS_PER_BATCH=16,
        SOLVER__ACCUMULATE=4,
    )
    assert "over 4 images" in advice(accumulated, 1)[0]
