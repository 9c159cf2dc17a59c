"""NAS-FPN against a second execution of its seven formulas, written out one by one."""

import math

import nasfpn as benchmark
import pytest
import torch
from made_up_trunk import MadeUpTrunk, features
from torch.nn import functional as F

from det_transfer.errors import UserError
from det_transfer.modeling.backbone.nasfpn import CELL, LEVELS, NASFPN, Merge, attention, wiring
from det_transfer.testing import check_backbone

LATERALS = ["res3", "res4", "res5"]


def make(seed=0, **options):
    torch.manual_seed(seed)
    options = {"in_features": LATERALS, "channels": 8, "repeats": 2, **options}
    decoder = NASFPN(MadeUpTrunk(), **options)
    for module in decoder.modules():  # norms that do something
        if hasattr(module, "running_var"):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    return decoder


def normed(conv, x):
    """A convolution and its norm, from their tensors."""
    size = conv.weight.shape[-1]
    x = F.conv2d(x, conv.weight, conv.bias, padding=size // 2)
    norm = conv.norm
    if norm is None:
        return x
    if isinstance(norm, torch.nn.GroupNorm):
        return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if norm.training:
        mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
    else:
        mean, var = norm.running_mean, norm.running_var
    x = (x - mean[:, None, None]) / (var[:, None, None] + norm.eps).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def plain(block, x, activate):
    return normed(block.conv, x)


def bottleneck(block, x, activate):
    narrow = activate(normed(block.conv1, x))
    wide = normed(block.conv3, activate(normed(block.conv2, narrow)))
    return activate(wide + normed(block.shortcut, x))


BLOCKS = {"_Plain": plain, "_Bottleneck": bottleneck}


def naive(decoder, inputs, *, sum_only=False):
    """P3 to P7, from the published table by hand; sizes must be multiples of 128."""

    def down(x, s):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // s, s, w // s, s).amax(dim=(3, 5))

    def up(x, s):
        return x.repeat_interleave(s, dim=2).repeat_interleave(s, dim=3)

    def gp(coarse, fine):
        if sum_only:
            return coarse + fine
        gate = torch.sigmoid(coarse.flatten(2).max(dim=2).values)
        return coarse + fine * gate[:, :, None, None]

    p3, p4, p5 = (getattr(decoder, f"lateral{k}")(inputs[f"res{k}"]) for k in (3, 4, 5))
    p6 = down(p5, 2)
    p7 = down(p6, 2)
    for cell in decoder.cells:
        (t0, t1, t2, t3, t4, t5, t6) = cell.merges

        def node(merge, x):
            activate = F.relu if isinstance(merge.activation, torch.nn.ReLU) else F.silu
            return BLOCKS[type(merge.block).__name__](merge.block, activate(x), activate)

        # Each is projected where its channels differ, then brought to the level.
        a = node(t0, gp(up(t0.project[1](p6), 4), t0.project[0](p4)))
        b = node(t1, t1.project[0](p4) + t1.project[1](a))
        out3 = node(t2, t2.project[0](p3) + up(t2.project[1](b), 2))
        out4 = node(t3, t3.project[0](b) + down(t3.project[1](out3), 2))
        out5 = node(
            t4,
            gp(down(t4.project[1](out4), 2), down(t4.project[0](out3), 4)) + t4.project[2](p5),
        )
        out7 = node(
            t5,
            gp(down(t5.project[1](out5), 4), down(t5.project[0](b), 8)) + t5.project[2](p7),
        )
        out6 = node(t6, gp(up(t6.project[1](out7), 2), down(t6.project[0](out5), 2)))
        p3, p4, p5, p6, p7 = out3, out4, out5, out6, out7
    return {"p3": p3, "p4": p4, "p5": p5, "p6": p6, "p7": p7}


VARIANTS = {
    "paper": {},
    "swish": {"activation": "swish"},
    "sums": {"sum_only": True},
    "groups": {"norm": "GN", "channels": 32},
    "without norm": {"norm": ""},
    "bottleneck": {"block": "bottleneck", "sum_only": True, "activation": "swish"},
    "bottleneck with attention": {"block": "bottleneck", "repeats": 3},
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_formulas_one_by_one(variant, training):
    options = VARIANTS[variant]
    inputs = features(128, 256)
    one = make(**options).double().train(training)
    other = make(**options).double().train(training)
    inputs = {name: x.double() for name, x in inputs.items()}
    ours = one(inputs)
    theirs = naive(other, inputs, sum_only=options.get("sum_only", False))
    assert list(ours) == list(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-10, atol=1e-10)


def test_gradients_equal_those_of_the_formulas():
    inputs = {name: x.double() for name, x in features(128, 128).items()}
    decoders = [make().double(), make().double()]
    for decoder, execute in zip(decoders, (NASFPN.forward, naive), strict=True):
        outputs = execute(decoder, inputs)
        sum((x * (k + 1)).square().mean() for k, x in enumerate(outputs.values())).backward()
    for (name, a), b in zip(decoders[0].named_parameters(), decoders[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_attention_worked_out_by_hand():
    # sigmoid(ln 3) = 3/4, whatever the other position holds.
    coarse = torch.tensor([0.0, math.log(3)]).reshape(1, 1, 1, 2)
    fine = torch.tensor([4.0, 8.0]).reshape(1, 1, 1, 2)
    expected = torch.tensor([0.0 + 3.0, math.log(3) + 6.0]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(attention(coarse, fine), expected)


def test_the_table_is_the_published_one():
    nodes = [*LEVELS, *(merge.level for merge in CELL)]
    words = [
        f"{m.level}: {m.combine}({', '.join(f'{n}@{nodes[n]}' for n in m.inputs)})" for m in CELL
    ]
    assert words == [
        "4: attention(1@4, 3@6)",
        "4: sum(1@4, 5@4)",
        "3: sum(0@3, 6@4)",
        "4: sum(6@4, 7@3)",
        "5: attention(7@3, 8@4)",
        "7: attention(6@4, 9@5)",
        "6: attention(9@5, 10@7)",
    ]


def test_what_nothing_took_is_added():
    # By the published cell to P5 and P7 alone.
    assert [wires[2:] for wires in wiring()] == [(), (), (), (), (2,), (4,), ()]
    # Not twice, and only at outputs.
    cell = (Merge(3, "sum", (1, 2), False), Merge(3, "sum", (3, 4), True))
    assert wiring(cell) == [(1, 2), (3, 4, 0, 5)]


@pytest.mark.parametrize("size", [(32, 32), (352, 416), (320, 96), (64, 1344)])
def test_any_size(size):
    outputs = make().eval()(features(*size, images=1))
    assert {name: tuple(x.shape[2:]) for name, x in outputs.items()} == {
        f"p{k}": tuple(-(-side // 2**k) for side in size) for k in LEVELS
    }


@pytest.mark.parametrize("count", [1, 2, 3])
def test_levels_above_the_trunks_are_pooled(count):
    names = LATERALS[:count]
    decoder = make(in_features=names, repeats=0).eval()
    outputs = decoder(features(128, 128))
    finest = outputs[f"p{2 + count}"]
    for k in range(3 + count, 8):
        finest = F.max_pool2d(finest, 2)
        assert torch.equal(outputs[f"p{k}"], finest)


def test_projections_only_where_channels_differ():
    alike = NASFPN(
        MadeUpTrunk({"res3": 8, "res4": 8, "res5": 20}), in_features=LATERALS, channels=8, repeats=1
    )
    named = dict(alike.named_parameters())
    assert not any(name.startswith(("lateral3", "lateral4")) for name in named)
    assert "lateral5.weight" in named
    assert not any("project" in name for name in named)
    wide = make(block="bottleneck")
    # The first cell's inputs have 8 channels, all that comes later 32.
    first = [len(list(m.project[k].parameters())) > 0 for m in wide.cells[0].merges for k in (0, 1)]
    assert first == [False, False, False, True, False, True] + [True] * 8
    assert all(len(list(p.parameters())) for m in wide.cells[1].merges for p in m.project)


def test_its_contract():
    decoder = make()
    assert decoder.size_divisibility == 128
    assert {name: (s.channels, s.stride) for name, s in decoder.output_shape().items()} == {
        f"p{k}": (8, 2**k) for k in LEVELS
    }
    assert {s.channels for s in make(block="bottleneck").output_shape().values()} == {32}


def test_drop_connect_is_per_image_and_in_training_alone():
    decoder = make(block="bottleneck", drop_connect=0.5, repeats=1, norm="")
    inputs = features(128, 128, images=1)
    twice = {name: x.repeat(8, 1, 1, 1) for name, x in inputs.items()}
    with torch.no_grad():
        outputs = decoder.train()(twice)["p3"]
        still = decoder.eval()(twice)["p3"]
    assert len({tuple(x.flatten().tolist()) for x in outputs}) > 1
    assert all(torch.equal(x, still[0]) for x in still)


def test_in_bf16_and_channels_last():
    decoder = make(channels=64, norm="GN")
    inputs = features(512, 512)
    expected = decoder(inputs)
    decoder.to(memory_format=torch.channels_last)
    last = {k: x.contiguous(memory_format=torch.channels_last) for k, x in inputs.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(last)
    for name, x in expected.items():
        assert found[name].is_contiguous(memory_format=torch.channels_last)
        assert (found[name].float() - x).abs().mean() < 0.1 * x.abs().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_features": ["res3", "res6"]}, r"IN_FEATURES \['res3', 'res6'\]: the trunk gives"),
        ({"in_features": ["res2", "res3"]}, "begins at stride 8"),
        ({"in_features": ["res3", "res5"]}, "without a gap"),
        ({"in_features": []}, "MODEL.NASFPN.IN_FEATURES"),
        ({"norm": "GN", "channels": 48}, "MODEL.NASFPN.CHANNELS is 48; .* multiple of 32"),
        ({"norm": "bn"}, "MODEL.NASFPN.NORM is 'bn'; it can be '' or 'BN'"),
        ({"activation": "gelu"}, "MODEL.NASFPN.ACTIVATION is 'gelu'; it can be 'relu' or 'swish'"),
        ({"block": "x"}, "MODEL.NASFPN.BLOCK is 'x'; it can be 'plain' or 'bottleneck'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


@pytest.mark.parametrize("norm", [None, ""])
def test_without_a_norm_convolutions_have_a_bias(norm):
    convs = [m for m in make(norm=norm).modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(conv.bias is not None and conv.norm is None for conv in convs)


def test_what_it_is_measured_against_computes_the_same():
    """The table with a module for each operation, of tools/benchmarks/nasfpn.py."""
    torch.manual_seed(0)
    theirs = benchmark.Transcribed(16, 2)
    ours = NASFPN(benchmark.Given(), in_features=list(benchmark.CHANNELS), channels=16, repeats=2)
    ours.load_state_dict(
        dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))  # in one order
    )
    inputs = features(256, 384, benchmark.CHANNELS)  # a multiple of 128: theirs has no other
    a, b = ours(inputs), theirs(inputs)
    for name, x in a.items():
        torch.testing.assert_close(x, b[name], rtol=1e-4, atol=2e-5)


def test_on_a_real_trunk():
    from det_transfer.modeling import TimmBackbone

    trunk = TimmBackbone("resnet10t", LATERALS)
    check_backbone(NASFPN(trunk, in_features=LATERALS, channels=8, repeats=1), sizes=[(128, 256)])
