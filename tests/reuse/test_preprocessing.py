"""Preprocessing: agreement within tolerance, and what to paste where there is none."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from det_transfer.reuse import Preprocessing, check_preprocessing
from det_transfer.reuse.preprocessing import (
    EFFICIENTNET_LITE,
    FAIR_RESNEXT,
    MSRA,
    TORCHVISION,
    preprocessing_of_source,
)

KNOWN = [TORCHVISION, MSRA, FAIR_RESNEXT, EFFICIENTNET_LITE]
CHANNELS = st.tuples(*[st.floats(1, 255)] * 3)
ANY = st.builds(Preprocessing, st.sampled_from(["RGB", "BGR"]), CHANNELS, CHANNELS)


@pytest.mark.parametrize("a", KNOWN)
@pytest.mark.parametrize("b", KNOWN)
def test_the_known_ones_are_told_apart(a, b):
    assert (check_preprocessing(a, b) is None) == (a is b)


def test_tolerance():
    timms = Preprocessing.from_unit_range((0.5,) * 3, (0.5,) * 3)  # 127.5 / 127.5
    assert check_preprocessing(EFFICIENTNET_LITE, timms) is None
    one_off = Preprocessing("RGB", (123.675, 117.4, 103.53), TORCHVISION.std)
    assert check_preprocessing(TORCHVISION, one_off) is not None
    wide = Preprocessing("RGB", TORCHVISION.mean, tuple(1.03 * s for s in TORCHVISION.std))
    assert check_preprocessing(TORCHVISION, wide) is not None


def test_another_number_of_channels_is_a_mismatch():
    grey = Preprocessing("L", (120.0,), (60.0,))
    assert check_preprocessing(TORCHVISION, grey)
    assert check_preprocessing(grey, TORCHVISION)


@given(expected=ANY, found=ANY)
def test_pasting_what_the_message_says_mends_it(expected, found):
    problem = check_preprocessing(expected, found)
    if problem is None:
        return
    assert found.format in problem.splitlines()[0]
    lines = yaml.safe_load(problem.split("config:\n")[1])
    pasted = Preprocessing(
        lines["INPUT"]["FORMAT"],
        tuple(lines["MODEL"]["PIXEL_MEAN"]),
        tuple(lines["MODEL"]["PIXEL_STD"]),
    )
    assert check_preprocessing(expected, pasted) is None


@given(ANY)
def test_dict_round_trip(value):
    assert Preprocessing.from_dict(value.as_dict()) == value
    as_lists = {k: list(v) if isinstance(v, tuple) else v for k, v in value.as_dict().items()}
    assert Preprocessing.from_dict(as_lists) == value


@pytest.mark.parametrize(
    ("source", "preprocessing", "stride_in_1x1"),
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", MSRA, True),
        ("https://dl/detectron2/ImageNetPretrained/MSRA/R-101.pkl", MSRA, True),
        ("detectron2://ImageNetPretrained/torchvision/R-50.pkl", TORCHVISION, False),
        ("detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl", FAIR_RESNEXT, False),
        ("catalog://ImageNetPretrained/FAIR/R-50-GN", MSRA, False),
        ("detectron2://COCO-Detection/x/model_final.pkl", None, None),
    ],
)
def test_detectron2s_addresses(source, preprocessing, stride_in_1x1):
    assert preprocessing_of_source(source) == (preprocessing, stride_in_1x1)
