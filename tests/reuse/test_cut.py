"""A trunk cut at a stage: what is loaded, what stays, and what is refused."""

import itertools

import pytest
import torch
from torch import nn
from trunks import TRUNKS, images, trunk_of_kind

from det_transfer.errors import UserError
from det_transfer.reuse import Weights, apply_mode, load_trunk, stage_ends, tensors_up_to


def given(kind):
    """A trunk at random, the tensors of another, and these as a detector's weights."""
    theirs = trunk_of_kind(kind).state_dict()
    state = {f"backbone.bottom_up.{name}": tensor for name, tensor in theirs.items()}
    state["roi_heads.box_head.fc1.weight"] = torch.zeros(3)
    return TRUNKS[kind](), theirs, Weights(state, origin="the file")


def same(trunk, state):
    ours = trunk.state_dict()
    return {name for name, tensor in state.items() if torch.equal(ours[name], tensor)}


@pytest.mark.parametrize("kind", ["detectron2", "resnet", "efficientnet", "convnext"])
def test_what_lies_before_the_cut_and_no_more(kind):
    trunk, theirs, weights = given(kind)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    for stage in stage_ends(trunk):
        inside = tensors_up_to(trunk, stage)
        report = load_trunk(trunk, weights, strict=True, stages=stage)
        assert inside <= same(trunk, theirs)
        assert same(trunk, before) >= before.keys() - inside
        assert report.matched == report.total > 0
        counters = sum(name.endswith("num_batches_tracked") for name in before)
        assert report.total + len(report.beyond) == len(before) - counters
    assert inside == before.keys()  # up to the last stage is all


def test_more_stages_hold_what_fewer_do():
    trunk = TRUNKS["efficientnet"]()
    parts = [tensors_up_to(trunk, stage) for stage in (1, 2, 3)]
    assert all(a < b for a, b in itertools.pairwise(parts))
    assert {name.split(".")[1] for name in parts[0]} == {"conv_stem", "bn1", "blocks"}
    assert {name for name in parts[0] if "blocks" in name} == {
        name for name in trunk.state_dict() if name.startswith("net.blocks.0.")
    }


def test_features_below_the_cut_are_the_sources():
    trunk, theirs, weights = given("resnet")
    source = TRUNKS["resnet"]()
    source.load_state_dict(theirs)
    load_trunk(trunk, weights, strict=True, stages=2)
    with torch.no_grad():
        found, expected = trunk.eval()(images()), source.eval()(images())
    assert torch.equal(found["res2"], expected["res2"])
    assert not torch.allclose(found["res3"], expected["res3"])


def test_what_is_missing_beyond_the_cut_does_not_matter():
    trunk, _, weights = given("resnet")
    part = {n: t for n, t in weights.state.items() if "layer2" not in n}
    with pytest.raises(UserError, match="a frozen trunk needs them all"):
        load_trunk(trunk, weights.with_state(part), strict=True)
    assert load_trunk(trunk, weights.with_state(part), strict=True, stages=2).missing == ()
    del part["backbone.bottom_up.net.conv1.0.weight"]
    with pytest.raises(UserError, match=r"matched \d+ of \d+ .*: net.conv1.0.weight"):
        load_trunk(trunk, weights.with_state(part), strict=True, stages=2)


def test_the_report_says_what_was_left():
    trunk, _, weights = given("resnet")
    report = load_trunk(trunk, weights, strict=False, stages=2)
    left = len(report.beyond)
    said = f"{left} behind the cut (MODEL.REUSE.LOAD_STAGES) as initialised (net.layer2.0."
    assert said in str(report)
    assert report.counts() == {
        "origin": "the file",
        "loaded": report.total,
        "not_loaded": 0,
        "left_as_initialised": left,
    }


@pytest.mark.parametrize(
    ("mode", "options", "sound"),
    [
        ("partial", {"stages": 2}, True),
        ("partial", {"stages": 1}, True),
        ("finetune", {}, True),
        ("finetune_adapters", {}, True),
        ("partial", {"stages": 2, "patterns": [r"net\.layer2"]}, False),
        ("partial", {"stages": 3}, False),
        ("frozen", {}, False),
        ("adapters", {}, False),
    ],
)
def test_what_stands_still_is_loaded(mode, options, sound):
    """Else it would be random for ever, which nobody means by a cut."""
    trunk, _, weights = given("resnet")
    apply_mode(trunk, mode, **options)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    if sound:
        load_trunk(trunk, weights, strict=True, stages=2)
        return
    with pytest.raises(UserError, match=r"LOAD_STAGES 2 leaves \d+ frozen tensors of the trunk at"):
        load_trunk(trunk, weights, strict=True, stages=2)
    assert same(trunk, before) == before.keys()


def test_no_such_stage_and_no_stages():
    trunk, _, weights = given("resnet")
    with pytest.raises(UserError, match=r"LOAD_STAGES is 7, but the trunk's stages are 1, 2, 3 "):
        load_trunk(trunk, weights, strict=False, stages=7)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(UserError, match="does not say where its stages end"):
        load_trunk(plain, Weights(plain.state_dict(), "x"), strict=False, stages=1)
