"""Wiring and sizes of grown networks: facts of the paper, formulas and invariants."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer.classification.architecture import Architecture, Reading, grow
from det_transfer.classification.classifier import ImageClassifier
from det_transfer.classification.growth import check_memory, count_parameters
from det_transfer.errors import UserError

NORMAL = Reading(normalize=True)
ALEXNET = Architecture.plain("alexnet", {}, 9216, (4096, 4096))
SMALL = Architecture.plain("compact_alexnet", {"width": 4, "stride": 2}, 192, (24, 16))


def added(net, kind, sizes, classes, **options):
    """Parameters of what comes with a growth and its classifier."""
    grown = grow(net, kind, sizes, **options)
    return count_parameters(grown.with_task("t", classes)) - count_parameters(net)


sizes = st.integers(1, 6144)


@given(classes=st.integers(2, 1000), s=sizes, s6=sizes)
@settings(max_examples=40, deadline=None)
def test_parameters_are_the_formulas_of_the_paper(classes, s, s6):
    c = classes
    assert added(ALEXNET, "deepen", [s], c) == s * 4097 + c * (s + 1)
    assert added(ALEXNET, "widen", [s], c) == s * 4097 + c * (4096 + s + 1)
    assert added(ALEXNET, "widen", [s], c, joined=NORMAL) == (
        s * 4097 + c * (4096 + s + 1) + 4096 + s
    )
    assert added(ALEXNET, "both", [s6, s], c) == s6 * 4097 + s * (4096 + s6 + 1) + c * (s + 1)
    assert added(ALEXNET, "recursive", [s6, s], c) == (
        s6 * 9217 + s * (4096 + s6 + 1) + c * (4096 + s + 1)
    )


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("deepen", [2048]), ("widen", [2048]), ("both", [1024, 1024]), ("recursive", [1024, 2048])],
)
def test_the_modules_hold_what_is_counted(kind, sizes):
    net = grow(ALEXNET, kind, sizes, joined=NORMAL).with_task("sun", 397)
    with torch.device("meta"):
        model = ImageClassifier(net)
    above = [*model.layers.parameters(), *model.classifiers.parameters()]
    assert sum(p.numel() for p in above) == count_parameters(net)


def wiring(kind, sizes, net=SMALL, **options):
    grown = grow(net, kind, sizes, **options).with_task("t", 5)
    layers = {name: layer.inputs for name, layer in grown.layers.items()}
    return layers | {"classifier": grown.classifiers["t"].inputs}


OLD = {"FC6": ("pool5",), "FC7": ("FC6",)}


def test_wiring_of_figure_2():
    assert wiring("deepen", [8]) == {**OLD, "FCa": ("FC7",), "classifier": ("FCa",)}
    assert wiring("widen", [8]) == {**OLD, "FC7+": ("FC6",), "classifier": ("FC7", "FC7+")}
    assert wiring("both", [8, 4]) == {
        **OLD,
        "FC7+": ("FC6",),
        "FCa": ("FC7", "FC7+"),
        "classifier": ("FCa",),
    }
    assert wiring("recursive", [6, 8]) == {
        **OLD,  # FC6+ does not feed the old FC7
        "FC6+": ("pool5",),
        "FC7+": ("FC6", "FC6+"),
        "classifier": ("FC7", "FC7+"),
    }


def test_where_is_normalised():
    def normalised(kind, sizes, **options):
        grown = grow(SMALL, kind, sizes, joined=NORMAL, **options).with_task("t", 5)
        readers = {**grown.layers, "classifier": grown.classifiers["t"]}
        return {name for name, layer in readers.items() if layer.reading.normalize}

    assert normalised("widen", [8]) == {"classifier"}
    assert normalised("both", [8, 4]) == {"FCa"}
    assert normalised("recursive", [6, 8]) == {"classifier"}
    assert normalised("recursive", [6, 8], below=NORMAL) == {"FC7+", "classifier"}
    assert normalised("deepen", [8]) == {"classifier"}
    assert normalised("deepen", [8], deep="input") == {"FCa"}
    assert normalised("deepen", [8], deep="both") == {"FCa", "classifier"}


def test_a_grown_network_grows_again():
    once = grow(SMALL, "recursive", [6, 8], joined=NORMAL).with_task("sun", 5)
    twice = grow(once, "recursive", [4, 3], joined=NORMAL).with_task("mit", 7)
    assert twice.levels == (("FC6", "FC6+", "FC6+2"), ("FC7", "FC7+", "FC7+2"))
    assert twice.layers["FC7+"] == once.layers["FC7+"]
    assert twice.layers["FC7+2"].inputs == ("FC6", "FC6+", "FC6+2")
    assert twice.classifiers["sun"] == once.classifiers["sun"]
    assert twice.classifiers["mit"].inputs == ("FC7", "FC7+", "FC7+2")
    deep = grow(grow(twice, "deepen", [9]), "deepen", [2])
    assert deep.levels[2:] == (("FCa",), ("FCa2",))
    assert deep.layers["FCa2"].inputs == ("FCa",)
    assert deep.growths == ("recursive 6-8", "recursive 4-3", "deepen 9", "deepen 2")
    assert [deep.layers[n].growth for n in ("FC7", "FC7+", "FC7+2", "FCa")] == [0, 1, 2, 3]


growths = st.sampled_from(["deepen", "widen", "both", "recursive"])


@given(kinds=st.lists(growths, max_size=4), data=st.data())
@settings(max_examples=30, deadline=None)
def test_plain_values_and_back(kinds, data):
    net = SMALL.with_task("source", 3)
    for kind in kinds:
        count = 1 if kind in ("deepen", "widen") else 2
        widths = [data.draw(st.integers(1, 9)) for _ in range(count)]
        joined = Reading(data.draw(st.booleans()), 10.0, "after")
        net = grow(net, kind, widths, joined=joined, below=joined).with_task("t", 4)
    assert Architecture.from_dict(net.as_dict()) == net
    # Every layer reads layers of the level below, and no old one a new one.
    for below, level in zip((("pool5",), *net.levels), net.levels, strict=False):
        for name in level:
            layer = net.layers[name]
            assert set(layer.inputs) <= set(below)
            assert all(net.layers[i].growth <= layer.growth for i in layer.inputs if i != "pool5")


def test_dropout_acts_on_new_layers_as_on_those_beside_them():
    assert grow(SMALL, "recursive", [6, 8]).dropped == ("FC6", "FC7", "FC6+", "FC7+")
    bare = replace(SMALL, dropped=("FC6",))
    assert grow(bare, "widen", [8]).dropped == ("FC6",)
    assert grow(bare, "deepen", [8]).dropped == ("FC6",)


def test_more_levels_than_there_are():
    flat = Architecture.plain("timm", {"name": "resnet10t"}, 512, ())
    with pytest.raises(UserError, match=r"1 levels are to be widened, but timm has none above"):
        grow(flat, "widen", [8])
    assert grow(flat, "deepen", [8]).layers["FCa"].inputs == ("pool5",)


def test_a_growth_above_memory_is_refused():
    huge = grow(ALEXNET, "recursive", [2_000_000, 4_000_000])
    with pytest.raises(UserError, match=r"alexnet: FC6 4096, FC6\+ 2000000.*GB .*GROWTH.SIZES"):
        check_memory(huge, "cpu")
