"""One layer over several, against the plain computation on their concatenation."""

import pytest
import torch
import torch.nn.functional as F

from det_transfer.classification.architecture import Layer, Reading
from det_transfer.classification.dense import Dense

WIDTHS = {"a": 5, "b": 3}


def dense(relu=True, **reading):
    torch.manual_seed(0)
    made = Dense(Layer("x", 4, ("a", "b"), Reading(**reading)), WIDTHS, {}, relu=relu)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


@pytest.fixture
def given():
    torch.manual_seed(1)
    return {"a": torch.rand(6, 5), "b": torch.rand(6, 3)}


def naive(layer, given, scales=None):
    """As the paper writes it: per sample and block, then one matrix over the concatenation."""
    rows = []
    for i in range(6):
        blocks = []
        for name in WIDTHS:
            block = given[name][i]
            if scales:
                norm = sum(float(v) ** 2 for v in block) ** 0.5
                block = torch.stack([scales[name][k] * v / norm for k, v in enumerate(block)])
            blocks.append(block)
        x = torch.cat(blocks)
        matrix = torch.cat([layer.weights[name] for name in WIDTHS], dim=1)
        rows.append(torch.stack([m @ x for m in matrix]) + layer.bias)
    return torch.stack(rows)


def test_equals_the_concatenation(given):
    layer = dense()
    torch.testing.assert_close(layer(given), naive(layer, given).relu())
    layer.relu = False
    torch.testing.assert_close(layer(given), naive(layer, given))


def test_equations_1_and_2(given):
    layer = dense(normalize=True)
    expected = naive(layer, given, dict(layer.scales.items())).relu()
    torch.testing.assert_close(layer(given), expected)


def test_scales_begin_as_told_one_a_channel_and_learn(given):
    layer = Dense(Layer("x", 4, ("a", "b"), Reading(True, 10.0)), WIDTHS, {})
    assert {name: scale.tolist() for name, scale in layer.scales.items()} == {
        "a": [10.0] * 5,
        "b": [10.0] * 3,
    }
    layer.fill("a", 0.5)
    layer(given).sum().backward()
    assert layer.scales["a"].grad.abs().sum() > 0


def test_a_block_of_zeros_is_no_division_by_zero(given):
    layer = dense(normalize=True)
    given["a"] = torch.zeros(6, 5, requires_grad=True)
    layer(given).sum().backward()
    assert given["a"].grad.isfinite().all()


def test_one_block_alone_is_the_other_zeroed(given):
    layer = dense(relu=False)
    alone = layer({"a": given["a"], "b": torch.zeros(6, 3)})
    torch.testing.assert_close(layer(given, only=("a",)), alone)
    normal = dense(relu=False, normalize=True)
    torch.testing.assert_close(
        normal(given, only=("b",)),
        F.linear(normal.read("b", given["b"]), normal.weights["b"], normal.bias),
    )


@pytest.mark.parametrize(("where", "kept"), [("before", None), ("after", 0.5), ("none", 1.0)])
def test_where_dropout_acts(where, kept):
    """Norm 1 times scale: dropped before, the rest is 1 again; after, half of it is doubled."""
    wide = Dense(Layer("x", 2, ("a",), Reading(True, 1.0, where)), {"a": 4000}, {"a": 0.5})
    torch.manual_seed(0)
    seen = wide.read("a", torch.ones(1, 4000))
    norm = seen.square().sum().item()
    alive = (seen > 0).float().mean().item()
    assert norm == pytest.approx({"before": 1.0, "after": 2.0, "none": 1.0}[where], abs=0.1)
    assert alive == pytest.approx(1.0 if where == "none" else 0.5, abs=0.05)
    torch.testing.assert_close(
        wide.eval().read("a", torch.ones(1, 4000)), torch.ones(1, 4000) / 4000**0.5
    )


def test_rewiring_keeps_what_stays(given):
    layer = dense()
    before = layer.weights["a"].clone()
    layer.rewire(Layer("x", 4, ("a", "c")), {"a": 5, "c": 7}, {})
    assert list(layer.weights) == ["a", "c"]
    assert torch.equal(layer.weights["a"], before)
    assert not layer.weights["c"].any()
    assert {n for n, _ in layer.named_parameters()} == {"bias", "weights.a", "weights.c"}


def test_filling_is_he_by_default():
    wide = Dense(Layer("x", 500, ("a", "b")), {"a": 300, "b": 200}, {})
    wide.fill("a", 0.0, torch.Generator().manual_seed(0))
    wide.fill("b", 0.3, torch.Generator().manual_seed(0))
    assert wide.weights["a"].std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    assert wide.weights["b"].std().item() == pytest.approx(0.3, rel=0.02)
